/**
 * An open image: its tables, caches and files, and what every part of the live image shares.
 *
 * Nothing here or in the files beside it gives up the thread in the middle of a change: reading and
 * writing are one synchronous go each, and only a flush may wait. So no locks are needed; what a flush
 * that waits may not see change, it has copied before.
 *
 * @module
 */
import type { Log } from "../../../lib/block/context.ts";
import { BlockError } from "../../../lib/block/errors.ts";
import type { RawFile } from "../../../lib/sys/file_access.ts";
import { INCOMPATIBLE_CORRUPT, type QcowHeader } from "../format/header.ts";
import { changeBacking, changeFields } from "../format/header_change.ts";
import type { Layer } from "./backing.ts";
import { ClusterSet } from "./cluster_set.ts";
import type { Committer } from "./commit.ts";
import type { HostFile } from "./host_file.ts";
import type { L1Table } from "./l1_table.ts";
import { type Layout, layoutOf } from "./layout.ts";
import { CACHE_TABLES_MIN } from "./limits.ts";
import type { Refcounts } from "./refcounts.ts";
import { type Table, TableCache } from "./table_cache.ts";

/** What an image is made from. */
export interface StateParts {
  /** The image file. */
  readonly file: HostFile;
  /** The external data file, if the image has one. */
  readonly dataFile: HostFile | null;
  /** The header as it is in the file. */
  readonly header: QcowHeader;
  /** The L1 table that is used: the active one, or that of a snapshot. */
  readonly l1: L1Table;
  /** What unallocated clusters read as; null for zeroes. */
  readonly backing: Layer | null;
  /** Nothing may be changed. */
  readonly readOnly: boolean;
  /** Freed clusters are given back to the file system. */
  readonly discard: boolean;
  /** Most memory for L2 tables, bytes. */
  readonly cacheBytes: number;
  /** For what an administrator should know. */
  readonly log: Log;
}

/** Fields of the header that change while an image is open. */
export type HeaderFields = Pick<
  QcowHeader,
  | "size"
  | "l1Size"
  | "l1Offset"
  | "refcountTableOffset"
  | "refcountTableClusters"
  | "snapshotCount"
  | "snapshotsOffset"
  | "incompatible"
  | "autoclear"
>;

/** An open image. */
export class ImageState {
  readonly file: HostFile;
  readonly dataFile: HostFile | null;
  readonly layout: Layout;
  readonly readOnly: boolean;
  readonly discard: boolean;
  readonly log: Log;
  /** L2 slices by their number: clusters of the disk divided by entries of a slice. */
  readonly l2: TableCache;
  /** Host clusters of the active metadata. Empty if the image is read-only. */
  readonly metadata: ClusterSet = new ClusterSet();
  /** Runs of clusters given up, as pairs of first cluster and count: free after the next commit. */
  freed: number[] = [];
  /** Where the next compressed cluster can go, and the end of that host cluster; null if nowhere yet. */
  packing: { readonly at: number; readonly end: number } | null = null;
  backing: Layer | null;
  l1: L1Table;
  /** The header as it is in the file. */
  header: QcowHeader;
  /** Why nothing can be written any more; null while all is well. */
  failure: BlockError | null = null;
  #refcounts: Refcounts | null = null;
  #committer: Committer | null = null;

  /** `attach` has to be called before anything is written. */
  constructor(parts: StateParts) {
    const { file, dataFile, header, l1, backing, readOnly, discard, cacheBytes, log } = parts;
    this.file = file;
    this.dataFile = dataFile;
    this.header = header;
    this.l1 = l1;
    this.backing = backing;
    this.readOnly = readOnly;
    this.discard = discard;
    this.log = log;
    this.layout = layoutOf(header);
    const { sliceBytes } = this.layout;
    const slices = Math.max(Math.floor(cacheBytes / sliceBytes), CACHE_TABLES_MIN);
    this.l2 = new TableCache(sliceBytes, slices, () => this.committer.commitNow());
  }

  /** Gives it what only an image has that is open for writing. */
  attach(refcounts: Refcounts, committer: Committer): void {
    this.#refcounts = refcounts;
    this.#committer = committer;
  }

