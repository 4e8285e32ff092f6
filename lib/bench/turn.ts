/**
 * Giving way: a load whose target never waits would never let a signal, a timer or a progress line in.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import type { Clock } from "../block/context.ts";
import { LOAD_SLEEP_MS_MAX, LOAD_SPIN_US, LOAD_TURN_US } from "./limits.ts";

/** One turn of the event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => resolve()));
}

/** How a load is run. */
export interface LoadRunOptions {
  /** Measures; its sleep waits for requests that are not due. */
  readonly clock: Clock;
  /** Ends the load early: what is in flight is waited for, the rest is reported. */
  readonly signal?: AbortSignal | undefined;
  /** Called now and then. */
  readonly progress?: ((nowUs: number) => void) | undefined;
}

/** Gives way now and then. */
export class GivingWay {
  readonly #options: LoadRunOptions;
  #lastUs: number;

  /** From now on. */
  constructor(options: LoadRunOptions) {
    this.#options = options;
    this.#lastUs = options.clock.now();
  }

  /** It is time to give way. */
  isDue(nowUs: number): boolean {
    return nowUs - this.#lastUs >= LOAD_TURN_US;
  }

  /** Gives way. */
  async now(): Promise<void> {
    this.#options.progress?.(this.#options.clock.now());
    await turn();
    this.#lastUs = this.#options.clock.now();
  }

  /** Waits for something that is due: some of the time, so ask again. */
  async until(dueUs: number): Promise<void> {
    const { clock } = this.#options;
    const sleep_ms = Math.floor((dueUs - clock.now() - LOAD_SPIN_US) / 1000);
    if (sleep_ms <= 0) return await this.now();
    this.#options.progress?.(clock.now());
    await clock.sleep(Math.min(sleep_ms, LOAD_SLEEP_MS_MAX));
    this.#lastUs = clock.now();
  }
}
