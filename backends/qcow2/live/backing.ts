/**
 * What an image stands on: the layer that unallocated clusters are read from. It is shorter or longer
 * than the image; past its end it reads as zeroes.
 *
 * @module
 */
import type { MapEntry } from "../../../lib/block/image.ts";
import type { RawFile } from "../../../lib/sys/file_access.ts";
import type { Extent } from "../../../lib/block/types.ts";
import { EXTENTS_PER_CALL_MAX } from "../../../lib/block/limits.ts";

/** A disk that is read alone. */
export interface Layer {
  /** Where it is. */
  readonly path: string;
  /** "raw" or "qcow2". */
  readonly format: "raw" | "qcow2";
  /** Bytes. */
  readonly size: number;
  /** Fills `into` with what is at `offset`, all of it within the layer. */
  read(into: Uint8Array, offset: number): void;
  /** The first extent of a range within the layer: at least 1 byte, at most the range. */
  extent(offset: number, length: number): Extent;
  /** Where the first run of a range within the layer is; at least 1 byte, at most the range. */
  mapEntry(offset: number, length: number): MapEntry;
  /** Reads ahead. */
  cache(offset: number, length: number): void;
  /** Closes it and what it stands on. */
  close(): void;
}

/** A layer whose bytes are those of a file. */
export function rawLayer(file: RawFile): Layer {
  const size = file.size();
  let known: { readonly offset: number; readonly end: number; readonly extent: Extent } | null =
    null;
  const extentAt = (offset: number, length: number): Extent => {
    // Callers go through a file run by run: one look finds where the present run ends.
    if (known === null || offset < known.offset || offset >= known.end) {
      const [first] = file.extents(offset, size - offset, Math.min(2, EXTENTS_PER_CALL_MAX));
      const found = first ?? { length: size - offset, data: true, allocated: true };
      const extent = { length: found.length, allocated: found.allocated, zero: !found.data };
      known = { offset, end: offset + found.length, extent };
    }
    return { ...known.extent, length: Math.min(known.end - offset, length) };
  };
  return {
    path: file.path,
    format: "raw",
    size,
    read: (into, offset) => file.read(into, offset),
    extent: extentAt,
    mapEntry: (offset, length) => {
      const found = extentAt(offset, length);
      const state = { depth: 0, present: true, zero: found.zero, data: !found.zero };
      const place = { offset, filename: file.path };
      return { start: offset, length: found.length, ...state, compressed: false, ...place };
    },
    cache: (offset, length) => file.readAhead(offset, length),
    close: () => file.close(),
  };
}

/** Reads from a layer, or zeroes where there is none. */
export function readLayer(layer: Layer | null, into: Uint8Array, offset: number): void {
  if (layer === null || offset >= layer.size) {
    into.fill(0);
    return;
  }
  const there = Math.min(into.length, layer.size - offset);
  if (there === into.length) return layer.read(into, offset);
  layer.read(into.subarray(0, there), offset);
  into.fill(0, there);
}
