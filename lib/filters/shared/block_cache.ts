/**
 * Blocks of a device in memory, clean and dirty: what `cache` and `torn` are made of.
 *
 * The rules. A dirty block is newer than what is below; it stays dirty until a write of it below has
 * succeeded. Whatever changes a block, here or below, holds the block's lock alone, so an old content
 * never overtakes a new one. Reading from below holds it shared; copying a block that is here needs
 * none, since that is done at once. Clean blocks are dropped, the one unused for longest first; dirty
 * ones are written back, the oldest first, before a write that needs the room.
 *
 * @module
 */
import { emulate, type Emulated } from "../../block/emulate.ts";
import { chain, inLanes, oneByOne, rescue } from "../../block/maybe.ts";
import { FLAG_FAST_ONLY, FLAG_FUA, FLAG_MAY_TRIM } from "../../block/request.ts";
import { RangeLocks } from "../../block/range_locks.ts";
import type { Backend, Extent, Maybe, WriteOptions, ZeroOptions } from "../../block/types.ts";
import { outward, type Span } from "./blocks.ts";
import {
  CACHE_BLOCKS_MAX,
  CACHE_BLOCKS_MIN,
  WRITE_BACK_BATCH,
  WRITE_BACK_BYTES,
  WRITE_BACK_DEPTH,
} from "./limits.ts";
import { type Next, nextOf } from "./wrap.ts";

/** Settings of a cache. */
export interface BlockCacheOptions {
  /** Bytes of a block: a power of two, at least the smallest I/O below. */
  readonly block: number;
  /** Memory for blocks, in bytes. Requests in flight may go past it by their own length. */
  readonly limit: number;
  /** Writes are done once they are here; else once they are below. */
  readonly writeBack: boolean;
}

/** What happened so far. */
export interface CacheCounts {
  /** Blocks found here, and not found here, by reads. */
  hits: number;
  misses: number;
}

/** A cache of blocks. */
export class BlockCache {
  /** Counts for whoever wants to know. */
  readonly counts: CacheCounts = { hits: 0, misses: 0 };
  readonly #next: Next;
  readonly #below: Emulated;
  readonly #block: number;
  readonly #blocksMax: number;
  readonly #writeBack: boolean;
  readonly #locks = new RangeLocks();
  /** The one used last is last. */
  readonly #clean = new Map<number, Uint8Array>();
  /** The one that has been dirty for longest is first. */
  readonly #dirty = new Map<number, Uint8Array>();

  /** An empty cache of `backend`, which it does not own. */
  constructor(backend: Backend, { block, limit, writeBack }: BlockCacheOptions) {
    this.#next = nextOf(backend);
    this.#below = emulate(backend);
    this.#block = block;
    const blocks = Math.floor(limit / block);
    this.#blocksMax = Math.min(Math.max(blocks, CACHE_BLOCKS_MIN), CACHE_BLOCKS_MAX);
    this.#writeBack = writeBack;
  }