  /** Refcounts and free clusters. */
  get refcounts(): Refcounts {
    if (this.#refcounts === null) throw new Error("A read-only image has no use for refcounts");
    return this.#refcounts;
  }

  /** Who brings changes to the disk in the right order. */
  get committer(): Committer {
    if (this.#committer === null) throw new Error("A read-only image commits nothing");
    return this.#committer;
  }

  /** The path of the image. */
  get path(): string {
    return this.file.raw.path;
  }

  /** Where guest data is. */
  get guestFile(): HostFile {
    return this.dataFile ?? this.file;
  }

  /** End of what can be in use of the image file, bytes: a multiple of the cluster size. */
  get hostEnd(): number {
    const { clusterBytes } = this.layout;
    if (this.#refcounts !== null) return this.#refcounts.tail * clusterBytes;
    return Math.ceil(this.file.length / clusterBytes) * clusterBytes;
  }

  /** Throws what ended writing, if something did. */
  requireSound(): void {
    if (this.failure !== null) throw this.failure;
  }

  /**
   * The image contradicts itself: nothing is written to it from now on, and the next program that opens
   * it is told, as QEMU does it. Throws EIO.
   */
  damaged(reason: string): never {
    const error = new BlockError("EIO", `Cannot use ${this.path}: it is damaged: ${reason}`);
    if (this.readOnly || this.failure !== null) throw error;
    this.failure = error;
    this.log.error(`${error.message}; nothing is written to it any more, check and repair it`);
    if (this.header.version >= 3) {
      this.writeHeader({ incompatible: this.header.incompatible | INCOMPATIBLE_CORRUPT });
      this.file.raw.flush();
    }
    throw error;
  }

  /** Writes fields of the header that have changed, all of them at once: they are in one sector. */
  writeHeader(different: Partial<HeaderFields>): void {
    const header = { ...this.header, ...different };
    const sector = new Uint8Array(this.file.unit);
    this.file.read(sector, 0);
    this.file.write(changeFields(sector, header), 0);
    this.header = header;
  }

  /** Writes the name of another backing file into the header, durably; a crash leaves the old one or it. */
  writeBacking(names: Pick<QcowHeader, "backingFile" | "backingFormat">): void {
    const header = { ...this.header, ...names };
    const area = new Uint8Array(Math.max(this.layout.clusterBytes, this.file.unit));
    this.file.read(area, 0);
    const change = changeBacking(
      area.subarray(0, this.layout.clusterBytes),
      this.header,
      header,
      Math.min(this.file.unit, this.layout.clusterBytes),
    );
    for (const { offset, bytes } of change.ahead) this.file.write(bytes, offset);
    if (change.ahead.length > 0) this.file.raw.flush();
    this.file.write(change.sector, 0);
    this.file.raw.flush();
    this.header = header;
  }

  /** The slice with the L2 entry of a cluster of the disk, or null if there is no L2 table for it. */
  slice(cluster: number): Table | null {
    const key = Math.floor(cluster / this.layout.entriesPerSlice);
    return this.l2.find(key) ?? this.#loadSlice(key);
  }

  #loadSlice(key: number): Table | null {
    const { slicesPerTable, sliceBytes, clusterBytes } = this.layout;
    const index = Math.floor(key / slicesPerTable);
    const table = this.l1.tableOf(index);
    if (table === 0) return null;
    if (table % clusterBytes !== 0 || table >= this.hostEnd) {
      this.damaged(`L1 entry ${index} says that an L2 table is at ${table}`);
    }
    const offset = table + (key - index * slicesPerTable) * sliceBytes;
    const slice = this.l2.add(key, offset);
    try {
      this.file.read(slice.bytes, offset);
    } catch (error) {
      this.l2.drop(key);
      throw error;
    }
    return slice;
  }

  /** Notes that an L2 entry was changed. */
  touchEntry(slice: Table, index: number): void {
    const { unit } = this.file;
    const from = Math.floor(index * this.layout.entryBytes / unit) * unit;
    this.l2.touch(slice, from, Math.min(from + unit, slice.bytes.length));
  }

  /** Gives up host clusters once that is durable. */
  free(first: number, count: number): void {
    const { freed } = this;
    const last = freed.length - 2;
    if (last >= 0 && (freed[last] ?? 0) + (freed[last + 1] ?? 0) === first) {
      freed[last + 1] = (freed[last + 1] ?? 0) + count;
      return;
    }
    freed.push(first, count);
  }

  /** The files that a flush has to reach. */
  get files(): readonly RawFile[] {
    return this.dataFile === null ? [this.file.raw] : [this.dataFile.raw, this.file.raw];
  }
}
