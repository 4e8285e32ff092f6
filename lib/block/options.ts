/**
 * Options of backends, filters and configuration files: each option has a type, a default and a
 * meaning; values come as text (spec strings, command line) or typed (TOML, embedders). Built on
 * valibot; what is ours is the vocabulary of storage (sizes) and errors that name the option.
 *
 * @module
 */
import * as v from "valibot";
import { parseDuration, spellDuration } from "./duration.ts";
import { parseSize, spellSize } from "./size.ts";
import { type Place, suggest, UsageError } from "./usage_error.ts";

/** One option, made by a function of this file: checks a value and turns it into a `T`. */
export interface OptionType<T> {
  /** The schema as others see it (standardschema.dev); here it says what `T` is. */
  readonly "~standard": {
    /** Exists for the compiler alone. */
    readonly types?: {
      /** What comes out of the check. */
      readonly output: T;
    } | undefined;
  };
}

/** The options of one kind, made by `optionSchema`: keys that it does not know are refused. */
export interface OptionSchema<O> extends OptionType<O> {}

type Schema<T> = v.GenericSchema<unknown, T>;

/**
 * True if `value` can check options: it is a valibot schema, of whichever copy of that package. Code
 * from elsewhere is looked at with this before it is used.
 */
export function isOptionSchema(value: unknown): value is OptionSchema<unknown> {
  return typeof value === "object" && value !== null && "kind" in value &&
    value.kind === "schema" &&
    "~run" in value && typeof value["~run"] === "function";
}

/** An option as valibot's schema, which every builder makes. Throws TypeError for anything else. */
function schemaOf<T>(option: OptionType<T>): Schema<T> {
  if (isMade(option)) return option;
  throw new TypeError("Cannot use the options: they were not made by optionSchema");
}

function isMade<T>(option: OptionType<T>): option is Schema<T> {
  return isOptionSchema(option);
}

/** What is shown of one option in `dmu backends` and in the manual. */
export interface OptionHelp {
  /** What is written before the equals sign. */
  readonly name: string;
  /** "size", "flag", "text", "path", "count", "time", "chance", "specs", or the choices: "a|b", of a list "a,b". */
  readonly type: string;
  /** One line. */
  readonly summary: string;
  /** It has to be given. */
  readonly required: boolean;
  /** The default as it would be written, or null. */
  readonly default: string | null;
}

/** What a builder takes: a line of help and, for an option that may be left out, its default. */
export interface OptionRest<T> {
  /** One line, without a full stop. */
  readonly summary: string;
  /** The value if the option is not given; without it the option is required. */
  readonly default?: T;
}

/** The help of an option travels in its schema, so that a schema of another copy of this file has it too. */
function finish<T>(
  schema: v.GenericSchema<unknown, T>,
  type: string,
  rest: OptionRest<T>,
  show: (value: T) => string = String,
): OptionType<T> {
  const { default: fallback, summary } = rest;
  if (fallback === undefined) {
    return v.pipe(schema, v.metadata({ type, summary, required: true, default: null }));
  }
  const help = { type, summary, required: false, default: show(fallback) };
  return v.pipe(v.optional(schema, () => fallback), v.metadata(help));
}

/** Lets an option be left out that has no default: its value is then undefined. */
export function omittable<T>(option: OptionType<T>): OptionType<T | undefined> {
  return v.pipe(v.optional(schemaOf(option)), v.metadata({ ...helpOf(option), required: false }));
}

/** A size in bytes: `512`, `4k`, `1.5G`, `2TiB` (powers of 1024). */
export function sizeOption(rest: OptionRest<number>): OptionType<number> {
  const schema = v.pipe(
    v.union([v.string(), v.number()], "must be a size such as 512, 64k or 1G"),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const result = parseSize(String(dataset.value));
      if (typeof result === "number") return result;
      addIssue({ message: result.problem });
      return NEVER;
    }),
  );
  return finish(schema, "size", rest, spellSize);
}

/** What stands for true and false in text; nothing at all is true, as in `?direct`. */
const WORDS = new Map<string, boolean>([
  ["", true],
  ["true", true],
  ["yes", true],
  ["on", true],
  ["1", true],
  ["false", false],
  ["no", false],
  ["off", false],
  ["0", false],
]);

