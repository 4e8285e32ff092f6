/**
 * `null`: a disk of any size that reads as zeroes and forgets what is written. Costs nothing, so it
 * shows what everything in front of the storage costs.
 *
 * @module
 */
import { REQUEST_BYTES_MAX } from "../lib/block/limits.ts";
import { optionSchema, sizeOption } from "../lib/block/options.ts";
import type { Backend, BackendType, Geometry, Opened } from "../lib/block/types.ts";
import type { OpenContext } from "../lib/block/context.ts";

/** Options of the null backend. */
export interface NullOptions {
  /** Bytes of the disk. */
  readonly size: number;
}

function open(options: NullOptions, context: OpenContext): Promise<Opened> {
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
    read: (into) => {
      into.fill(0);
    },
    write: () => {},
    flush: () => {},
    trim: () => {},
    zero: () => {},
    cache: () => {},
    extents: (_offset, length) => [{ length, allocated: false, zero: true }],
    resize: (size) => {
      geometry = { ...geometry, size };
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  return Promise.resolve({ backend });
}

/** The null backend; `null` is a word of the language, hence the longer name. */
export const nullBackend: BackendType<NullOptions> = {
  name: "null",
  summary: "reads as zeroes, forgets what is written",
  argument: "size",
  options: optionSchema({ size: sizeOption({ summary: "size of the disk" }) }),
  open,
};
