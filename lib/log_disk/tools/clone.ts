/**
 * Cloning and removing volumes.
 *
 * A clone is a volume of its own that begins as a snapshot of another: it reads what it has not written
 * from the parent's objects. A marker in the parent keeps the snapshot. The marker comes before the clone
 * and goes after it, so a crash leaves at most a marker that nothing needs.
 *
 * @module
 */
import { BlockError } from "../../block/errors.ts";
import type { Progress } from "../../block/image.ts";
import type { ObjectStore } from "../../object_store/types.ts";
import { type DiskContext, newId, type ResolveParent } from "../context.ts";
import { decodeVolume, encodeVolume, type VolumeDescription } from "../description.ts";
import { takeInventory } from "../inventory.ts";
import { readVolume } from "../load.ts";
import { VOLUME_KEY } from "../names.ts";
import {
  claimSnapshot,
  clonesNeeding,
  createSurely,
  dropSnapshot,
  noSnapshot,
  releaseSnapshot,
} from "../snapshots.ts";
import { deleteKeys } from "./check.ts";

/** A clone that is to be made. */
export interface CloneRequest {
  /** The volume that has the snapshot. */
  readonly parent: ObjectStore;
  /** Where that is, as whoever opens the clone resolves it. */
  readonly address: string;
  /** The snapshot's name. */
  readonly snapshot: string;
}

/** The error for a place where a volume is already. */
function taken(store: ObjectStore): BlockError {
  return new BlockError("EEXIST", `Cannot create ${store.name}: there is a volume already`);
}

/**
 * Clones a snapshot into an empty place: at once, whatever its size. Throws EEXIST if there is a volume,
 * ENOENT if there is no such snapshot, EBUSY if that is just being deleted, StoreError.
 */
export async function cloneVolume(
  store: ObjectStore,
  { parent, address, snapshot: name }: CloneRequest,
  context: DiskContext,
): Promise<VolumeDescription> {
  const { signal } = context;
  if (await store.get(VOLUME_KEY, undefined, { signal }) !== null) throw taken(store);
  const above = await readVolume(parent, signal);
  const id = newId(context);
  const snapshot = await claimSnapshot(parent, name, { id, address: store.name }, { signal });
  if (snapshot.volume !== above.id) {
    // Removed since, and another one made there.
    await releaseSnapshot(parent, snapshot.id, id, { signal });
    throw noSnapshot(parent, name);
  }
  const description: VolumeDescription = {
    ...above,
    id,
    diskBytes: snapshot.diskBytes,
    createdMs: Math.floor(context.clock.wall()),
    parent: { address, volume: above.id, snapshot: name, snapshotId: snapshot.id },
  };
  const outcome = await createSurely(store, VOLUME_KEY, encodeVolume(description), { signal });
  if (outcome === "created") return description;
  await releaseSnapshot(parent, snapshot.id, id, { signal });
  throw taken(store);
}

/** The description that is there, or null if there is none or it is damaged. */
async function describedOrNull(
  store: ObjectStore,
  signal: AbortSignal,
): Promise<VolumeDescription | null> {
  const bytes = await store.get(VOLUME_KEY, undefined, { signal });
  try {
    return bytes === null ? null : decodeVolume(bytes, VOLUME_KEY);
  } catch {
    return null;
  }
}

/**
 * Removes a volume with all its snapshots, also one that is damaged or half removed. What is none of a
 * volume's objects stays. Gives the number of objects that were deleted. Throws ENOENT if there is nothing,
 * EBUSY if it has clones, StoreError.
 */
export async function removeVolume(
  store: ObjectStore,
  resolve: ResolveParent,
  context: DiskContext & { readonly progress: Progress },
): Promise<number> {
  const { signal, progress } = context;
  const inventory = await takeInventory(store, { signal });
  const { hasVolume, checkpoints, snapshots, clones, probes, log } = inventory;
  if (inventory.total.count === inventory.others.length) {
    throw new BlockError("ENOENT", `Cannot remove ${store.name}: there is no volume`);
  }
  for (const { name, id } of snapshots) {
    const clones = await clonesNeeding(store, id, { signal });
    if (clones === null) continue;
    const reason = `${clones} its snapshot "${name}"`;
    throw new BlockError("EBUSY", `Cannot remove ${store.name}: ${reason}`);
  }
  // One by one, so that nobody clones what is going.
  for (const each of snapshots) await dropSnapshot(store, each, context);
  // From the end of the log to its beginning: whatever is left when this is stopped is an older state.
  const keys = [...checkpoints, ...clones, ...probes, ...log.toReversed()].map(({ key }) => key);
  const described = await describedOrNull(store, signal);
  await deleteKeys(store, keys, signal, progress);
  if (described?.parent !== null && described !== null) {
    const { address, snapshotId } = described.parent;
    await using parent = await resolve(address);
    await releaseSnapshot(parent, snapshotId, described.id, { signal });
  }
  await store.delete([VOLUME_KEY], { signal });
  return keys.length + snapshots.length + (hasVolume ? 1 : 0);
}
