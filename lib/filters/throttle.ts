/**
 * `throttle`: at most so many operations and bytes a second.
 *
 * Each limit is a virtual clock (the generic cell rate algorithm): an operation is due when the clock
 * has come to it, and moves the clock on by what it costs. A clock that is behind the real one, by
 * `burst` at most, lets operations through at once. So whoever comes first goes first, each waits with
 * one timer for exactly its own time, and nothing is polled.
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import { UsageError } from "../block/usage_error.ts";
import {
  countOption,
  omittable,
  optionSchema,
  type OptionType,
  sizeOption,
  timeOption,
} from "../block/options.ts";
import type { Backend, FilterType, Opened } from "../block/types.ts";
import { aroundVerbs, type Call, USUAL_OPERATIONS } from "./shared/around.ts";
import { BURST_MS_MAX } from "./shared/limits.ts";
import { pause } from "./shared/wait.ts";
import { nextOf, wrap } from "./shared/wrap.ts";

/** Options of throttle. Each limit that is left out is none. */
export interface ThrottleOptions {
  /** Operations a second. */
  readonly iops?: number | undefined;
  /** Reads a second. */
  readonly "read-iops"?: number | undefined;
  /** Writes, trims and zeroes a second. */
  readonly "write-iops"?: number | undefined;
  /** Bytes read and written, a second. */
  readonly bandwidth?: number | undefined;
  /** Bytes read a second. */
  readonly "read-bandwidth"?: number | undefined;
  /** Bytes written a second. */
  readonly "write-bandwidth"?: number | undefined;
  /** Time for which unused allowance adds up, in ms. */
  readonly burst: number;
}

/** One limit: `rate` a second of what `costOf` says an operation costs. */
class Limit {
  readonly #rate: number;
  readonly #costOf: (call: Call) => number;
  /** When the next operation is due, in µs. */
  #dueUs = -Infinity;

  constructor(rate: number, costOf: (call: Call) => number) {
    this.#rate = rate;
    this.#costOf = costOf;
  }

  /** Enters an operation; gives the time at which it may begin, in µs. */
  enter(call: Call, nowUs: number, burstUs: number): number {
    const cost = this.#costOf(call);
    if (cost === 0) return nowUs;
    const due = Math.max(this.#dueUs, nowUs - burstUs);
    this.#dueUs = due + cost / this.#rate * 1e6;
    return due;
  }
}

const isRead = ({ operation }: Call): boolean => operation === "read";
const isChange = ({ operation }: Call): boolean =>
  operation === "write" || operation === "trim" || operation === "zero";
/** What a trim or zero takes has little to do with its length. */
const bytesOf = (call: Call): number =>
  isRead(call) || call.operation === "write" ? call.length : 0;

function limitsOf(options: ThrottleOptions): Limit[] {
  const limits: Limit[] = [];
  const add = (rate: number | undefined, costOf: (call: Call) => number): void => {
    if (rate !== undefined) limits.push(new Limit(rate, costOf));
  };
  add(options.iops, () => 1);
  add(options["read-iops"], (call) => isRead(call) ? 1 : 0);
  add(options["write-iops"], (call) => isChange(call) ? 1 : 0);
  add(options.bandwidth, bytesOf);
  add(options["read-bandwidth"], (call) => isRead(call) ? bytesOf(call) : 0);
  add(options["write-bandwidth"], (call) => isRead(call) ? 0 : bytesOf(call));
  return limits;
}

function open(backend: Backend, options: ThrottleOptions, context: OpenContext): Opened {
  const limits = limitsOf(options);
  if (limits.length === 0) {
    throw new UsageError(
      "Cannot use filter throttle: no limit is given, iops or bandwidth for one",
    );
  }
  for (const [name, value] of Object.entries(options)) {
    if (name !== "burst" && value === 0) {
      throw new UsageError(`Cannot use filter throttle: ${name} is 0, nothing would ever be done`);
    }
  }
  const burstUs = options.burst * 1000;
  const verbs = aroundVerbs(nextOf(backend), (call, run) => {
    const nowUs = context.clock.now();
    // Every limit is entered, so that what waits for one counts for the others as well.
    const due = limits.reduce((latest, limit) => {
      return Math.max(latest, limit.enter(call, nowUs, burstUs));
    }, nowUs);
    return due > nowUs ? pause(context, (due - nowUs) / 1000).then(run) : run();
  }, USUAL_OPERATIONS);
  return { backend: wrap(backend, { capabilities: { synchronous: false }, verbs }) };
}

const rate = (summary: string): OptionType<number | undefined> =>
  omittable(countOption({ summary, min: 1 }));
const bandwidth = (summary: string): OptionType<number | undefined> =>
  omittable(sizeOption({ summary }));

/** The filter. */
export const throttle: FilterType<ThrottleOptions> = {
  name: "throttle",
  summary: "at most so many operations and bytes a second",
  waits: true,
  options: optionSchema<ThrottleOptions>({
    iops: rate("operations a second"),
    "read-iops": rate("reads a second"),
    "write-iops": rate("writes, trims and zeroes a second"),
    bandwidth: bandwidth("bytes read and written, a second"),
    "read-bandwidth": bandwidth("bytes read, a second"),
    "write-bandwidth": bandwidth("bytes written, a second"),
    burst: timeOption({
      summary: "time for which unused allowance adds up",
      default: 100,
      max: BURST_MS_MAX,
    }),
  }),
  open: (next, options, context) => Promise.try(open, next, options, context),
};
