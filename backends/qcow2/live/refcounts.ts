/**
 * Reference counts of host clusters, and finding free ones: docs/interop/qcow2.rst of QEMU, section
 * "Host cluster management". Counts in memory are never lower than those that the tables in the file
 * need: what gives a cluster up comes here only once that is durable. So a refcount block may be
 * written at any time; only the refcount table has to wait for the blocks that it points to.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import { refcountBlockOffset, type RefcountCodec, refcountCodec } from "../format/entries.ts";
import { setU64, viewOf } from "../format/numbers.ts";
import { REFCOUNT_TABLE_BYTES_MAX } from "../limits.ts";
import type { ClusterSet } from "./cluster_set.ts";
import type { HostFile } from "./host_file.ts";
import { type Table, TableCache } from "./table_cache.ts";

/** What refcounts are made from. */
export interface RefcountSettings {
  /** Where they are. */
  readonly file: HostFile;
  /** Bytes of a cluster. */
  readonly clusterBytes: number;
  /** 2 to this power is the width in bits. */
  readonly order: number;
  /** Where the refcount table is, bytes. */
  readonly tableOffset: number;
  /** Its length, clusters. */
  readonly tableClusters: number;
  /** Clusters of metadata: new ones are added. */
  readonly metadata: ClusterSet;
  /** Most refcount blocks in memory. */
  readonly blocksMax: number;
  /** Called with what is wrong if the image contradicts itself. */
  readonly damaged: (reason: string) => never;
}

/** What the refcount table needs at a commit. */
export interface TableChange {
  /** Where `bytes` go. */
  readonly offset: number;
  /** Entries of the table. */
  readonly bytes: Uint8Array;
  /**
   * Clusters of a table at a new place, which has to be durable, all of it, before the header points to
   * it; 0 if only entries have changed.
   */
  readonly movedClusters: number;
}

/** Where new refcount blocks and a new table have to go for a run of clusters. */
interface Growth {
  readonly blocks: readonly number[];
  readonly tableClusters: number;
  readonly end: number;
}

const NO_GROWTH_YET = { blocks: [], tableClusters: 0 } as const;

/** Index of the first zero count from `from` on, or -1. */
function findFree(block: Uint8Array<ArrayBuffer>, codec: RefcountCodec, from: number): number {
  if (codec.bits === 16) return new Uint16Array(block.buffer).indexOf(0, from);
  if (codec.bits === 8) return block.indexOf(0, from);
  const count = block.length * 8 / codec.bits;
  for (let index = from; index < count; index += 1) {
    if (codec.get(block, index) === 0) return index;
  }
  return -1;
}

/** The refcounts of an image that is open for writing. */
export class Refcounts {
  /** The largest count that fits. */
  readonly max: number;
  /** Clusters that one block counts. */
  readonly perBlock: number;
  /** Clusters that the last `allocate` has found. */
  found = 0;
  readonly #settings: RefcountSettings;
  readonly #codec: RefcountCodec;
  readonly #cache: TableCache;
  #table: Float64Array<ArrayBuffer>;
  #tableOffset: number;
  #tableClusters: number;
  #moved = false;
  #changedFrom = Infinity;
  #changedTo = 0;
  /** No cluster before it is free. */
  #hint = 0;
  /** First cluster behind all that was ever in use. */
  #tail: number;

