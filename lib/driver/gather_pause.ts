/**
 * When to let requests gather. A client with many requests under way sends the next one as soon as it has
 * taken a reply; a server that is as quick as its client then serves them one at a time, and pays for a
 * wait, a receive and a send each time. While the client has replies to take, nobody waits for the server:
 * a short pause lets several requests come together, and costs no time.
 *
 * How long a pause may be is found out: it grows as long as the client still has much to take when it is
 * over, shrinks when it has little, and is halved when it has nothing. Where clients have few requests under way pauses do not pay, and are
 * tried ever less often.
 *
 * @module
 */
import {
  GATHER_REQUESTS_MIN,
  GATHER_RETRY_TURNS_MAX,
  GATHER_SLACK_MAX,
  GATHER_SLACK_MIN,
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
   * Told after each turn: the requests that came in it, and what of the replies that were sent last a client
   * had not taken by then, as a fraction of them; that of the client with the least. 0 is a client that
   * waited. Decides about `next_us`.
   */
  turn(requests: number, slack: number): void {
    if (requests === 0) this.next_us = 0;
    else if (slack === 0) this.#shorten();
    else if (this.#turnsLeft > 0) this.#turnsLeft -= 1;
    else if (this.next_us === 0) this.next_us = GATHER_US_MIN;
    else if (slack < GATHER_SLACK_MIN) {
      this.next_us = Math.max(GATHER_US_MIN, Math.floor(this.next_us * 0.9));
    } else if (slack > GATHER_SLACK_MAX && requests < GATHER_REQUESTS_MIN) {
      this.next_us = Math.min(GATHER_US_MAX, Math.ceil(this.next_us * 1.1));
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
