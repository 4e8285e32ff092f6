/**
 * Requests in flight, in bounded memory: for whoever joins completions with their requests.
 *
 * @module
 */
import { PENDING_MAX } from "./limits.ts";

/**
 * Requests in flight, by what they are known by. There are two generations: when the younger has
 * PENDING_MAX / 2 of them, what is left of the older is given up, so memory is bounded and each step
 * costs the same.
 */
export class Pending<Key, Value> {
  /** Requests that were given up, or whose key came again. */
  lost = 0;
  #young = new Map<Key, Value>();
  #old = new Map<Key, Value>();

  /** Requests in it. */
  get size(): number {
    return this.#young.size + this.#old.size;
  }

  /** Adds a request; one of that key is lost. */
  add(key: Key, value: Value): void {
    if (this.#young.size >= PENDING_MAX / 2) {
      this.lost += this.#old.size;
      this.#old = this.#young;
      this.#young = new Map();
    }
    const before = this.#young.size;
    this.#young.set(key, value);
    if (this.#young.size === before || this.#old.size > 0 && this.#old.delete(key)) this.lost += 1;
  }

  /** The request of a key, which stays; null if there is none. */
  get(key: Key): Value | null {
    return this.#young.get(key) ?? this.#old.get(key) ?? null;
  }

  /** Takes the request of a key out; null if there is none. */
  take(key: Key): Value | null {
    const found = this.#young.get(key);
    if (found !== undefined) {
      this.#young.delete(key);
      return found;
    }
    const older = this.#old.get(key);
    if (older === undefined) return null;
    this.#old.delete(key);
    return older;
  }

  /** The requests in it, the older generation first. */
  *values(): Generator<Value, void> {
    yield* this.#old.values();
    yield* this.#young.values();
  }
}
