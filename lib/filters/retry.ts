/**
 * `retry`: tries operations that failed again, after a pause that doubles each time.
 *
 * Flushes are not among the operations unless asked for: systems report a lost write once, and a
 * second flush that works would then promise what is not there.
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import { type Errno, hasErrno, toBlockError } from "../block/errors.ts";
import { rescue } from "../block/maybe.ts";
import { countOption, listOption, optionSchema, timeOption } from "../block/options.ts";
import { type Operation, OPERATIONS } from "../block/request.ts";
import type { Backend, FilterType, Maybe, Opened } from "../block/types.ts";
import { aroundVerbs, STORAGE_ERRNOS } from "./shared/around.ts";
import { RETRIES_MAX, WAIT_MS_MAX } from "./shared/limits.ts";
import { pause } from "./shared/wait.ts";
import { nextOf, wrap } from "./shared/wrap.ts";

/** Options of retry. Times are ms. */
export interface RetryOptions {
  /** Attempts after the first, 1 to RETRIES_MAX. */
  readonly count: number;
  /** Pause before the second attempt. */
  readonly delay: number;
  /** Longest pause. */
  readonly longest: number;
  /** Errors that are worth another attempt. */
  readonly errnos: readonly Errno[];
  /** Operations that are tried again. */
  readonly operations: readonly Operation[];
}

const RETRIED: readonly Operation[] = ["read", "write", "trim", "zero", "cache", "extents"];

function open(backend: Backend, options: RetryOptions, context: OpenContext): Promise<Opened> {
  const { count, delay, longest, errnos, operations } = options;
  let retries = 0;
  const worthAnother = (error: unknown): boolean =>
    hasErrno(error) && errnos.includes(toBlockError(error).errno) && !context.signal.aborted;

  const attempt = <T>(run: () => Maybe<T>, number: number): Maybe<T> => {
    if (number === count) return run();
    return rescue(run, (error) => {
      if (!worthAnother(error)) throw error;
      retries += 1;
      const again = (): Maybe<T> => attempt(run, number + 1);
      const wait = Math.min(delay * 2 ** number, longest);
      return wait === 0 ? again() : pause(context, wait).then(again);
    });
  };
  const verbs = aroundVerbs(nextOf(backend), (_call, run) => attempt(run, 0), operations);
  const synchronous = backend.capabilities.synchronous && Math.min(delay, longest) === 0;
  const describe = (): Record<string, number> => ({ retries });
  return Promise.resolve({
    backend: wrap(backend, { capabilities: { synchronous }, verbs }),
    management: { describe },
  });
}

/** The filter. */
export const retry: FilterType<RetryOptions> = {
  name: "retry",
  summary: "tries failed operations again, with growing pauses",
  options: optionSchema<RetryOptions>({
    count: countOption({
      summary: "attempts after the first",
      default: 5,
      min: 1,
      max: RETRIES_MAX,
    }),
    delay: timeOption({
      summary: "pause before the second attempt; it doubles each time",
      default: 100,
      max: WAIT_MS_MAX,
    }),
    longest: timeOption({ summary: "longest pause", default: 30_000, max: WAIT_MS_MAX }),
    errnos: listOption(STORAGE_ERRNOS, {
      summary: "errors that are worth another attempt",
      default: ["EIO", "EAGAIN", "EBUSY", "ETIMEDOUT", "EREMOTEIO"],
    }),
    operations: listOption(OPERATIONS, {
      summary: "operations that are tried again",
      default: RETRIED,
    }),
  }),
  open,
};
