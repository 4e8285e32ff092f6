/**
 * Writing to an open image: in place where the clusters are the guest's alone, else into new clusters,
 * as many at once as lie next to one another, with what they do not cover copied around it.
 *
 * @module
 */
import {
  entryHigh,
  entryLow,
  entryOffset,
  isCompressed,
  isCopied,
  SUBCLUSTERS,
  ZERO_LOW,
} from "../format/entries.ts";
import { freeEntry, ownSlice, setBitmap, setEntry } from "./entries.ts";
import { FREED_RUNS_MAX, JOINED_WRITE_BYTES_MAX, ZEROES_BYTES } from "./limits.ts";
import { emptyRun, mapRun, type Run, UNALLOCATED, ZERO_ALLOCATED, ZERO_PLAIN } from "./mapping.ts";
import type { Reader } from "./read.ts";
import type { ImageState } from "./state.ts";
import type { Table } from "./table_cache.ts";

/** Bits `from` to `to` (exclusive) of a bitmap of 32. */
export function bitsOf(from: number, to: number): number {
  const count = to - from;
  return count === 32 ? 0xffff_ffff : (((2 ** count - 1) << from) >>> 0);
}

/** Clusters that a write goes to, next to one another. */
interface Place {
  /** Where the first is in the guest file. */
  host: number;
  /** How many. */
  count: number;
  /** They were free before. */
  fresh: boolean;
}

/** Bytes of some clusters, counted from the first one's start. */
interface Part {
  readonly within: number;
  readonly end: number;
}

/** Writes to one image. */
export class Writer {
  readonly #state: ImageState;
  readonly #reader: Reader;
  readonly #run: Run = emptyRun();
  #joined: Uint8Array | null = null;

  /** For an image that is open for writing. */
  constructor(state: ImageState, reader: Reader) {
    this.#state = state;
    this.#reader = reader;
  }

  /** Stores `from` at `offset`. Errno: ENOSPC, EIO for damage, and what files throw. */
  write(from: Uint8Array, offset: number): void {
    const state = this.#state;
    state.requireSound();
    if (state.freed.length > 2 * FREED_RUNS_MAX) state.committer.commitNow();
    for (let at = 0; at < from.length;) at += this.#writeSome(from, at, offset + at);
  }

  /**
   * Gives clusters `first` to `last` (exclusive) of the disk that have no host cluster one each; what the
   * range reads as must be zeroes. Gives the runs of the guest file that are new.
   */
  reserve(first: number, last: number): { host: number; length: number }[] {
    const state = this.#state, { clusterBytes, entryBytes, entriesPerSlice } = state.layout;
    const runs: { host: number; length: number }[] = [];
    for (let cluster = first; cluster < last;) {
      const slice = ownSlice(state, cluster), index = cluster % entriesPerSlice;
      const high = slice.view.getUint32(index * entryBytes);
      const low = slice.view.getUint32(index * entryBytes + 4);
      if (isCompressed(high) || isCopied(high) || entryOffset(high, low) !== 0) {
        cluster += 1;
        continue;
      }
      const start = cluster * clusterBytes, length = (last - cluster) * clusterBytes;
      const place = this.#placeFor(slice, index, 0, length, start);
      const clear = state.guestFile.isUntouched(place.host) || state.layout.external;
      if (!clear) this.#copyZeroes(place.host, place.count * clusterBytes);
      for (let at = 0; at < place.count; at += 1) {
        const host = place.host + at * clusterBytes;
        setEntry(state, slice, index + at, entryHigh(host, true), entryLow(host, false));
      }
      state.guestFile.touch(place.host + place.count * clusterBytes);
      runs.push({ host: place.host, length: place.count * clusterBytes });
      cluster += place.count;
    }
    return runs;
  }