  /** Bytes of blocks that are here. */
  get bytes(): number {
    return (this.#clean.size + this.#dirty.size) * this.#block;
  }

  /** The blocks that are newer than what is below, the oldest first. */
  get dirtyBlocks(): number[] {
    return [...this.#dirty.keys()];
  }

  /** Fills `into` with what is at `offset`. */
  read(into: Uint8Array, offset: number): Maybe<void> {
    const span = this.#around(offset, into.length);
    const first = span.offset / this.#block, last = this.#endOf(span);
    let missing = false;
    for (let number = first; number < last && !missing; number += 1) {
      missing = this.#find(number) === undefined;
    }
    if (!missing) {
      for (let number = first; number < last; number += 1) this.#take(number, into, offset);
      return undefined;
    }
    const read = (): Maybe<void> =>
      oneByOne(this.#runs(first, last), ([from, to, here]) => {
        if (!here) return this.#fetch(from, to, into, offset);
        for (let number = from; number < to; number += 1) this.#take(number, into, offset);
        return undefined;
      });
    return this.#locks.run(span.offset, span.length, "shared", read);
  }

  /** Stores `from` at `offset`: here, or below if `fua` or if writes go through. */
  write(from: Uint8Array, offset: number, { fua }: WriteOptions): Maybe<void> {
    const span = this.#around(offset, from.length);
    const blocks = this.#endOf(span) - span.offset / this.#block;
    if (fua || !this.#writeBack || blocks > this.#blocksMax / 4) {
      return this.#alone(span, () => this.#writeThrough(from, offset, fua));
    }
    const write = (): Maybe<void> => this.#alone(span, () => this.#writeHere(from, offset, span));
    return chain(this.#makeRoom(blocks), write);
  }

  /** Writes back all that was written before the call, then flushes below. */
  flush(): Maybe<void> {
    return chain(this.writeBack(this.dirtyBlocks), () => this.#next.flush());
  }

  /** Trims below; what is here of it is dropped. */
  trim(offset: number, length: number, options: WriteOptions): Maybe<void> {
    return this.#alone(this.#around(offset, length), () =>
      chain(
        this.#below.trim(offset, length, options.fua),
        () => this.#forget(offset, length, () => {}),
      ));
  }

  /** Zeroes below; what is here of it is dropped, and zeroed where a block is only partly in it. */
  zero(offset: number, length: number, options: ZeroOptions): Maybe<void> {
    return this.#alone(this.#around(offset, length), () =>
      chain(
        this.#below.zero(offset, length, flagsOf(options)),
        () => this.#forget(offset, length, (part) => part.fill(0)),
      ));
  }

  /** What the layer below says once it has all that is here of the range. */
  extents(offset: number, length: number): Maybe<Extent[]> {
    const first = Math.floor(offset / this.#block), last = (offset + length) / this.#block;
    const dirty = this.dirtyBlocks.filter((number) => number >= first && number < last);
    return chain(this.writeBack(dirty), () => this.#next.extents(offset, length));
  }

  /** Changes the size; nothing else is in flight. */
  resize(size: number): Maybe<void> {
    return chain(this.writeBack(this.dirtyBlocks), () => {
      this.#clean.clear();
      return this.#next.resize(size);
    });
  }

  /** Writes these blocks below, those of them that are dirty. What fails stays dirty. */
  writeBack(blocks: readonly number[]): Maybe<void> {
    if (blocks.length === 0) return undefined;
    const sorted = [...blocks].sort((a, b) => a - b);
    return inLanes(
      this.#neighbours(sorted),
      WRITE_BACK_DEPTH,
      ([first, last]) => {
        const span = this.#spanOf(first, last);
        return this.#alone(span, () =>
          oneByOne(
            this.#runs(first, last, this.#dirty),
            ([from, to, dirty]) => dirty ? this.#writeRun(from, to) : undefined,
          ));
      },
    );
  }

  /** Forgets all that is dirty, as a loss of power does. */
  forgetDirty(): void {
    this.#dirty.clear();
  }

  #around(offset: number, length: number): Span {
    return outward(offset, length, this.#block, this.#next.geometry.size);
  }

  /** The number behind the last block of a span of whole blocks. */
  #endOf({ offset, length }: Span): number {
    return Math.ceil((offset + length) / this.#block);
  }

  #spanOf(first: number, last: number): Span {
    const offset = first * this.#block;
    return { offset, length: Math.min(last * this.#block, this.#next.geometry.size) - offset };
  }

  #alone(span: Span, work: () => Maybe<void>): Maybe<void> {
    return this.#locks.run(span.offset, span.length, "exclusive", work);
  }

  #find(number: number): Uint8Array | undefined {
    return this.#dirty.get(number) ?? this.#clean.get(number);
  }

  /** The blocks from `first` to `last` in runs that are, or are not, in `map` (or here), as it then is. */
  *#runs(
    first: number,
    last: number,
    map?: ReadonlyMap<number, Uint8Array>,
  ): Generator<[from: number, to: number, here: boolean]> {
    const has = (number: number): boolean =>
      map === undefined ? this.#find(number) !== undefined : map.has(number);
    for (let from = first; from < last;) {
      const here = has(from);
      let to = from + 1;
      while (to < last && has(to) === here) to += 1;
      yield [from, to, here];
      from = to;
    }
  }

