/**
 * The kinds of backends and filters by name, and the way from a spec to an open backend. Options
 * are checked against the kind's own schema, in one place, before anything is opened.
 *
 * @module
 */
import type { OpenContext } from "./context.ts";
import { toBlockError } from "./errors.ts";
import type { ImageTools } from "./image.ts";
import { isOptionSchema, type OptionSchema, parseOptions } from "./options.ts";
import { parseSpec, type Spec, splitUri } from "./spec.ts";
import type { Backend, Opened } from "./types.ts";
import { nearest, type Place, UsageError } from "./usage_error.ts";

/**
 * A kind of backend whatever its options are. Every `BackendType<O>` is one: `open` takes what the
 * kind's own schema gave, and the registry passes it nothing else.
 */
export interface AnyBackendType {
  /** The KIND of spec strings. */
  readonly name: string;
  /** One line. */
  readonly summary: string;
  /** What can be set; `describeOptions` lists it. */
  readonly options: OptionSchema<unknown>;
  /** The option that takes the text after `KIND:`. */
  readonly argument?: string;
  /** URI schemes that select this kind. */
  readonly schemes?: readonly string[];
  /** The query of such a URI has the options, and the rest of it is the argument. */
  readonly uriOptions?: boolean;
  /** What can be done to disks at rest; they take what the kind's own schemas gave. */
  readonly image?: ImageTools;
  /** It is never `synchronous`. */
  readonly waits?: boolean;
  /** Opens the storage; `options` is what the schema made of the input. */
  open(options: unknown, context: OpenContext): Promise<Opened>;
}

/** A kind of filter whatever its options are. Every `FilterType<O>` is one. */
export interface AnyFilterType {
  /** The name used with `--filter`. */
  readonly name: string;
  /** One line. */
  readonly summary: string;
  /** What can be set; `describeOptions` lists it. */
  readonly options: OptionSchema<unknown>;
  /** It is never `synchronous`. */
  readonly waits?: boolean;
  /** Wraps `next`; `options` is what the schema made of the input. */
  open(next: Backend, options: unknown, context: OpenContext): Promise<Opened>;
}

/** What opening a spec gives. */
export interface OpenedSpec {
  /** The backend, and its management if it has any. */
  readonly opened: Opened;
  /** The spec it was opened from. */
  readonly spec: Spec;
  /** Its kind. */
  readonly type: AnyBackendType;
}

/** A spec that has been checked and can be opened. */
export interface PreparedSpec {
  /** The spec. */
  readonly spec: Spec;
  /** Its kind. */
  readonly type: AnyBackendType;
  /** Opens it. Throws BlockError. */
  open(context: OpenContext): Promise<OpenedSpec>;
}

/** A disk at rest, and the tools for it. */
export interface PreparedImage {
  /** The spec. */
  readonly spec: Spec;
  /** Its kind. */
  readonly type: AnyBackendType;
  /** The options that say where it is: the first argument of every tool. */
  readonly disk: unknown;
  /** The tools. */
  readonly tools: ImageTools;
}

const NAME = /^[a-z][a-z0-9-]*$/;

/**
 * True if `value` has the shape of a backend type: what a module from elsewhere exports is checked
 * by this before it is registered.
 */
export function isBackendType(value: unknown): value is AnyBackendType {
  return typeof value === "object" && value !== null &&
    "name" in value && typeof value.name === "string" &&
    "summary" in value && typeof value.summary === "string" &&
    "open" in value && typeof value.open === "function" &&
    "options" in value && isOptionSchema(value.options) &&
    (!("argument" in value) || typeof value.argument === "string") &&
    (!("schemes" in value) || Array.isArray(value.schemes)) &&
    (!("image" in value) || isImageTools(value.image));
}

function isImageTools(value: unknown): value is ImageTools {
  return typeof value === "object" && value !== null &&
    "format" in value && typeof value.format === "string" &&
    "createOptions" in value && isOptionSchema(value.createOptions) &&
    "create" in value && typeof value.create === "function" &&
    "info" in value && typeof value.info === "function";
}

