/**
 * The memory behind a page table: pages of one size, packed into a few large segments. A page that is
 * given back is filled by moving the last page into its place, so the arena has no holes and whole
 * segments return to the operating system. Segments are at least 32 MiB where the arena may grow so
 * large: from that size on the C library maps each one, gets it zeroed without touching it, and unmaps
 * it when it is freed; smaller blocks would stay in its heap for good.
 *
 * @module
 */
import { BlockError } from "./errors.ts";
import type { Leaf } from "./page_table.ts";

const PAGE_SHIFT = 15;
const SEGMENT_SHIFT_MAX = 25;

/** Bytes of a page. */
export const PAGE_BYTES: number = 1 << PAGE_SHIFT;
/** What is added to a page's index to get its table entry: 0 and 1 mean something else. */
export const ENTRY_BASE = 2;

/** Pages that belong to table entries. */
export class PageArena {
  /** log2 of the pages of a segment. */
  readonly #shift: number;
  readonly #segments: Uint8Array<ArrayBuffer>[] = [];
  /** Of each page, by index: the leaf and slot that refer to it. */
  readonly #leaves: Leaf[] = [];
  readonly #slots: number[] = [];
  /** Pages from this index on have never been written: they are zero. */
  #touched = 0;

  /** An empty arena; `bytesMax` is what it is likely to hold at most and sets the size of segments. */
  constructor(bytesMax: number) {
    const shift = Math.ceil(Math.log2(Math.max(bytesMax, PAGE_BYTES)));
    this.#shift = Math.min(shift, SEGMENT_SHIFT_MAX) - PAGE_SHIFT;
  }

  /** Pages in use. */
  get count(): number {
    return this.#leaves.length;
  }

  /** Bytes of the segments that hold the pages. */
  get segmentBytes(): number {
    return this.#segments.length << this.#shift << PAGE_SHIFT;
  }

  /** The segment that holds a page. */
  segmentOf(page: number): Uint8Array<ArrayBuffer> {
    const segment = this.#segments[page >>> this.#shift];
    if (segment === undefined) throw new Error(`Cannot use page ${page}: there is no such page`);
    return segment;
  }

  /** Where a page begins in its segment. */
  positionOf(page: number): number {
    return (page & ((1 << this.#shift) - 1)) << PAGE_SHIFT;
  }

  /**
   * Takes a page for a slot of a leaf and enters it there. It is zeroed unless its taker is going to
   * overwrite all of it. Errno: ENOMEM.
   */
  take(leaf: Leaf, slot: number, overwritten: boolean): number {
    const page = this.#leaves.length;
    if (page >>> this.#shift === this.#segments.length) this.#segments.push(this.#allocate());
    this.#leaves.push(leaf);
    this.#slots.push(slot);
    leaf.entries[slot] = page + ENTRY_BASE;
    if (page >= this.#touched) this.#touched = page + 1;
    else if (!overwritten) this.zero(page, 0, PAGE_BYTES);
    return page;
  }

  /** Gives a page back. The last page takes over its index, and that page's leaf is told. */
  give(page: number): void {
    const last = this.#leaves.length - 1;
    const leaf = this.#leaves.pop();
    const slot = this.#slots.pop();
    if (leaf === undefined || slot === undefined || page > last) {
      throw new Error(`Cannot give back page ${page}: it is not in use`);
    }
    if (page < last) {
      const from = this.positionOf(last);
      this.segmentOf(page).set(
        this.segmentOf(last).subarray(from, from + PAGE_BYTES),
        this.positionOf(page),
      );
      this.#leaves[page] = leaf;
      this.#slots[page] = slot;
      leaf.entries[slot] = page + ENTRY_BASE;
    }
    this.#shrink();
  }

  /** Zeroes a part of a page. */
  zero(page: number, start: number, end: number): void {
    const position = this.positionOf(page);
    this.segmentOf(page).fill(0, position + start, position + end);
  }

  /** Gives everything back. */
  clear(): void {
    this.#leaves.length = 0;
    this.#slots.length = 0;
    this.#shrink();
  }

  #allocate(): Uint8Array<ArrayBuffer> {
    try {
      return new Uint8Array(1 << this.#shift << PAGE_SHIFT);
    } catch (cause) {
      throw new BlockError("ENOMEM", "Cannot allocate a segment of pages: out of memory", {
        cause,
      });
    }
  }

  /** Half a segment stays spare, so that a boundary crossed to and fro does not map and unmap. */
  #shrink(): void {
    const perSegment = 1 << this.#shift;
    const spare = this.count === 0 ? 0 : perSegment >>> 1;
    while (
      this.#segments.length > 0 &&
      this.count + spare <= (this.#segments.length - 1) * perSegment
    ) {
      // Detached instead of left to the garbage collector: the memory goes back now.
      this.#segments.pop()?.buffer.transfer(0);
      this.#touched = Math.min(this.#touched, this.#segments.length * perSegment);
    }
  }
}
