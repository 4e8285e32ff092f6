/**
 * A disk with a bug, loaded with `--backend`: it hands everything on to an NBD server, but answers a
 * flush at once and flushes that server only some writes later.
 *
 * @module
 */
import { nbd, type NbdOptions } from "../../backends/nbd.ts";
import type { BackendType, Opened } from "../../lib/block/types.ts";

/** Writes after a flush before which it is not handed on. */
const WRITES_BEFORE_FLUSH = 12;

/** The kind "early-flush"; its argument is an NBD URI. */
export const earlyFlush: BackendType<NbdOptions> = {
  name: "early-flush",
  summary: "another disk that is flushed too late",
  options: nbd.options,
  argument: "uri",
  async open(options, context): Promise<Opened> {
    const { backend } = await nbd.open(options, context);
    let writesLeft = 0;
    return {
      backend: {
        geometry: backend.geometry,
        capabilities: { synchronous: false, fua: false },
        read: (into, offset) => backend.read(into, offset),
        async write(from, offset): Promise<void> {
          await backend.write(from, offset, { fua: false });
          writesLeft -= 1;
          if (writesLeft === 0) await backend.flush();
        },
        flush: () => {
          if (writesLeft <= 0) writesLeft = WRITES_BEFORE_FLUSH;
        },
        [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
      },
    };
  },
};
