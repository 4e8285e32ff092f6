/**
 * A clock for a thread that blocks in poll, where timers do not run: it keeps who sleeps, tells how
 * long poll may wait, and wakes whose time has come.
 *
 * @module
 */
import type { Clock } from "../block/context.ts";

interface Sleeper {
  readonly untilUs: number;
  wake(): void;
}

/** A clock whose sleepers wake when `wakeDue` is called. */
export class LoopClock implements Clock {
  readonly #base: Pick<Clock, "now" | "wall">;
  readonly #sleepers = new Set<Sleeper>();

  /** Tells the time of `base`. */
  constructor(base: Pick<Clock, "now" | "wall">) {
    this.#base = base;
  }

  /** See Clock. */
  now(): number {
    return Math.floor(this.#base.now());
  }

  /** See Clock. */
  wall(): number {
    return this.#base.wall();
  }

  /** See Clock. */
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    if (signal?.aborted) return Promise.reject(signal.reason);
    const abort = (): void => {
      this.#sleepers.delete(sleeper);
      reject(signal?.reason);
    };
    const wake = (): void => {
      signal?.removeEventListener("abort", abort);
      resolve();
    };
    const sleeper: Sleeper = { untilUs: this.now() + ms * 1000, wake };
    this.#sleepers.add(sleeper);
    signal?.addEventListener("abort", abort, { once: true });
    return promise;
  }

  /** Milliseconds until somebody is to be woken, rounded up; -1 if nobody sleeps. */
  waitMs(): number {
    if (this.#sleepers.size === 0) return -1;
    const next = Math.min(...[...this.#sleepers].map(({ untilUs }) => untilUs));
    return Math.max(0, Math.ceil((next - this.now()) / 1000));
  }

  /** Wakes everybody whose time has come. */
  wakeDue(): void {
    const nowUs = this.now();
    for (const sleeper of this.#sleepers) {
      if (sleeper.untilUs > nowUs) continue;
      this.#sleepers.delete(sleeper);
      sleeper.wake();
    }
  }
}
