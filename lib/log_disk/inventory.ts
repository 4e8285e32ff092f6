/**
 * What objects there are under the prefix of a volume, by what they are for.
 *
 * @module
 */
import type { ObjectEntry, ObjectStore, StoreCallOptions } from "../object_store/types.ts";
import {
  CHECKPOINT_PREFIX,
  CLONE_PREFIX,
  parseCheckpointKey,
  parseSnapshotKey,
  seqOfLogKey,
  type SnapshotKey,
  VOLUME_KEY,
} from "./names.ts";

/** What keys of probes begin with. */
const PROBE_PREFIX = "probe/";

/** A number of objects. */
export interface ObjectTotal {
  /** How many. */
  readonly count: number;
  /** Bytes of all of them. */
  readonly bytes: number;
}

/** The objects of a volume. */
export interface Inventory {
  /** There is a volume. */
  readonly hasVolume: boolean;
  /** Log objects, ascending by sequence number. */
  readonly log: readonly (ObjectEntry & { readonly seq: number })[];
  /** Checkpoints, ascending by sequence number. */
  readonly checkpoints: readonly (ObjectEntry & { readonly seq: number })[];
  /** Snapshots. */
  readonly snapshots: readonly (ObjectEntry & SnapshotKey)[];
  /** Markers of clones, and what else concerns them. */
  readonly clones: readonly ObjectEntry[];
  /** What was left of trying whether the store creates only what is absent. */
  readonly probes: readonly ObjectEntry[];
  /** Whatever else is there. */
  readonly others: readonly ObjectEntry[];
  /** All of them. */
  readonly total: ObjectTotal;
}

/** Adds up objects. */
export function totalOf(entries: readonly ObjectEntry[]): ObjectTotal {
  return {
    count: entries.length,
    bytes: entries.reduce((sum, { size }) => sum + size, 0),
  };
}

/**
 * Lists all objects of a volume. `seen` is told how many there are so far. Throws StoreError.
 */
export async function takeInventory(
  store: ObjectStore,
  options: StoreCallOptions & { readonly seen?: (count: number) => void } = {},
): Promise<Inventory> {
  const log: (ObjectEntry & { seq: number })[] = [];
  const checkpoints: (ObjectEntry & { seq: number })[] = [];
  const snapshots: (ObjectEntry & SnapshotKey)[] = [];
  const clones: ObjectEntry[] = [], probes: ObjectEntry[] = [], others: ObjectEntry[] = [];
  let hasVolume = false, count = 0, bytes = 0;
  for await (const entry of store.list("", options)) {
    count += 1;
    bytes += entry.size;
    options.seen?.(count);
    const { key } = entry;
    const seq = seqOfLogKey(key), snapshot = parseSnapshotKey(key);
    const checkpoint = key.startsWith(CHECKPOINT_PREFIX) ? parseCheckpointKey(key) : null;
    if (seq !== null) log.push({ ...entry, seq });
    else if (snapshot !== null) snapshots.push({ ...entry, ...snapshot });
    else if (checkpoint !== null) checkpoints.push({ ...entry, seq: checkpoint.seq });
    else if (key.startsWith(CLONE_PREFIX)) clones.push(entry);
    else if (key.startsWith(PROBE_PREFIX)) probes.push(entry);
    else if (key === VOLUME_KEY) hasVolume = true;
    else others.push(entry);
  }
  const total = { count, bytes };
  return { hasVolume, log, checkpoints, snapshots, clones, probes, others, total };
}
