/**
 * Snapshots of a volume as objects: `snap/NAME` names a checkpoint and the last log object that counts,
 * `clone/NAME/ID` says that the clone with that id needs it.
 *
 * A snapshot goes only if nobody needs it. Whoever deletes one first puts a marker of its own
 * (`clone/NAME/deleting-…`), then looks for markers of clones; whoever clones first puts its marker, then
 * looks for that one. Whatever the order, at least one of them sees the other and gives up, having changed nothing.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { type ObjectStore, type StoreCallOptions, StoreError } from "../object_store/types.ts";
import { decodeSnapshot, encodeSnapshot, type SnapshotDescription } from "./description.ts";
import { isId } from "./bytes.ts";
import { CREATE_ATTEMPTS_MAX } from "./gc/limits.ts";
import { cloneKey, clonePrefix, nameOfSnapshotKey, SNAPSHOT_PREFIX, snapshotKey } from "./names.ts";

/** Key of the marker of somebody who deletes this very snapshot, not a later one of that name. */
function deleterKey({ name, seq, createdMs }: SnapshotDescription): string {
  return `${clonePrefix(name)}deleting-${seq.toString(16)}-${createdMs.toString(16)}`;
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

/** All snapshots, oldest first. Throws EIO for one that is damaged, StoreError. */
export async function listSnapshots(
  store: ObjectStore,
  options: StoreCallOptions = {},
): Promise<SnapshotDescription[]> {
  const found: SnapshotDescription[] = [];
  for await (const { key } of store.list(SNAPSHOT_PREFIX, options)) {
    const name = nameOfSnapshotKey(key);
    const snapshot = name === null ? null : await findSnapshot(store, name, options);
    if (snapshot !== null) found.push(snapshot);
  }
  return found.sort((a, b) => a.seq - b.seq || a.createdMs - b.createdMs);
}

/** A snapshot by its name; null if there is none. Throws EINVAL for the name, EIO, StoreError. */
export async function findSnapshot(
  store: ObjectStore,
  name: string,
  options: StoreCallOptions = {},
): Promise<SnapshotDescription | null> {
  const key = snapshotKey(name);
  const bytes = await store.get(key, undefined, options);
  return bytes === null ? null : decodeSnapshot(bytes, `${key} of ${store.name}`);
}

/** The error for a snapshot that there is not. */
export function noSnapshot(store: ObjectStore, name: string): BlockError {
  return new BlockError("ENOENT", `Cannot use snapshot "${name}" of ${store.name}: there is none`);
}

/** Keeps a snapshot. Throws EEXIST, EINVAL for the name, StoreError. */
export async function putSnapshot(
  store: ObjectStore,
  snapshot: SnapshotDescription,
  options: StoreCallOptions = {},
): Promise<void> {
  const { name } = snapshot;
  const content = encodeSnapshot(snapshot);
  if (await createSurely(store, snapshotKey(name), content, options) === "created") return;
  const reason = "there is one of that name";
  throw new BlockError("EEXIST", `Cannot take snapshot "${name}" of ${store.name}: ${reason}`);
}

/** Takes back a snapshot that was put a moment ago and turned out not to hold. */
export async function withdrawSnapshot(
  store: ObjectStore,
  { name }: SnapshotDescription,
): Promise<void> {
  await store.delete([snapshotKey(name)]);
}

/** "a clone (ID) needs", "3 clones (ID …) need". */
export function clonesNeed(ids: readonly string[]): string {
  const [first] = ids;
  return ids.length === 1 ? `a clone (${first}) needs` : `${ids.length} clones (${first} …) need`;
}

/** Ids of the clones that need a snapshot. Throws StoreError. */
export async function clonesOf(
  store: ObjectStore,
  name: string,
  options: StoreCallOptions = {},
): Promise<string[]> {
  const prefix = clonePrefix(name), ids: string[] = [];
  for await (const { key } of store.list(prefix, options)) {
    const id = key.slice(prefix.length);
    if (isId(id)) ids.push(id);
  }
  return ids;
}

/**
 * Forgets a snapshot. What only it needs is deleted by the next garbage collection. Throws ENOENT,
 * EBUSY if a clone needs it, StoreError.
 */
export async function deleteSnapshot(
  store: ObjectStore,
  name: string,
  options: StoreCallOptions = {},
): Promise<void> {
  const snapshot = await findSnapshot(store, name, options);
  if (snapshot === null) throw noSnapshot(store, name);
  const marker = deleterKey(snapshot);
  await createSurely(store, marker, new TextEncoder().encode("deleting\n"), options);
  const clones = await clonesOf(store, name, options);
  if (clones.length > 0) {
    await store.delete([marker], options);
    throw new BlockError(
      "EBUSY",
      `Cannot delete snapshot "${name}" of ${store.name}: ${clonesNeed(clones)} it`,
    );
  }
  await store.delete([snapshotKey(name)], options);
  await store.delete([marker], options);
}

/**
 * Says in the parent volume that a clone needs a snapshot, which then stays. Throws ENOENT if there is
 * no such snapshot, EBUSY if it is just being deleted, StoreError.
 */
export async function claimSnapshot(
  parent: ObjectStore,
  name: string,
  clone: string,
  options: StoreCallOptions = {},
): Promise<SnapshotDescription> {
  const marker = cloneKey(name, clone);
  await createSurely(parent, marker, new TextEncoder().encode(`${clone}\n`), options);
  const snapshot = await findSnapshot(parent, name, options);
  const deleting = snapshot !== null && await parent.get(deleterKey(snapshot), undefined, options);
  if (snapshot !== null && deleting === null) return snapshot;
  await parent.delete([marker], options);
  if (snapshot === null) throw noSnapshot(parent, name);
  throw new BlockError(
    "EBUSY",
    `Cannot clone snapshot "${name}" of ${parent.name}: somebody is deleting it; if that was ` +
      "stopped, delete it again",
  );
}

/** Says in the parent volume that a clone needs a snapshot no longer. Throws StoreError. */
export async function releaseSnapshot(
  parent: ObjectStore,
  name: string,
  clone: string,
  options: StoreCallOptions = {},
): Promise<void> {
  await parent.delete([cloneKey(name, clone)], options);
}
