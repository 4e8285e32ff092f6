/**
 * Completions that are known before their time: where a format tells a request and its latency in one
 * line, the completion has to wait for its place among the lines that follow.
 *
 * @module
 */
import { COMPLETIONS_PENDING_MAX } from "./limits.ts";

const START_CAPACITY = 1024;

/** Completions by time, the earliest first; equal times in the order of their requests. */
export class CompletionHeap {
  #times = new Float64Array(START_CAPACITY);
  #ids = new Float64Array(START_CAPACITY);
  #size = 0;

  /** Completions in it. */
  get size(): number {
    return this.#size;
  }

  /** True if one has to be taken before the next is added. */
  get full(): boolean {
    return this.#size >= COMPLETIONS_PENDING_MAX;
  }

  /** Time of the earliest in µs, Infinity if there is none. */
  get firstUs(): number {
    return this.#size === 0 ? Infinity : this.#times[0] ?? Infinity;
  }

  /** Adds the completion of a request at a time in µs. */
  add(timeUs: number, id: number): void {
    if (this.#size === this.#times.length) this.#grow();
    let at = this.#size;
    this.#size += 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(timeUs, id, parent)) break;
      this.#move(parent, at);
      at = parent;
    }
    this.#times[at] = timeUs;
    this.#ids[at] = id;
  }

  /** Takes the earliest, whose time is `firstUs`: gives the id of its request; 0 if there is none. */
  take(): number {
    if (this.#size === 0) return 0;
    const first = this.#ids[0] ?? 0;
    this.#size -= 1;
    const timeUs = this.#times[this.#size] ?? 0, id = this.#ids[this.#size] ?? 0;
    let at = 0;
    for (;;) {
      const child = this.#earlierChild(at);
      if (child >= this.#size || this.#before(timeUs, id, child)) break;
      this.#move(child, at);
      at = child;
    }
    this.#times[at] = timeUs;
    this.#ids[at] = id;
    return first;
  }

  #earlierChild(at: number): number {
    const left = 2 * at + 1, right = left + 1;
    if (right >= this.#size) return left;
    return this.#before(this.#times[right] ?? 0, this.#ids[right] ?? 0, left) ? right : left;
  }

  #before(timeUs: number, id: number, other: number): boolean {
    const otherUs = this.#times[other] ?? 0;
    return timeUs < otherUs || timeUs === otherUs && id < (this.#ids[other] ?? 0);
  }

  #move(from: number, to: number): void {
    this.#times[to] = this.#times[from] ?? 0;
    this.#ids[to] = this.#ids[from] ?? 0;
  }

  #grow(): void {
    const times = new Float64Array(2 * this.#times.length), ids = new Float64Array(times.length);
    times.set(this.#times);
    ids.set(this.#ids);
    this.#times = times;
    this.#ids = ids;
  }
}
