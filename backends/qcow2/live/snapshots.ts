/**
 * Internal snapshots: taking, applying and deleting them.
 *
 * An L2 entry says whether its cluster is the image's alone, and so has to agree with the cluster's
 * refcount. To change both at one moment nothing is changed where it is: the active L1 table, the L2
 * tables whose entries change, the snapshot table and the refcounts that change are written anew at the
 * end of the file, and one write of one sector, the header's first, puts all of that in force. Before
 * that write the image is what it was; after it what was replaced is free.
 *
 * When a snapshot is taken it gets the L1 and L2 tables of now, and the active image new ones.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import type { SnapshotInfo } from "../../../lib/block/types.ts";
import {
  compressedBytes,
  compressedOffset,
  COPIED_HIGH,
  entryHigh,
  entryLow,
  entryOffset,
  isCompressed,
  isCopied,
} from "../format/entries.ts";
import { l1EntriesFor } from "../format/header.ts";
import { viewOf } from "../format/numbers.ts";
import { encodeSnapshotTable, type Snapshot } from "../format/snapshot_table.ts";
import { L1_BYTES_MAX, SNAPSHOT_TEXT_BYTES_MAX, SNAPSHOTS_MAX } from "../limits.ts";
import { readSnapshots, readSnapshotTable } from "../read_tables.ts";
import { L1Table } from "./l1_table.ts";
import { findSnapshot, makeRefcounts, noteMetadata, readL1 } from "./open.ts";
import { ShadowRefcounts } from "./shadow.ts";
import type { ImageState } from "./state.ts";

const NS_PER_MS = 1_000_000, MS_PER_SECOND = 1000;

/** What the image is going to be. */
interface NextImage {
  /** Its snapshots. */
  readonly snapshots: readonly Snapshot[];
  /** The L1 table that its own is made from. */
  readonly source: L1Table;
  /** Entries of its L1 table. */
  readonly l1Size: number;
  /** Bytes of the disk. */
  readonly size: number;
  /** The tables of the source stay somebody else's: all are copied. Else only those that change. */
  readonly copyAll: boolean;
}

/** The snapshots of an image, oldest first. */
export function listSnapshots(state: ImageState): SnapshotInfo[] {
  return readSnapshots(state.file.raw, state.header).map((each) => ({
    id: each.id,
    name: each.name,
    created_ms: each.seconds * MS_PER_SECOND + Math.floor(each.nanoseconds / NS_PER_MS),
    size: each.size ?? state.header.size,
  }));
}

function readTable(state: ImageState, l1: L1Table, index: number): Uint8Array<ArrayBuffer> | null {
  const { clusterBytes } = state.layout;
  const offset = l1.tableOf(index);
  if (offset === 0) return null;
  if (offset % clusterBytes !== 0 || offset >= state.hostEnd) {
    state.damaged(`an L1 entry says that an L2 table is at ${offset}`);
  }
  const bytes = new Uint8Array(clusterBytes);
  state.file.read(bytes, offset);
  return bytes;
}

/** Calls `each` for every cluster that the entries of an L2 table use. */
function eachCluster(
  state: ImageState,
  table: Uint8Array,
  each: (cluster: number) => void,
): void {
  const { clusterBytes, clusterBits, entryBytes } = state.layout;
  const view = viewOf(table);
  for (let at = 0; at < table.length; at += entryBytes) {
    const high = view.getUint32(at), low = view.getUint32(at + 4);
    if (isCompressed(high)) {
      const start = compressedOffset(high, low, clusterBits);
      const end = start + compressedBytes(high, low, clusterBits);
      const last = Math.floor((end - 1) / clusterBytes);
      for (let cluster = Math.floor(start / clusterBytes); cluster <= last; cluster += 1) {
        each(cluster);
      }
      continue;
    }
    const host = entryOffset(high, low);
    if (host === 0) continue;
    if (host % clusterBytes !== 0 || host >= state.hostEnd) {
      state.damaged(`an L2 entry says that data is at ${host}`);
    }
    each(host / clusterBytes);
  }
}

/** Counts what an L1 table uses, itself and its L2 tables included or not. */
function countTree(
  state: ImageState,
  shadow: ShadowRefcounts,
  l1: L1Table,
  change: 1 | -1,
  withTables: boolean,
): void {
  const { clusterBytes } = state.layout;
  for (let index = 0; index < l1.size; index += 1) {
    const table = readTable(state, l1, index);
    if (table === null) continue;
    eachCluster(state, table, (cluster) => shadow.add(cluster, change));
    if (withTables) shadow.add(l1.tableOf(index) / clusterBytes, change);
  }
  if (!withTables) return;
  const clusters = Math.ceil(l1.bytes.length / clusterBytes);
  for (let at = 0; at < clusters; at += 1) shadow.add(l1.offset / clusterBytes + at, change);
}

