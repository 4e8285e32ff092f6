/**
 * A context to open a backend with in a test: chance is seeded, messages are collected, there are no
 * files unless the test brings some.
 *
 * @module
 */
import type { Clock, Log, OpenContext } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import { seededRandom } from "./random.ts";

/** A log that keeps what it gets. */
export interface CollectedLog extends Log {
  /** What was logged: the level, the message and, of an error, its cause. */
  readonly lines: {
    level: "error" | "warn" | "info" | "debug";
    message: string;
    cause?: unknown;
  }[];
}

/** Makes a log that keeps what it gets. */
export function collectedLog(): CollectedLog {
  const lines: CollectedLog["lines"] = [];
  return {
    lines,
    error: (message, cause) => void lines.push({ level: "error", message, cause }),
    warn: (message) => void lines.push({ level: "warn", message }),
    info: (message) => void lines.push({ level: "info", message }),
    debug: (message) => void lines.push({ level: "debug", message }),
  };
}

/** The machine's clock. */
export const testClock: Clock = {
  now: () => Math.round(performance.now() * 1000),
  wall: () => Date.now(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const abort = (): void => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", abort);
        resolve();
      }, ms);
      signal?.addEventListener("abort", abort, { once: true });
    }),
};

/**
 * A context for `open`; give what the test wants different.
 *
 * @example
 * ```ts
 * import { testContext } from "./context.ts";
 * const context = testContext({ readOnly: true });
 * if (!context.readOnly) throw new Error("not taken over");
 * ```
 */
export function testContext(different: Partial<OpenContext> = {}): OpenContext {
  return {
    clock: testClock,
    random: seededRandom(1),
    files: {
      open: (path) => {
        throw new BlockError("ENOENT", `Cannot open ${path}: this test has no files`);
      },
    },
    log: collectedLog(),
    signal: new AbortController().signal,
    readOnly: false,
    mayBlock: false,
    ...different,
  };
}
