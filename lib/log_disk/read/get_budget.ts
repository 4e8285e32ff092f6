/**
 * How many GETs, of how many bytes, may be in flight. Whoever reads goes before what is read ahead, and
 * reading ahead takes no more than its share.
 *
 * @module
 */
import type { Maybe } from "../../block/types.ts";
import { AHEAD_SHARE, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_GETS_MAX } from "./limits.ts";

/** Who wants to GET. */
export type Purpose = "demand" | "ahead";

interface Waiter {
  readonly bytes: number;
  readonly go: () => void;
}

/** GETs in flight. */
export class GetBudget {
  readonly #bytesMax: number;
  #gets = 0;
  #bytes = 0;
  #aheadGets = 0;
  #aheadBytes = 0;
  readonly #waiting: Record<Purpose, Waiter[]> = { demand: [], ahead: [] };

  /** Bytes in flight at most; a single GET of more goes alone. */
  constructor(bytesMax: number = IN_FLIGHT_BYTES_MAX) {
    this.#bytesMax = bytesMax;
  }

  /** Bytes of GETs in flight. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Takes room for one GET, now or when there is some. It has to be given back. */
  take(bytes: number, purpose: Purpose): Maybe<void> {
    if (this.#waiting[purpose].length === 0 && this.#fits(bytes, purpose)) {
      return this.#add(bytes, purpose);
    }
    return new Promise((go) => this.#waiting[purpose].push({ bytes, go }));
  }

  /** Gives back what was taken, and lets those go that wait and fit. */
  give(bytes: number, purpose: Purpose): void {
    this.#gets -= 1;
    this.#bytes -= bytes;
    if (purpose === "ahead") {
      this.#aheadGets -= 1;
      this.#aheadBytes -= bytes;
    }
    for (const each of ["demand", "ahead"] as const) {
      const queue = this.#waiting[each];
      for (let next = queue[0]; next !== undefined; next = queue[0]) {
        if (!this.#fits(next.bytes, each)) break;
        queue.shift();
        this.#add(next.bytes, each);
        next.go();
      }
    }
  }

  #fits(bytes: number, purpose: Purpose): boolean {
    if (this.#gets === 0) return true;
    if (purpose === "ahead") {
      if (this.#waiting.demand.length > 0 || this.#aheadGets >= IN_FLIGHT_GETS_MAX * AHEAD_SHARE) {
        return false;
      }
      if (this.#aheadGets > 0 && this.#aheadBytes + bytes > this.#bytesMax * AHEAD_SHARE) {
        return false;
      }
    }
    return this.#gets < IN_FLIGHT_GETS_MAX && this.#bytes + bytes <= this.#bytesMax;
  }

  #add(bytes: number, purpose: Purpose): void {
    this.#gets += 1;
    this.#bytes += bytes;
    if (purpose !== "ahead") return;
    this.#aheadGets += 1;
    this.#aheadBytes += bytes;
  }
}
