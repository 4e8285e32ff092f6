/**
 * `delay`: makes operations wait before they reach the layer below, each for the same time or for one
 * drawn from a distribution.
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import {
  choiceOption,
  countOption,
  omittable,
  type OptionRest,
  optionSchema,
  type OptionType,
  timeOption,
} from "../block/options.ts";
import type { Operation } from "../block/request.ts";
import type { Backend, FilterType, Opened } from "../block/types.ts";
import { aroundVerbs, USUAL_OPERATIONS } from "./shared/around.ts";
import { type Chance, chanceOf } from "./shared/chance.ts";
import { WAIT_MS_MAX } from "./shared/limits.ts";
import { pause } from "./shared/wait.ts";
import { nextOf, wrap } from "./shared/wrap.ts";

const DISTRIBUTIONS = ["fixed", "uniform", "normal", "exponential"] as const;

/** Options of delay. Times are ms. */
export interface DelayOptions extends Partial<Readonly<Record<Operation, number | undefined>>> {
  /** Delay of reads, writes, flushes, trims and zeroes that have no delay of their own. */
  readonly time: number;
  /** How delays are spread around that time. */
  readonly distribution: typeof DISTRIBUTIONS[number];
  /** Half the width of a uniform, the standard deviation of a normal distribution. */
  readonly spread: number;
  /** Makes a run repeatable. */
  readonly seed?: number | undefined;
}

/** A delay in ms around `time`: never negative, never more than WAIT_MS_MAX. */
function draw(time: number, { distribution, spread }: DelayOptions, chance: Chance): number {
  switch (distribution) {
    case "fixed":
      return time;
    case "uniform":
      return time + (2 * chance() - 1) * spread;
    case "normal":
      // Box and Muller; 1 - chance is never 0, of which there is no logarithm.
      return time +
        spread * Math.sqrt(-2 * Math.log(1 - chance())) * Math.cos(2 * Math.PI * chance());
    case "exponential":
      return -Math.log(1 - chance()) * time;
  }
}

function open(backend: Backend, options: DelayOptions, context: OpenContext): Promise<Opened> {
  const chance = chanceOf(context, options.seed);
  const timeOf = (operation: Operation): number =>
    options[operation] ?? (USUAL_OPERATIONS.includes(operation) ? options.time : 0);
  const verbs = aroundVerbs(nextOf(backend), ({ operation }, run) => {
    const time = timeOf(operation);
    const delay = time === 0 ? 0 : Math.min(draw(time, options, chance), WAIT_MS_MAX);
    return delay > 0 ? pause(context, delay).then(run) : run();
  });
  return Promise.resolve({
    backend: wrap(backend, { capabilities: { synchronous: false }, verbs }),
  });
}

const own = (operation: string): OptionType<number | undefined> =>
  omittable(timeOption({ summary: `delay of ${operation}`, max: WAIT_MS_MAX }));
const time = (rest: OptionRest<number>): OptionType<number> =>
  timeOption({ ...rest, max: WAIT_MS_MAX });

/** The filter. */
export const delay: FilterType<DelayOptions> = {
  name: "delay",
  summary: "makes operations wait, for a fixed time or a random one",
  waits: true,
  options: optionSchema<DelayOptions>({
    time: time({ summary: "delay of reads, writes, flushes, trims and zeroes", default: 0 }),
    read: own("reads"),
    write: own("writes"),
    flush: own("flushes"),
    trim: own("trims"),
    zero: own("zeroes"),
    cache: own("cache hints"),
    extents: own("block status"),
    distribution: choiceOption(DISTRIBUTIONS, {
      summary: "how delays are spread around that time",
      default: "fixed",
    }),
    spread: time({ summary: "half the width (uniform), standard deviation (normal)", default: 0 }),
    seed: omittable(countOption({ summary: "makes the delays repeatable" })),
  }),
  open,
};
