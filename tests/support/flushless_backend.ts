/**
 * Disks with a bug, loaded with `--backend`: disks on objects whose flush does nothing.
 *
 * @module
 */
import { dir, s3 } from "../../backends/s3/mod.ts";
import type { BackendType, Opened } from "../../lib/block/types.ts";

function withoutFlush<Options extends { readonly path: string }>(
  kind: BackendType<Options>,
  name: string,
): BackendType<Options> {
  return {
    name,
    summary: `${kind.name}, but never flushed`,
    options: kind.options,
    argument: "path",
    async open(options, context): Promise<Opened> {
      const { backend } = await kind.open(options, context);
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
}

/** The kind "flushless"; its argument and options are those of s3. */
export const flushless: typeof s3 = withoutFlush(s3, "flushless");

/** The kind "flushless-dir"; its argument and options are those of dir. */
export const flushlessDir: typeof dir = withoutFlush(dir, "flushless-dir");