/** True or false: `true`, `false`, `yes`, `no`, `on`, `off`, `1`, `0`; as text without a value, true. */
export function flagOption(rest: OptionRest<boolean>): OptionType<boolean> {
  const message = "must be true or false (or yes, no, on, off, 1, 0)";
  const schema = v.pipe(
    v.union([v.string(), v.boolean()], message),
    v.transform((value) => typeof value === "boolean" ? value : WORDS.get(value.toLowerCase())),
    v.boolean(message),
  );
  return finish(schema, "flag", rest);
}

/** Any text that is not empty. */
export function textOption(rest: OptionRest<string>): OptionType<string> {
  const schema = v.pipe(v.string("must be text"), v.nonEmpty("must not be empty"));
  return finish(schema, "text", rest);
}

/** A path of a file. */
export function pathOption(rest: OptionRest<string>): OptionType<string> {
  const schema = v.pipe(
    v.string("must be a path"),
    v.nonEmpty("must not be empty"),
    v.check((value) => !value.includes("\0"), "must not hold a NUL character"),
  );
  return finish(schema, "path", rest);
}

/** A whole number within bounds. */
export function countOption(
  rest: OptionRest<number> & { readonly min?: number; readonly max?: number },
): OptionType<number> {
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = rest;
  const message = `must be a whole number from ${min} to ${max}`;
  const schema = v.pipe(
    v.union([v.pipe(v.string(), v.regex(/^\d+$/, message)), v.number()], message),
    v.transform(Number),
    v.integer(message),
    v.minValue(min, message),
    v.maxValue(max, message),
  );
  return finish(schema, "count", rest);
}

/** One word of a few. */
export function choiceOption<const C extends string>(
  choices: readonly C[],
  rest: OptionRest<C>,
): OptionType<C> {
  const schema = v.picklist(choices, `must be one of ${choices.join(", ")}`);
  return finish(schema, choices.join("|"), rest);
}

/** A span of time, `250us`, `10ms`, `1.5s`, `2min`, or typed as ms; at most `max` ms. */
export function timeOption(
  rest: OptionRest<number> & { readonly max: number },
): OptionType<number> {
  const schema = v.pipe(
    v.union([v.string(), v.number()], "must be a time such as 250us, 10ms or 1.5s"),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const { value } = dataset;
      const result = typeof value === "number" ? value : parseDuration(value);
      if (typeof result === "number") return result;
      addIssue({ message: result.problem });
      return NEVER;
    }),
    v.minValue(0, "must not be negative"),
    v.maxValue(rest.max, `must be at most ${spellDuration(rest.max)}`),
  );
  return finish(schema, "time", rest, spellDuration);
}

/** A chance, 0 to 1: `0.01`, `1%`. */
export function chanceOption(rest: OptionRest<number>): OptionType<number> {
  const message = "must be a chance from 0 to 1, such as 0.01 or 1%";
  const schema = v.pipe(
    v.union([v.pipe(v.string(), v.regex(/^\d+(\.\d+)?%?$/, message)), v.number()], message),
    v.transform((value) =>
      typeof value === "string" && value.endsWith("%")
        ? Number(value.slice(0, -1)) / 100
        : Number(value)
    ),
    v.minValue(0, message),
    v.maxValue(1, message),
  );
  return finish(schema, "chance", rest);
}

/** Some of a few words: `read,write`, or an array of them. At least one, none twice. */
export function listOption<const C extends string>(
  choices: readonly C[],
  rest: OptionRest<readonly C[]>,
): OptionType<readonly C[]> {
  const message = `must be some of ${choices.join(",")}, with commas between them`;
  const schema = v.pipe(
    v.union(
      [v.pipe(v.string(), v.transform((text) => text.split(","))), v.array(v.string())],
      message,
    ),
    v.array(v.picklist(choices, message), message),
    v.nonEmpty(message),
    v.check((words) => new Set(words).size === words.length, "must not name anything twice"),
  );
  return finish<readonly C[]>(schema, choices.join(","), rest, (words) => words.join(","));
}

