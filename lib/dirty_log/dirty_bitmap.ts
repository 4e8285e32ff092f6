/**
 * One dirty bitmap: which regions of a disk were written to, zeroed or trimmed since it began. Before the
 * storage hears of a change it is marked here and, with a medium, durable there.
 *
 * A backup freezes it: that is a point. The marks of before stand still, for the backup to read; what
 * changes from then on is marked anew. When the backup is done they are dropped, if it failed they are
 * merged back, and so a change is always in a finished backup or still marked.
 *
 * @module
 */
import type { BitmapRun } from "../block/bitmaps.ts";
import { BlockError } from "../block/errors.ts";
import { EXTENTS_PER_CALL_MAX } from "../block/limits.ts";
import type { Maybe } from "../block/types.ts";
import { type BitmapMedium, fitted, type RegionRange, regionsOf } from "./bitmap_medium.ts";
import { RUN_SCAN_REGIONS_MAX } from "./limits.ts";
import { RegionBitmap } from "./region_bitmap.ts";

/** What there is to know of a bitmap. Plain data. */
export interface BitmapFacts {
  /** Unique on its target. */
  readonly name: string;
  /** Bytes of a region: a power of two. */
  readonly granularity: number;
  /** It outlives the daemon. */
  readonly persistent: boolean;
  /** A point is frozen: readers see its marks. */
  readonly frozen: boolean;
  /** Bytes of the regions that readers see marked. */
  readonly dirtyBytes: number;
  /** Bytes of the regions that were marked since the point was frozen; 0 if none is. */
  readonly newBytes: number;
}

/** What a bitmap is made of. */
export interface DirtyBitmapOptions {
  /** Its name. */
  readonly name: string;
  /** The disk's, for messages. */
  readonly target: string;
  /** Bytes of the disk. */
  readonly size: number;
  /** Bytes of a region. */
  readonly granularity: number;
  /** Where it outlives the daemon, or null. */
  readonly medium: BitmapMedium | null;
  /** Its calls may keep their thread: marks are then durable without a promise. */
  readonly mayBlock: boolean;
}

/** Regions that are marked, but not durably yet. */
interface Pending extends RegionRange {
  readonly done: Promise<void>;
}

/** See the top of the file. */
export class DirtyBitmap {
  /** Its name. */
  readonly name: string;
  readonly #options: DirtyBitmapOptions;
  readonly #granularity: number;
  readonly #medium: BitmapMedium | null;
  #size: number;
  /** A set bit is a region that is clean, as on disk. */
  #clean: RegionBitmap;
  #frozen: RegionBitmap | null = null;
  readonly #pending = new Set<Pending>();

  /** All is marked: `begin` or `takeUp` say what is so. */
  constructor(options: DirtyBitmapOptions) {
    const { name, size, granularity, medium } = options;
    this.name = name;
    this.#options = options;
    this.#granularity = granularity;
    this.#medium = medium;
    this.#size = size;
    this.#clean = new RegionBitmap(regionsOf({ size, granularity }));
  }

  /** What there is to know of it now. */
  get facts(): BitmapFacts {
    const frozen = this.#frozen !== null;
    return {
      name: this.name,
      granularity: this.#granularity,
      persistent: this.#medium !== null,
      frozen,
      dirtyBytes: this.#bytesOf(this.#frozen ?? this.#clean),
      newBytes: frozen ? this.#bytesOf(this.#clean) : 0,
    };
  }

  /** Begins: nothing is marked, or all if `marked`. Throws EIO if it cannot be kept. */
  begin(marked: boolean): void {
    if (!marked) this.#clean.fill(true);
    this.#keep(() => this.#medium?.begin(this.#clean));
  }

  /** Goes on with marks that were found. Throws EIO. */
  takeUp(clean: RegionBitmap, frozen: RegionBitmap | null): void {
    this.#clean = clean;
    this.#frozen = frozen;
    this.#keep(() => this.#medium?.adopt(clean, frozen));
  }

