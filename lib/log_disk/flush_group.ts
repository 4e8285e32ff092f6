/**
 * Group commit: when the flushes that wait for an object are enough for it to be sealed.
 *
 * Clients that flush one after the other are answered together, and come again together, each after a
 * moment of its own. An object that is sealed for the first of them leaves the others to the next one: twice
 * the requests, and half the clients always wait. So once flushes were answered, those that wait already hold on
 * for those that were answered to come again, for at most a part of the time that an object takes:
 * holding on for less than that costs nobody more than missing the object would.
 *
 * A client that is alone is a group of one: it never waits for anybody. Clients that do not come again that
 * soon (they do something else in between) are not waited for: after a pause in vain more and more
 * chances to pause are left out.
 *
 * Nothing here reads a clock: it is told the time.
 *
 * @module
 */
import { GATHER_MS_MAX, GATHER_SHARE, GATHERS_LEFT_OUT_MAX } from "./limits.ts";

/** How much a new time counts in the mean of those before. */
const SMOOTHING = 1 / 8;

/** Decides how long flushes wait for others. Times are µs of one clock. */
export class FlushGroup {
  /** Flushes that wait for an object that is not sealed. */
  #waiting = 0;
  /** Of those that were answered last, how many, and how many others waited then. */
  #answered = 0;
  #waitedThen = 0;
  /** Until when they are waited for. */
  #untilUs = -Infinity;
  /** How long an object takes, in the mean; 0 if that is not known. */
  #objectUs = 0;
  /** Pauses that are left out, and how many of them after the next one in vain. */
  #leftOut = 0;
  #leaveOut = 1;

  /** A flush waits. */
  joined(): void {
    this.#waiting += 1;
  }

  /** Nobody waits any more: what they waited for failed. */
  failed(): void {
    this.#waiting = 0;
    this.#untilUs = -Infinity;
  }

  /** The object is sealed: gives how many flushes waited for it. */
  sealed(): number {
    const flushes = this.#waiting;
    if (this.#untilUs !== -Infinity) this.#learn();
    this.#untilUs = -Infinity;
    this.#waiting = 0;
    return flushes;
  }

  /** Flushes were answered, and the object that they waited for took so long. */
  answered(flushes: number, tookUs: number, nowUs: number): void {
    const known = this.#objectUs;
    this.#objectUs = known === 0 ? tookUs : known + (tookUs - known) * SMOOTHING;
    this.#answered = flushes;
    this.#waitedThen = this.#waiting;
    if (this.#leftOut > 0) {
      this.#leftOut -= 1;
      return;
    }
    this.#untilUs = nowUs + Math.min(this.#objectUs * GATHER_SHARE, GATHER_MS_MAX * 1000);
  }

  /** Time for which those that wait should go on waiting for others, in µs; 0 if the object is due. */
  holdUs(nowUs: number): number {
    return this.#isWhole ? 0 : Math.max(0, this.#untilUs - nowUs);
  }

  get #isWhole(): boolean {
    return this.#waiting >= this.#answered + this.#waitedThen;
  }

  /** Whether it was worth it: at least half of those that were waited for came. */
  #learn(): void {
    const came = this.#waiting - this.#waitedThen;
    if (came * 2 >= this.#answered) {
      this.#leaveOut = 1;
      return;
    }
    this.#leftOut = this.#leaveOut;
    this.#leaveOut = Math.min(this.#leaveOut * 2, GATHERS_LEFT_OUT_MAX);
  }
}
