/**
 * A trace looked at as requests: each completion is joined with its request, in one pass and in bounded
 * memory, and whoever looks hears how many are in flight.
 *
 * @module
 */
import type { Operation } from "../block/request.ts";
import type { CompleteEvent, SubmitEvent } from "./event.ts";
import { PENDING_MAX } from "./limits.ts";
import type { TraceSource } from "./source.ts";

/** What is remembered of a request until it is done. */
export interface Started {
  /** When it was submitted, µs. */
  readonly timeUs: number;
  /** What it does. */
  readonly operation: Operation;
  /** Bytes. */
  readonly length: number;
}

/** Looks at the requests of a trace. */
export interface RequestObserver {
  /** A request enters; `depth` are in flight with it, 0 if the trace does not tell completions. */
  submitted(event: SubmitEvent, depth: number): void;
  /** A request is done; `depth` are in flight without it. */
  completed(event: CompleteEvent, started: Started, depth: number): void;
}

/** What was found. */
export interface RequestCounts {
  /** Events of either kind. */
  readonly events: number;
  /** Requests whose completion the trace lacks; all of them if it tells none. */
  readonly unanswered: number;
  /** Completions whose request the trace lacks. */
  readonly unasked: number;
}

/**
 * Requests in flight. There are two generations: when the younger has PENDING_MAX / 2 of them, what is
 * left of the older is given up, so memory is bounded and each step costs the same.
 */
class Pending {
  /** Requests that were given up, or whose id came again. */
  lost = 0;
  #young = new Map<number, Started>();
  #old = new Map<number, Started>();

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  add(id: number, started: Started): void {
    if (this.#young.size >= PENDING_MAX / 2) {
      this.lost += this.#old.size;
      this.#old = this.#young;
      this.#young = new Map();
    }
    const before = this.#young.size;
    this.#young.set(id, started);
    if (this.#young.size === before || this.#old.size > 0 && this.#old.delete(id)) this.lost += 1;
  }

  take(id: number): Started | null {
    const found = this.#young.get(id);
    if (found !== undefined) {
      this.#young.delete(id);
      return found;
    }
    const older = this.#old.get(id);
    if (older === undefined) return null;
    this.#old.delete(id);
    return older;
  }
}

/** Shows all requests of a trace to `observers`. Throws TraceError if the trace cannot be read on. */
export async function followRequests(
  source: TraceSource,
  observers: readonly RequestObserver[],
): Promise<RequestCounts> {
  const pending = new Pending();
  const { completes } = source.info;
  let events = 0, untold = 0, unasked = 0;
  for await (const batch of source.batches()) {
    events += batch.length;
    for (const event of batch) {
      if (event.kind === "submit") {
        // Not the event itself: it may hold a payload, and with it all the memory of its batch.
        const { id, timeUs, operation, length } = event;
        if (completes) pending.add(id, { timeUs, operation, length });
        else untold += 1;
        for (const each of observers) each.submitted(event, pending.size);
        continue;
      }
      const started = pending.take(event.id);
      if (started === null) unasked += 1;
      else for (const each of observers) each.completed(event, started, pending.size);
    }
  }
  return { events, unanswered: untold + pending.lost + pending.size, unasked };
}