  /**
   * A range is about to change: done, or resolved, when that is marked for good. Throws, or rejects with,
   * EIO if it cannot be.
   */
  mark(offset: number, length: number): Maybe<void> {
    if (length === 0) return undefined;
    const start = Math.floor(offset / this.#granularity);
    const end = Math.floor((offset + length - 1) / this.#granularity) + 1;
    const clean = this.#clean;
    const fresh = end === start + 1 ? clean.delete(start) : clean.deleteRange(start, end) > 0;
    if (this.#medium === null) return undefined;
    if (!fresh && !this.#medium.unknown) return this.#settled(start, end);
    return this.#write(this.#medium, start, end);
  }

  /**
   * A range is going to change, and others with it: what the medium needs for that is written, so that the
   * first `mark` makes it durable for all of them. Nothing is marked for readers. Never fails.
   */
  markSoon(offset: number, length: number): void {
    const medium = this.#medium;
    // Where marks do not keep their thread, changes at the same time share a sync without this.
    if (medium === null || medium.unknown || !this.#options.mayBlock) return;
    const start = Math.floor(offset / this.#granularity);
    const end = Math.floor((offset + length - 1) / this.#granularity) + 1;
    try {
      medium.mark(start, end);
    } catch {
      // What is on the medium is not known then: the mark itself writes all of it, or fails.
    }
  }

  /** Another size of the disk (bytes); what is new counts as changed. Throws EIO. */
  resize(size: number): void {
    const before = { size: this.#size, granularity: this.#granularity };
    const after = { ...before, size };
    const frozen = this.#frozen === null ? null : fitted(this.#frozen, before, after);
    this.#clean = fitted(this.#clean, before, after);
    this.#frozen = frozen;
    this.#size = size;
    this.#keep(() => this.#medium?.resize(size, this.#clean, frozen));
  }

  /** All may have changed at once. As `mark`. */
  markAll(): Maybe<void> {
    return this.#size === 0 ? undefined : this.mark(0, this.#size);
  }

  /** Begins a point. While nothing is in flight. Throws EBUSY if one is frozen, EIO. */
  freeze(): void {
    if (this.#frozen !== null) {
      throw this.#busy("freeze", "a point is frozen already; drop or merge it first");
    }
    const clean = new RegionBitmap(this.#clean.regions);
    clean.fill(true);
    this.#keep(() => this.#medium?.freeze(this.#clean, clean));
    this.#frozen = this.#clean;
    this.#clean = clean;
  }

  /** Forgets the frozen point: what it has is in a backup. Throws EINVAL if none is frozen, EIO. */
  drop(): void {
    this.#needFrozen("drop");
    this.#keep(() => this.#medium?.drop());
    this.#frozen = null;
  }

  /** Puts the marks of the frozen point back among those of now. Throws EINVAL if none is frozen, EIO. */
  merge(): void {
    this.#clean.intersect(this.#needFrozen("merge"));
    this.#keep(() => this.#medium?.merge(this.#clean));
    this.#frozen = null;
  }

  /** Nothing is marked any more. While nothing is in flight. Throws EBUSY if a point is frozen, EIO. */
  clear(): void {
    if (this.#frozen !== null) throw this.#busy("clear", "a point is frozen; drop or merge it");
    const clean = new RegionBitmap(this.#clean.regions);
    clean.fill(true);
    this.#keep(() => this.#medium?.settle(clean));
    this.#clean = clean;
  }

  /** What readers see of a range of the disk; see DeviceBitmaps. */
  runs(offset: number, length: number): BitmapRun[] {
    const bits = this.#frozen ?? this.#clean, granularity = this.#granularity;
    const runs: BitmapRun[] = [];
    let region = Math.floor(offset / granularity), at = offset;
    const scanEnd = Math.min(bits.regions, region + RUN_SCAN_REGIONS_MAX);
    while (at < offset + length && region < scanEnd && runs.length < EXTENTS_PER_CALL_MAX) {
      const dirty = !bits.has(region);
      region = bits.next(dirty, region, scanEnd);
      const end = Math.min(region * granularity, this.#size);
      runs.push({ length: end - at, dirty });
      at = end;
    }
    return runs;
  }

  /** Closes its medium, which then has the marks as they are. Nothing is in flight any more. */
  close(): void {
    try {
      this.#medium?.settle(this.#clean);
    } catch {
      // It has more marks than there are changes: that is safe.
    }
    this.#medium?.close();
  }

  #bytesOf(bits: RegionBitmap): number {
    const bytes = (bits.regions - bits.count) * this.#granularity;
    const last = bits.regions - 1;
    if (last < 0 || bits.has(last)) return bytes;
    return bytes - (bits.regions * this.#granularity - this.#size);
  }

  #write(medium: BitmapMedium, start: number, end: number): Maybe<void> {
    const written = this.#keep(() => medium.mark(start, end));
    // What was written before, by `markSoon`, is made durable by the first who needs it.
    if (this.#options.mayBlock) return this.#keep(() => medium.sync());
    if (written === null) return this.#settled(start, end);
    const done = medium.syncLater().catch((error: unknown) => {
      throw this.#failed(error);
    });
    const pending: Pending = { ...written, done };
    this.#pending.add(pending);
    return done.finally(() => this.#pending.delete(pending));
  }

  /** A region may have been marked by a change that is not durable yet: who comes second waits as well. */
  #settled(start: number, end: number): Maybe<void> {
    if (this.#pending.size === 0) return undefined;
    const waits = [...this.#pending].filter((each) => each.start < end && each.end > start);
    if (waits.length === 0) return undefined;
    return Promise.all(waits.map(({ done }) => done)).then(() => {});
  }

  #keep<T>(action: () => T): T {
    try {
      return action();
    } catch (error) {
      throw this.#failed(error);
    }
  }

  #failed(error: unknown): BlockError {
    const reason = error instanceof Error ? error.message : String(error);
    const message = `Cannot keep bitmap ${this.name} of ${this.#options.target}: ${reason}`;
    return new BlockError("EIO", message, { cause: error });
  }

  #needFrozen(verb: string): RegionBitmap {
    if (this.#frozen !== null) return this.#frozen;
    throw new BlockError(
      "EINVAL",
      `Cannot ${verb} bitmap ${this.name} of ${this.#options.target}: no point is frozen`,
    );
  }

  #busy(verb: string, reason: string): BlockError {
    const { target } = this.#options;
    return new BlockError("EBUSY", `Cannot ${verb} bitmap ${this.name} of ${target}: ${reason}`);
  }
}
