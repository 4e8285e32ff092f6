/**
 * From the disk to the file: what a run of bytes of the disk is and where. A run goes on over
 * neighbouring clusters as long as they are of one kind and lie next to one another, so that it can be
 * read in one call. The result is left in one object that is used again: mapping allocates nothing.
 *
 * @module
 */
import {
  entryOffset,
  isCompressed,
  isCopied,
  subclusterRun,
  SUBCLUSTERS,
  subclusterState,
  ZERO_LOW,
} from "../format/entries.ts";
import type { ImageState } from "./state.ts";
import type { Table } from "./table_cache.ts";

/** Kinds of runs. */
export const UNALLOCATED = 0, DATA = 1, ZERO_PLAIN = 2, ZERO_ALLOCATED = 3, COMPRESSED = 4;
/** A kind of run. */
export type RunKind = 0 | 1 | 2 | 3 | 4;

/** What `mapRun` and `decodeEntry` find. */
export interface Run {
  /** Unallocated, data, zeroes with or without a host cluster, compressed. */
  kind: RunKind;
  /** Bytes, at least 1. */
  length: number;
  /** Where the first byte is in the guest file, for data and allocated zeroes. */
  host: number;
  /** The halves of the L2 entry, for compressed clusters. */
  high: number;
  /** See `high`. */
  low: number;
}

/** A result to be filled. */
export function emptyRun(): Run {
  return { kind: UNALLOCATED, length: 0, host: 0, high: 0, low: 0 };
}

/** What a standard entry says: its kind; `run.host` is where its cluster is, if it has one. */
function decodeStandard(state: ImageState, slice: Table, index: number, run: Run): RunKind {
  const high = slice.view.getUint32(index * 8), low = slice.view.getUint32(index * 8 + 4);
  if (isCompressed(high)) {
    run.high = high;
    run.low = low;
    return COMPRESSED;
  }
  const host = entryOffset(high, low);
  run.host = host;
  if ((low & ZERO_LOW) !== 0 && state.layout.zeroClusters) {
    return host === 0 && !(state.layout.external && isCopied(high)) ? ZERO_PLAIN : ZERO_ALLOCATED;
  }
  if (host !== 0) return DATA;
  return state.layout.external && isCopied(high) ? DATA : UNALLOCATED;
}

/** What an extended entry says of the subcluster `sub`, and in `run.length` for how many it says so. */
function decodeExtended(
  state: ImageState,
  slice: Table,
  index: number,
  sub: number,
  run: Run,
): RunKind {
  const at = index * 16, { view } = slice;
  const high = view.getUint32(at), low = view.getUint32(at + 4);
  run.length = SUBCLUSTERS;
  if (isCompressed(high)) {
    run.high = high;
    run.low = low;
    return COMPRESSED;
  }
  const zero = view.getUint32(at + 8), allocated = view.getUint32(at + 12);
  if ((zero & allocated) !== 0) {
    state.damaged(`an L2 entry at ${slice.host + at} calls subclusters zero and allocated at once`);
  }
  const host = entryOffset(high, low);
  run.host = host;
  run.length = subclusterRun(zero, allocated, sub);
  const there = host !== 0 || (state.layout.external && isCopied(high));
  const kind = subclusterState(zero, allocated, sub);
  if (kind === "zero") return there ? ZERO_ALLOCATED : ZERO_PLAIN;
  if (kind === "unallocated") return UNALLOCATED;
  if (!there) state.damaged(`an L2 entry at ${slice.host + at} has data in no cluster`);
  return DATA;
}

/** Throws EIO if a run of data lies where no guest data can be. */
function checkPlace(state: ImageState, run: Run, at: number): void {
  const { clusterBytes, external } = state.layout;
  const start = run.host - at;
  if (start % clusterBytes === 0 && (external || run.host < state.hostEnd)) return;
  state.damaged(`an L2 entry says that data is at ${start}`);
}

/** Bytes from `offset` on for which there is no L2 table, not looked at beyond `lengthMax`. */
function lengthWithoutTables(
  { l1, layout }: ImageState,
  offset: number,
  lengthMax: number,
): number {
  const { tableCoverage } = layout;
  let index = Math.floor(offset / tableCoverage) + 1;
  while (index * tableCoverage - offset < lengthMax && l1.tableOf(index) === 0) index += 1;
  return index * tableCoverage - offset;
}

/** Finds what the disk is at `offset`, for at most `lengthMax` bytes (at least 1). */
export function mapRun(state: ImageState, offset: number, lengthMax: number, run: Run): void {
  const { clusterBytes, entriesPerSlice } = state.layout;
  const cluster = Math.floor(offset / clusterBytes), within = offset - cluster * clusterBytes;
  const slice = state.slice(cluster);
  const first = cluster % entriesPerSlice;
  if (slice === null) {
    run.kind = UNALLOCATED;
    run.length = Math.min(lengthMax, lengthWithoutTables(state, offset, lengthMax));
    return;
  }
  if (state.layout.extended) return mapExtended(state, slice, first, within, lengthMax, run);
  const kind = decodeStandard(state, slice, first, run);
  run.kind = kind;
  let length = clusterBytes - within;
  if (kind === COMPRESSED || length >= lengthMax) {
    run.length = Math.min(length, lengthMax);
    run.host += within;
    if (kind === DATA) checkPlace(state, run, within);
    return;
  }
  const host = run.host, placed = kind === DATA || kind === ZERO_ALLOCATED;
  for (let index = first + 1; index < entriesPerSlice && length < lengthMax; index += 1) {
    if (decodeStandard(state, slice, index, run) !== kind) break;
    if (placed && run.host !== host + within + length) break;
    length += clusterBytes;
  }
  run.length = Math.min(length, lengthMax);
  run.host = host + within;
  if (kind === DATA) checkPlace(state, run, within);
}

function mapExtended(
  state: ImageState,
  slice: Table,
  first: number,
  within: number,
  lengthMax: number,
  run: Run,
): void {
  const { clusterBytes, subclusterBytes, entriesPerSlice } = state.layout;
  const sub = Math.floor(within / subclusterBytes);
  const kind = decodeExtended(state, slice, first, sub, run);
  const host = run.host, placed = kind === DATA || kind === ZERO_ALLOCATED;
  run.kind = kind;
  if (kind === COMPRESSED) {
    run.length = Math.min(clusterBytes - within, lengthMax);
    return;
  }
  let end = (sub + run.length) * subclusterBytes;
  for (let index = first + 1; index < entriesPerSlice; index += 1) {
    if (end < (index - first) * clusterBytes || end - within >= lengthMax) break;
    if (decodeExtended(state, slice, index, 0, run) !== kind) break;
    if (placed && run.host !== host + (index - first) * clusterBytes) break;
    end += run.length * subclusterBytes;
  }
  run.length = Math.min(end - within, lengthMax);
  run.host = host + within;
  if (kind === DATA) checkPlace(state, run, within);
}
