/**
 * What is remembered of requests until they are done, in bounded memory: traces may lack completions.
 *
 * @module
 */
import { PENDING_MAX } from "./limits.ts";

/**
 * Something for each request in flight. There are two generations: when the younger has PENDING_MAX / 2
 * of them, what is left of the older is given up, so memory is bounded and each step costs the same.
 */
export class PendingRequests<T extends NonNullable<unknown>> {
  /** Requests that were given up, or whose id came again. */
  lost = 0;
  #young = new Map<number, T>();
  #old = new Map<number, T>();

  /** Requests that are remembered. */
  get size(): number {
    return this.#young.size + this.#old.size;
  }

  /** Remembers a request. */
  add(id: number, what: T): void {
    if (this.#young.size >= PENDING_MAX / 2) {
      this.lost += this.#old.size;
      this.#old = this.#young;
      this.#young = new Map();
    }
    const before = this.#young.size;
    this.#young.set(id, what);
    if (this.#young.size === before || this.#old.size > 0 && this.#old.delete(id)) this.lost += 1;
  }

  /** What is remembered of a request, which is forgotten; null if nothing is. */
  take(id: number): T | null {
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
