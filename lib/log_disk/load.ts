/**
 * Loading a volume: its description, those of its ancestors, the newest checkpoint that is whole, and the log
 * behind it up to the first gap. Nothing here changes anything.
 *
 * A gap is the end of the log unless garbage collection made it. Objects are deleted only after a
 * checkpoint that includes them was published, so whoever meets a gap looks whether there is a checkpoint that
 * he does not know, and if so begins again. No writer creates an object `windowSlots` or more behind one that
 * does not exist: an object beyond that says that the one in the gap was lost.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { inLanes } from "../block/maybe.ts";
import type { ObjectStore } from "../object_store/types.ts";
import { damaged } from "./bytes.ts";
import {
  CHECKPOINT_HEADER_BYTES,
  type CheckpointHeader,
  decodeCheckpointBody,
  decodeCheckpointHeader,
} from "./checkpoint.ts";
import type { DiskContext, ResolveParent } from "./context.ts";
import { decodeVolume, type SnapshotDescription, type VolumeDescription } from "./description.ts";
import { emptyRun, ExtentMap } from "./extent_map.ts";
import {
  ATTACH_TRIES_MAX,
  CHECKPOINT_PART_BYTES,
  CHECKPOINT_READS,
  ORIGINS_MAX,
  SECTION_BYTES,
} from "./limits.ts";
import type { Origin } from "./line_reader.ts";
import { applyObject, initialState, type LogState } from "./log_state.ts";
import { logKey, VOLUME_KEY } from "./names.ts";
import { listCheckpoints, type ListedCheckpoint, listLog, scanLog } from "./scan.ts";
import { findSnapshot, readSnapshot } from "./snapshots.ts";

/** A volume, and the ancestors that it stands on. */
export interface Volume {
  /** What it is. */
  readonly description: VolumeDescription;
  /** Its objects, then those of its parent, and so on. */
  readonly origins: readonly Origin[];
  /** Descriptions of all origins. */
  readonly lineage: readonly VolumeDescription[];
}

/** What was loaded. */
export interface Loaded {
  /** The state at the first gap. */
  readonly state: LogState;
  /** Checkpoints that were listed before anything else, the newest first. */
  readonly checkpoints: readonly ListedCheckpoint[];
  /** The one that was used; null if there was none. */
  readonly checkpoint: ListedCheckpoint | null;
  /** Sizes of the log objects behind it that were listed, by sequence number. */
  readonly sizes: ReadonlyMap<number, number>;
}

/** Reads the description of the volume in a store. Throws ENOENT if there is none. */
export async function readVolume(
  store: ObjectStore,
  signal: AbortSignal,
): Promise<VolumeDescription> {
  const bytes = await store.get(VOLUME_KEY, undefined, { signal });
  if (bytes === null) {
    throw new BlockError("ENOENT", `Cannot open ${store.name}: there is no volume`);
  }
  return decodeVolume(bytes, `${store.name}/${VOLUME_KEY}`);
}

/**
 * Reads the descriptions of a volume and its ancestors. The stores of ancestors are opened with `resolve`;
 * if this fails they are closed again. Throws ENOENT, or EIO for what is damaged or another volume than it was.
 */
export async function openVolume(
  store: ObjectStore,
  resolve: ResolveParent,
  context: DiskContext,
): Promise<Volume> {
  const description = await readVolume(store, context.signal);
  const origins: Origin[] = [{ store, volume: description.id }], lineage = [description];
  try {
    for (let parent = description.parent; parent !== null;) {
      if (origins.length === ORIGINS_MAX) {
        throw new BlockError(
          "EINVAL",
          `Cannot open ${store.name}: it has more than ${ORIGINS_MAX - 1} ancestors`,
        );
      }
      const above = await resolve(parent.address);
      origins.push({ store: above, volume: parent.volume });
      const found = await readVolume(above, context.signal);
      if (found.id !== parent.volume) {
        throw damaged(above.name, "it is not the volume that a clone was made of");
      }
      lineage.push(found);
      parent = found.parent;
    }
  } catch (error) {
    await closeAncestors(origins);
    throw error;
  }
  return { description, origins, lineage };
}

/** Closes the stores of all ancestors. */
export async function closeAncestors(origins: readonly Origin[]): Promise<void> {
  for (const { store } of origins.slice(1)) await store[Symbol.asyncDispose]();
}

/** Runs a generator to its end, and lets other work run where that takes long. */
export async function finish<T>(
  steps: Generator<void, T>,
  isLong: boolean,
  { clock, signal }: DiskContext,
): Promise<T> {
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
    if (isLong) await clock.sleep(0, signal);
  }
}

