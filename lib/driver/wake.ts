/**
 * Messages for a worker thread that blocks in poll: it hears none until it comes back to its event
 * loop, so each message goes together with one signal of the eventfd in its poll set. The eventfd
 * counts, so the worker knows how many messages it has to hear before it may block again.
 *
 * @module
 */
import { signalEvent } from "../sys/poll.ts";

/** Posts a message to a worker that may be blocking, and wakes it. */
export function postAndWake(worker: Worker, wakeFd: number, message: unknown): void {
  worker.postMessage(message);
  signalEvent(wakeFd);
}

/**
 * The worker's side: counts messages against signals.
 *
 * @example
 * ```ts
 * import { WakeCounter } from "./wake.ts";
 *
 * const counter = new WakeCounter();
 * counter.heard(); // in the listener for messages, last
 * await counter.caughtUp(1); // with what the blocking call returned
 * ```
 */
export class WakeCounter {
  #signals = 0;
  #heard = 0;
  #resume: (() => void) | null = null;

  /** A message was handled. */
  heard(): void {
    this.#heard += 1;
    if (this.#heard < this.#signals) return;
    const resume = this.#resume;
    this.#resume = null;
    resume?.();
  }

  /** Resolves when as many messages were handled as there were signals, `signals` more than before. */
  caughtUp(signals: number): Promise<void> {
    this.#signals += signals;
    if (this.#heard >= this.#signals) return Promise.resolve();
    return new Promise((resolve) => this.#resume = resolve);
  }
}
