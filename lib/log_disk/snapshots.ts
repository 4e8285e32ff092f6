/**
 * Snapshots of a volume as objects: `snap/NAME.ID` names a checkpoint and the last log object that counts, and
 * below `clone/ID/` is said what concerns its clones.
 *
 * A snapshot goes only if nobody needs it. There is no lock, and any of those who take part may be held up
 * for ever at any point, so it is decided once for each attempt to delete, by creating an object:
 *
 * - Whoever deletes puts a marker of its own (`deleting-NONCE`), looks for markers of clones, and if there is
 *   none creates `decided-NONCE`, which says "delete". Only then the snapshot goes, and after it all these.
 * - Whoever clones puts the marker of its clone (`ID`), looks for markers of those who delete, and creates for
 *   each `decided-NONCE`, which says "keep". If one is there that says "delete" it gives up. At last it looks
 *   whether the snapshot is there.
 *
 * So let a clone be made. A deletion whose marker was there when its maker looked had been told to keep the
 * snapshot, or had ended: then the snapshot would not have been found. One whose marker came later has looked for
 * clones later still, and found this one. A decision stays as long as the snapshot does, and the key
 * of a snapshot is never used again: a request that comes late deletes nothing else.
 *
 * What is left below `clone/ID/` of a snapshot that is gone is garbage, and collected as such.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { type ObjectStore, type StoreCallOptions, StoreError } from "../object_store/types.ts";
import { damaged, isId } from "./bytes.ts";
import { type DiskContext, newId } from "./context.ts";
import { decodeSnapshot, encodeSnapshot, type SnapshotDescription } from "./description.ts";
import { CREATE_ATTEMPTS_MAX } from "./gc/limits.ts";
import {
  CLONE_PREFIX,
  cloneKey,
  clonePrefix,
  decidedKey,
  deletingKey,
  nonceOfDeletingKey,
  parseSnapshotKey,
  SNAPSHOT_PREFIX,
  type SnapshotKey,
  snapshotKey,
  snapshotPrefix,
  takenKey,
} from "./names.ts";

/** A clone that needs a snapshot. */
export interface CloneMarker {
  /** Its volume id. */
  readonly id: string;
  /** Where it is to be, for messages. */
  readonly address: string;
}

const KEEP = "keep\n", DELETE = "delete\n", TAKEN = "taken\n";

