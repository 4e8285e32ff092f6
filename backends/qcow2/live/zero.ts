/**
 * Zeroing and trimming: clusters become zero clusters or unallocated, and what they had is given up.
 * Which state a cluster gets is QEMU's choice in each case, so that both show the same map; but where
 * a range has to be allocated what is not gets clusters, while QEMU only makes it read as zeroes.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import type { ZeroOptions } from "../../../lib/block/types.ts";
import {
  entryHigh,
  entryLow,
  entryOffset,
  isCompressed,
  isCopied,
  ZERO_LOW,
} from "../format/entries.ts";
import { freeEntry, ownSlice, setBitmap, setEntry } from "./entries.ts";
import { FREED_RUNS_MAX, ZEROES_BYTES } from "./limits.ts";
import { emptyRun, mapRun, type Run, UNALLOCATED, ZERO_ALLOCATED, ZERO_PLAIN } from "./mapping.ts";
import type { ImageState } from "./state.ts";
import type { Table } from "./table_cache.ts";
import { bitsOf, type Writer } from "./write.ts";

const ALL = 0xffff_ffff;

/** What becomes of whole clusters. */
type Fate = "zero, kept" | "zero, given up" | "unallocated";

/** True if an entry has a host cluster as it is: one of its own, or one that a snapshot uses too. */
function hasCluster(high: number, low: number): boolean {
  return !isCompressed(high) && (isCopied(high) || entryOffset(high, low) !== 0);
}

/** Zeroes and trims one image. */
export class Zeroer {
  readonly #state: ImageState;
  readonly #writer: Writer;
  readonly #run: Run = emptyRun();
  #zeroes: Uint8Array | null = null;

  /** For an image that is open for writing. */
  constructor(state: ImageState, writer: Writer) {
    this.#state = state;
    this.#writer = writer;
  }

  /**
   * Gives a range's whole clusters up; its edges stay. They read as zeroes then, but in version 2, where
   * what is behind them in a backing file could come up, nothing happens if there is one.
   */
  trim(offset: number, length: number): void {
    const state = this.#state, { clusterBytes, zeroClusters, externalRaw } = state.layout;
    state.requireSound();
    if (!zeroClusters && state.backing !== null) return;
    const end = offset + length, { size } = state.header;
    const first = Math.ceil(offset / clusterBytes);
    const last = end === size ? Math.ceil(end / clusterBytes) : Math.floor(end / clusterBytes);
    if (last <= first) return;
    this.#eachTable(first, last, (from, to) => this.#trimIn(from, to), state.backing !== null);
    if (externalRaw) this.#zeroDataFile(first * clusterBytes, Math.min(last * clusterBytes, size));
  }

  /** Makes clusters `first` to `last` (exclusive) unallocated, whatever they stand on. */
  drop(first: number, last: number): void {
    this.#state.requireSound();
    this.#eachTable(first, last, (from, to) => this.#setAll(from, to, "unallocated"));
  }

  /** Zeroes a range. Throws EOPNOTSUPP where that would mean to write zeroes, if it is to be fast. */
  zero(offset: number, length: number, { mayTrim, fastOnly }: Omit<ZeroOptions, "fua">): void {
    const state = this.#state, { subclusterBytes: unit, zeroClusters } = state.layout;
    state.requireSound();
    const end = offset + length, { size } = state.header;
    if (!zeroClusters && (!mayTrim || state.backing !== null)) {
      throw new BlockError("EOPNOTSUPP", "Cannot zero without writing: the image is of version 2");
    }
    const start = Math.min(Math.ceil(offset / unit) * unit, end);
    const stop = Math.max(end === size ? end : Math.floor(end / unit) * unit, start);
    // What is in the middle goes without writing, so that writing the edges is fast, too.
    const fastEdges = fastOnly && stop === start;
    if (offset < start) this.#edge(offset, start, mayTrim, fastEdges);
    if (stop > start) this.#units(start, stop, mayTrim);
    if (stop < end) this.#edge(stop, end, mayTrim, fastEdges);
  }

