/**
 * Locks on ranges of bytes, for whoever reads, modifies and writes: work on a range waits for all
 * earlier work on it with which it must not overlap, in the order of arrival, so nobody starves. Work
 * that finds its range free and is done at once costs no promise.
 *
 * @module
 */
import { ensure } from "./maybe.ts";
import type { Maybe } from "./types.ts";

/** Work on a range, begun or waiting. */
interface Lock {
  readonly start: number;
  readonly end: number;
  readonly exclusive: boolean;
  /** Earlier work that has to end before. */
  waitsFor: number;
  /** Later work that waits for this. */
  readonly waiters: Lock[];
  /** Begins it. */
  go: () => void;
}

/**
 * Range locks of one device.
 *
 * @example
 * ```ts
 * import { RangeLocks } from "./range_locks.ts";
 * const locks = new RangeLocks();
 * const order: number[] = [];
 * const first = locks.run(0, 10, "exclusive", () => Promise.resolve().then(() => order.push(1)));
 * const second = locks.run(5, 10, "shared", () => order.push(2));
 * await Promise.all([first, second]);
 * if (order.join() !== "1,2") throw new Error("the second did not wait");
 * ```
 */
export class RangeLocks {
  readonly #locks = new Set<Lock>();

  /**
   * Runs `work` when no earlier work holds or wants a part of the range: shared work overlaps with
   * shared work, exclusive work with none. `length` may be Infinity.
   */
  run<T>(
    offset: number,
    length: number,
    mode: "shared" | "exclusive",
    work: () => Maybe<T>,
  ): Maybe<T> {
    const lock: Lock = {
      start: offset,
      end: offset + length,
      exclusive: mode === "exclusive",
      waitsFor: 0,
      waiters: [],
      go: () => {},
    };
    for (const other of this.#locks) {
      if (other.end <= lock.start || other.start >= lock.end) continue;
      if (!other.exclusive && !lock.exclusive) continue;
      other.waiters.push(lock);
      lock.waitsFor += 1;
    }
    this.#locks.add(lock);
    const begin = (): Maybe<T> => ensure(work, () => this.#release(lock));
    if (lock.waitsFor === 0) return begin();
    return new Promise<void>((resolve) => lock.go = resolve).then(begin);
  }

  #release(lock: Lock): void {
    this.#locks.delete(lock);
    for (const waiter of lock.waiters) {
      waiter.waitsFor -= 1;
      if (waiter.waitsFor === 0) waiter.go();
    }
  }
}
