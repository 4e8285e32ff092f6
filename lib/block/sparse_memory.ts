/**
 * Bytes in memory, addressed like a device and allocated a page at a time on the first write. What
 * the memory backend is made of; fit for anything that overlays a device. Everything is done at once.
 * Relies on the caller for ranges: they lie within the size.
 *
 * @module
 */
import { BlockError } from "./errors.ts";
import { EXTENTS_PER_CALL_MAX, SPARSE_BYTES_MAX, SPARSE_SCAN_PAGES_MAX } from "./limits.ts";
import { ENTRY_BASE, PAGE_BYTES, PageArena } from "./page_arena.ts";
import { type Leaf, LEAF_PAGES, PageTable } from "./page_table.ts";
import type { Extent } from "./types.ts";

const LEAF_BYTES: number = LEAF_PAGES * PAGE_BYTES;
const PAGE_SHIFT: number = Math.log2(PAGE_BYTES);
const PAGE_MASK: number = PAGE_BYTES - 1;

/** Entry of a page that has no memory. */
const HOLE = 0;
/** Entry of a page that counts as allocated and is all zero, but has no memory yet. */
const RESERVED = 1;

/** What a SparseMemory is made with. */
export interface SparseMemoryOptions {
  /** Bytes, 0 to 2^53 - 1. */
  readonly size: number;
  /** Bytes of memory that pages may take, rounded up to whole pages; SPARSE_BYTES_MAX at most. */
  readonly limit?: number;
}

/**
 * Sparse memory.
 *
 * @example
 * ```ts
 * import { SparseMemory } from "./sparse_memory.ts";
 * const memory = new SparseMemory({ size: 2 ** 50 });
 * memory.write(new Uint8Array([1, 2, 3]), 2 ** 49);
 * memory.discard(0, 2 ** 50);
 * if (memory.allocated !== 0) throw new Error("leak");
 * ```
 */
export class SparseMemory {
  #size: number;
  readonly #pagesMax: number;
  readonly #table = new PageTable();
  readonly #arena: PageArena;
  #reserved = 0;

  /** All zero, nothing allocated. */
  constructor(options: SparseMemoryOptions) {
    const { size, limit = SPARSE_BYTES_MAX } = options;
    this.#size = size;
    this.#pagesMax = Math.ceil(Math.min(limit, SPARSE_BYTES_MAX) / PAGE_BYTES);
    this.#arena = new PageArena(size);
  }

  /** Size in bytes. */
  get size(): number {
    return this.#size;
  }

