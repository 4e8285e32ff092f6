/**
 * Writing compressed clusters. They are laid one behind the other, sharing host clusters, each of which
 * has as many references as compressed clusters touch it.
 *
 * @module
 */
import { compressCluster } from "../format/compress.ts";
import { compressedHigh, compressedLimit } from "../format/entries.ts";
import { freeEntry, ownSlice, setBitmap, setEntry } from "./entries.ts";
import type { Reader } from "./read.ts";
import type { ImageState } from "./state.ts";

const HIGH = 2 ** 32;

/** Writes whole clusters compressed to one image. */
export class Packer {
  readonly #state: ImageState;
  readonly #reader: Reader;

  /** For an image that is open for writing and has no data file. */
  constructor(state: ImageState, reader: Reader) {
    this.#state = state;
    this.#reader = reader;
  }

  /** Stores a whole cluster at `offset`; false, having done nothing, if compressing it gains nothing. */
  write(cluster: Uint8Array, offset: number): boolean {
    const state = this.#state, { clusterBytes, clusterBits, entryBytes, extended } = state.layout;
    state.requireSound();
    const packed = compressCluster(state.header.compression, cluster);
    if (packed === null) return false;
    const number = offset / clusterBytes;
    const slice = ownSlice(state, number), index = number % state.layout.entriesPerSlice;
    const place = this.#place(packed.length);
    if (place + packed.length > compressedLimit(clusterBits)) {
      this.#giveBack(place, packed.length);
      return false;
    }
    try {
      state.file.write(packed, place);
    } catch (error) {
      this.#giveBack(place, packed.length);
      throw error;
    }
    const at = index * entryBytes;
    freeEntry(state, slice.view.getUint32(at), slice.view.getUint32(at + 4));
    const high = compressedHigh(place, packed.length, clusterBits);
    setEntry(state, slice, index, high, place % HIGH);
    if (extended) setBitmap(state, slice, index, 0, 0);
    this.#reader.forget();
    return true;
  }

  /** Room for `length` bytes, fewer than a cluster has, counted in the refcounts; gives its place. */
  #place(length: number): number {
    const state = this.#state, { refcounts } = state, { clusterBytes } = state.layout;
    const { packing } = state;
    const last = packing === null ? -1 : packing.end / clusterBytes - 1;
    const shares = packing !== null && packing.at < packing.end &&
      refcounts.get(last) < refcounts.max;
    if (shares && packing.end - packing.at >= length) {
      refcounts.increment(last);
      state.packing = { at: packing.at + length, end: packing.end };
      return packing.at;
    }
    const next = refcounts.allocate(1);
    const goesOn = shares && next === last + 1;
    if (goesOn) refcounts.increment(last);
    const at = goesOn ? packing.at : next * clusterBytes;
    state.packing = { at: at + length, end: (next + 1) * clusterBytes };
    return at;
  }

  #giveBack(place: number, length: number): void {
    const { refcounts, layout } = this.#state;
    const last = Math.floor((place + length - 1) / layout.clusterBytes);
    for (let at = Math.floor(place / layout.clusterBytes); at <= last; at += 1) {
      refcounts.decrement(at);
    }
    this.#state.packing = null;
  }
}

/** Writes `from` at `offset`: whole clusters compressed, the rest by `plain`. */
export function writePacked(
  state: ImageState,
  packer: Packer,
  from: Uint8Array,
  offset: number,
  plain: (from: Uint8Array, offset: number) => void,
): void {
  const { clusterBytes } = state.layout, { size } = state.header;
  for (let at = 0; at < from.length;) {
    const start = offset + at, within = start % clusterBytes;
    const piece = from.subarray(at, at + Math.min(clusterBytes - within, from.length - at));
    at += piece.length;
    const ends = within + piece.length === clusterBytes || start + piece.length === size;
    if (within === 0 && ends && packer.write(wholeCluster(piece, clusterBytes), start)) continue;
    plain(piece, start);
  }
}

/** The last cluster of a disk may be cut off: it is stored with zeroes behind it. */
function wholeCluster(piece: Uint8Array, clusterBytes: number): Uint8Array {
  if (piece.length === clusterBytes) return piece;
  const whole = new Uint8Array(clusterBytes);
  whole.set(piece);
  return whole;
}
