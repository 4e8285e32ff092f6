/**
 * The command line of all benchmarks: what is not known, or no number, ends in a line that says what
 * there is, and exit code 2.
 *
 * @module
 */
import { parseArgs, type ParseArgsOptionsConfig } from "node:util";
import { taskArguments } from "../tools/process.ts";

/** What a benchmark can be told. */
export interface TaskOptions<F extends string, T extends string, N extends string> {
  /** Its task in deno.json. */
  readonly task: string;
  /** Options without a value. */
  readonly flags?: readonly F[];
  /** Options whose value is a text. */
  readonly texts?: readonly T[];
  /** Options whose value is a number above 0. */
  readonly numbers?: readonly N[];
}

/** What it was told. */
export interface Told<F extends string, T extends string, N extends string> {
  /** Those that were given. */
  readonly flags: ReadonlySet<F>;
  /** Those that were given, with their values. */
  readonly texts: ReadonlyMap<T, string>;
  /** The same. */
  readonly numbers: ReadonlyMap<N, number>;
}

const EXIT_USAGE = 2;

/** Reads the command line of a task. Ends the process with exit code 2 if it is wrong. */
export function taskOptions<
  const F extends string = never,
  const T extends string = never,
  const N extends string = never,
>({ task, flags = [], texts = [], numbers = [] }: TaskOptions<F, T, N>): Told<F, T, N> {
  const fail = (problem: string): never => {
    const words = [
      ...flags.map((name) => `[--${name}]`),
      ...texts.map((name) => `[--${name} TEXT]`),
      ...numbers.map((name) => `[--${name} N]`),
    ];
    const usage = `usage: deno task ${[task, ...words].join(" ")}`;
    Deno.stderr.writeSync(new TextEncoder().encode(`${task}: ${problem}\n${usage}\n`));
    Deno.exit(EXIT_USAGE);
  };
  const options: ParseArgsOptionsConfig = {};
  for (const name of flags) options[name] = { type: "boolean" };
  for (const name of [...texts, ...numbers]) options[name] = { type: "string" };
  let values: Readonly<Record<string, unknown>>;
  try {
    ({ values } = parseArgs({ args: taskArguments(), options }));
  } catch (error) {
    const [problem = ""] = (error instanceof Error ? error.message : String(error)).split(". ");
    return fail(problem);
  }
  const told: Told<F, T, N> & { texts: Map<T, string>; numbers: Map<N, number> } = {
    flags: new Set(flags.filter((name) => values[name] === true)),
    texts: new Map(),
    numbers: new Map(),
  };
  for (const name of texts) {
    const text = values[name];
    if (text !== undefined) told.texts.set(name, String(text));
  }
  for (const name of numbers) {
    const text = values[name];
    if (text === undefined) continue;
    const value = /^\d+(\.\d+)?$/.test(String(text)) ? Number(text) : 0;
    if (value <= 0) return fail(`--${name} has to be a number above 0, not "${String(text)}"`);
    told.numbers.set(name, value);
  }
  return told;
}
