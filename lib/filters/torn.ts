/**
 * `torn`: a disk with a volatile cache whose power can fail. What was written since the last flush is
 * kept in memory, sector by sector. At a crash each of these sectors reaches the layer below or does
 * not, by chance, independently of the others: writes are lost, torn, and out of order, as a disk is
 * free to do. From then on everything fails with EIO, until the device is opened again.
 *
 * Writes with FUA, trims and what does not fit into the memory go to the layer below before a crash
 * can take them, which a disk is free to do as well.
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import { chain } from "../block/maybe.ts";
import {
  chanceOption,
  countOption,
  omittable,
  optionSchema,
  pathOption,
  sizeOption,
} from "../block/options.ts";
import { OPERATIONS } from "../block/request.ts";
import type { Backend, FilterType, Maybe, Opened } from "../block/types.ts";
import { aroundVerbs } from "./shared/around.ts";
import { BlockCache } from "./shared/block_cache.ts";
import { type Chance, chanceOf } from "./shared/chance.ts";
import { TORN_BYTES } from "./shared/limits.ts";
import { exists } from "./shared/trigger.ts";
import { nextOf, wrap } from "./shared/wrap.ts";

/** Options of torn. */
export interface TornOptions {
  /** Power fails at the first operation that finds this file. */
  readonly file?: string | undefined;
  /** Chance that a sector survives, 0 to 1. */
  readonly survival: number;
  /** Decides which ones; makes a run repeatable. */
  readonly seed?: number | undefined;
  /** Memory for what was not flushed, in bytes. */
  readonly limit: number;
}

const SECTOR_BYTES = 512;

/** Power, and how it fails. */
class Power {
  readonly #cache: BlockCache;
  readonly #chance: Chance;
  readonly #survival: number;
  /** The crash; null as long as there was none. */
  #crash: { readonly done: Maybe<void> } | null = null;
  lost = 0;
  survived = 0;

  constructor(cache: BlockCache, chance: Chance, survival: number) {
    this.#cache = cache;
    this.#chance = chance;
    this.#survival = survival;
  }

  get failed(): boolean {
    return this.#crash !== null;
  }

  /** Fails, once; done when what survives is below. */
  fail(): Maybe<void> {
    this.#crash ??= { done: this.#choose() };
    return this.#crash.done;
  }

  #choose(): Maybe<void> {
    const sectors = this.#cache.dirtyBlocks;
    const survivors = sectors.filter(() => this.#chance() < this.#survival);
    this.survived = survivors.length;
    this.lost = sectors.length - survivors.length;
    return chain(this.#cache.writeBack(survivors), () => this.#cache.forgetDirty());
  }
}

function dead(operation: string): never {
  throw new BlockError("EIO", `Cannot ${operation}: the power has failed, as the filter torn says`);
}

function open(backend: Backend, options: TornOptions, context: OpenContext): Opened {
  const { file, survival, limit } = options;
  const sector = Math.max(SECTOR_BYTES, backend.geometry.minimum);
  const cache = new BlockCache(backend, { block: sector, limit, writeBack: true });
  const power = new Power(cache, chanceOf(context, options.seed), survival);
  const volatile = wrap(backend, {
    capabilities: { fua: true },
    // Zeroes are written like data, so that they can be lost; what holds data below tells nothing.
    drops: ["zero", "extents"],
    verbs: {
      read: (into, offset) => cache.read(into, offset),
      write: (from, offset, options) => cache.write(from, offset, options),
      flush: () => cache.flush(),
      trim: (offset, length, options) => cache.trim(offset, length, options),
      resize: (size) => power.failed ? dead("resize") : cache.resize(size),
    },
    dispose: async () => {
      if (!power.failed) await cache.writeBack(cache.dirtyBlocks);
    },
  });
  const verbs = aroundVerbs(nextOf(volatile), ({ operation }, run) => {
    if (!power.failed && file !== undefined && exists(context, file)) {
      context.log.warn(`The filter torn lets the power fail: there is ${file}`);
      return chain(power.fail(), () => dead(operation));
    }
    if (power.failed) return dead(operation);
    // What was on its way at the crash may be done, but nobody is told so.
    return chain(run(), (value) => power.failed ? dead(operation) : value);
  }, OPERATIONS);
  const describe = (): Record<string, number | boolean> => ({
    crashed: power.failed,
    unflushed: cache.dirtyBlocks.length * sector,
    survived: power.survived * sector,
    lost: power.lost * sector,
  });
  return {
    backend: wrap(volatile, { verbs }),
    management: { describe, crash: () => power.fail() },
  };
}

/** The filter. */
export const torn: FilterType<TornOptions> = {
  name: "torn",
  summary: "a power failure on demand, which keeps only some of what was not flushed",
  options: optionSchema<TornOptions>({
    file: omittable(pathOption({ summary: "the power fails as soon as this file exists" })),
    survival: chanceOption({
      summary: "chance of a sector that was not flushed to survive",
      default: 0.5,
    }),
    seed: omittable(countOption({ summary: "decides which ones; makes a crash repeatable" })),
    limit: sizeOption({ summary: "memory for what was not flushed", default: TORN_BYTES }),
  }),
  open: (next, options, context) => Promise.try(open, next, options, context),
};
