/**
 * Spec strings: how a backend and its options are written in one word.
 *
 *     [NAME=]KIND:[ARGUMENT][?option=value&option=value]
 *     [NAME=]SCHEME://…                      (a URI, handed whole to the kind that claims the scheme)
 *
 * ARGUMENT and values are percent-decoded, so `%3F` is a question mark in a file name, `%26` an
 * ampersand in a value and `%25` a percent sign. Which kinds and options exist is the registry's
 * business; here is only the form, and for every part its place in the text.
 *
 * @module
 */
import { SPEC_LENGTH_MAX, TARGET_NAME_BYTES_MAX } from "./limits.ts";
import { nearest, type Place, UsageError } from "./usage_error.ts";

/** One option of a spec. */
export interface SpecOption {
  /** The value: text from a spec string, typed from a configuration file. */
  readonly value: unknown;
  /** Where the option's name stands. */
  readonly namePlace: Place;
  /** Where its value stands. */
  readonly valuePlace: Place;
}

/** What is to be opened. Plain data. */
export interface Spec {
  /** The spec as text, without the target's name; for messages and lists. */
  readonly text: string;
  /** The KIND or, for a URI, its scheme. */
  readonly kind: string;
  /** The argument is a whole URI. */
  readonly uri: boolean;
  /** What stands after `KIND:`, decoded; empty if nothing does. */
  readonly argument: string;
  /** The options by name. */
  readonly options: ReadonlyMap<string, SpecOption>;
  /** Where the kind stands. */
  readonly kindPlace: Place;
  /** Where the argument stands, or would stand. */
  readonly argumentPlace: Place;
}

/** A spec and the name of the target that it is for. */
export interface NamedSpec {
  /** The target's name, or null if there is none. */
  readonly name: string | null;
  /** The rest. */
  readonly spec: Spec;
}

/** What parsing a spec may know, for better errors. */
export interface SpecContext {
  /** Where the text is from, if it is part of a file: "dmu.toml:3:8". */
  readonly origin?: string;
  /** The kinds that there are. */
  readonly kinds?: readonly string[];
}

const KIND = /^[A-Za-z][A-Za-z0-9+.-]*$/;
const OPTION_NAME = /^[a-z][a-z0-9-]*$/;

/** Part of a text with its place. */
interface Piece {
  readonly text: string;
  readonly start: number;
}

/** The text that is being parsed, and what is known about it. */
interface Source {
  readonly text: string;
  readonly context: SpecContext;
}

function placeIn(source: Source, start: number, end: number): Place {
  const { origin } = source.context;
  return { ...(origin === undefined ? {} : { origin }), text: source.text, start, end };
}

function fail(source: Source, reason: string, start: number, end: number): UsageError {
  const shown = source.text.length > 60 ? `${source.text.slice(0, 60)}…` : source.text;
  return new UsageError(`Cannot read "${shown}": ${reason}`, placeIn(source, start, end));
}

/**
 * Why `name` cannot name a target, or null if it can: 1 to 255 letters, digits, dots, underscores
 * and hyphens, and not `.` or `..`, so that a name is the same in a URI, a path and a tree of nodes.
 */
export function targetNameProblem(name: string): string | null {
  if (name === "") return "a target's name must not be empty";
  if (name.length > TARGET_NAME_BYTES_MAX) {
    return `a target's name has at most ${TARGET_NAME_BYTES_MAX} characters`;
  }
  if (name === "." || name === "..") return `a target cannot be named "${name}"`;
  if (/^[A-Za-z0-9._-]+$/.test(name)) return null;
  return "a target's name is made of letters, digits, dots, underscores and hyphens";
}

/**
 * Parses `KIND:ARGUMENT?options` or a URI. Throws UsageError with the place of what is wrong.
 *
 * @example
 * ```ts
 * import { parseSpec } from "./spec.ts";
 * const spec = parseSpec("file:disk.img?direct=yes");
 * if (spec.kind !== "file" || spec.options.get("direct")?.value !== "yes") throw new Error();
 * ```
 */
export function parseSpec(text: string, context: SpecContext = {}): Spec {
  return parseFrom({ text, context }, 0);
}

/** Parses `NAME=KIND:…`; the name may be absent. Throws UsageError with the place of what is wrong. */
export function parseNamedSpec(text: string, context: SpecContext = {}): NamedSpec {
  const source = { text, context };
  const end = text.search(/[=:?/]/);
  if (end < 0 || text.charAt(end) !== "=") return { name: null, spec: parseFrom(source, 0) };
  const name = text.slice(0, end);
  const problem = targetNameProblem(name);
  if (problem !== null) throw fail(source, problem, 0, end);
  return { name, spec: parseFrom(source, end + 1) };
}