  /** Reads the refcount table. */
  constructor(settings: RefcountSettings) {
    this.#settings = settings;
    const { clusterBytes, file } = settings;
    this.#codec = refcountCodec(settings.order);
    this.max = this.#codec.max;
    this.perBlock = clusterBytes * 8 / this.#codec.bits;
    this.#cache = new TableCache(clusterBytes, settings.blocksMax, () => this.writeBlocks());
    this.#tableOffset = settings.tableOffset;
    this.#tableClusters = settings.tableClusters;
    const bytes = new Uint8Array(this.#tableClusters * clusterBytes);
    file.read(bytes, this.#tableOffset);
    const view = viewOf(bytes);
    this.#table = new Float64Array(bytes.length / 8);
    for (let index = 0; index < this.#table.length; index += 1) {
      const offset = refcountBlockOffset(view.getUint32(index * 8), view.getUint32(index * 8 + 4));
      if (offset !== 0) this.#table[index] = offset;
    }
    this.#tail = file.fixed ? this.#lastUsed() + 1 : Math.ceil(file.length / clusterBytes);
  }

  /** Where the refcount table is, bytes. */
  get tableOffset(): number {
    return this.#tableOffset;
  }

  /** Its length, clusters. */
  get tableClusters(): number {
    return this.#tableClusters;
  }

  /** First cluster behind all that was ever in use. */
  get tail(): number {
    return this.#tail;
  }

  /** There are counts that the file does not have. */
  get dirty(): boolean {
    return this.#cache.dirty.size > 0 || this.#moved || this.#changedTo > 0;
  }

  /** Where each refcount block is, by its number; 0 if there is none. */
  get blocks(): Float64Array {
    return this.#table;
  }

  /** On a block device the end of the file says nothing: the last cluster with a count does. */
  #lastUsed(): number {
    for (let block = this.#table.length - 1; block >= 0; block -= 1) {
      if (this.#table[block] === 0) continue;
      const { bytes } = this.#load(block);
      for (let index = this.perBlock - 1; index >= 0; index -= 1) {
        if (this.#codec.get(bytes, index) !== 0) return block * this.perBlock + index;
      }
    }
    return 0;
  }

  #load(block: number): Table {
    const known = this.#cache.find(block);
    if (known !== undefined) return known;
    const { file, clusterBytes, damaged } = this.#settings;
    const offset = this.#table[block] ?? 0;
    if (offset % clusterBytes !== 0 || offset >= file.length) {
      damaged(`refcount block ${block} is said to be at ${offset}`);
    }
    const table = this.#cache.add(block, offset);
    file.read(table.bytes, offset);
    return table;
  }

  #hasBlock(block: number): boolean {
    return (this.#table[block] ?? 0) !== 0;
  }

  /** The refcount of a cluster. */
  get(cluster: number): number {
    const block = Math.floor(cluster / this.perBlock);
    if (!this.#hasBlock(block)) return 0;
    return this.#codec.get(this.#load(block).bytes, cluster - block * this.perBlock);
  }

  #set(cluster: number, value: number): void {
    const block = Math.floor(cluster / this.perBlock), index = cluster - block * this.perBlock;
    const table = this.#load(block);
    this.#codec.set(table.bytes, index, value);
    const { unit } = this.#settings.file;
    const at = Math.floor(index * this.#codec.bits / 8 / unit) * unit;
    this.#cache.touch(table, at, Math.min(at + unit, table.bytes.length));
  }

  /** Counts one more reference. Throws EINVAL if the count is at its largest: nothing has changed then. */
  increment(cluster: number): void {
    const count = this.get(cluster);
    if (count >= this.max) {
      throw new BlockError(
        "EINVAL",
        `Cannot count more than ${this.max} references to a cluster: the image's refcounts are ` +
          `${this.#codec.bits} bits wide`,
      );
    }
    this.#set(cluster, count + 1);
  }

  /** Counts one reference less; true if the cluster is free now. What gave it up has to be durable. */
  decrement(cluster: number): boolean {
    const count = this.get(cluster);
    if (count === 0) {
      this.#settings.damaged(`cluster ${cluster} is in use, but its refcount is 0`);
    }
    this.#set(cluster, count - 1);
    if (count > 1) return false;
    if (cluster < this.#hint) this.#hint = cluster;
    return true;
  }

  /**
   * Takes up to `want` free clusters next to one another: gives the first, `found` tells how many. Their
   * count is 1. Throws ENOSPC.
   */
  allocate(want: number): number {
    for (let cluster = this.#hint; cluster < this.#tail;) {
      const block = Math.floor(cluster / this.perBlock), start = block * this.perBlock;
      const free = this.#hasBlock(block)
        ? findFree(this.#load(block).bytes, this.#codec, cluster - start)
        : -1;
      if (free < 0) {
        cluster = start + this.perBlock;
        continue;
      }
      if (start + free >= this.#tail) break;
      return this.#take(block, free, want);
    }
    this.#hint = Math.max(this.#hint, this.#tail);
    this.found = want;
    return this.allocateAtEnd(want);
  }

  /** Takes a run of free clusters within a block. */
  #take(block: number, free: number, want: number): number {
    const { bytes } = this.#load(block);
    const start = block * this.perBlock;
    const last = Math.min(free + want, this.perBlock, this.#tail - start);
    let end = free + 1;
    while (end < last && this.#codec.get(bytes, end) === 0) end += 1;
    for (let index = free; index < end; index += 1) this.#set(start + index, 1);
    this.found = end - free;
    this.#hint = start + end;
    this.#checkFree(start + free, end - free);
    return start + free;
  }

  /** A free cluster that holds metadata is a contradiction that must not be written over. */
  #checkFree(first: number, count: number): void {
    if (!this.#settings.metadata.hasAny(first, count)) return;
    this.#settings.damaged(
      `clusters ${first} to ${first + count - 1} hold tables, but count as free`,
    );
  }

  /** Takes `count` clusters next to one another behind all that is in use. Throws ENOSPC. */
  allocateAtEnd(count: number): number {
    let first = this.#tail;
    for (;;) {
      const growth = this.#growthFor(first, count);
      const taken = this.#lastTaken(first, growth.end);
      if (taken < 0) {
        this.#grow(first, count, growth);
        return first;
      }
      first = taken + 1;
    }
  }

  /** Forgets the free clusters at the end: the file can be cut there. */
  shortenTail(): void {
    while (this.#tail > 0 && this.get(this.#tail - 1) === 0) this.#tail -= 1;
    this.#hint = Math.min(this.#hint, this.#tail);
  }

  /** The last cluster in a range that counts as used, or -1: after a crash counts may be ahead of the file. */
  #lastTaken(first: number, end: number): number {
    for (let cluster = end - 1; cluster >= first; cluster -= 1) {
      const block = Math.floor(cluster / this.perBlock);
      if (!this.#hasBlock(block)) cluster = block * this.perBlock;
      else if (this.get(cluster) !== 0) return cluster;
    }
    return -1;
  }

  #growthFor(first: number, count: number): Growth {
    let growth: Omit<Growth, "end"> = NO_GROWTH_YET;
    for (;;) {
      const end = first + count + growth.blocks.length + growth.tableClusters;
      const next = this.#growthUpTo(first, end);
      if (
        next.blocks.length === growth.blocks.length && next.tableClusters === growth.tableClusters
      ) {
        return { ...next, end };
      }
      growth = next;
    }
  }

  #growthUpTo(first: number, end: number): Omit<Growth, "end"> {
    const last = Math.floor((end - 1) / this.perBlock);
    const blocks: number[] = [];
    for (let block = Math.floor(first / this.perBlock); block <= last; block += 1) {
      if (!this.#hasBlock(block)) blocks.push(block);
    }
    if (last < this.#table.length) return { blocks, tableClusters: 0 };
    const { clusterBytes } = this.#settings;
    const wanted = Math.max(last + 1, Math.ceil(this.#table.length * 1.5)) * 8;
    const bytes = Math.min(wanted, Math.max((last + 1) * 8, REFCOUNT_TABLE_BYTES_MAX));
    return { blocks, tableClusters: Math.ceil(bytes / clusterBytes) };
  }

  #grow(first: number, count: number, { blocks, tableClusters, end }: Growth): void {
    const { clusterBytes, file, metadata } = this.#settings;
    if (file.fixed && end * clusterBytes > file.length) {
      throw new BlockError("ENOSPC", `Cannot make ${file.raw.path} larger: the device is full`);
    }
    if (tableClusters * clusterBytes > REFCOUNT_TABLE_BYTES_MAX) {
      throw new BlockError(
        "ENOSPC",
        `Cannot make ${file.raw.path} larger: its refcount table would have more than ` +
          `${REFCOUNT_TABLE_BYTES_MAX} bytes`,
      );
    }
    this.#checkFree(first, end - first);
    if (tableClusters > 0) this.#moveTable(first + count + blocks.length, tableClusters);
    for (const [at, block] of blocks.entries()) {
      const offset = (first + count + at) * clusterBytes;
      const table = this.#cache.add(block, offset);
      this.#cache.touch(table, 0, table.bytes.length);
      this.#table[block] = offset;
      this.#changedFrom = Math.min(this.#changedFrom, block);
      this.#changedTo = Math.max(this.#changedTo, block + 1);
    }
    metadata.add(first + count, blocks.length + tableClusters);
    for (let cluster = first; cluster < end; cluster += 1) this.#set(cluster, 1);
    this.#tail = end;
  }

  #moveTable(cluster: number, clusters: number): void {
    const { clusterBytes, metadata } = this.#settings;
    metadata.delete(this.#tableOffset / clusterBytes, this.#tableClusters);
    this.#left.push(this.#tableOffset / clusterBytes, this.#tableClusters);
    const table = new Float64Array(clusters * clusterBytes / 8);
    table.set(this.#table);
    this.#table = table;
    this.#tableOffset = cluster * clusterBytes;
    this.#tableClusters = clusters;
    this.#moved = true;
  }

  /** Places of former refcount tables: pairs of cluster and count, free once the header is durable. */
  #left: number[] = [];

  /** Writes the refcount blocks that have changed. They may reach the disk before or after anything else. */
  writeBlocks(): void {
    const { file } = this.#settings;
    for (const table of this.#cache.dirty) {
      const { bytes, dirtyFrom, dirtyTo, host } = table;
      file.write(bytes.subarray(dirtyFrom, dirtyTo), host + dirtyFrom);
      this.#cache.clean(table);
    }
  }

  /** Takes what has to be written of the table, after the blocks are durable; null if nothing. */
  takeTableChange(): TableChange | null {
    if (this.#changedTo === 0 && !this.#moved) return null;
    const { unit } = this.#settings.file;
    const perUnit = unit / 8, moved = this.#moved;
    const from = moved ? 0 : Math.floor(this.#changedFrom / perUnit) * perUnit;
    const to = moved
      ? this.#table.length
      : Math.min(Math.ceil(this.#changedTo / perUnit) * perUnit, this.#table.length);
    const bytes = new Uint8Array((to - from) * 8);
    const view = viewOf(bytes);
    for (let index = from; index < to; index += 1) {
      setU64(view, (index - from) * 8, this.#table[index] ?? 0);
    }
    this.#moved = false;
    this.#changedFrom = Infinity;
    this.#changedTo = 0;
    const movedClusters = moved ? this.#tableClusters : 0;
    return { offset: this.#tableOffset + from * 8, bytes, movedClusters };
  }

  /** Takes the places of former refcount tables: pairs of first cluster and count. */
  takeLeft(): number[] {
    const left = this.#left;
    this.#left = [];
    return left;
  }
}