function textBytes(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

/**
 * Creates a small object whose content says whose it is: what is there with that content is ours. Gives
 * "exists" if something else is there. Throws StoreError.
 */
export async function createSurely(
  store: ObjectStore,
  key: string,
  content: Uint8Array<ArrayBuffer>,
  options: StoreCallOptions = {},
): Promise<"created" | "exists"> {
  for (let attempt = 1;; attempt += 1) {
    try {
      if (await store.create(key, [content], options) === "created") return "created";
    } catch (error) {
      const unclear = error instanceof StoreError && error.kind === "unclear";
      if (!unclear || attempt === CREATE_ATTEMPTS_MAX) throw error;
    }
    const found = await store.get(key, undefined, options);
    if (found !== null) return equal(found, content) ? "created" : "exists";
    if (attempt === CREATE_ATTEMPTS_MAX) {
      throw new StoreError("unclear", `Cannot create ${key} of ${store.name}: it comes and goes`);
    }
  }
}

/** Reads a snapshot; null if there is none. Throws EIO, StoreError. */
export async function readSnapshot(
  store: ObjectStore,
  snapshot: SnapshotKey,
  options: StoreCallOptions = {},
): Promise<SnapshotDescription | null> {
  const key = snapshotKey(snapshot), where = `${key} of ${store.name}`;
  const bytes = await store.get(key, undefined, options);
  if (bytes === null) return null;
  const found = decodeSnapshot(bytes, where);
  if (found.id === snapshot.id && found.name === snapshot.name) return found;
  throw damaged(where, "it is another snapshot");
}

async function keysBelow(
  store: ObjectStore,
  prefix: string,
  options: StoreCallOptions,
): Promise<SnapshotKey[]> {
  const found: SnapshotKey[] = [];
  for await (const { key } of store.list(prefix, options)) {
    const snapshot = parseSnapshotKey(key);
    if (snapshot !== null) found.push(snapshot);
  }
  return found;
}

async function readAll(
  store: ObjectStore,
  prefix: string,
  options: StoreCallOptions,
): Promise<SnapshotDescription[]> {
  const found: SnapshotDescription[] = [];
  for (const key of await keysBelow(store, prefix, options)) {
    const snapshot = await readSnapshot(store, key, options);
    if (snapshot !== null) found.push(snapshot);
  }
  return found.sort((a, b) => a.seq - b.seq || a.createdMs - b.createdMs);
}

/** All snapshots, oldest first. Throws EIO for one that is damaged, StoreError. */
export function listSnapshots(
  store: ObjectStore,
  options: StoreCallOptions = {},
): Promise<SnapshotDescription[]> {
  return readAll(store, SNAPSHOT_PREFIX, options);
}

/**
 * A snapshot by its name; null if there is none. A writer who was taken over from may have left one that
 * does not hold beside it: that is older. Throws EINVAL for the name, EIO, StoreError.
 */
export async function findSnapshot(
  store: ObjectStore,
  name: string,
  options: StoreCallOptions = {},
): Promise<SnapshotDescription | null> {
  return (await readAll(store, snapshotPrefix(name), options)).at(-1) ?? null;
}

/** The error for a snapshot that there is not. */
export function noSnapshot(store: ObjectStore, name: string): BlockError {
  return new BlockError("ENOENT", `Cannot use snapshot "${name}" of ${store.name}: there is none`);
}

/**
 * Keeps a snapshot, which nobody can clone until `completeSnapshot`. Throws EEXIST, EINVAL for the
 * name, StoreError.
 */
export async function putSnapshot(
  store: ObjectStore,
  snapshot: SnapshotDescription,
  options: StoreCallOptions = {},
): Promise<void> {
  const { name } = snapshot;
  if ((await keysBelow(store, snapshotPrefix(name), options)).length > 0) {
    const reason = "there is one of that name";
    throw new BlockError("EEXIST", `Cannot take snapshot "${name}" of ${store.name}: ${reason}`);
  }
  await createSurely(store, snapshotKey(snapshot), encodeSnapshot(snapshot), options);
}

/** Says that a snapshot that was put turned out to hold. Throws StoreError. */
export async function completeSnapshot(
  store: ObjectStore,
  { id }: SnapshotKey,
  options: StoreCallOptions = {},
): Promise<void> {
  await createSurely(store, takenKey(id), textBytes(TAKEN), options);
}

/** What is said below the prefix of a snapshot about its clones. */
interface Concerns {
  readonly isTaken: boolean;
  /** Volume ids of clones. */
  readonly clones: readonly string[];
  /** Nonces of those who are about to delete it. */
  readonly deleters: readonly string[];
  /** All keys but those of clones. */
  readonly others: readonly string[];
}

async function concernsOf(
  store: ObjectStore,
  snapshot: string,
  options: StoreCallOptions,
): Promise<Concerns> {
  const prefix = clonePrefix(snapshot), clones: string[] = [], deleters: string[] = [];
  const others: string[] = [];
  for await (const { key } of store.list(prefix, options)) {
    const id = key.slice(prefix.length), nonce = nonceOfDeletingKey(key);
    if (isId(id)) clones.push(id);
    else others.push(key);
    if (nonce !== null) deleters.push(nonce);
  }
  return { isTaken: others.includes(takenKey(snapshot)), clones, deleters, others };
}

/**
 * Who needs a snapshot: "a clone (ID at PLACE) needs", "3 clones (ID at PLACE …) need"; null if nobody
 * does. Throws StoreError.
 */
export async function clonesNeeding(
  store: ObjectStore,
  snapshot: string,
  options: StoreCallOptions = {},
): Promise<string | null> {
  const { clones: ids } = await concernsOf(store, snapshot, options), [first] = ids;
  if (first === undefined) return null;
  const bytes = await store.get(cloneKey(snapshot, first), undefined, options);
  // Whoever makes a clone has written that: it goes to a terminal.
  const place = new TextDecoder().decode(bytes ?? new Uint8Array()).replaceAll(/\p{C}/gu, "");
  const at = place === "" ? first : `${first} at ${place}`;
  return ids.length === 1 ? `a clone (${at}) needs` : `${ids.length} clones (${at} …) need`;
}

/**
 * Deletes one snapshot, also one that is damaged. Throws EBUSY if a clone needs it: then all is as it was.
 * StoreError: then it is deleted or not, and can be deleted again.
 */
export async function dropSnapshot(
  store: ObjectStore,
  snapshot: SnapshotKey,
  context: DiskContext,
): Promise<void> {
  const { name, id } = snapshot, { signal } = context;
  const nonce = newId(context), marker = deletingKey(id, nonce);
  await createSurely(store, marker, textBytes(`${nonce}\n`), { signal });
  const clones = await clonesNeeding(store, id, { signal });
  const isDecided = clones === null &&
    await createSurely(store, decidedKey(id, nonce), textBytes(DELETE), { signal }) === "created";
  if (!isDecided) {
    // What was decided stays: a request of ours that comes late must not change it.
    await store.delete([marker], { signal });
    const reason = `${clones ?? "a clone that is being made needs"} it`;
    throw new BlockError("EBUSY", `Cannot delete snapshot "${name}" of ${store.name}: ${reason}`);
  }
  await store.delete([snapshotKey(snapshot)], { signal });
  const { others } = await concernsOf(store, id, { signal });
  await store.delete(others, { signal });
}

/**
 * Forgets a snapshot. What only it needs is deleted by the next garbage collection. Throws ENOENT,
 * EBUSY if a clone needs it, StoreError.
 */
export async function deleteSnapshot(
  store: ObjectStore,
  name: string,
  context: DiskContext,
): Promise<void> {
  const { signal } = context;
  const snapshots = await keysBelow(store, snapshotPrefix(name), { signal });
  if (snapshots.length === 0) throw noSnapshot(store, name);
  for (const snapshot of snapshots) await dropSnapshot(store, snapshot, context);
}

/** Has all deletions that have begun decided against; false if one was decided already. */
async function keepFrom(
  parent: ObjectStore,
  snapshot: string,
  deleters: readonly string[],
  options: StoreCallOptions,
): Promise<boolean> {
  for (const nonce of deleters) {
    const key = decidedKey(snapshot, nonce);
    if (await createSurely(parent, key, textBytes(KEEP), options) === "exists") return false;
  }
  return true;
}

/** Why a snapshot that is there cannot be cloned; null if it can, from now on until it is released. */
async function obstacle(
  parent: ObjectStore,
  { name, id }: SnapshotKey,
  options: StoreCallOptions,
): Promise<BlockError | null> {
  const what = `Cannot clone snapshot "${name}" of ${parent.name}`;
  const { isTaken, deleters } = await concernsOf(parent, id, options);
  if (!await keepFrom(parent, id, deleters, options)) {
    const reason = "somebody is deleting it; if that was stopped, delete it again";
    return new BlockError("EBUSY", `${what}: ${reason}`);
  }
  if (await parent.get(snapshotKey({ name, id }), undefined, options) === null) {
    return noSnapshot(parent, name);
  }
  if (isTaken) return null;
  const reason =
    "it is not complete; if whoever took it was stopped, delete it and take another one";
  return new BlockError("EBUSY", `${what}: ${reason}`);
}

/**
 * Says in the parent volume that a clone needs a snapshot, which then stays. Throws ENOENT if there is
 * no such snapshot, EBUSY if it is just being deleted or is not complete, StoreError.
 */
export async function claimSnapshot(
  parent: ObjectStore,
  name: string,
  { id, address }: CloneMarker,
  options: StoreCallOptions = {},
): Promise<SnapshotDescription> {
  const snapshot = await findSnapshot(parent, name, options);
  if (snapshot === null) throw noSnapshot(parent, name);
  const marker = cloneKey(snapshot.id, id);
  try {
    await createSurely(parent, marker, textBytes(`${address}\n`), options);
    const why = await obstacle(parent, snapshot, options);
    if (why === null) return snapshot;
    throw why;
  } catch (error) {
    // A marker that stays keeps more than is needed: what went wrong first is what counts.
    await parent.delete([marker], options).catch(() => {});
    throw error;
  }
}

/** All that is said about the clones of any snapshot: keys. Throws StoreError. */
export async function listConcerns(
  store: ObjectStore,
  options: StoreCallOptions = {},
): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(CLONE_PREFIX, options)) keys.push(key);
  return keys;
}

/**
 * Which of those keys concern none of these snapshots. If they were listed before the snapshots they are garbage:
 * nothing is said about a snapshot before it is there, and none comes back.
 */
export function concernNone(keys: readonly string[], snapshots: readonly SnapshotKey[]): string[] {
  const prefixes = snapshots.map(({ id }) => clonePrefix(id));
  return keys.filter((key) => !prefixes.some((prefix) => key.startsWith(prefix)));
}

/** Says in the parent volume that a clone needs a snapshot no longer. Throws StoreError. */
export async function releaseSnapshot(
  parent: ObjectStore,
  snapshot: string,
  clone: string,
  options: StoreCallOptions = {},
): Promise<void> {
  await parent.delete([cloneKey(snapshot, clone)], options);
}
