/**
 * Where everything on a disk is, through all the files that it stands on, as `qemu-img map` tells it.
 *
 * @module
 */
import type { MapEntry } from "../../../lib/block/image.ts";
import { entryOffset } from "../format/entries.ts";
import { COMPRESSED, DATA, emptyRun, mapRun, UNALLOCATED, ZERO_ALLOCATED } from "./mapping.ts";
import { isPreallocated } from "./preallocated.ts";
import type { ImageState } from "./state.ts";

/** Where an extended entry without data at `offset` has space reserved; null if nowhere. */
function reservedPlace(state: ImageState, offset: number): number | null {
  const { clusterBytes, entriesPerSlice } = state.layout;
  const cluster = Math.floor(offset / clusterBytes);
  const slice = state.slice(cluster);
  if (slice === null) return null;
  const at = cluster % entriesPerSlice * 16;
  const host = entryOffset(slice.view.getUint32(at), slice.view.getUint32(at + 4));
  return host === 0 ? null : host + offset % clusterBytes;
}

/** Data that was never written lies in a hole of the file: it is zeroes, too. */
function dataEntry(state: ImageState, start: number, length: number, offset: number): MapEntry {
  const { raw } = state.guestFile;
  const entry = {
    start,
    length,
    depth: 0,
    present: true,
    zero: false,
    data: true,
    compressed: false,
    offset,
    filename: raw.path,
  };
  if (!isPreallocated(state)) return entry;
  const there = raw.size() - offset;
  if (there <= 0) return { ...entry, zero: true };
  const [first] = raw.extents(offset, Math.min(length, there), 1);
  if (first === undefined) return entry;
  return { ...entry, length: first.length, zero: !first.data };
}

/** What the disk of an image is at `start`, for at most `length` bytes, `depth` counted from this image. */
export function mapEntryAt(state: ImageState, start: number, length: number): MapEntry {
  const { backing, layout: { clusterBytes, extended } } = state;
  const run = emptyRun();
  // Space that is reserved for subclusters without data is told for each cluster.
  mapRun(
    state,
    start,
    extended ? Math.min(length, clusterBytes - start % clusterBytes) : length,
    run,
  );
  const base = { start, length: run.length, depth: 0, compressed: false };
  if (run.kind === DATA) return dataEntry(state, start, run.length, run.host);
  if (run.kind === COMPRESSED) {
    return { ...base, present: true, zero: false, data: true, compressed: true };
  }
  if (run.kind !== UNALLOCATED) {
    const entry = { ...base, present: true, zero: true, data: false };
    if (run.kind !== ZERO_ALLOCATED) return entry;
    // Place 0 of a data file is told from none by subclusters alone.
    if (run.host < clusterBytes && state.layout.external && !extended) {
      return { ...entry, length: Math.min(run.length, clusterBytes - run.host) };
    }
    return { ...entry, offset: run.host, filename: state.guestFile.raw.path };
  }
  if (backing !== null && start < backing.size) {
    const below = backing.mapEntry(start, Math.min(run.length, backing.size - start));
    return { ...below, depth: below.depth + 1 };
  }
  const entry = { ...base, present: false, zero: true, data: false };
  const place = extended ? reservedPlace(state, start) : null;
  return place === null ? entry : { ...entry, offset: place, filename: state.guestFile.raw.path };
}

/** True if one entry can stand for both. */
function continues(last: MapEntry, next: MapEntry): boolean {
  const { depth, present, zero, data, compressed, offset, filename } = last;
  return depth === next.depth && present === next.present && zero === next.zero &&
    data === next.data && compressed === next.compressed && filename === next.filename &&
    (offset === undefined ? next.offset === undefined : offset + last.length === next.offset);
}

/** All of a disk from start to end; neighbours that continue each other are one entry. */
export function* mapState(state: ImageState): Generator<MapEntry> {
  const { size } = state.header;
  let last: MapEntry | null = null;
  for (let at = 0; at < size;) {
    const next = mapEntryAt(state, at, size - at);
    at += next.length;
    if (last !== null && !continues(last, next)) {
      yield last;
      last = null;
    }
    const run: MapEntry = last ?? { ...next, length: 0 };
    last = { ...run, length: run.length + next.length };
  }
  if (last !== null) yield last;
}
