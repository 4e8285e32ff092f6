/**
 * `memory`: a disk in memory that takes only as much as was written to it. Gone when it is closed.
 *
 * @module
 */
import { REQUEST_BYTES_MAX, SPARSE_BYTES_MAX } from "../lib/block/limits.ts";
import { optionSchema, sizeOption } from "../lib/block/options.ts";
import { SparseMemory } from "../lib/block/sparse_memory.ts";
import type { Backend, BackendType, Geometry, Opened } from "../lib/block/types.ts";
import type { OpenContext } from "../lib/block/context.ts";

/** Options of the memory backend. */
export interface MemoryOptions {
  /** Bytes of the disk. */
  readonly size: number;
  /** Bytes of memory that it may use. */
  readonly limit: number;
}

function open(options: MemoryOptions, context: OpenContext): Promise<Opened> {
  const memory = new SparseMemory(options);
  let geometry: Geometry = {
    size: options.size,
    minimum: 1,
    preferred: 4096,
    maximum: REQUEST_BYTES_MAX,
    readOnly: context.readOnly,
  };
  const backend: Backend = {
    get geometry() {
      return geometry;
    },
    capabilities: { synchronous: true, fua: true },
    read: (into, offset) => memory.read(into, offset),
    write: (from, offset) => memory.write(from, offset),
    flush: () => {},
    trim: (offset, length) => memory.discard(offset, length),
    zero: (offset, length, { mayTrim }) =>
      mayTrim ? memory.discard(offset, length) : memory.reserve(offset, length),
    cache: () => {},
    extents: (offset, length) => memory.extents(offset, length),
    resize: (size) => {
      memory.resize(size);
      geometry = { ...geometry, size };
    },
    [Symbol.asyncDispose]: () => Promise.resolve(memory.clear()),
  };
  const describe = (): Record<string, number> => ({
    size: memory.size,
    allocated: memory.allocated,
    resident: memory.resident,
  });
  return Promise.resolve({ backend, management: { describe } });
}

/** The memory backend. */
export const memory: BackendType<MemoryOptions> = {
  name: "memory",
  summary: "sparse disk in memory, gone when it is closed",
  argument: "size",
  options: optionSchema({
    size: sizeOption({ summary: "size of the disk" }),
    limit: sizeOption({
      summary: "memory that may be used; past it writes fail with ENOSPC",
      default: SPARSE_BYTES_MAX,
    }),
  }),
  open,
};