async function readParts(
  store: ObjectStore,
  key: string,
  first: Uint8Array,
  header: CheckpointHeader,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const body = new Uint8Array(header.bodyBytes);
  body.set(first.subarray(CHECKPOINT_HEADER_BYTES).subarray(0, body.length));
  const parts: number[] = [];
  const end = CHECKPOINT_HEADER_BYTES + body.length;
  for (let at = first.length; at < end; at += CHECKPOINT_PART_BYTES) parts.push(at);
  await inLanes(parts, CHECKPOINT_READS, async (offset) => {
    const length = Math.min(CHECKPOINT_PART_BYTES, end - offset);
    const part = await store.get(key, { offset, length }, { signal });
    if (part?.length !== length) throw damaged(`${store.name}/${key}`, "it is cut short");
    body.set(part, offset - CHECKPOINT_HEADER_BYTES);
  });
  return body;
}

/** Loads a checkpoint; null if it does not exist. Throws EIO, naming it, if it is damaged. */
export async function loadCheckpoint(
  store: ObjectStore,
  key: string,
  volume: VolumeDescription,
  context: DiskContext,
): Promise<LogState | null> {
  const name = `${store.name}/${key}`, { signal } = context;
  const first = await store.get(key, { offset: 0, length: CHECKPOINT_PART_BYTES }, { signal });
  if (first === null) return null;
  const header = decodeCheckpointHeader(first, name);
  if (header.volume !== volume.id) throw damaged(name, "it belongs to another volume");
  // No memory is taken for what a damaged header promises and the object cannot hold.
  const isPart = first.length === CHECKPOINT_PART_BYTES;
  if (!isPart && first.length !== CHECKPOINT_HEADER_BYTES + header.bodyBytes) {
    throw damaged(name, "it is cut short");
  }
  const body = isPart
    ? await readParts(store, key, first, header, signal)
    : first.subarray(CHECKPOINT_HEADER_BYTES);
  const isLong = header.bodyBytes > SECTION_BYTES;
  const map = await finish(decodeCheckpointBody(header, body, name), isLong, context);
  const { diskBytes, seq, epoch, nonce, next, detached } = header;
  return { ...initialState(diskBytes, map), seq, epoch, nonce, next, detached };
}

/** The newest checkpoint that is whole. Those that are damaged are told, and one before is taken. */
async function newestCheckpoint(
  store: ObjectStore,
  listed: readonly ListedCheckpoint[],
  volume: VolumeDescription,
  context: DiskContext,
): Promise<{ state: LogState; checkpoint: ListedCheckpoint } | "gone" | null> {
  let damage: unknown = null;
  for (const checkpoint of listed) {
    try {
      const state = await loadCheckpoint(store, checkpoint.key, volume, context);
      if (state === null) return "gone";
      return { state, checkpoint };
    } catch (error) {
      if (!(error instanceof BlockError) || error.errno !== "EIO") throw error;
      context.log.error(`${error.message}; the checkpoint before it is used`);
      damage ??= error;
    }
  }
  if (damage !== null) throw damage;
  return null;
}

/** A map of an ancestor, seen one generation further down. */
function inherited(map: ExtentMap): ExtentMap {
  const own = new ExtentMap();
  for (const [origin, table] of map.tables) {
    const objects = own.objects(origin + 1);
    for (const { seq, headerBytes, dataBytes, permanent } of table) {
      objects.add(seq, headerBytes, dataBytes, permanent);
    }
  }
  const below = emptyRun();
  for (const run of map.runs()) own.append(Object.assign(below, run, { origin: run.origin + 1 }));
  return own;
}

/** The error for a snapshot that is to be opened and that there is not. */
function hasNone(store: ObjectStore, name: string): BlockError {
  return new BlockError("ENOENT", `Cannot open ${store.name}: it has no snapshot "${name}"`);
}

/** The state of the snapshot of a volume that has this name. Throws ENOENT. */
export async function loadSnapshotNamed(
  volume: Volume,
  name: string,
  context: DiskContext,
): Promise<LogState> {
  const [own] = volume.origins, { signal } = context;
  if (own === undefined) throw new RangeError("A volume has no store");
  const snapshot = await findSnapshot(own.store, name, { signal });
  if (snapshot === null) throw hasNone(own.store, name);
  return await loadSnapshot(volume, 0, snapshot, context);
}

/** The state that a volume begins with: nothing, or what a snapshot of its parent holds. */
async function baseState(
  volume: Volume,
  generation: number,
  context: DiskContext,
): Promise<LogState> {
  const description = volume.lineage[generation];
  if (description === undefined) throw new RangeError(`There is no ancestor ${generation}`);
  const { parent, diskBytes } = description;
  if (parent === null) return initialState(diskBytes);
  const above = volume.origins[generation + 1];
  if (above === undefined) throw new RangeError(`There is no ancestor ${generation + 1}`);
  const key = { name: parent.snapshot, id: parent.snapshotId };
  const snapshot = await readSnapshot(above.store, key, { signal: context.signal });
  if (snapshot === null) throw hasNone(above.store, parent.snapshot);
  const { map, diskBytes: before } = await loadSnapshot(volume, generation + 1, snapshot, context);
  const own = inherited(map);
  if (diskBytes < before) own.trim(diskBytes, before - diskBytes);
  return initialState(diskBytes, own);
}