  /** Sorted blocks in runs that one write may take. */
  *#neighbours(sorted: readonly number[]): Generator<[first: number, last: number]> {
    const bytes = Math.min(WRITE_BACK_BYTES, this.#next.geometry.maximum);
    const countMax = Math.max(1, Math.floor(bytes / this.#block));
    let first = -1, last = -1;
    for (const number of sorted) {
      if (number === last && last - first < countMax) {
        last += 1;
        continue;
      }
      if (first >= 0) yield [first, last];
      first = number;
      last = number + 1;
    }
    if (first >= 0) yield [first, last];
  }

  /** Copies the part of a block that a request at `offset` wants. */
  #take(number: number, into: Uint8Array, offset: number): void {
    const bytes = this.#find(number);
    if (bytes === undefined) throw new Error(`Cannot take block ${number}: it is not here`);
    this.counts.hits += 1;
    if (this.#clean.delete(number)) this.#clean.set(number, bytes);
    const start = number * this.#block - offset;
    if (start >= 0) into.set(bytes.subarray(0, into.length - start), start);
    else into.set(bytes.subarray(-start, into.length - start));
  }

  /** Reads blocks that are not here, keeps them, and copies what a request at `offset` wants. */
  #fetch(first: number, last: number, into: Uint8Array, offset: number): Maybe<void> {
    const span = this.#spanOf(first, last);
    const start = span.offset - offset;
    const direct = start >= 0 && start + span.length <= into.length;
    const bytes = direct ? into.subarray(start, start + span.length) : new Uint8Array(span.length);
    this.counts.misses += last - first;
    return chain(this.#below.readSplit(bytes, span.offset), () => {
      if (!direct) {
        const skip = Math.max(-start, 0);
        into.set(bytes.subarray(skip, into.length - start), Math.max(start, 0));
      }
      if (last - first > this.#blocksMax / 4) return;
      for (let at = 0; at < bytes.length; at += this.#block) {
        this.#keep(first + at / this.#block, bytes.slice(at, at + this.#block));
      }
    });
  }

  /** Keeps a clean block, at the expense of those unused for longest. */
  #keep(number: number, bytes: Uint8Array): void {
    if (this.#find(number) !== undefined) return;
    this.#clean.set(number, bytes);
    this.#shrink();
  }

  #shrink(): void {
    let excess = this.#clean.size + this.#dirty.size - this.#blocksMax;
    for (const number of this.#clean.keys()) {
      if (excess <= 0) return;
      this.#clean.delete(number);
      excess -= 1;
    }
  }