/** The values of a spec by option, its argument among them. */
function valuesOf(spec: Spec, kind: string, argument: string | undefined): Map<string, unknown> {
  const values = new Map<string, unknown>();
  for (const [key, option] of spec.options) values.set(key, option.value);
  if (spec.argument === "") return values;
  if (argument === undefined) {
    const reason = `${kind} takes options only; write ${kind}:?option=value, or nothing there`;
    throw new UsageError(`Cannot open ${kind}: ${reason}`, spec.argumentPlace);
  }
  const twice = spec.options.get(argument);
  if (twice !== undefined) {
    const reason = `its ${argument} is given twice, after "${kind}:" and as an option`;
    throw new UsageError(`Cannot open ${kind}: ${reason}`, twice.namePlace);
  }
  values.set(argument, spec.argument);
  return values;
}

function placeOf(
  spec: Spec,
  argument: string | undefined,
  key: string,
  part: "name" | "value",
): Place {
  const option = spec.options.get(key);
  if (option !== undefined) return part === "name" ? option.namePlace : option.valuePlace;
  if (key === argument) return spec.argumentPlace;
  const { text } = spec.argumentPlace;
  return { ...spec.argumentPlace, start: text.length, end: text.length };
}

/** The kinds of backends and filters that there are. */
export class Registry {
  readonly #backends = new Map<string, AnyBackendType>();
  readonly #schemes = new Map<string, AnyBackendType>();
  readonly #filters = new Map<string, AnyFilterType>();

