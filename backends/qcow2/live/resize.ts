/**
 * Changing the size of an open image. The header tells a new size only when everything is in place for
 * it, so that a crash leaves the old size or the new one.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import { l1EntriesFor } from "../format/header.ts";
import { L1_BYTES_MAX } from "../limits.ts";
import { L1Table } from "./l1_table.ts";
import { COMPRESSED, DATA, emptyRun, mapRun } from "./mapping.ts";
import type { ImageState } from "./state.ts";
import type { Writer } from "./write.ts";
import type { Zeroer } from "./zero.ts";

/** Unit of sizes: QEMU takes no others. */
const SIZE_UNIT_BYTES = 512;
const ZERO_PIECE_BYTES = 65_536;

/** What changes an image. */
export interface Changers {
  /** The image. */
  readonly state: ImageState;
  /** Writes. */
  readonly writer: Writer;
  /** Zeroes. */
  readonly zeroer: Zeroer;
}

/** Throws unless an image can have this size: EINVAL, EFBIG, EOPNOTSUPP. */
function requirePossible({ header, path }: ImageState, size: number): void {
  if (size % SIZE_UNIT_BYTES !== 0) {
    throw new BlockError(
      "EINVAL",
      `Cannot resize ${path} to ${size} bytes: sizes are multiples of ${SIZE_UNIT_BYTES}`,
    );
  }
  if (l1EntriesFor(header, size) * 8 > L1_BYTES_MAX) {
    throw new BlockError(
      "EFBIG",
      `Cannot resize ${path} to ${size} bytes: its clusters are too small for that, its L1 table ` +
        `would have more than ${L1_BYTES_MAX} bytes`,
    );
  }
  if (header.bitmaps !== null) {
    throw new BlockError("EOPNOTSUPP", `Cannot resize ${path}: it has bitmaps of its present size`);
  }
}

/** Grows or shrinks an image, durably. What is new reads as zeroes. */
export function resizeImage(changers: Changers, size: number): void {
  const { state } = changers, { header } = state;
  state.requireSound();
  requirePossible(state, size);
  if (size > header.size) grow(changers, size);
  else if (size < header.size) shrink(changers, size);
}

function setSize(state: ImageState, size: number): void {
  state.committer.commitNow();
  state.writeHeader({ size });
  state.file.raw.flush();
}

function grow(changers: Changers, size: number): void {
  const { state, zeroer } = changers, { clusterBytes } = state.layout;
  const before = state.header.size;
  growL1(state, l1EntriesFor(state.header, size));
  const firstNew = Math.ceil(before / clusterBytes), end = Math.ceil(size / clusterBytes);
  // Entries past the end may be of a machine's state that was kept there.
  zeroer.drop(firstNew, end);
  if (state.backing !== null && state.backing.size > before) {
    hideBacking(changers, state.backing.size, before, end * clusterBytes);
  } else clearTail(changers, before, firstNew * clusterBytes);
  if (state.layout.externalRaw) {
    state.dataFile?.extend(size);
    changers.writer.reserve(firstNew, end);
  }
  setSize(state, size);
}

/** True if the image itself has data in a range. */
function hasData(state: ImageState, from: number, to: number): boolean {
  const run = emptyRun();
  for (let at = from; at < to; at += run.length) {
    mapRun(state, at, to - at, run);
    if (run.kind === DATA || run.kind === COMPRESSED) return true;
  }
  return false;
}

function writeZeroes({ writer }: Changers, from: number, to: number): void {
  const zeroes = new Uint8Array(Math.min(ZERO_PIECE_BYTES, to - from));
  for (let at = from; at < to; at += zeroes.length) {
    writer.write(zeroes.subarray(0, to - at), at);
  }
}

/** The last cluster may have data past the former end. */
function clearTail(changers: Changers, from: number, to: number): void {
  const { state, zeroer } = changers, { subclusterBytes: unit } = state.layout;
  const edge = Math.ceil(from / unit) * unit;
  if (hasData(state, from, edge)) writeZeroes(changers, from, edge);
  if (!hasData(state, edge, to)) return;
  zeroer.zero(edge, to - edge, { mayTrim: true, fastOnly: false });
}

/** What a longer backing file of `size` bytes has past the former end must not come up. */
function hideBacking(changers: Changers, size: number, from: number, to: number): void {
  const { state, zeroer } = changers, { zeroClusters, subclusterBytes: unit } = state.layout;
  const edge = Math.ceil(from / unit) * unit;
  writeZeroes(changers, from, edge);
  if (!zeroClusters) {
    return writeZeroes(changers, edge, Math.min(to, Math.ceil(size / unit) * unit));
  }
  if (to > edge) zeroer.zero(edge, to - edge, { mayTrim: true, fastOnly: false });
}

/** Gives the image an L1 table of at least so many entries. */
function growL1(state: ImageState, entries: number): void {
  const { l1, layout, refcounts, file, metadata, header } = state;
  if (entries <= l1.size) return;
  const { clusterBytes } = layout;
  const clusters = Math.ceil(entries * 8 / clusterBytes);
  const first = refcounts.allocateAtEnd(clusters), offset = first * clusterBytes;
  const bytes = new Uint8Array(clusters * clusterBytes);
  bytes.set(l1.bytes.subarray(0, l1.size * 8));
  file.write(bytes, offset);
  state.committer.commitNow();
  const old = { first: header.l1Offset / clusterBytes, clusters: clustersOf(l1, clusterBytes) };
  state.writeHeader({ l1Offset: offset, l1Size: entries });
  file.raw.flush();
  state.l1 = new L1Table(offset, entries, bytes);
  metadata.add(first, clusters);
  if (old.clusters === 0) return;
  metadata.delete(old.first, old.clusters);
  state.free(old.first, old.clusters);
}

function clustersOf(l1: L1Table, clusterBytes: number): number {
  return Math.ceil(l1.bytes.length / clusterBytes);
}

function shrink({ state, zeroer }: Changers, size: number): void {
  const { layout, l1, l2, file, refcounts } = state;
  const { clusterBytes, tableCoverage, slicesPerTable } = layout;
  const firstGone = Math.ceil(size / clusterBytes);
  zeroer.drop(firstGone, Math.ceil(state.header.size / clusterBytes));
  state.committer.commitNow();
  for (let index = Math.ceil(size / tableCoverage); index < l1.size; index += 1) {
    const table = l1.tableOf(index);
    if (table === 0) continue;
    for (let piece = 0; piece < slicesPerTable; piece += 1) l2.drop(index * slicesPerTable + piece);
    l1.set(index, 0, file.unit);
    state.free(table / clusterBytes, 1);
  }
  setSize(state, size);
  refcounts.shortenTail();
  file.cut(refcounts.tail * clusterBytes);
  state.dataFile?.cut(size);
}
