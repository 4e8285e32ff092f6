/**
 * Changing the mapping of an open image: L2 tables of its own, L2 entries, and giving up what an entry
 * points to. Everything here happens in memory, but for new L2 tables, which nothing points to yet.
 *
 * @module
 */
import {
  COMPRESSED_HIGH,
  compressedBytes,
  compressedOffset,
  entryOffset,
} from "../format/entries.ts";
import type { ImageState } from "./state.ts";
import type { Table } from "./table_cache.ts";

/** The slice with the entry of a cluster of the disk, in an L2 table that is the active image's alone. */
export function ownSlice(state: ImageState, cluster: number): Table {
  const { entriesPerTable } = state.layout;
  const index = Math.floor(cluster / entriesPerTable);
  if (state.l1.tableOf(index) === 0) makeTable(state, index);
  else if (!state.l1.isOwn(index)) copyTable(state, index);
  const slice = state.slice(cluster);
  if (slice === null) throw new Error("An L2 table that was just made is gone");
  return slice;
}

function makeTable(state: ImageState, index: number): void {
  const { file, refcounts, metadata, layout } = state;
  const cluster = refcounts.allocate(1), offset = cluster * layout.clusterBytes;
  if (file.isUntouched(offset)) file.touch(offset + layout.clusterBytes);
  else file.write(new Uint8Array(layout.clusterBytes), offset);
  metadata.add(cluster, 1);
  state.l1.set(index, offset, file.unit);
}

/** A table that a snapshot uses too is left to the snapshot. */
function copyTable(state: ImageState, index: number): void {
  const { file, refcounts, metadata, layout, l1, l2 } = state;
  const { clusterBytes, slicesPerTable, sliceBytes } = layout;
  const old = l1.tableOf(index);
  if (old % clusterBytes !== 0 || old >= state.hostEnd) {
    state.damaged(`L1 entry ${index} says that an L2 table is at ${old}`);
  }
  const bytes = new Uint8Array(clusterBytes);
  file.read(bytes, old);
  const cluster = refcounts.allocate(1), offset = cluster * clusterBytes;
  file.write(bytes, offset);
  metadata.add(cluster, 1);
  l1.set(index, offset, file.unit);
  for (let piece = 0; piece < slicesPerTable; piece += 1) {
    const slice = l2.find(index * slicesPerTable + piece);
    if (slice !== undefined) slice.host = offset + piece * sliceBytes;
  }
  metadata.delete(old / clusterBytes, 1);
  state.free(old / clusterBytes, 1);
}

/** Stores an entry of 8 bytes, or the first half of one of 16. */
export function setEntry(
  state: ImageState,
  slice: Table,
  index: number,
  high: number,
  low: number,
): void {
  const at = index * state.layout.entryBytes;
  slice.view.setUint32(at, high);
  slice.view.setUint32(at + 4, low);
  state.touchEntry(slice, index);
}

/** Stores the bitmap of an extended entry. */
export function setBitmap(
  state: ImageState,
  slice: Table,
  index: number,
  zero: number,
  allocated: number,
): void {
  slice.view.setUint32(index * 16 + 8, zero);
  slice.view.setUint32(index * 16 + 12, allocated);
  state.touchEntry(slice, index);
}

/** Gives up the clusters that an entry points to, once it is durable that it does so no more. */
export function freeEntry(state: ImageState, high: number, low: number): void {
  const { clusterBytes, clusterBits, external } = state.layout;
  if ((high & COMPRESSED_HIGH) !== 0) {
    const offset = compressedOffset(high, low, clusterBits);
    const first = Math.floor(offset / clusterBytes);
    const last = Math.floor((offset + compressedBytes(high, low, clusterBits) - 1) / clusterBytes);
    for (let cluster = first; cluster <= last; cluster += 1) requireGuests(state, cluster);
    state.free(first, last - first + 1);
    return;
  }
  const host = entryOffset(high, low);
  if (external) {
    // The place is the cluster's for ever, so there is nothing to wait for.
    if (high >>> 31 === 1 && state.discard) state.dataFile?.raw.discard(host, clusterBytes);
    return;
  }
  if (host === 0) return;
  if (host % clusterBytes !== 0) state.damaged(`an L2 entry says that data is at ${host}`);
  requireGuests(state, host / clusterBytes);
  state.free(host / clusterBytes, 1);
}

/** Throws EIO if a cluster that guest data is said to be in holds tables, or is past the end. */
function requireGuests(state: ImageState, cluster: number): void {
  if (cluster * state.layout.clusterBytes < state.hostEnd && !state.metadata.hasAny(cluster, 1)) {
    return;
  }
  state.damaged(`an L2 entry says that data is in cluster ${cluster}, which cannot be`);
}
