/**
 * A set of host clusters, for those that hold metadata: a bitmap in pages, so that it is small for a
 * sparse image and a test of one cluster costs a few instructions.
 *
 * @module
 */

const PAGE_CLUSTERS = 32_768, WORD_BITS = 32;

/** Host clusters by their number. */
export class ClusterSet {
  readonly #pages = new Map<number, Uint32Array<ArrayBuffer>>();

  /** Adds `count` clusters from `first` on. Returns false if one of them was there. */
  add(first: number, count: number): boolean {
    let fresh = true;
    for (let cluster = first; cluster < first + count; cluster += 1) {
      const index = Math.floor(cluster / PAGE_CLUSTERS);
      let page = this.#pages.get(index);
      if (page === undefined) {
        page = new Uint32Array(PAGE_CLUSTERS / WORD_BITS);
        this.#pages.set(index, page);
      }
      const bit = cluster - index * PAGE_CLUSTERS, word = bit >>> 5, mask = 1 << (bit & 31);
      const before = page[word] ?? 0;
      if ((before & mask) !== 0) fresh = false;
      page[word] = before | mask;
    }
    return fresh;
  }

  /** Takes `count` clusters from `first` on out; they need not be in. */
  delete(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster += 1) {
      const index = Math.floor(cluster / PAGE_CLUSTERS);
      const page = this.#pages.get(index);
      if (page === undefined) continue;
      const bit = cluster - index * PAGE_CLUSTERS, word = bit >>> 5;
      page[word] = (page[word] ?? 0) & ~(1 << (bit & 31));
    }
  }

  /** True if one of `count` clusters from `first` on is in the set. */
  hasAny(first: number, count: number): boolean {
    for (let cluster = first; cluster < first + count; cluster += 1) {
      const index = Math.floor(cluster / PAGE_CLUSTERS);
      const page = this.#pages.get(index);
      if (page === undefined) {
        cluster = (index + 1) * PAGE_CLUSTERS - 1;
        continue;
      }
      const bit = cluster - index * PAGE_CLUSTERS;
      if (((page[bit >>> 5] ?? 0) >>> (bit & 31) & 1) === 1) return true;
    }
    return false;
  }

  /** Empties it. */
  clear(): void {
    this.#pages.clear();
  }
}
