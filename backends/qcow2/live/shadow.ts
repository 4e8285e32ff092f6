/**
 * Refcounts as they are going to be: copies of the blocks that change, next to the ones in use. Together
 * with a new refcount table they come into force with one write of the header, and with whatever else
 * that write changes: so counts and the tables they are of change at one moment, crash or no crash.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import { type RefcountCodec, refcountCodec } from "../format/entries.ts";
import { setU64, viewOf } from "../format/numbers.ts";
import { SHADOW_BYTES_MAX } from "./limits.ts";
import type { ImageState } from "./state.ts";

/** Where the new clusters are. */
export interface ShadowPlace {
  /** First of the clusters that were asked for. */
  readonly first: number;
  /** Where the new refcount table is, bytes. */
  readonly tableOffset: number;
  /** Its length, clusters. */
  readonly tableClusters: number;
}

/** Refcounts as they are going to be. */
export class ShadowRefcounts {
  /** Clusters that are going to be free, and were not. */
  readonly freed: number[] = [];
  readonly #state: ImageState;
  readonly #codec: RefcountCodec;
  readonly #perBlock: number;
  readonly #blocks = new Map<number, Uint8Array<ArrayBuffer>>();
  #place: ShadowPlace | null = null;

  /** Everything that the image has in memory has to be in its file. */
  constructor(state: ImageState) {
    this.#state = state;
    this.#codec = refcountCodec(state.header.refcountOrder);
    this.#perBlock = state.refcounts.perBlock;
    const { tableOffset, tableClusters } = state.refcounts;
    const { clusterBytes } = state.layout;
    for (let at = 0; at < tableClusters; at += 1) this.add(tableOffset / clusterBytes + at, -1);
  }

  /** The block that counts a cluster, copied; what it was copied from is not needed any more. */
  #block(index: number): Uint8Array<ArrayBuffer> {
    const known = this.#blocks.get(index);
    if (known !== undefined) return known;
    const { layout, refcounts, file, path } = this.#state;
    if (this.#blocks.size * layout.clusterBytes > SHADOW_BYTES_MAX) {
      throw new BlockError(
        "ENOMEM",
        `Cannot change the snapshots of ${path}: more than ${SHADOW_BYTES_MAX} bytes of refcounts change`,
      );
    }
    const block = new Uint8Array(layout.clusterBytes);
    this.#blocks.set(index, block);
    const offset = refcounts.blocks[index] ?? 0;
    if (offset === 0) return block;
    refcounts.get(index * this.#perBlock); // checks where the block is
    file.read(block, offset);
    this.add(offset / layout.clusterBytes, -1);
    return block;
  }

  /** The count of a cluster. */
  get(cluster: number): number {
    const index = Math.floor(cluster / this.#perBlock);
    const block = this.#blocks.get(index);
    if (block === undefined) return this.#state.refcounts.get(cluster);
    return this.#codec.get(block, cluster - index * this.#perBlock);
  }

  /** Counts one reference more (1) or less (-1). Throws EINVAL if the count does not fit, EIO below 0. */
  add(cluster: number, change: 1 | -1): void {
    const index = Math.floor(cluster / this.#perBlock);
    const block = this.#block(index), at = cluster - index * this.#perBlock;
    const count = this.#codec.get(block, at) + change;
    if (count < 0) {
      this.#state.damaged(`cluster ${cluster} has more users than its refcount says`);
    }
    if (count > this.#codec.max) {
      throw new BlockError(
        "EINVAL",
        `Cannot count more than ${this.#codec.max} references to a cluster: the refcounts of ` +
          `${this.#state.path} are ${this.#codec.bits} bits wide`,
      );
    }
    this.#codec.set(block, at, count);
    if (count === 0) this.freed.push(cluster);
  }

  /**
   * Takes `count` new clusters at the end of the file, and behind them those for the refcounts themselves.
   * To be called once, after all other changes.
   */
  place(count: number): ShadowPlace {
    const { refcounts, layout, file, path } = this.#state;
    let first = refcounts.tail;
    for (;;) {
      const total = this.#total(first, count);
      let taken = first + total - 1;
      while (taken >= first && this.get(taken) === 0) taken -= 1;
      if (taken >= first) {
        first = taken + 1;
        continue;
      }
      if (file.fixed && (first + total) * layout.clusterBytes > file.length) {
        throw new BlockError("ENOSPC", `Cannot make ${path} larger: the device is full`);
      }
      for (let cluster = first; cluster < first + total; cluster += 1) this.add(cluster, 1);
      const tableClusters = this.#tableClusters(first + total);
      const tableFirst = first + count + this.#blocks.size;
      const tableOffset = tableFirst * layout.clusterBytes;
      this.#place = { first, tableOffset, tableClusters };
      return this.#place;
    }
  }

  #tableClusters(end: number): number {
    const entries = Math.max(Math.ceil(end / this.#perBlock), this.#state.refcounts.blocks.length);
    return Math.ceil(entries * 8 / this.#state.layout.clusterBytes);
  }

  /** Clusters that are needed in all: those asked for, every changed block and the table. */
  #total(first: number, count: number): number {
    let total = count;
    for (;;) {
      // Copying a block can make the block change that counts its old place.
      const last = Math.floor((first + total - 1) / this.#perBlock);
      for (let index = Math.floor(first / this.#perBlock); index <= last; index += 1) {
        this.#block(index);
      }
      const next = count + this.#blocks.size + this.#tableClusters(first + total);
      if (next === total) return total;
      total = next;
    }
  }

  /** Writes the changed blocks and the new table. Nothing points to them yet. */
  write(): void {
    const place = this.#place;
    if (place === null) throw new Error("The new refcounts have no place yet");
    const { refcounts, layout, file } = this.#state;
    const { clusterBytes } = layout;
    const table = new Uint8Array(place.tableClusters * clusterBytes), view = viewOf(table);
    for (const [index, offset] of refcounts.blocks.entries()) setU64(view, index * 8, offset);
    let offset = place.tableOffset - this.#blocks.size * clusterBytes;
    for (const [index, block] of this.#blocks) {
      file.write(block, offset);
      setU64(view, index * 8, offset);
      offset += clusterBytes;
    }
    file.write(table, place.tableOffset);
  }
}
