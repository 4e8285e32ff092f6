/**
 * `error`: makes operations fail before they reach the layer below: by chance, in a range, while a
 * file exists, a number of times, or all of that together.
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import { BlockError, type Errno } from "../block/errors.ts";
import {
  chanceOption,
  choiceOption,
  countOption,
  listOption,
  omittable,
  optionSchema,
  pathOption,
  sizeOption,
} from "../block/options.ts";
import { type Operation, OPERATIONS } from "../block/request.ts";
import type { Backend, FilterType, Opened } from "../block/types.ts";
import { aroundVerbs, type Call, STORAGE_ERRNOS, USUAL_OPERATIONS } from "./shared/around.ts";
import { chanceOf } from "./shared/chance.ts";
import { exists } from "./shared/trigger.ts";
import { nextOf, wrap } from "./shared/wrap.ts";

/** Options of error. */
export interface ErrorOptions {
  /** Chance that an operation fails, 0 to 1. */
  readonly rate: number;
  /** What it fails with. */
  readonly errno: Errno;
  /** Operations that may fail. */
  readonly operations: readonly Operation[];
  /** First byte of the range in which they may. */
  readonly offset: number;
  /** Bytes of that range; up to the end if left out. */
  readonly length?: number | undefined;
  /** Only while there is this file. */
  readonly file?: string | undefined;
  /** So many failures, and then no more. */
  readonly count?: number | undefined;
  /** Makes a run repeatable. */
  readonly seed?: number | undefined;
}

/** Whether an operation touches the range; a flush, which has no range, does if the range is all. */
function touches({ operation, offset, length }: Call, options: ErrorOptions): boolean {
  const { offset: start, length: count } = options;
  if (operation === "flush") return start === 0 && count === undefined;
  return offset + length > start && (count === undefined || offset < start + count);
}

function open(backend: Backend, options: ErrorOptions, context: OpenContext): Promise<Opened> {
  const { rate, errno, operations, file, count = Infinity } = options;
  const chance = chanceOf(context, options.seed);
  let failures = 0;
  const fails = (call: Call): boolean =>
    failures < count && touches(call, options) && (rate === 1 || chance() < rate) &&
    (file === undefined || exists(context, file));
  const verbs = aroundVerbs(nextOf(backend), (call, run) => {
    if (!fails(call)) return run();
    failures += 1;
    const place = call.operation === "flush" ? "" : ` ${call.length} bytes at ${call.offset}`;
    throw new BlockError(
      errno,
      `Cannot ${call.operation}${place}: the filter error says ${errno}`,
    );
  }, operations);
  const describe = (): Record<string, number> => ({ failures });
  return Promise.resolve({ backend: wrap(backend, { verbs }), management: { describe } });
}

/** The filter. */
export const error: FilterType<ErrorOptions> = {
  name: "error",
  summary: "makes operations fail, by chance, place, or while a file exists",
  options: optionSchema<ErrorOptions>({
    rate: chanceOption({ summary: "chance that an operation fails", default: 1 }),
    errno: choiceOption(STORAGE_ERRNOS, { summary: "what it fails with", default: "EIO" }),
    operations: listOption(OPERATIONS, {
      summary: "operations that may fail",
      default: USUAL_OPERATIONS,
    }),
    offset: sizeOption({ summary: "first byte of the range in which they fail", default: 0 }),
    length: omittable(sizeOption({ summary: "its bytes; up to the end if left out" })),
    file: omittable(pathOption({ summary: "fail only while this file exists" })),
    count: omittable(countOption({ summary: "fail so often, then no more", min: 1 })),
    seed: omittable(countOption({ summary: "makes the failures repeatable" })),
  }),
  open,
};