/** Makes the entries of a table say what the refcounts say; false if they did already. */
function setFlags(state: ImageState, shadow: ShadowRefcounts, table: Uint8Array): boolean {
  const { clusterBytes, entryBytes } = state.layout;
  const view = viewOf(table);
  let changed = false;
  for (let at = 0; at < table.length; at += entryBytes) {
    const high = view.getUint32(at);
    if (isCompressed(high)) continue;
    const host = entryOffset(high, view.getUint32(at + 4));
    const own = host !== 0 && shadow.get(host / clusterBytes) === 1;
    if (own === isCopied(high)) continue;
    view.setUint32(at, own ? (high | COPIED_HIGH) >>> 0 : (high & ~COPIED_HIGH) >>> 0);
    changed = true;
  }
  return changed;
}

/** Which L2 tables are to be written anew. A table that is not the image's own any more is, too. */
function chooseTables(state: ImageState, shadow: ShadowRefcounts, next: NextImage): number[] {
  const { clusterBytes } = state.layout, { source } = next;
  const chosen: number[] = [];
  for (let index = 0; index < source.size; index += 1) {
    const table = readTable(state, source, index);
    if (table === null) continue;
    const changes = next.copyAll || setFlags(state, shadow, table);
    if (!changes) continue;
    chosen.push(index);
    if (!next.copyAll) shadow.add(source.tableOf(index) / clusterBytes, -1);
  }
  return chosen;
}

/** Writes everything anew that changes, and puts it in force. */
function putInForce(state: ImageState, shadow: ShadowRefcounts, next: NextImage): void {
  const { layout, header, file } = state, { clusterBytes } = layout;
  const chosen = chooseTables(state, shadow, next);
  if (header.snapshotCount > 0) {
    const { bytes } = readSnapshotTable(file.raw, header);
    const first = header.snapshotsOffset / clusterBytes;
    for (let at = 0; at < Math.ceil(bytes / clusterBytes); at += 1) shadow.add(first + at, -1);
  }
  const table = encodeSnapshotTable(next.snapshots, next.size);
  const l1Clusters = Math.ceil(next.l1Size * 8 / clusterBytes);
  const tableClusters = Math.ceil(table.length / clusterBytes);
  const place = shadow.place(l1Clusters + tableClusters + chosen.length);
  const l1Offset = place.first * clusterBytes;
  const snapshotsOffset = l1Offset + l1Clusters * clusterBytes;
  const l1 = writeTables(state, shadow, next, {
    chosen,
    l1Offset,
    firstTable: snapshotsOffset + tableClusters * clusterBytes,
  });
  if (table.length > 0) file.write(padded(table, clusterBytes), snapshotsOffset);
  shadow.write();
  file.raw.flush();
  state.writeHeader({
    size: next.size,
    l1Offset,
    l1Size: next.l1Size,
    refcountTableOffset: place.tableOffset,
    refcountTableClusters: place.tableClusters,
    snapshotCount: next.snapshots.length,
    snapshotsOffset: next.snapshots.length === 0 ? 0 : snapshotsOffset,
  });
  file.raw.flush();
  takeOver(state, l1, shadow);
}

function padded(bytes: Uint8Array, unit: number): Uint8Array {
  const whole = new Uint8Array(Math.ceil(bytes.length / unit) * unit);
  whole.set(bytes);
  return whole;
}

/** Writes the new L1 table and the L2 tables that are new. */
function writeTables(
  state: ImageState,
  shadow: ShadowRefcounts,
  { source, l1Size }: NextImage,
  { chosen, l1Offset, firstTable }: {
    readonly chosen: readonly number[];
    readonly l1Offset: number;
    readonly firstTable: number;
  },
): L1Table {
  const { clusterBytes } = state.layout, { file } = state;
  const bytes = new Uint8Array(Math.ceil(l1Size * 8 / clusterBytes) * clusterBytes);
  const view = viewOf(bytes);
  for (let index = 0; index < Math.min(l1Size, source.size); index += 1) {
    const offset = source.tableOf(index);
    const own = offset !== 0 && shadow.get(offset / clusterBytes) === 1;
    view.setUint32(index * 8, entryHigh(offset, own));
    view.setUint32(index * 8 + 4, entryLow(offset, false));
  }
  let offset = firstTable;
  for (const index of chosen) {
    const table = readTable(state, source, index);
    if (table === null) throw new Error("An L2 table that is to be copied is gone");
    setFlags(state, shadow, table);
    file.write(table, offset);
    view.setUint32(index * 8, entryHigh(offset, true));
    view.setUint32(index * 8 + 4, entryLow(offset, false));
    offset += clusterBytes;
  }
  if (l1Size > 0) file.write(bytes, l1Offset);
  return new L1Table(l1Offset, l1Size, bytes);
}

/** Goes on with what is in force now, and gives back the storage of what is free. */
function takeOver(state: ImageState, l1: L1Table, shadow: ShadowRefcounts): void {
  const { l2, file, layout, discard } = state;
  l2.clear();
  state.packing = null;
  state.l1 = l1;
  state.attach(makeRefcounts(state), state.committer);
  noteMetadata(state);
  if (!discard) return;
  const free = shadow.freed.filter((cluster) => shadow.get(cluster) === 0).sort((a, b) => a - b);
  for (let at = 0; at < free.length;) {
    const first = free[at] ?? 0;
    let count = 1;
    while (free[at + count] === first + count) count += 1;
    file.raw.discard(first * layout.clusterBytes, count * layout.clusterBytes);
    at += count;
  }
}

