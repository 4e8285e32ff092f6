/**
 * Reading a dirty bitmap that an NBD server shows: on a connection of its own, which asks for the metadata
 * context `qemu:dirty-bitmap:NAME` and nothing else.
 *
 * @module
 */
import type { BitmapRun } from "../../block/bitmaps.ts";
import { BlockError } from "../../block/errors.ts";
import { DIRTY_BITMAP_PREFIX } from "../constants.ts";
import type { NbdUri } from "../uri.ts";
import { connectNbd, type ConnectOptions } from "./connect.ts";
import { EFFECT_BYTES_MAX } from "./limits.ts";

/** A dirty bitmap of an export. */
export interface DirtyBitmapReader extends AsyncDisposable {
  /** Size of the export, bytes. */
  readonly size: number;
  /** Runs from `offset` on: at least one, neighbours may be alike, maybe not all of the range. */
  runs(offset: number, length: number): Promise<BitmapRun[]>;
}

/** Opens one. Rejects as `connectNbd`, and with ENOENT if the export has no such bitmap. */
export async function openDirtyBitmap(
  uri: string | NbdUri,
  name: string,
  options: ConnectOptions,
): Promise<DirtyBitmapReader> {
  const context = DIRTY_BITMAP_PREFIX + name;
  const connection = await connectNbd(uri, { ...options, context });
  const { size, extended, statusContext, exportName } = connection.negotiated;
  if (statusContext === null) {
    await connection[Symbol.asyncDispose]();
    throw new BlockError(
      "ENOENT",
      `Cannot read bitmap ${name}: the export ${JSON.stringify(exportName)} has no metadata ` +
        `context ${context}`,
    );
  }
  const longest = extended ? Infinity : EFFECT_BYTES_MAX;
  return {
    size,
    runs: (offset, length) => connection.dirtyRuns(offset, Math.min(length, longest)),
    [Symbol.asyncDispose]: () => connection[Symbol.asyncDispose](),
  };
}
