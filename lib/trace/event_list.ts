/**
 * Events on their way from a decoder to a batch: numbers requests, puts completions that are known
 * ahead in their places, and watches times that go back.
 *
 * @module
 */
import type { Errno } from "../block/errors.ts";
import type { Operation } from "../block/request.ts";
import { CompletionHeap } from "./completion_heap.ts";
import type { TraceEvent } from "./event.ts";
import { BATCH_BYTES, BATCH_EVENTS, COMPLETIONS_PENDING_MAX } from "./limits.ts";
import type { TraceNotes } from "./source.ts";

/** Latency of a request whose completion the format does not tell, or tells on its own. */
export const NO_LATENCY = -1;

/** Collects the events of a trace that is decoded. */
export class EventList {
  /** Requests so far; the id of the last one. */
  requests = 0;
  #events: TraceEvent[] = [];
  #bytes = 0;
  readonly #completions = new CompletionHeap();
  #lastUs = 0;
  #backwards = 0;
  #furthestUs = 0;
  #early = 0;

  /** True when a batch should be taken. */
  get full(): boolean {
    return this.#events.length >= BATCH_EVENTS || this.#bytes >= BATCH_BYTES;
  }

  /**
   * Adds a request at a time in µs from the beginning; earlier ones count as the beginning. Latency
   * is in µs, or NO_LATENCY. `payload` is the list's from now on. Gives the id.
   */
  request(
    timeUs: number,
    connection: number,
    operation: Operation,
    offset: number,
    length: number,
    flags: number,
    latencyUs: number,
    payload: Uint8Array | null = null,
  ): number {
    const at = this.#timed(timeUs);
    if (this.#completions.firstUs <= at) this.#ripe(at);
    const id = this.requests += 1;
    this.#events.push({
      kind: "submit",
      timeUs: at,
      id,
      connection,
      operation,
      offset,
      length,
      flags,
      digest: null,
      payload,
    });
    if (payload !== null) this.#bytes += payload.length;
    if (latencyUs >= 0) this.#later(at + latencyUs, id);
    return id;
  }

  /** Adds the completion of a request that was given NO_LATENCY, at a time in µs from the beginning. */
  completion(timeUs: number, id: number, errno: Errno | null): void {
    this.#complete(this.#timed(timeUs), id, errno);
  }

  /** The events since the last batch. */
  take(): TraceEvent[] {
    const events = this.#events;
    this.#events = [];
    this.#bytes = 0;
    return events;
  }

  /** Call at the end of the trace: completes what is left, and tells what was strange. */
  finish(notes: TraceNotes): void {
    this.#ripe(Infinity);
    if (this.#backwards > 0) {
      const most = Math.ceil(this.#furthestUs);
      notes.remarks.push(`times go back in ${this.#backwards} places, by up to ${most} µs`);
    }
    if (this.#early > 0) {
      notes.remarks.push(
        `${this.#early} completions are told before their time: more than ` +
          `${COMPLETIONS_PENDING_MAX} requests were under way`,
      );
    }
  }

  #timed(timeUs: number): number {
    const behind = this.#lastUs - timeUs;
    if (behind > 0) {
      this.#backwards += 1;
      if (behind > this.#furthestUs) this.#furthestUs = behind;
    }
    const at = timeUs < 0 ? 0 : timeUs;
    this.#lastUs = at;
    return at;
  }

  #ripe(untilUs: number): void {
    for (let at = this.#completions.firstUs; at <= untilUs; at = this.#completions.firstUs) {
      if (this.#completions.size === 0) return;
      this.#complete(at, this.#completions.take(), null);
    }
  }

  #later(timeUs: number, id: number): void {
    if (this.#completions.full) {
      this.#early += 1;
      this.#complete(this.#completions.firstUs, this.#completions.take(), null);
    }
    this.#completions.add(timeUs, id);
  }

  #complete(timeUs: number, id: number, errno: Errno | null): void {
    this.#events.push({ kind: "complete", timeUs, id, errno, digest: null, payload: null });
  }
}