/**
 * Specs of other storage: `file:a.img,file:b.img`, with `%2C` for a comma in one and `%3F` for a question
 * mark that begins its options, or an array of them.
 */
export function specsOption(
  rest: OptionRest<readonly string[]> & { readonly min: number; readonly max: number },
): OptionType<readonly string[]> {
  const { min, max } = rest;
  const message = `must be ${min} to ${max} specs with commas between them`;
  const schema = v.pipe(
    v.union([
      v.pipe(v.string(), v.transform((text) => text.split(","))),
      v.array(v.string()),
    ], message),
    v.array(v.pipe(v.string(), v.nonEmpty(message))),
    v.minLength(min, message),
    v.maxLength(max, message),
  );
  return finish<readonly string[]>(schema, "specs", rest, (specs) => specs.join(","));
}

/** Puts options together; a key that is not among them is an error. */
export function optionSchema<O extends object>(
  entries: { readonly [K in keyof O]: OptionType<O[K]> },
): OptionSchema<O> {
  const parts: [string, OptionType<unknown>][] = Object.entries(entries);
  const wide = Object.fromEntries(parts.map(([name, option]) => [name, schemaOf(option)]));
  const schema: Schema<unknown> = v.strictObject(wide);
  // The compiler cannot see through a mapped type; the parameter's type is what makes this true.
  return schema as Schema<O>;
}

const HelpMetadata = v.object({
  type: v.string(),
  summary: v.string(),
  required: v.boolean(),
  default: v.nullable(v.string()),
});

function helpOf(type: OptionType<unknown>): Omit<OptionHelp, "name"> {
  const option = schemaOf(type);
  const help = v.safeParse(HelpMetadata, v.getMetadata(option));
  if (help.success) return help.output;
  return { type: option.expects, summary: "", required: option.type !== "optional", default: null };
}

/** The options of a schema, in the order of their definition. */
export function describeOptions<O>(schema: OptionSchema<O>): OptionHelp[] {
  if (!("entries" in schema) || typeof schema.entries !== "object") return [];
  const help: OptionHelp[] = [];
  for (const [name, option] of Object.entries(schema.entries ?? {})) {
    if (isOptionSchema(option)) help.push({ name, ...helpOf(option) });
  }
  return help;
}

/** Where options come from, for messages. */
export interface OptionSource {
  /** What cannot be done with a wrong option: "open memory", "read [tls]". */
  readonly action: string;
  /** The option that stands for the text after `KIND:`, if there is one. */
  readonly argument?: string;
  /** Where the name or the value of an option stands, or where it would have to stand. */
  place?(key: string, part: "name" | "value"): Place | null;
}

/**
 * Checks options against a schema. Throws UsageError for the first one that is unknown, missing or
 * wrong: it names the option, its place in the text, and what would be right.
 */
export function parseOptions<O>(
  schema: OptionSchema<O>,
  input: ReadonlyMap<string, unknown>,
  source: OptionSource,
): O {
  const known = describeOptions(schema).map(({ name }) => name);
  for (const key of "entries" in schema ? input.keys() : []) {
    if (!known.includes(key)) throw unknownOption(key, known, source);
  }
  const result = v.safeParse(schemaOf(schema), Object.fromEntries(input));
  if (result.success) return result.output;
  const [issue] = result.issues;
  const key = String(issue.path?.[0].key ?? "");
  if (!input.has(key)) throw missingOption(key, source);
  const place = source.place?.(key, "value") ?? null;
  const what = key === source.argument ? `its ${key}` : `option "${key}"`;
  throw new UsageError(`Cannot ${source.action}: ${what} ${issue.message}`, place);
}

function unknownOption(key: string, known: readonly string[], source: OptionSource): UsageError {
  const place = source.place?.(key, "name") ?? null;
  const message = `Cannot ${source.action}: there is no option "${key}"; ${suggest(key, known)}`;
  return new UsageError(message, place);
}

function missingOption(key: string, source: OptionSource): UsageError {
  const what = key === source.argument ? `its ${key}` : `option "${key}"`;
  const place = source.place?.(key, "name") ?? null;
  return new UsageError(`Cannot ${source.action}: ${what} is missing`, place);
}