  /** Adds a kind of backend. Throws UsageError if its name or one of its schemes is taken or malformed. */
  register(type: AnyBackendType): void {
    checkName(type.name, "backend", this.#backends.has(type.name));
    for (const scheme of type.schemes ?? []) {
      const owner = this.#schemes.get(scheme);
      if (owner === undefined) continue;
      throw new UsageError(
        `Cannot register backend ${type.name}: ${owner.name} claims the scheme ${scheme} already`,
      );
    }
    this.#backends.set(type.name, type);
    for (const scheme of type.schemes ?? []) this.#schemes.set(scheme, type);
  }

  /** Adds a kind of filter. Throws UsageError if its name is taken or malformed. */
  registerFilter(type: AnyFilterType): void {
    checkName(type.name, "filter", this.#filters.has(type.name));
    this.#filters.set(type.name, type);
  }

  /** The kinds of backends in alphabetical order. */
  get backends(): readonly AnyBackendType[] {
    return [...this.#backends.values()].sort((a, b) => a.name < b.name ? -1 : 1);
  }

  /** The kinds of filters in alphabetical order. */
  get filters(): readonly AnyFilterType[] {
    return [...this.#filters.values()].sort((a, b) => a.name < b.name ? -1 : 1);
  }

  /** The names of the kinds of backends in alphabetical order. */
  get kinds(): readonly string[] {
    return this.backends.map(({ name }) => name);
  }

  /** The kind that `spec` names or whose scheme it has. Throws UsageError with suggestions. */
  find(spec: Spec): AnyBackendType {
    const type = spec.uri ? this.#schemes.get(spec.kind) : this.#backends.get(spec.kind);
    if (type !== undefined) return type;
    const reason = spec.uri ? this.#noScheme(spec) : this.#noKind(spec);
    throw new UsageError(`Cannot open "${spec.text}": ${reason}`, spec.kindPlace);
  }

  #noKind(spec: Spec): string {
    const known = this.kinds;
    const close = nearest(spec.kind, known);
    const list = `there are ${known.join(", ")}`;
    if (close !== null) {
      return `there is no kind "${spec.kind}"; did you mean "${close}"? (${list})`;
    }
    return `there is no kind "${spec.kind}"; ${list}`;
  }

  #noScheme(spec: Spec): string {
    const kind = this.#backends.get(spec.kind);
    if (kind !== undefined) {
      const path = spec.argument.slice(spec.kind.length + 1).replace(/^\/+/, "/");
      return `${kind.name} takes no URI; write ${kind.name}:${path}`;
    }
    const schemes = [...this.#schemes.keys()].sort();
    const close = nearest(spec.kind, schemes);
    if (close !== null) return `there is no scheme "${spec.kind}"; did you mean "${close}"?`;
    return `no backend takes the scheme "${spec.kind}"; there are ${schemes.join(", ") || "none"}`;
  }

  /** The filter of this name. Throws UsageError with suggestions. */
  findFilter(name: string): AnyFilterType {
    const type = this.#filters.get(name);
    if (type !== undefined) return type;
    const known = this.filters.map((filter) => filter.name);
    const close = nearest(name, known);
    const hint = close === null
      ? `there are ${known.join(", ") || "none"}`
      : `did you mean "${close}"?`;
    throw new UsageError(`Cannot use filter "${name}": there is no such filter; ${hint}`);
  }

  /** Checks a spec, kind and options; opens nothing. Throws UsageError. */
  prepare(spec: Spec): PreparedSpec {
    const type = this.find(spec);
    const options = checkOptions(spec, type);
    const open = async (context: OpenContext): Promise<OpenedSpec> => {
      try {
        const openSpec = (text: string): Promise<Opened> => this.#openText(text, context);
        return { opened: await type.open(options, { ...context, openSpec }), spec, type };
      } catch (error) {
        // Whoever wrote the spec gets the usage error; everything else has an errno from here on.
        throw error instanceof UsageError ? error : toBlockError(error);
      }
    };
    return { spec, type, open };
  }

  async #openText(text: string, context: OpenContext): Promise<Opened> {
    const { opened } = await this.open(parseSpec(text, { kinds: this.kinds }), context);
    return opened;
  }

  /** Checks a spec, and that its kind has image tools; opens nothing. Throws UsageError. */
  prepareImage(spec: Spec): PreparedImage {
    const type = this.find(spec);
    const { image: tools } = type;
    if (tools !== undefined) return { spec, type, disk: checkOptions(spec, type), tools };
    const able = this.backends.filter(({ image }) => image !== undefined);
    const reason = `there are no image tools for ${type.name}, only for ` +
      (able.map(({ name }) => name).join(", ") || "none");
    throw new UsageError(`Cannot work on "${spec.text}": ${reason}`, spec.kindPlace);
  }

  /** The kind of a disk that begins with `head` (IMAGE_HEAD_BYTES, or all there is), or null. */
  detectImage(head: Uint8Array): AnyBackendType | null {
    return this.backends.find(({ image }) => image?.detect?.(head) === true) ?? null;
  }

  /**
   * Checks a filter's options, written as a spec whose kind is the filter's name; opens nothing.
   * Throws UsageError.
   */
  prepareFilter(spec: Spec): (next: Backend, context: OpenContext) => Promise<Opened> {
    const type = this.findFilter(spec.kind);
    const options = parseOptions(type.options, valuesOf(spec, type.name, undefined), {
      action: `use filter ${type.name}`,
      place: (key, part) => placeOf(spec, undefined, key, part),
    });
    return async (next, context) => {
      try {
        return await type.open(next, options, context);
      } catch (error) {
        throw error instanceof UsageError ? error : toBlockError(error);
      }
    };
  }

  /** Checks a spec and opens it. Throws UsageError or BlockError. */
  open(spec: Spec, context: OpenContext): Promise<OpenedSpec> {
    return this.prepare(spec).open(context);
  }
}

/** The options of a spec as its kind's schema gives them. */
function checkOptions(whole: Spec, type: AnyBackendType): unknown {
  const { name, argument, options } = type;
  const spec = whole.uri && type.uriOptions === true ? splitUri(whole) : whole;
  return parseOptions(options, valuesOf(spec, name, argument), {
    action: `open ${name}`,
    ...(argument === undefined ? {} : { argument }),
    place: (key, part) => placeOf(spec, argument, key, part),
  });
}

function checkName(name: string, what: string, taken: boolean): void {
  if (!NAME.test(name)) {
    throw new UsageError(
      `Cannot register ${what} "${name}": a name is made of a-z, 0-9 and hyphens, a letter first`,
    );
  }
  if (taken) throw new UsageError(`Cannot register ${what} ${name}: the name is taken`);
}
