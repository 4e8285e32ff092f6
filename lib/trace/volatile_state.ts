/**
 * What a disk may hold after a crash, from the events that it saw. The model is that of NBD and Linux: a
 * flush that is done covers every change that had completed before it was submitted; a change with FUA
 * is durable when it is done; every other change may or may not be there, whole, in any combination.
 *
 * @module
 */
import { FLAG_FUA } from "../block/request.ts";
import type { CompleteEvent, SubmitEvent } from "./event.ts";
import { CRASH_VOLATILE_BYTES_MAX } from "./limits.ts";
import { TraceError } from "./trace_error.ts";

/** A change to the content of a disk. */
export interface Change {
  /** The request in the trace. */
  readonly id: number;
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** What is written; null for zeroes. */
  readonly data: Uint8Array | null;
}

interface Volatile extends Change {
  readonly fua: boolean;
  completed: boolean;
  failed: boolean;
}

/** Follows the events of a trace. */
export class VolatileState {
  #changes: Volatile[] = [];
  readonly #byId = new Map<number, Volatile>();
  /** Flushes under way, with the changes that each covers. */
  readonly #flushes = new Map<number, Set<Volatile>>();
  #bytes = 0;

  /** Changes that no flush has covered, in the order in which they were submitted. */
  get changes(): readonly Change[] {
    return this.#changes;
  }

  /** True if a crash now must not lose the change, although no flush has covered it. */
  mustStay(change: Change): boolean {
    const found = this.#byId.get(change.id);
    return found !== undefined && found.fua && found.completed;
  }

  /** A request was submitted. Throws TraceError for a write whose data the trace has not kept. */
  submitted(event: SubmitEvent): void {
    const { id, operation, offset, length, payload, flags } = event;
    if (operation === "flush") {
      this.#flushes.set(id, new Set(this.#changes.filter(({ completed }) => completed)));
      return;
    }
    if (operation !== "write" && operation !== "zero" || length === 0) return;
    if (operation === "write" && payload === null) {
      throw new TraceError(`it has not kept the data of request ${id}: record with the payload`);
    }
    const change = {
      ...{ id, offset, length, data: operation === "write" ? payload : null },
      ...{ fua: (flags & FLAG_FUA) !== 0, completed: false, failed: false },
    };
    this.#changes.push(change);
    this.#byId.set(id, change);
    this.#bytes += payload?.length ?? 0;
    if (this.#bytes > CRASH_VOLATILE_BYTES_MAX) {
      throw new TraceError(
        `more than ${CRASH_VOLATILE_BYTES_MAX} bytes are written without a flush`,
      );
    }
  }

  /** A request is done. Gives the changes that are durable from now on, in order: to be applied. */
  completed(event: CompleteEvent): readonly Change[] {
    const change = this.#byId.get(event.id);
    if (change !== undefined) {
      change.completed = true;
      // What a failed write has left behind is anybody's guess: it may be there, or not.
      change.failed = event.errno !== null;
      return [];
    }
    const covered = this.#flushes.get(event.id);
    this.#flushes.delete(event.id);
    if (covered === undefined || event.errno !== null) return [];
    const durable = this.#changes.filter((each) => covered.has(each) && !each.failed);
    this.#changes = this.#changes.filter((each) => !covered.has(each));
    for (const each of covered) {
      this.#byId.delete(each.id);
      this.#bytes -= each.data?.length ?? 0;
    }
    return durable;
  }
}