  /** Part of one unit: all of it is made zero if the rest of it is zero already, else it is written. */
  #edge(offset: number, end: number, mayTrim: boolean, fastOnly: boolean): void {
    const { layout: { subclusterBytes: unit }, header: { size } } = this.#state;
    const start = Math.floor(offset / unit) * unit, stop = Math.min(start + unit, size);
    const restIsZero = this.#isZero(start, offset) && this.#isZero(end, stop) &&
      this.#hasNoData(start, stop);
    if (restIsZero) return this.#units(start, stop, mayTrim);
    if (fastOnly) {
      throw new BlockError("EOPNOTSUPP", "Cannot zero less than a cluster without writing");
    }
    this.#writeZeroes(offset, end);
  }

  /** Whole subclusters, or whole clusters where there are none; the last one may be cut off by the disk's end. */
  #units(offset: number, end: number, mayTrim: boolean): void {
    const { layout: { clusterBytes, externalRaw }, header: { size } } = this.#state;
    const first = Math.ceil(offset / clusterBytes);
    const last = end === size ? Math.ceil(end / clusterBytes) : Math.floor(end / clusterBytes);
    if (externalRaw) this.#zeroDataFile(offset, end);
    if (last < first) return this.#zeroPart(offset, end, mayTrim);
    if (offset < first * clusterBytes) this.#zeroPart(offset, first * clusterBytes, mayTrim);
    this.#eachTable(first, last, (from, to) => this.#zeroIn(from, to, mayTrim), true);
    if (last * clusterBytes < end) this.#zeroPart(last * clusterBytes, end, mayTrim);
  }

  /** Subclusters of one cluster. Those of a compressed one are written. */
  #zeroPart(offset: number, end: number, mayTrim: boolean): void {
    const { entriesPerSlice, subclusterBytes, clusterBytes } = this.#state.layout;
    const cluster = Math.floor(offset / clusterBytes), start = cluster * clusterBytes;
    const slice = ownSlice(this.#state, cluster), index = cluster % entriesPerSlice;
    if (isCompressed(slice.view.getUint32(index * 16))) return this.#writeZeroes(offset, end);
    const bits = bitsOf((offset - start) / subclusterBytes, (end - start) / subclusterBytes);
    // What a snapshot uses too is not touched by this: the bitmap is the image's own.
    if (!mayTrim) this.#reserve(slice, index, cluster);
    const zero = (slice.view.getUint32(index * 16 + 8) | bits) >>> 0;
    const allocated = (slice.view.getUint32(index * 16 + 12) & ~bits) >>> 0;
    setBitmap(this.#state, slice, index, zero, allocated);
  }

  /** Gives an entry a cluster of its own if it has none at all. */
  #reserve(slice: Table, index: number, cluster: number): void {
    const state = this.#state, { clusterBytes, external } = state.layout;
    const high = slice.view.getUint32(index * 16), low = slice.view.getUint32(index * 16 + 4);
    if (hasCluster(high, low)) return;
    const place = external ? cluster : state.refcounts.allocate(1);
    const host = place * clusterBytes;
    setEntry(state, slice, index, entryHigh(host, true), entryLow(host, false));
  }

  #writeZeroes(offset: number, end: number): void {
    this.#zeroes ??= new Uint8Array(ZEROES_BYTES);
    for (let at = offset; at < end; at += ZEROES_BYTES) {
      this.#writer.write(this.#zeroes.subarray(0, Math.min(ZEROES_BYTES, end - at)), at);
    }
  }

  /** The data file is to be a raw image of the disk. */
  #zeroDataFile(offset: number, end: number): void {
    const { dataFile } = this.#state;
    if (dataFile === null) return;
    this.#zeroes ??= new Uint8Array(ZEROES_BYTES);
    for (let at = offset; at < Math.min(end, dataFile.length); at += ZEROES_BYTES) {
      dataFile.write(this.#zeroes.subarray(0, Math.min(ZEROES_BYTES, end - at)), at);
    }
  }

  /** True if a range reads as zeroes as far as tables, and those of the layers below, tell. */
  #isZero(offset: number, end: number): boolean {
    const { backing } = this.#state, run = this.#run;
    for (let at = offset; at < end; at += run.length) {
      mapRun(this.#state, at, end - at, run);
      if (run.kind === ZERO_PLAIN || run.kind === ZERO_ALLOCATED) continue;
      if (run.kind !== UNALLOCATED) return false;
      if (backing === null || at >= backing.size) continue;
      const there = backing.extent(at, Math.min(run.length, backing.size - at));
      if (!there.zero) return false;
      run.length = there.length;
    }
    return true;
  }

  /** True if the image itself has no data in a range. */
  #hasNoData(offset: number, end: number): boolean {
    const run = this.#run;
    for (let at = offset; at < end; at += run.length) {
      mapRun(this.#state, at, end - at, run);
      if (run.kind !== ZERO_PLAIN && run.kind !== ZERO_ALLOCATED && run.kind !== UNALLOCATED) {
        return false;
      }
    }
    return true;
  }

  /** Calls `each` for the parts of a range of clusters that have their entries in one slice. */
  #eachTable(
    first: number,
    last: number,
    each: (from: number, to: number) => void,
    withoutTable = false,
  ): void {
    const state = this.#state, { entriesPerSlice, entriesPerTable } = state.layout;
    for (let at = first; at < last;) {
      if (state.freed.length > 2 * FREED_RUNS_MAX) state.committer.commitNow();
      // Where there is no table nothing is allocated; a table is made only to say that it is zero.
      const table = Math.floor(at / entriesPerTable);
      const there = withoutTable || state.l1.tableOf(table) !== 0;
      const end = there
        ? Math.min((Math.floor(at / entriesPerSlice) + 1) * entriesPerSlice, last)
        : Math.min((table + 1) * entriesPerTable, last);
      if (there) each(at, end);
      at = end;
    }
  }

  #trimIn(from: number, to: number): void {
    const state = this.#state, { entriesPerSlice, entryBytes, zeroClusters } = state.layout;
    const fate: Fate = zeroClusters ? "zero, given up" : "unallocated";
    if (state.backing !== null) return this.#setAll(from, to, fate);
    for (let cluster = from; cluster < to; cluster += 1) {
      const slice = state.slice(cluster);
      if (slice === null) return;
      const at = cluster % entriesPerSlice * entryBytes;
      const high = slice.view.getUint32(at), low = slice.view.getUint32(at + 4);
      // What has no cluster and nothing below reads as zeroes already.
      if (isCompressed(high) || isCopied(high) || entryOffset(high, low) !== 0) {
        this.#setAll(cluster, cluster + 1, fate);
      }
    }
  }

  #zeroIn(from: number, to: number, mayTrim: boolean): void {
    // Version 2 has no zero clusters, but with nothing below what is not there reads as zeroes.
    if (!this.#state.layout.zeroClusters) this.#setAll(from, to, "unallocated");
    else this.#setAll(from, to, mayTrim ? "zero, given up" : "zero, kept");
  }

  #setAll(from: number, to: number, fate: Fate): void {
    const state = this.#state, { entriesPerSlice } = state.layout;
    for (let cluster = from; cluster < to;) {
      const slice = ownSlice(state, cluster);
      const index = cluster % entriesPerSlice;
      cluster += fate === "zero, kept"
        ? this.#keep(slice, index, cluster, to)
        : this.#giveUp(slice, index, fate === "unallocated");
    }
  }

  /** One cluster that is to have no host cluster. */
  #giveUp(slice: Table, index: number, unallocated: boolean): number {
    const state = this.#state, { entryBytes, extended } = state.layout;
    const at = index * entryBytes;
    const high = slice.view.getUint32(at), low = slice.view.getUint32(at + 4);
    const newLow = unallocated || extended ? 0 : 1;
    const newZero = unallocated ? 0 : ALL;
    const same = high === 0 && low === newLow && (!extended ||
      slice.view.getUint32(at + 8) === newZero && slice.view.getUint32(at + 12) === 0);
    if (same) return 1;
    freeEntry(state, high, low);
    setEntry(state, slice, index, 0, newLow);
    if (extended) setBitmap(state, slice, index, newZero, 0);
    return 1;
  }

  /** Clusters that are to read as zeroes and have host clusters; gives how many it did. */
  #keep(slice: Table, index: number, cluster: number, to: number): number {
    const state = this.#state, { entryBytes, clusterBytes, external } = state.layout;
    const at = index * entryBytes;
    const high = slice.view.getUint32(at), low = slice.view.getUint32(at + 4);
    if (hasCluster(high, low)) {
      this.#setZero(slice, index, high, low);
      return 1;
    }
    const count = external ? 1 : this.#countEmpty(slice, index, to - cluster);
    const first = external ? cluster : state.refcounts.allocate(count);
    const found = external ? 1 : state.refcounts.found;
    for (let done = 0; done < found; done += 1) {
      const entry = (index + done) * entryBytes;
      freeEntry(state, slice.view.getUint32(entry), slice.view.getUint32(entry + 4));
      const host = (first + done) * clusterBytes;
      this.#setZero(slice, index + done, entryHigh(host, true), entryLow(host, false));
    }
    return found;
  }

  #countEmpty(slice: Table, index: number, most: number): number {
    const { entryBytes, entriesPerSlice } = this.#state.layout;
    const end = Math.min(index + most, entriesPerSlice);
    let next = index + 1;
    while (next < end) {
      const at = next * entryBytes;
      if (hasCluster(slice.view.getUint32(at), slice.view.getUint32(at + 4))) break;
      next += 1;
    }
    return next - index;
  }

  /** Makes an entry with a cluster, which it keeps, read as zeroes. */
  #setZero(slice: Table, index: number, high: number, low: number): void {
    const state = this.#state, { extended } = state.layout;
    setEntry(state, slice, index, high, extended ? low : (low | ZERO_LOW) >>> 0);
    if (extended) setBitmap(state, slice, index, ALL, 0);
  }
}