  /** Writes back until `count` more blocks can be dirty. */
  #makeRoom(count: number): Maybe<void> {
    if (this.#dirty.size + count <= this.#blocksMax) return undefined;
    const oldest: number[] = [];
    for (const number of this.#dirty.keys()) {
      oldest.push(number);
      if (oldest.length >= Math.max(count, WRITE_BACK_BATCH)) break;
    }
    return chain(this.writeBack(oldest), () => this.#makeRoom(count));
  }

  /** A block of which a part is going to change: what is here, or what is below. */
  #whole(number: number): Maybe<Uint8Array> {
    const here = this.#find(number);
    if (here !== undefined) return here;
    const { offset, length } = this.#spanOf(number, number + 1);
    const bytes = new Uint8Array(length);
    return chain(this.#below.readSplit(bytes, offset), () => bytes);
  }

  #writeHere(from: Uint8Array, offset: number, span: Span): Maybe<void> {
    const first = span.offset / this.#block, last = this.#endOf(span) - 1;
    const end = offset + from.length;
    const cutsFirst = offset > span.offset || (first === last && end < span.offset + span.length);
    const cutsLast = end < span.offset + span.length && first !== last;
    const parts = new Map<number, Uint8Array>();
    const edges = [...(cutsFirst ? [first] : []), ...(cutsLast ? [last] : [])];
    const prepared = oneByOne(edges, (number) =>
      chain(this.#whole(number), (bytes) => {
        parts.set(number, bytes);
      }));
    return chain(prepared, () => {
      for (let number = first; number <= last; number += 1) {
        const block = this.#spanOf(number, number + 1);
        const bytes = parts.get(number) ?? this.#find(number) ?? new Uint8Array(block.length);
        patch(bytes, block.offset, from, offset);
        this.#clean.delete(number);
        this.#dirty.set(number, bytes);
      }
      this.#shrink();
    });
  }

  /** Writes below and to the blocks that are here. If it fails nobody knows what is below. */
  #writeThrough(from: Uint8Array, offset: number, fua: boolean): Maybe<void> {
    const written = rescue(() => this.#below.write(from, offset, fua), (error) => {
      this.#dropClean(offset, from.length);
      throw error;
    });
    return chain(written, () =>
      this.#each(offset, from.length, (number, bytes, whole) => {
        patch(bytes, number * this.#block, from, offset);
        if (whole && this.#dirty.delete(number)) this.#keep(number, bytes);
      }));
  }

  #writeRun(first: number, last: number): Maybe<void> {
    const { offset, length } = this.#spanOf(first, last);
    let bytes = last - first === 1 ? this.#dirty.get(first) : undefined;
    if (bytes === undefined) {
      bytes = new Uint8Array(length);
      for (let number = first; number < last; number += 1) {
        bytes.set(this.#dirty.get(number) ?? [], (number - first) * this.#block);
      }
    }
    return chain(this.#below.write(bytes, offset, false), () => {
      for (let number = first; number < last; number += 1) {
        const block = this.#dirty.get(number);
        if (block === undefined) continue;
        this.#dirty.delete(number);
        this.#clean.set(number, block);
      }
      this.#shrink();
    });
  }

  /** Drops the blocks in a range; `change` gets the parts in it of those that it only touches. */
  #forget(offset: number, length: number, change: (part: Uint8Array) => void): void {
    this.#each(offset, length, (number, bytes, whole) => {
      if (whole) {
        this.#clean.delete(number);
        this.#dirty.delete(number);
        return;
      }
      const start = Math.max(offset - number * this.#block, 0);
      change(bytes.subarray(start, offset + length - number * this.#block));
    });
  }

  #dropClean(offset: number, length: number): void {
    this.#each(offset, length, (number) => this.#clean.delete(number));
  }

  /** Visits the blocks that are here of a range, which may be as large as the device. */
  #each(
    offset: number,
    length: number,
    visit: (number: number, bytes: Uint8Array, whole: boolean) => void,
  ): void {
    const span = this.#around(offset, length);
    const first = span.offset / this.#block, last = this.#endOf(span);
    const here = this.#clean.size + this.#dirty.size;
    const numbers = last - first <= here
      ? Array.from({ length: last - first }, (_, index) => first + index)
      : [...this.#clean.keys(), ...this.#dirty.keys()];
    for (const number of numbers) {
      const bytes = number >= first && number < last ? this.#find(number) : undefined;
      if (bytes === undefined) continue;
      const start = number * this.#block;
      visit(number, bytes, start >= offset && start + bytes.length <= offset + length);
    }
  }
}

function flagsOf({ fua, mayTrim, fastOnly }: ZeroOptions): number {
  return (fua ? FLAG_FUA : 0) | (mayTrim ? FLAG_MAY_TRIM : 0) | (fastOnly ? FLAG_FAST_ONLY : 0);
}

/** Copies what overlaps of `from`, which belongs at `offset`, into a block that begins at `start`. */
function patch(block: Uint8Array, start: number, from: Uint8Array, offset: number): void {
  const begin = Math.max(start, offset);
  const end = Math.min(start + block.length, offset + from.length);
  block.set(from.subarray(begin - offset, end - offset), begin - start);
}
