/**
 * Waiting that is quick where it matters: a thread that sleeps takes longer to wake up than a small request
 * takes to be served. Where one event came soon after the one before, the next one is looked for some time
 * before the thread sleeps; where events are rare nothing is spent. Where others want the processor, who then
 * have it for milliseconds, looking is given up for a while.
 *
 * @module
 */
import { processorsOnline } from "../sys/clock.ts";
import { yieldProcessor } from "../sys/poll.ts";
import { CROWDED_MS_MIN, CROWDED_WAITS } from "./limits.ts";

/** What is waited with: the number of events after at most so many ms (-1: for ever, 0: now). */
export type WaitCall = (timeout_ms: number) => number;

/** One thread's waiting. */
export class RapidWait {
  readonly #wait: WaitCall;
  readonly #now_ms: () => number;
  readonly #spin_ms: number;
  /** The last event came so soon that looking for it would have been better than sleeping. */
  #rapid = false;
  /** Waits to come that only sleep. */
  #crowded = 0;

  /** Looks for at most `spin_us`. */
  constructor(wait: WaitCall, now_ms: () => number, spin_us: number) {
    this.#wait = wait;
    this.#now_ms = now_ms;
    // With one processor whoever looks keeps away whom it waits for.
    this.#spin_ms = processorsOnline() > 1 ? spin_us / 1000 : 0;
  }

  /**
   * Waits; gives what the last call gave. `worthIt` is false where many requests come together: they share
   * the cost of waking up, and looking for them would cost more.
   */
  wait(timeout_ms: number, worthIt = true): number {
    if (this.#spin_ms === 0 || timeout_ms === 0 || !worthIt) return this.#wait(timeout_ms);
    if (this.#crowded > 0) {
      this.#crowded -= 1;
      return this.#wait(timeout_ms);
    }
    const begun_ms = this.#now_ms();
    if (this.#rapid) {
      const ready = this.#spin(begun_ms);
      if (ready !== 0) return ready;
      this.#rapid = false;
    }
    const ready = this.#wait(timeout_ms);
    this.#rapid = this.#now_ms() - begun_ms < 2 * this.#spin_ms;
    return ready;
  }

  /** Looks until the time is over, or another one has had the processor. */
  #spin(begun_ms: number): number {
    for (let seen_ms = begun_ms; seen_ms - begun_ms < this.#spin_ms;) {
      const ready = this.#wait(0);
      if (ready !== 0) return ready;
      yieldProcessor();
      const now_ms = this.#now_ms();
      if (now_ms - seen_ms > CROWDED_MS_MIN) this.#crowded = CROWDED_WAITS;
      seen_ms = now_ms;
    }
    return 0;
  }
}
