/**
 * Which log objects of a volume a snapshot needs: those that its map points to, and those behind its
 * checkpoint from which the map is made.
 *
 * @module
 */
import { BlockError, toBlockError } from "../../block/errors.ts";
import { StoreError } from "../../object_store/types.ts";
import type { DiskContext } from "../context.ts";
import type { SnapshotDescription } from "../description.ts";
import { loadSnapshot, type Volume } from "../load.ts";
import { parseCheckpointKey } from "../names.ts";

/** Which log objects somebody needs. */
export interface Needed {
  /** True if the log object with this sequence number has to stay. */
  has(seq: number): boolean;
}

/** What a snapshot of a volume needs of that volume's log. Throws what loading it throws. */
export async function neededBySnapshot(
  volume: Volume,
  snapshot: SnapshotDescription,
  context: DiskContext,
): Promise<Needed> {
  const { checkpoint, seq: last } = snapshot;
  const { map } = await loadSnapshot(volume, 0, snapshot, context);
  const base = checkpoint === null ? 0 : parseCheckpointKey(checkpoint)?.seq ?? 0;
  const live = new Set<number>();
  for (const { seq, liveBytes } of map.objects(0)) if (liveBytes > 0) live.add(seq);
  return { has: (seq) => seq > base && seq <= last || live.has(seq) };
}

/**
 * The same for who deletes the rest: a snapshot that is damaged, or that its writer had not finished when
 * it was killed, keeps all that it could need, until somebody deletes it. Throws what the store throws.
 */
export async function neededOrAll(
  volume: Volume,
  snapshot: SnapshotDescription,
  context: DiskContext,
): Promise<Needed> {
  try {
    return await neededBySnapshot(volume, snapshot, context);
  } catch (error) {
    const isDamage = error instanceof StoreError
      ? error.kind === "corrupt"
      : error instanceof BlockError && error.errno === "EIO";
    if (!isDamage) throw error;
    const { name, seq: last } = snapshot;
    context.log.warn(
      `Snapshot "${name}" cannot be read: all that it could need is kept until it is deleted: ` +
        toBlockError(error).message,
    );
    return { has: (seq) => seq <= last };
  }
}

/** What any of them needs. */
export function neededByAny(all: readonly Needed[]): Needed {
  return { has: (seq) => all.some((each) => each.has(seq)) };
}