  #copyZeroes(host: number, length: number): void {
    const zeroes = new Uint8Array(Math.min(length, ZEROES_BYTES));
    for (let at = 0; at < length; at += zeroes.length) {
      this.#state.guestFile.write(zeroes.subarray(0, length - at), host + at);
    }
  }

  #writeSome(from: Uint8Array, at: number, offset: number): number {
    const state = this.#state, { clusterBytes, entriesPerSlice } = state.layout;
    const cluster = Math.floor(offset / clusterBytes), within = offset - cluster * clusterBytes;
    const index = cluster % entriesPerSlice;
    const slice = state.slice(cluster);
    const inPlace = slice === null
      ? 0
      : this.#lengthInPlace(slice, index, within, from.length - at);
    if (inPlace === 0 || slice === null) {
      return this.#writeNew(from, at, ownSlice(state, cluster), index, offset);
    }
    const host = entryOffset(
      slice.view.getUint32(index * state.layout.entryBytes),
      slice.view.getUint32(index * state.layout.entryBytes + 4),
    );
    this.#requireGuests(host, within + inPlace);
    const whole = inPlace === from.length;
    state.guestFile.write(whole ? from : from.subarray(at, at + inPlace), host + within);
    return inPlace;
  }

  /** Throws EIO unless `length` bytes from the cluster at `host` on can be guest data. */
  #requireGuests(host: number, length: number): void {
    const state = this.#state, { clusterBytes, external } = state.layout;
    const count = Math.ceil(length / clusterBytes), first = host / clusterBytes;
    if (host % clusterBytes !== 0 || !external && host + count * clusterBytes > state.hostEnd) {
      state.damaged(`an L2 entry says that data is at ${host}`);
    }
    if (!external && state.metadata.hasAny(first, count)) {
      state.damaged(`an L2 entry says that data is at ${host}, where there are tables`);
    }
  }

  /** Bytes from `within` of an entry's cluster on that can be overwritten where they are. */
  #lengthInPlace(slice: Table, index: number, within: number, lengthMax: number): number {
    const { clusterBytes, entryBytes, entriesPerSlice, extended } = this.#state.layout;
    const { view } = slice;
    const high = view.getUint32(index * entryBytes), low = view.getUint32(index * entryBytes + 4);
    if (!this.#isOwnData(high, low)) return 0;
    if (extended) return this.#subclustersInPlace(slice, index, within, lengthMax);
    let length = clusterBytes - within;
    let host = entryOffset(high, low) + clusterBytes;
    for (let next = index + 1; next < entriesPerSlice && length < lengthMax; next += 1) {
      const nextHigh = view.getUint32(next * 8), nextLow = view.getUint32(next * 8 + 4);
      if (!this.#isOwnData(nextHigh, nextLow) || entryOffset(nextHigh, nextLow) !== host) break;
      length += clusterBytes;
      host += clusterBytes;
    }
    return Math.min(length, lengthMax);
  }

  #isOwnData(high: number, low: number): boolean {
    const { zeroClusters, extended } = this.#state.layout;
    return isCopied(high) && !isCompressed(high) &&
      (extended || !zeroClusters || (low & ZERO_LOW) === 0);
  }

  #subclustersInPlace(slice: Table, index: number, within: number, lengthMax: number): number {
    const { clusterBytes, subclusterBytes } = this.#state.layout;
    const allocated = slice.view.getUint32(index * 16 + 12);
    let sub = Math.floor(within / subclusterBytes);
    while (sub < SUBCLUSTERS && (allocated >>> sub & 1) === 1) sub += 1;
    const length = Math.min(sub * subclusterBytes, clusterBytes) - within;
    return Math.min(Math.max(length, 0), lengthMax);
  }

  /** Writes what needs new clusters, or subclusters that are not in use yet; gives the bytes written. */
  #writeNew(
    from: Uint8Array,
    at: number,
    slice: Table,
    index: number,
    offset: number,
  ): number {
    const state = this.#state, { clusterBytes } = state.layout;
    const within = offset % clusterBytes, rest = from.length - at;
    const place = this.#placeFor(slice, index, within, rest, offset - within);
    const length = Math.min(rest, place.count * clusterBytes - within);
    const end = within + length;
    const copied = this.#copiedRange(slice, index, within, end);
    try {
      this.#writeAround(
        at === 0 && length === rest ? from : from.subarray(at, at + length),
        offset,
        place.host + within,
        within - copied.within,
        copied.end - end,
        place.fresh && state.guestFile.isUntouched(place.host),
      );
    } catch (error) {
      this.#giveBack(place);
      throw error;
    }
    this.#setEntries(slice, index, place, copied);
    return length;
  }

  /**
   * What new clusters get: a range around the bytes `within` to `end` that begins in the cluster of an
   * entry. Whole clusters or, with subclusters, whole ones of these; of a cluster that others use too
   * all from its first to its last that has data.
   */
  #copiedRange(slice: Table, index: number, within: number, end: number): Part {
    const { clusterBytes, subclusterBytes, extended } = this.#state.layout;
    const whole = { within: 0, end: Math.ceil(end / clusterBytes) * clusterBytes };
    if (!extended) return whole;
    const { view } = slice, at = index * 16;
    const high = view.getUint32(at), low = view.getUint32(at + 4);
    if (isCompressed(high)) return whole;
    const from = Math.floor(within / subclusterBytes), to = Math.ceil(end / subclusterBytes);
    const isShared = !isCopied(high) && entryOffset(high, low) !== 0;
    const data = isShared ? view.getUint32(at + 12) : 0;
    const first = data === 0 ? from : Math.min(from, 31 - Math.clz32(data & -data));
    const last = data === 0 ? to : Math.max(to, SUBCLUSTERS - Math.clz32(data));
    return { within: first * subclusterBytes, end: last * subclusterBytes };
  }

  /** What was taken and is not used: nothing points to it, so it is free at once. */
  #giveBack({ host, count, fresh }: Place): void {
    const { refcounts, layout } = this.#state;
    if (!fresh || layout.external) return;
    const first = host / layout.clusterBytes;
    for (let cluster = first; cluster < first + count; cluster += 1) refcounts.decrement(cluster);
  }

  #placeFor(slice: Table, index: number, within: number, rest: number, start: number): Place {
    const state = this.#state, { clusterBytes, entryBytes, external } = state.layout;
    const at = index * entryBytes;
    const high = slice.view.getUint32(at), low = slice.view.getUint32(at + 4);
    if (isCopied(high) && !isCompressed(high)) {
      // A cluster of its own that reads as zeroes, or in part as something else: it is there already.
      const host = entryOffset(high, low);
      this.#requireGuests(host, clusterBytes);
      return { host, count: 1, fresh: false };
    }
    const want = this.#countNew(slice, index, within, rest);
    if (external) return { host: start, count: want, fresh: true };
    const first = state.refcounts.allocate(want);
    return { host: first * clusterBytes, count: state.refcounts.found, fresh: true };
  }

  /** Entries from `index` on for which a write of `rest` bytes needs new clusters: at least 1. */
  #countNew(slice: Table, index: number, within: number, rest: number): number {
    const { clusterBytes, entryBytes, entriesPerSlice, extended } = this.#state.layout;
    // With subclusters a cluster that is not written whole has its own way of being copied.
    const full = extended
      ? within > 0 ? 1 : Math.floor(rest / clusterBytes)
      : Math.ceil((within + rest) / clusterBytes);
    const end = Math.min(index + Math.max(full, 1), entriesPerSlice);
    let next = index + 1;
    while (next < end) {
      const high = slice.view.getUint32(next * entryBytes);
      if (isCopied(high) && !isCompressed(high)) break;
      next += 1;
    }
    return next - index;
  }

  /** Writes data with `before` and `after` bytes of what the disk has around it. */
  #writeAround(
    data: Uint8Array,
    offset: number,
    host: number,
    before: number,
    after: number,
    untouched: boolean,
  ): void {
    const { guestFile } = this.#state;
    const head = before > 0 && !(untouched && this.#isZero(offset - before, before)) ? before : 0;
    const behind = offset + data.length;
    const tail = after > 0 && !(untouched && this.#isZero(behind, after)) ? after : 0;
    if (head === 0 && tail === 0) return guestFile.write(data, host);
    const total = head + data.length + tail;
    if (total > JOINED_WRITE_BYTES_MAX) {
      if (head > 0) this.#copy(offset - head, host - head, head);
      guestFile.write(data, host);
      if (tail > 0) this.#copy(behind, host + data.length, tail);
      return;
    }
    this.#joined ??= new Uint8Array(JOINED_WRITE_BYTES_MAX);
    const joined = this.#joined.subarray(0, total);
    if (head > 0) this.#reader.read(joined.subarray(0, head), offset - head);
    joined.set(data, head);
    if (tail > 0) this.#reader.read(joined.subarray(head + data.length), behind);
    guestFile.write(joined, host - head);
  }

  #copy(offset: number, host: number, length: number): void {
    const bytes = new Uint8Array(length);
    this.#reader.read(bytes, offset);
    this.#state.guestFile.write(bytes, host);
  }

  /** True if a range reads as zeroes as far as the tables tell. */
  #isZero(offset: number, length: number): boolean {
    const { backing } = this.#state, run = this.#run;
    for (let at = 0; at < length; at += run.length) {
      mapRun(this.#state, offset + at, length - at, run);
      if (run.kind === ZERO_PLAIN || run.kind === ZERO_ALLOCATED) continue;
      if (run.kind !== UNALLOCATED) return false;
      if (backing !== null && offset + at < backing.size) return false;
    }
    return true;
  }

  /** Points entries to new clusters. `part` is what they got: with subclusters it may be less than all. */
  #setEntries(
    slice: Table,
    index: number,
    { host, count, fresh }: Place,
    part: Part,
  ): void {
    const state = this.#state, { clusterBytes, entryBytes, extended } = state.layout;
    for (let at = 0; at < count; at += 1) {
      const entry = (index + at) * entryBytes;
      if (fresh) freeEntry(state, slice.view.getUint32(entry), slice.view.getUint32(entry + 4));
      const place = host + at * clusterBytes;
      setEntry(state, slice, index + at, entryHigh(place, true), entryLow(place, false));
      if (extended) this.#setSubclusters(slice, index + at, part, at * clusterBytes);
    }
  }

  #setSubclusters(
    slice: Table,
    index: number,
    part: Part,
    start: number,
  ): void {
    const state = this.#state, { clusterBytes, subclusterBytes } = state.layout;
    const from = Math.max(part.within - start, 0), to = Math.min(part.end - start, clusterBytes);
    const written = bitsOf(Math.floor(from / subclusterBytes), Math.ceil(to / subclusterBytes));
    const zero = slice.view.getUint32(index * 16 + 8);
    const allocated = slice.view.getUint32(index * 16 + 12);
    setBitmap(state, slice, index, (zero & ~written) >>> 0, (allocated | written) >>> 0);
  }
}
