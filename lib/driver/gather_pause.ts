/**
 * When to let requests gather. A client with many requests under way sends the next one as soon as it has
 * taken a reply; a server that is as quick as its client then serves them one at a time, and pays for a
 * wait, a receive and a send each time. While the client has replies to take, nobody waits for the server:
 * a short pause lets several requests come together, and costs no time.
 *
 * How long a pause may be is found out: it grows as long as the client still has something to take when it
 * is over, and shrinks when it has not. Where clients have few requests under way pauses do not pay, and are
 * tried ever less often.
 *
 * @module
 */
import {
  GATHER_REQUESTS_MIN,
  GATHER_RETRY_TURNS_MAX,
  GATHER_US_MAX,
  GATHER_US_MIN,
} from "./limits.ts";

/** Decides for one thread that serves. */
export class GatherPause {
  /** The next pause in µs; 0 if there is to be none. */
  next_us = 0;
  /** Turns to go without a pause, and how many it were last. */
  #turnsLeft = 0;
  #turns = 1;

  /**
   * Told after each turn: the requests that came in it, and whether a client had nothing else to do than to
   * wait for its reply. Decides about `next_us`.
   */
  turn(requests: number, clientWaited: boolean): void {
    if (requests === 0) {
      this.next_us = 0;
      return;
    }
    if (clientWaited) {
      this.#shorten();
      return;
    }
    if (this.#turnsLeft > 0) {
      this.#turnsLeft -= 1;
      return;
    }
    if (this.next_us === 0) this.next_us = GATHER_US_MIN;
    else if (requests < GATHER_REQUESTS_MIN) {
      this.next_us = Math.min(GATHER_US_MAX, Math.ceil(this.next_us * 1.25));
      this.#turns = 1;
    }
  }

  /** The pause was too long, if there was one. */
  #shorten(): void {
    if (this.next_us === 0) return;
    this.next_us = Math.floor(this.next_us / 2);
    if (this.next_us >= GATHER_US_MIN) return;
    this.next_us = 0;
    this.#turnsLeft = this.#turns;
    this.#turns = Math.min(GATHER_RETRY_TURNS_MAX, this.#turns * 2);
  }
}
