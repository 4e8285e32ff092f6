/**
 * How often each cluster of a file is referred to: pages of counts, one byte a cluster where counts are
 * low, and no page where there is nothing. Huge sparse images cost what they use, up to a limit.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";

/** Clusters of one page. */
const PAGE_ENTRIES = 4096;

type Page = Uint8Array | Uint16Array | Uint32Array | Float64Array;

/** Memory that several maps share. */
export class MemoryBudget {
  readonly #path: string;
  readonly #max: number;
  #used = 0;

  /** `path` is for messages, `max` in bytes. */
  constructor(path: string, max: number) {
    this.#path = path;
    this.#max = max;
  }

  /** Takes `bytes` (or gives them back, if negative). Throws ENOMEM past the limit. */
  take(bytes: number): void {
    this.#used += bytes;
    if (this.#used <= this.#max) return;
    throw new BlockError(
      "ENOMEM",
      `Cannot check ${this.#path}: what it refers to needs more than ${this.#max} bytes of memory`,
    );
  }
}

function wider(page: Page): Page {
  if (page instanceof Uint8Array) return Uint16Array.from(page);
  if (page instanceof Uint16Array) return Uint32Array.from(page);
  return Float64Array.from(page);
}

function largest(page: Page): number {
  return page instanceof Float64Array ? Infinity : 2 ** (page.BYTES_PER_ELEMENT * 8) - 1;
}

/** Counts for clusters 0 to 2^31. */
export class ReferenceMap {
  readonly #pages = new Map<number, Page>();
  readonly #budget: MemoryBudget;
  #lastIndex = -1;
  #last: Page | undefined;

  /** An empty map whose pages are paid from `budget`. */
  constructor(budget: MemoryBudget) {
    this.#budget = budget;
  }

  #page(index: number): Page | undefined {
    if (index !== this.#lastIndex) {
      this.#lastIndex = index;
      this.#last = this.#pages.get(index);
    }
    return this.#last;
  }

  #put(index: number, page: Page): Page {
    this.#pages.set(index, page);
    this.#lastIndex = index;
    this.#last = page;
    return page;
  }

  /** The count of a cluster. */
  get(cluster: number): number {
    return this.#page(Math.floor(cluster / PAGE_ENTRIES))?.[cluster % PAGE_ENTRIES] ?? 0;
  }

  /** Sets the count of a cluster. */
  set(cluster: number, count: number): void {
    const index = Math.floor(cluster / PAGE_ENTRIES);
    let page = this.#page(index);
    if (page === undefined) {
      if (count === 0) return;
      this.#budget.take(PAGE_ENTRIES);
      page = this.#put(index, new Uint8Array(PAGE_ENTRIES));
    }
    while (count > largest(page)) {
      const next = wider(page);
      this.#budget.take(next.byteLength - page.byteLength);
      page = this.#put(index, next);
    }
    page[cluster % PAGE_ENTRIES] = count;
  }

  /** Adds to the count of a cluster; gives the count of before. */
  add(cluster: number, times: number): number {
    const before = this.get(cluster);
    this.set(cluster, before + times);
    return before;
  }

  /** True if a cluster of `from` to `to` - 1 may have a count other than 0. */
  someIn(from: number, to: number): boolean {
    for (let at = from; at < to; at = (Math.floor(at / PAGE_ENTRIES) + 1) * PAGE_ENTRIES) {
      if (this.#pages.has(Math.floor(at / PAGE_ENTRIES))) return true;
    }
    return false;
  }

  /** The clusters whose count is not 0, ascending. Counts may be changed meanwhile, clusters not added. */
  *clusters(): Generator<number> {
    for (const index of [...this.#pages.keys()].sort((a, b) => a - b)) {
      for (let at = 0; at < PAGE_ENTRIES; at += 1) {
        const cluster = index * PAGE_ENTRIES + at;
        if (this.get(cluster) !== 0) yield cluster;
      }
    }
  }

  /** Forgets everything and gives the memory back. */
  clear(): void {
    for (const page of this.#pages.values()) this.#budget.take(-page.byteLength);
    this.#pages.clear();
    this.#lastIndex = -1;
    this.#last = undefined;
  }
}