/** Everything that is in memory alone goes to the file; refuses images that cannot have snapshots. */
function prepare(state: ImageState): void {
  state.requireSound();
  if (state.layout.external) {
    throw new BlockError(
      "EOPNOTSUPP",
      `Cannot change the snapshots of ${state.path}: an image with a data file has none`,
    );
  }
  state.committer.finishNow();
}

function nextId(snapshots: readonly Snapshot[]): string {
  const numbers = snapshots.map(({ id }) => /^\d{1,15}$/.test(id) ? Number(id) : 0);
  return String(Math.max(0, ...numbers) + 1);
}

function requireName(path: string, name: string, snapshots: readonly Snapshot[]): void {
  const bytes = new TextEncoder().encode(name).length;
  if (name === "" || name.includes("\0") || bytes > SNAPSHOT_TEXT_BYTES_MAX) {
    throw new BlockError(
      "EINVAL",
      `Cannot make a snapshot of ${path}: its name cannot be "${name}"`,
    );
  }
  if (findSnapshot(snapshots, name) !== null) {
    throw new BlockError(
      "EEXIST",
      `Cannot make a snapshot of ${path}: there is a snapshot "${name}"`,
    );
  }
  if (snapshots.length >= SNAPSHOTS_MAX) {
    throw new BlockError(
      "ENOSPC",
      `Cannot make a snapshot of ${path}: it has ${SNAPSHOTS_MAX} already`,
    );
  }
}

/** Keeps the state of now under a name. `wall` is the time in ms. Errno: EEXIST, EINVAL, ENOSPC. */
export function createSnapshot(state: ImageState, name: string, wall: number): void {
  const before = readSnapshots(state.file.raw, state.header);
  requireName(state.path, name, before);
  prepare(state);
  const { header, l1 } = state;
  const snapshot: Snapshot = {
    l1Offset: header.l1Offset,
    l1Size: l1.size,
    id: nextId(before),
    name,
    seconds: Math.floor(wall / MS_PER_SECOND),
    nanoseconds: Math.floor(wall % MS_PER_SECOND * NS_PER_MS),
    guestTimeNs: 0n,
    vmStateBytes: 0n,
    size: header.size,
    instructionCount: null,
    extraBytes: 16,
    unknownExtra: new Uint8Array(),
  };
  const shadow = new ShadowRefcounts(state);
  countTree(state, shadow, l1, 1, false);
  putInForce(state, shadow, {
    snapshots: [...before, snapshot],
    source: l1,
    l1Size: l1.size,
    size: header.size,
    copyAll: true,
  });
}

function requireSnapshot(
  state: ImageState,
  snapshots: readonly Snapshot[],
  name: string,
): Snapshot {
  const found = findSnapshot(snapshots, name);
  if (found !== null) return found;
  throw new BlockError("ENOENT", `Cannot find a snapshot "${name}" in ${state.path}`);
}

/** Puts the disk back to what it was at a snapshot, its size included. Errno: ENOENT. */
export function applySnapshot(state: ImageState, name: string): void {
  const snapshots = readSnapshots(state.file.raw, state.header);
  const chosen = requireSnapshot(state, snapshots, name);
  prepare(state);
  const source = readL1(state.file, chosen.l1Offset, chosen.l1Size);
  const size = chosen.size ?? state.header.size;
  const shadow = new ShadowRefcounts(state);
  // In this order a count that is at its largest has room again.
  countTree(state, shadow, state.l1, -1, true);
  countTree(state, shadow, source, 1, false);
  const l1Size = Math.max(l1EntriesFor(state.header, size), source.size);
  if (l1Size * 8 > L1_BYTES_MAX) state.damaged(`snapshot "${chosen.name}" has too large a size`);
  putInForce(state, shadow, { snapshots, source, l1Size, size, copyAll: true });
}

/** Forgets a snapshot. Errno: ENOENT. */
export function deleteSnapshot(state: ImageState, name: string): void {
  const snapshots = readSnapshots(state.file.raw, state.header);
  const chosen = requireSnapshot(state, snapshots, name);
  prepare(state);
  const { header, l1, layout } = state;
  const gone = readL1(state.file, chosen.l1Offset, chosen.l1Size);
  const shadow = new ShadowRefcounts(state);
  countTree(state, shadow, gone, -1, true);
  const clusters = Math.ceil(l1.bytes.length / layout.clusterBytes);
  for (let at = 0; at < clusters; at += 1) {
    shadow.add(header.l1Offset / layout.clusterBytes + at, -1);
  }
  putInForce(state, shadow, {
    snapshots: snapshots.filter((each) => each !== chosen),
    source: l1,
    l1Size: l1.size,
    size: header.size,
    copyAll: false,
  });
}
