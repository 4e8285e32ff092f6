/**
 * `cache`: keeps blocks in memory, the ones used last. Writes are done once they are in memory
 * (write-back) or once they are below (write-through). A flush writes back everything that was
 * completed before it, and then flushes below.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { choiceOption, optionSchema, sizeOption } from "../block/options.ts";
import type { Backend, FilterType, Opened } from "../block/types.ts";
import { BlockCache } from "./shared/block_cache.ts";
import { checkBlock } from "./shared/blocks.ts";
import { BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, CACHE_BYTES } from "./shared/limits.ts";
import { wrap } from "./shared/wrap.ts";

const MODES = ["write-back", "write-through"] as const;

/** Options of cache, in bytes. */
export interface CacheOptions {
  /** Memory for blocks. */
  readonly size: number;
  /** What is kept together: a power of two. */
  readonly block: number;
  /** When writes are done. */
  readonly mode: typeof MODES[number];
}

function open(backend: Backend, { size, block, mode }: CacheOptions): Opened {
  if (block < BLOCK_BYTES_MIN) {
    throw new BlockError(
      "EINVAL",
      `Cannot use filter cache with blocks of ${block}: at least ${BLOCK_BYTES_MIN} bytes are needed`,
    );
  }
  checkBlock(block, BLOCK_BYTES_MAX, backend.geometry, "cache");
  const writeBack = mode === "write-back";
  const cache = new BlockCache(backend, { block, limit: size, writeBack });
  const describe = (): Record<string, number | string> => ({
    mode,
    memory: cache.bytes,
    dirty: cache.dirtyBlocks.length * block,
    hits: cache.counts.hits,
    misses: cache.counts.misses,
  });
  const filter = wrap(backend, {
    // A durable write goes through, with a flush below where there is nothing better.
    ...(writeBack ? { capabilities: { fua: true } } : {}),
    verbs: {
      read: (into, offset) => cache.read(into, offset),
      write: (from, offset, options) => cache.write(from, offset, options),
      flush: () => cache.flush(),
      trim: (offset, length, options) => cache.trim(offset, length, options),
      zero: (offset, length, options) => cache.zero(offset, length, options),
      extents: (offset, length) => cache.extents(offset, length),
      resize: (size) => cache.resize(size),
    },
    dispose: async () => await cache.writeBack(cache.dirtyBlocks),
  });
  return { backend: filter, management: { describe } };
}

/** The filter. */
export const cache: FilterType<CacheOptions> = {
  name: "cache",
  summary: "keeps blocks in memory, write-back or write-through",
  options: optionSchema<CacheOptions>({
    size: sizeOption({ summary: "memory for blocks", default: CACHE_BYTES }),
    block: sizeOption({ summary: "what is kept together: a power of two", default: 4096 }),
    mode: choiceOption(MODES, { summary: "when writes are done", default: "write-back" }),
  }),
  open: (next, options) => Promise.try(open, next, options),
};