  /** Bytes of pages that are allocated or reserved. */
  get allocated(): number {
    return (this.#arena.count + this.#reserved) * PAGE_BYTES;
  }

  /** Bytes of memory held for pages, slack included. */
  get resident(): number {
    return this.#arena.segmentBytes;
  }

  /** Fills `into` with the bytes at `offset`. */
  read(into: Uint8Array, offset: number): void {
    const total = into.length;
    for (let at = 0; at < total;) {
      const leafNumber = Math.floor((offset + at) / LEAF_BYTES);
      const inLeaf = offset + at - leafNumber * LEAF_BYTES;
      const inPage = inLeaf & PAGE_MASK;
      const end = Math.min(at + PAGE_BYTES - inPage, total);
      const entry = this.#table.find(leafNumber)?.entries[inLeaf >>> PAGE_SHIFT] ?? HOLE;
      if (entry >= ENTRY_BASE) {
        const page = entry - ENTRY_BASE;
        const position = this.#arena.positionOf(page) + inPage;
        into.set(this.#arena.segmentOf(page).subarray(position, position + end - at), at);
      } else {
        into.fill(0, at, end);
      }
      at = end;
    }
  }

  /** Stores `from` at `offset`. Errno: ENOSPC past the limit, ENOMEM. */
  write(from: Uint8Array, offset: number): void {
    const total = from.length;
    for (let at = 0; at < total;) {
      const leafNumber = Math.floor((offset + at) / LEAF_BYTES);
      const inLeaf = offset + at - leafNumber * LEAF_BYTES;
      const inPage = inLeaf & PAGE_MASK;
      const end = Math.min(at + PAGE_BYTES - inPage, total);
      const slot = inLeaf >>> PAGE_SHIFT;
      const entry = this.#table.find(leafNumber)?.entries[slot] ?? HOLE;
      const page = entry >= ENTRY_BASE
        ? entry - ENTRY_BASE
        : this.#allocate(leafNumber, slot, entry, end - at === PAGE_BYTES);
      const piece = end - at === total ? from : from.subarray(at, end);
      this.#arena.segmentOf(page).set(piece, this.#arena.positionOf(page) + inPage);
      at = end;
    }
  }

  /** Makes a range zero and frees the whole pages in it. */
  discard(offset: number, length: number): void {
    const end = offset + length;
    const first = Math.ceil(offset / PAGE_BYTES);
    // Nothing lies behind the end of the device, so a last page that it cuts counts as whole.
    const last = end === this.#size ? Math.ceil(end / PAGE_BYTES) : Math.floor(end / PAGE_BYTES);
    if (first > last) {
      this.#zeroPart(last, offset - last * PAGE_BYTES, end - last * PAGE_BYTES);
      return;
    }
    if (first * PAGE_BYTES > offset) {
      this.#zeroPart(first - 1, offset - (first - 1) * PAGE_BYTES, PAGE_BYTES);
    }
    if (last * PAGE_BYTES < end) this.#zeroPart(last, 0, end - last * PAGE_BYTES);
    if (first < last) this.#free(first, last);
  }

  /** Makes a range zero and allocated. Errno: ENOSPC past the limit. */
  reserve(offset: number, length: number): void {
    const end = offset + length;
    const first = Math.floor(offset / PAGE_BYTES), last = Math.ceil(end / PAGE_BYTES);
    // Told at once where it is certain, instead of after a long walk.
    if (last - first > this.#pagesMax) throw this.#full();
    for (let number = first; number < last; number += 1) {
      const start = number * PAGE_BYTES;
      const from = Math.max(offset - start, 0), to = Math.min(end - start, PAGE_BYTES);
      if (this.#zeroPart(number, from, to)) continue;
      if (this.#arena.count + this.#reserved >= this.#pagesMax) throw this.#full();
      const leaf = this.#table.make(Math.floor(number / LEAF_PAGES));
      leaf.entries[number % LEAF_PAGES] = RESERVED;
      leaf.used += 1;
      this.#reserved += 1;
    }
  }

  /**
   * The state of a range: at least one extent, at most EXTENTS_PER_CALL_MAX, none past the range.
   * Stops short after SPARSE_SCAN_PAGES_MAX pages in use or gaps between them.
   */
  extents(offset: number, length: number): Extent[] {
    const end = offset + length;
    const extents: Extent[] = [];
    let start = offset, at = offset, kind = -1;
    for (let scanned = 0; at < end && scanned < SPARSE_SCAN_PAGES_MAX; scanned += 1) {
      const leafNumber = Math.floor(at / LEAF_BYTES);
      const leaf = this.#table.find(leafNumber);
      const slot = Math.floor(at / PAGE_BYTES) % LEAF_PAGES;
      const here = Math.min(leaf?.entries[slot] ?? HOLE, ENTRY_BASE);
      if (here !== kind && at > offset) {
        extents.push(extentOf(kind, at - start));
        start = at;
        if (extents.length === EXTENTS_PER_CALL_MAX) return extents;
      }
      kind = here;
      at = leaf === undefined
        ? (this.#table.seek(leafNumber + 1, 1)?.number ?? Infinity) * LEAF_BYTES
        : leafNumber * LEAF_BYTES + (slot + 1) * PAGE_BYTES;
    }
    extents.push(extentOf(kind, Math.min(at, end) - start));
    return extents;
  }

  /** Changes the size: what is cut off is freed, what is added is zero. */
  resize(size: number): void {
    if (size < this.#size) this.discard(size, this.#size - size);
    this.#size = size;
  }

  /** Frees everything. */
  clear(): void {
    this.#table.clear();
    this.#arena.clear();
    this.#reserved = 0;
  }

  #allocate(leafNumber: number, slot: number, entry: number, overwritten: boolean): number {
    if (entry === HOLE && this.#arena.count + this.#reserved >= this.#pagesMax) throw this.#full();
    const leaf = this.#table.make(leafNumber);
    const page = this.#arena.take(leaf, slot, overwritten);
    if (entry === HOLE) leaf.used += 1;
    else this.#reserved -= 1;
    return page;
  }

  #full(): BlockError {
    return new BlockError(
      "ENOSPC",
      `Cannot allocate memory: the limit of ${this.#pagesMax * PAGE_BYTES} bytes is reached`,
    );
  }

  /** Zeroes a part of a page that is allocated; false if it is a hole. */
  #zeroPart(number: number, start: number, end: number): boolean {
    const leaf = this.#table.find(Math.floor(number / LEAF_PAGES));
    const entry = leaf?.entries[number % LEAF_PAGES] ?? HOLE;
    if (entry >= ENTRY_BASE) this.#arena.zero(entry - ENTRY_BASE, start, end);
    return entry !== HOLE;
  }

  /** Frees the pages from `first` up to `last`; backwards, since then the arena has least to move. */
  #free(first: number, last: number): void {
    const lowest = Math.floor(first / LEAF_PAGES);
    let leaf = this.#table.seek(Math.floor((last - 1) / LEAF_PAGES), -1);
    while (leaf !== undefined && leaf.number >= lowest) {
      const base = leaf.number * LEAF_PAGES;
      this.#freeSlots(leaf, Math.max(first - base, 0), Math.min(last - base, LEAF_PAGES));
      if (leaf.used === 0) this.#table.remove(leaf.number);
      leaf = this.#table.seek(leaf.number - 1, -1);
    }
  }

  #freeSlots(leaf: Leaf, first: number, last: number): void {
    for (let slot = last - 1; slot >= first; slot -= 1) {
      const entry = leaf.entries[slot] ?? HOLE;
      if (entry === HOLE) continue;
      leaf.entries[slot] = HOLE;
      leaf.used -= 1;
      if (entry === RESERVED) this.#reserved -= 1;
      else this.#arena.give(entry - ENTRY_BASE);
    }
  }
}

function extentOf(kind: number, length: number): Extent {
  return { length, allocated: kind !== HOLE, zero: kind !== ENTRY_BASE };
}
