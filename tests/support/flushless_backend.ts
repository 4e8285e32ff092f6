/**
 * A disk with a bug, loaded with `--backend`: a disk on S3 whose flush does nothing.
 *
 * @module
 */
import { s3 } from "../../backends/s3/mod.ts";
import type { Opened } from "../../lib/block/types.ts";

/** The kind "flushless"; its argument and options are those of s3. */
export const flushless: typeof s3 = {
  name: "flushless",
  summary: "a disk on S3 that is never flushed",
  options: s3.options,
  argument: "path",
  async open(options, context): Promise<Opened> {
    const { backend } = await s3.open(options, context);
    return {
      backend: {
        geometry: backend.geometry,
        capabilities: { synchronous: false, fua: false },
        read: (into, offset) => backend.read(into, offset),
        write: (from, offset) => backend.write(from, offset, { fua: false }),
        flush: () => undefined,
        [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
      },
    };
  },
};
