/**
 * Bringing changes to the disk in an order in which a loss of power at any point leaves a good image.
 *
 * Data goes to the file when it is written, always into clusters that no durable table points to, or
 * into clusters that are the guest's own already. Tables change in memory. A commit is
 *
 *     1. refcount blocks, the header's dirty bit        | barrier
 *     2. refcount table, or a header with a new one     | barrier, if there was any
 *     3. L2 and L1 entries                              | barrier, if there were any
 *     4. in memory: what those gave up is free now
 *
 * so that an entry is durable only after its cluster's content and refcount are, and a cluster is used
 * again only after the last durable entry that pointed to it is gone. Between two barriers the disk
 * may get what was written in any order. What 3 writes is copied at 1: while an asynchronous commit
 * waits, the guest goes on changing tables, and what it changes then belongs to the next commit.
 *
 * With lazy refcounts the dirty bit is set as well while there are changes, as the format has it, and a
 * crash leaves an image that has its refcounts counted anew when it is opened. They are written all the
 * same: that takes no barrier more, and whoever only looks at such an image finds nothing wrong.
 *
 * @module
 */
import { BlockError, toBlockError } from "../../../lib/block/errors.ts";
import { INCOMPATIBLE_DIRTY } from "../format/header.ts";
import type { TableChange } from "./refcounts.ts";
import type { ImageState } from "./state.ts";
import type { Table } from "./table_cache.ts";

/** Bytes to be written, and the table that they are of. */
interface PendingWrite {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly table: Table | null;
}

/** A commit that is under way. */
class Batch {
  readonly #state: ImageState;
  readonly #tableChange: TableChange | null;
  readonly #writes: PendingWrite[];
  readonly #freed: readonly number[];
  #step: 1 | 2 | 3 | 4 = 1;

  /** Step 1: writes what can be written at any time, copies the rest. */
  constructor(state: ImageState, lazy: boolean) {
    this.#state = state;
    const { refcounts, file } = state;
    // Nothing of what an entry points to is behind the end of the file, even if it was never written.
    file.extend(refcounts.tail * state.layout.clusterBytes);
    this.#writes = takeEntries(state);
    if (lazy && this.#writes.length > 0 && !isMarked(state)) markDirty(state);
    refcounts.writeBlocks();
    this.#tableChange = refcounts.takeTableChange();
    if (this.#tableChange !== null && this.#tableChange.movedClusters > 0) {
      file.write(this.#tableChange.bytes, this.#tableChange.offset);
    }
    this.#freed = state.freed.concat(refcounts.takeLeft());
    state.freed = [];
  }

  get done(): boolean {
    return this.#step === 4;
  }

  /** To be called after each barrier: makes the next step; true if there has to be another barrier. */
  next(): boolean {
    if (this.#step === 1) {
      this.#step = 2;
      if (this.#writeRefcountTable()) return true;
    }
    if (this.#step === 2) {
      this.#step = 3;
      if (this.#writeEntries()) return true;
    }
    if (this.#step === 3) {
      this.#step = 4;
      this.#release();
    }
    return false;
  }

  #writeRefcountTable(): boolean {
    const change = this.#tableChange;
    if (change === null) return false;
    if (change.movedClusters > 0) {
      this.#state.writeHeader({
        refcountTableOffset: change.offset,
        refcountTableClusters: change.movedClusters,
      });
    } else {
      this.#state.file.write(change.bytes, change.offset);
    }
    return true;
  }

  #writeEntries(): boolean {
    for (const { offset, bytes, table } of this.#writes) {
      this.#state.file.write(bytes, offset);
      if (table !== null) table.pins -= 1;
    }
    return this.#writes.length > 0;
  }

  /** Step 4: what no durable entry points to any more can be used again, and its storage given back. */
  #release(): void {
    for (let at = 0; at < this.#freed.length; at += 2) {
      this.#releaseRun(this.#freed[at] ?? 0, this.#freed[at + 1] ?? 0);
    }
  }

  /** Compressed data does not go on in a host cluster that is somebody else's next. */
  #stopPacking(from: number, to: number): void {
    const { packing } = this.#state;
    if (packing !== null && packing.end > from && packing.end <= to) this.#state.packing = null;
  }

  #releaseRun(first: number, count: number): void {
    const { refcounts, metadata, layout, file, discard } = this.#state;
    let start = first;
    for (let cluster = first; cluster <= first + count; cluster += 1) {
      if (cluster < first + count && refcounts.decrement(cluster)) continue;
      if (cluster > start) {
        const bytes = layout.clusterBytes;
        metadata.delete(start, cluster - start);
        this.#stopPacking(start * bytes, cluster * bytes);
        if (discard) file.raw.discard(start * bytes, (cluster - start) * bytes);
      }
      start = cluster + 1;
    }
  }
}