function parseFrom(source: Source, start: number): Spec {
  const { text } = source;
  if (text.length > SPEC_LENGTH_MAX) {
    throw fail(
      source,
      `it is longer than ${SPEC_LENGTH_MAX} characters`,
      SPEC_LENGTH_MAX,
      text.length,
    );
  }
  if (start === text.length) {
    throw fail(source, "a spec is missing; write KIND:ARGUMENT, as in file:disk.img", start, start);
  }
  const colon = text.indexOf(":", start);
  const kind = colon < 0 ? "" : text.slice(start, colon);
  if (!KIND.test(kind)) throw noKind(source, start, text.slice(start));
  const kindPlace = placeIn(source, start, colon);
  if (text.startsWith("//", colon + 1) || !OPTION_NAME.test(kind.toLowerCase())) {
    const argumentPlace = placeIn(source, start, text.length);
    const argument = text.slice(start);
    return {
      text: argument,
      kind,
      uri: true,
      argument,
      options: new Map(),
      kindPlace,
      argumentPlace,
    };
  }
  const query = text.indexOf("?", colon);
  const end = query < 0 ? text.length : query;
  return {
    text: text.slice(start),
    kind,
    uri: false,
    argument: decode(source, { text: text.slice(colon + 1, end), start: colon + 1 }),
    options: query < 0 ? new Map() : parseOptionList(source, query + 1),
    kindPlace,
    argumentPlace: placeIn(source, colon + 1, end),
  };
}

/**
 * A URI taken apart as other specs are: its argument is what stands between `//` and `?`, its options are
 * those of its query. Throws UsageError with the place of what is wrong.
 */
export function splitUri(spec: Spec): Spec {
  const { text, origin, start } = spec.argumentPlace;
  const source = { text, context: origin === undefined ? {} : { origin } };
  const from = text.indexOf("//", start) + 2;
  const query = text.indexOf("?", from);
  const end = query < 0 ? text.length : query;
  return {
    ...spec,
    argument: decode(source, { text: text.slice(from, end), start: from }),
    options: query < 0 ? new Map() : parseOptionList(source, query + 1),
    argumentPlace: placeIn(source, from, end),
  };
}

/** There is no `KIND:`; most often it was forgotten before a path. */
function noKind(source: Source, start: number, rest: string): UsageError {
  const kinds = source.context.kinds ?? [];
  const word = rest.split("?", 1)[0] ?? "";
  const end = start + word.length;
  if (kinds.includes(word)) {
    const hint = `a colon is missing after the kind; write ${word}:${rest.slice(word.length)}`;
    return fail(source, hint, end, end);
  }
  const kind = /[./]/.test(word) ? null : nearest(word, kinds);
  const hint = kind === null ? `file:${rest}` : `${kind}:${rest.slice(word.length)}`;
  return fail(source, `it does not begin with a kind of storage; write ${hint}`, start, end);
}

function parseOptionList(source: Source, start: number): Map<string, SpecOption> {
  const options = new Map<string, SpecOption>();
  let from = start;
  for (const part of source.text.slice(start).split("&")) {
    const equals = part.indexOf("=");
    const name = equals < 0 ? part : part.slice(0, equals);
    const nameEnd = from + name.length;
    const end = from + part.length;
    if (part === "") {
      const hint = 'an option is missing here; a "?" in a name is written %3F, a "&" %26';
      throw fail(source, hint, from, from);
    }
    if (!OPTION_NAME.test(name)) {
      throw fail(source, `"${name}" is no name of an option; a "?" is written %3F`, from, nameEnd);
    }
    if (options.has(name)) {
      throw fail(source, `option "${name}" is given twice`, from, nameEnd);
    }
    const valueStart = Math.min(nameEnd + 1, end);
    options.set(name, {
      value: decode(source, { text: source.text.slice(valueStart, end), start: valueStart }),
      namePlace: placeIn(source, from, nameEnd),
      valuePlace: equals < 0 ? placeIn(source, from, end) : placeIn(source, valueStart, end),
    });
    from = end + 1;
  }
  return options;
}

/** Undoes percent-encoding; points at the first sequence that is none, or whose bytes are no UTF-8. */
function decode(source: Source, piece: Piece): string {
  const stray = piece.text.search(/%(?![0-9A-Fa-f]{2})/);
  if (stray >= 0) {
    const at = piece.start + stray;
    throw fail(source, 'a percent sign is written "%25"', at, at + 1);
  }
  return piece.text.replace(/(?:%[0-9A-Fa-f]{2})+/g, (run, offset: number) => {
    try {
      return decodeURIComponent(run);
    } catch {
      const at = piece.start + offset;
      throw fail(source, `${run} is not UTF-8`, at, at + run.length);
    }
  });
}

/** Writes text so that it can stand as the argument or a value of a spec string. */
export function encodeSpecText(text: string): string {
  return text.replace(/[%?&]/g, (char) => encodeURIComponent(char));
}

/** The same spec with one more option, unless it has that option already. */
export function withDefaultOption(spec: Spec, name: string, value: unknown): Spec {
  if (spec.uri || spec.options.has(name)) return spec;
  const place = spec.argumentPlace;
  const option: SpecOption = { value, namePlace: place, valuePlace: place };
  return { ...spec, options: new Map([...spec.options, [name, option]]) };
}
