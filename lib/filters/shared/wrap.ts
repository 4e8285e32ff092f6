/**
 * What every filter is made with: the verbs of the next layer, with those that the filter changes in
 * front. A verb that the next layer lacks stays absent, also if the filter lists it, unless the filter
 * brings it along by itself. The filter owns the next layer and disposes it after its own affairs.
 *
 * @module
 */
import { BlockError, toBlockError } from "../../block/errors.ts";
import type { Backend, Capabilities, Geometry } from "../../block/types.ts";

/** Verbs that a layer may lack. */
export type OptionalVerb = "trim" | "zero" | "cache" | "extents" | "resize";

/** The verbs alone. */
export type Verbs = Pick<Required<Backend>, "read" | "write" | "flush" | OptionalVerb>;

/** The next layer with all verbs in place: one that it lacks throws EOPNOTSUPP. */
export type Next = Verbs & Pick<Backend, "geometry" | "capabilities">;

/** What a filter changes. */
export interface Changes {
  /** Makes the geometry from that of the next layer; called again whenever that has changed. */
  readonly geometry?: (below: Geometry) => Geometry;
  /** Capabilities that are not those of the next layer. */
  readonly capabilities?: Partial<Capabilities>;
  /** Verbs that the filter changes. Those that the next layer lacks stay absent. */
  readonly verbs?: Partial<Verbs>;
  /** Verbs that the filter has whatever the next layer has. */
  readonly adds?: Partial<Pick<Verbs, OptionalVerb>>;
  /** Verbs that the filter takes away. */
  readonly drops?: readonly OptionalVerb[];
  /** Runs once, before the next layer is disposed. */
  readonly dispose?: () => Promise<void> | void;
}

function lacks(verb: OptionalVerb): never {
  throw new BlockError("EOPNOTSUPP", `Cannot ${verb}: the layer below has no such operation`);
}

/** The next layer as filters call it. */
export function nextOf(backend: Backend): Next {
  return {
    get geometry(): Geometry {
      return backend.geometry;
    },
    get capabilities(): Capabilities {
      return backend.capabilities;
    },
    read: (into, offset) => backend.read(into, offset),
    write: (from, offset, options) => backend.write(from, offset, options),
    flush: () => backend.flush(),
    trim: (offset, length, options) =>
      backend.trim === undefined ? lacks("trim") : backend.trim(offset, length, options),
    zero: (offset, length, options) =>
      backend.zero === undefined ? lacks("zero") : backend.zero(offset, length, options),
    cache: (offset, length) =>
      backend.cache === undefined ? lacks("cache") : backend.cache(offset, length),
    extents: (offset, length) =>
      backend.extents === undefined ? lacks("extents") : backend.extents(offset, length),
    resize: (size) => backend.resize === undefined ? lacks("resize") : backend.resize(size),
  };
}

/** A geometry made from another, and made again only when that one is another object. */
function followed(backend: Backend, make: (below: Geometry) => Geometry): () => Geometry {
  let below = backend.geometry;
  let above = make(below);
  return () => {
    const now = backend.geometry;
    if (now !== below) {
      below = now;
      above = make(now);
    }
    return above;
  };
}

/** Disposes a layer after `first`, once, also if `first` fails. */
function ending(backend: Backend, first: () => Promise<void> | void): () => Promise<void> {
  let end: Promise<void> | null = null;
  const run = async (): Promise<void> => {
    try {
      await first();
    } catch (error) {
      throw toBlockError(error);
    } finally {
      await backend[Symbol.asyncDispose]();
    }
  };
  return () => end ??= run();
}

/** Puts changes in front of the next layer. */
export function wrap(backend: Backend, changes: Changes): Backend {
  const { verbs = {}, adds = {}, drops = [], dispose = () => {} } = changes;
  const next = nextOf(backend);
  const geometry = changes.geometry === undefined
    ? () => backend.geometry
    : followed(backend, changes.geometry);
  const all: Verbs = { ...next, ...verbs, ...adds };
  const has = (verb: OptionalVerb): boolean =>
    adds[verb] !== undefined || (backend[verb] !== undefined && !drops.includes(verb));
  return {
    get geometry(): Geometry {
      return geometry();
    },
    capabilities: { ...backend.capabilities, ...changes.capabilities },
    read: all.read,
    write: all.write,
    flush: all.flush,
    ...(has("trim") ? { trim: all.trim } : {}),
    ...(has("zero") ? { zero: all.zero } : {}),
    ...(has("cache") ? { cache: all.cache } : {}),
    ...(has("extents") ? { extents: all.extents } : {}),
    ...(has("resize") ? { resize: all.resize } : {}),
    [Symbol.asyncDispose]: ending(backend, dispose),
  };
}
