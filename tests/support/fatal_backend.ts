/**
 * A backend that ends the thread that it is in when its last block is read, for tests of what becomes of
 * others then. A plugin, as `--backend` loads it.
 *
 * @module
 */
import { memory, type MemoryOptions } from "../../backends/memory.ts";
import type { BackendType, Maybe, Opened } from "../../lib/block/types.ts";

/** The block whose read is fatal, in bytes. */
const FATAL_BYTES = 4096;

/** The backend. */
export const fatal: BackendType<MemoryOptions> = {
  ...memory,
  name: "fatal",
  async open(...args): Promise<Opened> {
    const { backend } = await memory.open(...args);
    const { size } = backend.geometry;
    return {
      backend: {
        geometry: backend.geometry,
        capabilities: backend.capabilities,
        read(into, offset): Maybe<void> {
          if (offset === size - FATAL_BYTES) {
            // The request never ends, so its thread looks at its event loop, where this is waiting.
            queueMicrotask(() => {
              throw new Error("this thread dies on purpose");
            });
            return new Promise<void>(() => {});
          }
          return backend.read(into, offset);
        },
        write: (from, offset, options) => backend.write(from, offset, options),
        flush: () => backend.flush(),
        [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
      },
    };
  },
};
