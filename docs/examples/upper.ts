/** `upper`: turns every lower-case letter that is read into a capital. @module */
import { type FilterType, optionSchema } from "../../mod.ts";

/** Changes the letters a to z in place. */
function raise(bytes: Uint8Array): void {
  for (const [at, byte] of bytes.entries()) {
    if (byte >= 0x61 && byte <= 0x7a) bytes[at] = byte - 0x20;
  }
}

export const upper: FilterType<Record<never, never>> = {
  name: "upper",
  summary: "reads small letters as capitals",
  options: optionSchema<Record<never, never>>({}),
  open: (next) => {
    const { trim, zero, cache, extents } = next;
    return Promise.resolve({
      backend: {
        get geometry() {
          return next.geometry;
        },
        capabilities: next.capabilities,
        read: (into, offset) => {
          const pending = next.read(into, offset);
          return pending === undefined ? raise(into) : pending.then(() => raise(into));
        },
        write: (from, offset, options) => next.write(from, offset, options),
        flush: () => next.flush(),
        ...(trim === undefined ? {} : { trim: trim.bind(next) }),
        ...(zero === undefined ? {} : { zero: zero.bind(next) }),
        ...(cache === undefined ? {} : { cache: cache.bind(next) }),
        ...(extents === undefined ? {} : { extents: extents.bind(next) }),
        [Symbol.asyncDispose]: () => next[Symbol.asyncDispose](),
      },
    });
  },
};
