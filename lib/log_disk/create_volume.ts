/**
 * Making a new volume: one object. The log begins with the first attach.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import type { ObjectStore } from "../object_store/types.ts";
import { type DiskContext, newId } from "./context.ts";
import { encodeVolume, type Parent, type VolumeDescription } from "./description.ts";
import { BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, CREATE_TRIES_MAX, WINDOW_SLOTS } from "./limits.ts";
import { VOLUME_KEY } from "./names.ts";
import { StoreError } from "../object_store/types.ts";
import { readVolume } from "./load.ts";

/** A volume to be made. */
export interface NewVolume {
  /** Size of the disk, bytes: a multiple of `blockBytes`. */
  readonly diskBytes: number;
  /** Smallest unit of the disk, bytes: a power of two from 512 to 65536; 512 if left out. */
  readonly blockBytes?: number;
  /** What it is a clone of. */
  readonly parent?: Parent;
}

function describe(
  { diskBytes, blockBytes = BLOCK_BYTES_MIN, parent }: NewVolume,
  name: string,
  context: DiskContext,
): VolumeDescription {
  const isBlock = Number.isInteger(Math.log2(blockBytes)) && blockBytes >= BLOCK_BYTES_MIN &&
    blockBytes <= BLOCK_BYTES_MAX;
  if (!isBlock) {
    throw new BlockError(
      "EINVAL",
      `Cannot create ${name}: a block of ${blockBytes} bytes is no power of two from ${BLOCK_BYTES_MIN} to ${BLOCK_BYTES_MAX}`,
    );
  }
  if (!Number.isSafeInteger(diskBytes) || diskBytes < 0 || diskBytes % blockBytes !== 0) {
    throw new BlockError(
      "EINVAL",
      `Cannot create ${name}: a size of ${diskBytes} bytes is no multiple of ${blockBytes}`,
    );
  }
  return {
    id: newId(context),
    diskBytes,
    blockBytes,
    windowSlots: WINDOW_SLOTS,
    createdMs: Math.max(0, Math.round(context.clock.wall())),
    parent: parent ?? null,
  };
}

/** Creates a volume. Throws EEXIST if there is one, EINVAL for an impossible size, and what the store throws. */
export async function createVolume(
  store: ObjectStore,
  volume: NewVolume,
  context: DiskContext,
): Promise<VolumeDescription> {
  const { signal } = context, description = describe(volume, store.name, context);
  for (let round = 0; round < CREATE_TRIES_MAX; round += 1) {
    try {
      const outcome = await store.create(VOLUME_KEY, [encodeVolume(description)], { signal });
      if (outcome === "created") return description;
      const there = await readVolume(store, signal);
      // An earlier try whose outcome was unclear.
      if (there.id === description.id) return description;
      throw new BlockError("EEXIST", `Cannot create ${store.name}: there is a volume`);
    } catch (error) {
      if (!(error instanceof StoreError) || error.kind !== "unclear") throw error;
    }
  }
  throw new BlockError("EIO", `Cannot create ${store.name}: the outcome stays unclear`);
}
