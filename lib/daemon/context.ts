/**
 * The context of the real world: real clock, real chance, real files. Tests and simulators hand in
 * another one.
 *
 * @module
 */
import type { Clock, Log, OpenContext, Random } from "../block/context.ts";
import { monotonicUs } from "../sys/clock.ts";
import { systemFiles } from "../sys/file.ts";

/** Bytes of one getRandomValues call (its quota). */
const RANDOM_BYTES_MAX = 65_536;

/** The monotonic and the wall clock of this machine. */
export const systemClock: Clock = {
  now: () => performance.now() * 1000,
  wall: () => Date.now(),
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      }, ms);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  },
};

/**
 * The clocks of this machine for a thread of its own that serves one request after the other: whoever runs
 * it calls `now` when work begins.
 */
export class ThreadClock implements Clock {
  readonly sleep: Clock["sleep"] = systemClock.sleep;
  readonly wall: Clock["wall"] = systemClock.wall;
  #recent_us = monotonicUs();

  /** Monotonic time in µs. */
  now(): number {
    return this.#recent_us = monotonicUs();
  }

  /** What `now` gave last. */
  recent(): number {
    return this.#recent_us;
  }
}

/** Random numbers that cannot be guessed. */
export const systemRandom: Random = {
  uint32: () => crypto.getRandomValues(new Uint32Array(1))[0] ?? 0,
  fill(into: Uint8Array): void {
    for (let at = 0; at < into.length; at += RANDOM_BYTES_MAX) {
      const part = new Uint8Array(Math.min(RANDOM_BYTES_MAX, into.length - at));
      into.set(crypto.getRandomValues(part), at);
    }
  },
};

/** What a system context cannot know by itself. */
export interface SystemContextOptions {
  /** Messages for a human. */
  readonly log: Log;
  /** Aborts when the target is being torn down; never if left out. */
  readonly signal?: AbortSignal;
  /** Open read-only; false if left out. */
  readonly readOnly?: boolean;
  /** Calls may block their thread for long; false if left out. */
  readonly mayBlock?: boolean;
  /** Time; that of `systemClock` if left out. */
  readonly clock?: Clock;
}

/** A context on this machine's clock, chance and files. */
export function systemContext(options: SystemContextOptions): OpenContext {
  const { log, signal = new AbortController().signal, readOnly = false, mayBlock = false } =
    options;
  return {
    clock: options.clock ?? systemClock,
    random: systemRandom,
    files: systemFiles,
    log,
    signal,
    readOnly,
    mayBlock,
  };
}