function isMarked({ header }: ImageState): boolean {
  return (header.incompatible & INCOMPATIBLE_DIRTY) !== 0n;
}

function markDirty(state: ImageState): void {
  state.writeHeader({ incompatible: state.header.incompatible | INCOMPATIBLE_DIRTY });
}

/** Copies the L2 and L1 entries that the file does not have, in the order of their places. */
function takeEntries(state: ImageState): PendingWrite[] {
  const { l1, l2 } = state;
  const writes: PendingWrite[] = [];
  for (const table of l2.dirty) {
    const { dirtyFrom, dirtyTo, host } = table;
    writes.push({ offset: host + dirtyFrom, bytes: table.bytes.slice(dirtyFrom, dirtyTo), table });
    table.pins += 1;
    l2.clean(table);
  }
  if (l1.dirtyTo > 0) {
    const bytes = l1.bytes.slice(l1.dirtyFrom, l1.dirtyTo);
    writes.push({ offset: l1.offset + l1.dirtyFrom, bytes, table: null });
    l1.clean();
  }
  return writes.sort((a, b) => a.offset - b.offset);
}

/** Makes the commits of an image, one after another. A commit that failed ends all writing. */
export class Committer {
  readonly #state: ImageState;
  readonly #lazy: boolean;
  #batch: Batch | null = null;
  #running: Promise<void> | null = null;
  #queued: Promise<void> | null = null;

  /** `lazy`: the image is marked as dirty while there are changes. */
  constructor(state: ImageState, lazy: boolean) {
    this.#state = state;
    this.#lazy = lazy;
  }

  /** Makes durable all that was changed, on this thread; what waits elsewhere is overtaken. */
  commitNow(): void {
    this.#guard(() => {
      if (this.#batch !== null) this.#finish(this.#batch);
      this.#finish(this.#begin(this.#lazy));
    });
  }

  /**
   * The same off this thread. A commit under way does not cover what was changed since it began: those
   * who ask meanwhile share the next one.
   */
  commitLater(): Promise<void> {
    if (this.#running === null) {
      this.#running = this.#run().finally(() => {
        this.#running = null;
      });
      return this.#running;
    }
    this.#queued ??= this.#running.catch(() => {}).then(() => {
      this.#queued = null;
      return this.commitLater();
    });
    return this.#queued;
  }

  /** Resolves when no commit is under way, be it because it failed. */
  async settled(): Promise<void> {
    while (this.#running !== null) await (this.#queued ?? this.#running).catch(() => {});
  }

  /** The last commits of an image: refcounts of what was given up, and the dirty bit. */
  finishNow(): void {
    this.commitNow();
    const state = this.#state;
    this.#guard(() => {
      if (!state.refcounts.dirty && !isMarked(state)) return;
      this.#finish(this.#begin(false));
      if (state.refcounts.dirty) this.#finish(this.#begin(false));
      if (!isMarked(state)) return;
      state.writeHeader({ incompatible: state.header.incompatible & ~INCOMPATIBLE_DIRTY });
      state.file.raw.flush();
    });
  }

  async #run(): Promise<void> {
    const batch = this.#guard(() => this.#begin(this.#lazy));
    do {
      try {
        for (const file of this.#state.files) await file.flushAsync();
      } catch (error) {
        this.#fail(error);
      }
      if (batch.done) return;
    } while (this.#guard(() => batch.next()));
    this.#batch = null;
  }

  #begin(lazy: boolean): Batch {
    this.#batch = new Batch(this.#state, lazy);
    return this.#batch;
  }

  #finish(batch: Batch): void {
    do {
      for (const file of this.#state.files) file.flush();
    } while (batch.next());
    this.#batch = null;
  }

  #guard<T>(action: () => T): T {
    this.#state.requireSound();
    try {
      return action();
    } catch (error) {
      return this.#fail(error);
    }
  }

  #fail(error: unknown): never {
    const { path } = this.#state;
    this.#state.failure ??= new BlockError(
      toBlockError(error).errno,
      `Cannot write ${path}: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
    throw this.#state.failure;
  }
}