/** The state of a snapshot of a volume (`generation` 0) or of an ancestor of it. */
export async function loadSnapshot(
  volume: Volume,
  generation: number,
  snapshot: SnapshotDescription,
  context: DiskContext,
): Promise<LogState> {
  const origin = volume.origins[generation], description = volume.lineage[generation];
  if (origin === undefined || description === undefined) {
    throw new RangeError(`There is no ancestor ${generation}`);
  }
  const { store } = origin, { name, checkpoint, seq } = snapshot;
  if (snapshot.volume !== description.id) {
    throw damaged(`${store.name}: snapshot "${name}"`, "it belongs to another volume");
  }
  const state = checkpoint === null
    ? await baseState(volume, generation, context)
    : await loadCheckpoint(store, checkpoint, description, context);
  if (state === null) throw damaged(`${store.name}/${checkpoint}`, "it does not exist");
  if (state.seq < seq) {
    const sizes = await listLog(store, state.next, context.signal);
    for (const each of sizes.keys()) if (each > seq) sizes.delete(each);
    await replay(state, description, store, sizes, context.signal);
  }
  if (state.seq === seq) return state;
  throw damaged(
    `${store.name}/${logKey(state.next)}`,
    "it does not exist, and a snapshot needs it",
  );
}

/** Applies listed objects up to the first that is not there; false if one was deleted meanwhile. */
export async function replay(
  state: LogState,
  description: VolumeDescription,
  store: ObjectStore,
  sizes: ReadonlyMap<number, number>,
  signal: AbortSignal,
): Promise<boolean> {
  for await (const { header } of scanLog(store, state.next, sizes, signal)) {
    if (header === null) return false;
    applyObject(state, header, description, store);
    if (header.claim) noteVoid(state, sizes);
  }
  return true;
}

/**
 * Objects that an older writer has left between the last claim and what follows it: nobody ever looks at
 * them, so they are known as objects of which nothing is live, and garbage collection deletes them.
 */
export function noteVoid(state: LogState, sizes: ReadonlyMap<number, number>): void {
  const table = state.map.objects(0);
  for (let seq = state.seq + 1; seq < state.next; seq += 1) {
    const size = sizes.get(seq);
    if (size !== undefined && table.get(seq) === null) table.add(seq, size, 0);
  }
}

/** True if the newest checkpoint is still the one that was listed first: nothing was deleted since. */
export async function isUndisturbed(
  store: ObjectStore,
  listed: readonly ListedCheckpoint[],
  signal: AbortSignal,
): Promise<boolean> {
  const [newest] = await listCheckpoints(store, signal);
  return newest?.key === listed[0]?.key;
}

/**
 * Throws EIO if the log ends before a checkpoint that is there: that one is damaged, and what led to it from
 * the one that was used was collected as garbage. Older data must not come back in silence.
 */
function checkReached(
  { seq }: LogState,
  [newest]: readonly ListedCheckpoint[],
  name: string,
): void {
  if (newest === undefined || newest.seq <= seq) return;
  throw damaged(`${name}/${newest.key}`, `it is damaged, and the log before it ends at ${seq}`);
}

async function loadOnce(volume: Volume, context: DiskContext): Promise<Loaded | null> {
  const { description, origins: [own] } = volume, { signal } = context;
  if (own === undefined) throw new RangeError("A volume has no store");
  const { store } = own;
  const checkpoints = await listCheckpoints(store, signal);
  const found = await newestCheckpoint(store, checkpoints, description, context);
  if (found === "gone") return null;
  const { state, checkpoint } = found ??
    { state: await baseState(volume, 0, context), checkpoint: null };
  const sizes = await listLog(store, state.next, signal);
  // A log that objects are deleted from meanwhile may look damaged, or end early.
  let isWhole = false, damage: unknown = null;
  try {
    isWhole = await replay(state, description, store, sizes, signal);
  } catch (error) {
    damage = error;
  }
  if (!await isUndisturbed(store, checkpoints, signal)) return null;
  if (damage !== null) throw damage;
  if (!isWhole) return null;
  checkReached(state, checkpoints, store.name);
  for (const seq of sizes.keys()) {
    if (seq < state.next + description.windowSlots) continue;
    const name = `${store.name}/${logKey(state.next)}`;
    throw damaged(name, `it does not exist, but ${logKey(seq)} does, which was written after it`);
  }
  return { state, checkpoints, checkpoint, sizes };
}

/**
 * Loads the state of a volume up to the first gap. Throws EIO, naming the object, for whatever is
 * damaged or lost, and EAGAIN if others change the volume faster than it can be loaded.
 */
export async function loadVolume(volume: Volume, context: DiskContext): Promise<Loaded> {
  for (let round = 0; round < ATTACH_TRIES_MAX; round += 1) {
    const loaded = await loadOnce(volume, context);
    if (loaded !== null) return loaded;
  }
  const name = volume.origins[0]?.store.name ?? "";
  throw new BlockError("EAGAIN", `Cannot open ${name}: others change it all the time`);
}
