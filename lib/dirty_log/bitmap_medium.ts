/**
 * A dirty bitmap on its medium: two files, each a disk log with a label behind its header. One has the
 * marks that are being made; while a point is frozen, the other one has those of before. A point begins
 * with one sector that is written, so that a crash leaves either what was before or what is after:
 *
 * - freeze: the unused file is made clean, with the next number, its first sector last.
 * - drop: the older file is labelled unused.
 * - merge: the marks of the older file are added to the newer one, durably; then as drop.
 *
 * Marks are made ahead: AHEAD_REGIONS around the one that changes, with one sync. So the medium has more
 * marks than there are changes while the bitmap is in use; `close` and the beginning of a point put that
 * right, a crash does not.
 *
 * What cannot be read, or is about other storage, counts as marked all over: nothing is lost that way.
 *
 * @module
 */
import type { RawFile } from "../sys/file_access.ts";
import { type BitmapLabel, decodeLabel, encodeLabel } from "./bitmap_label.ts";
import { DISK_LOG_BITMAP_OFFSET, SECTOR_BYTES } from "./constants.ts";
import { logBytes, readLog, readStart } from "./disk_layout.ts";
import { DiskStore } from "./disk_store.ts";
import { GroupSync } from "./group_sync.ts";
import { AHEAD_REGIONS, REGIONS_MAX } from "./limits.ts";
import { RegionBitmap } from "./region_bitmap.ts";

/** What a bitmap is about. */
export interface BitmapShape {
  /** Size of the disk, in bytes. */
  readonly size: number;
  /** Bytes of a region. */
  readonly granularity: number;
}

/** Regions of a disk. */
export function regionsOf({ size, granularity }: BitmapShape): number {
  return Math.ceil(size / granularity);
}

/** What was found. A set bit stands for a clean region, as in logs. */
export interface FoundBitmap {
  /** Bytes of a region. */
  readonly granularity: number;
  /** The marks that are being made. */
  readonly clean: RegionBitmap;
  /** The marks of the frozen point, or null. */
  readonly frozen: RegionBitmap | null;
  /** Why all is marked though it may not have changed, or null. */
  readonly problem: string | null;
}

const NO_BITS = new RegionBitmap(0);

interface Slot {
  readonly file: RawFile;
  /** Null for a file without a label. */
  readonly label: BitmapLabel | null;
}

/**
 * A bitmap over a disk of another size: what is new counts as marked, and so does the region that the
 * old end was in.
 */
export function fitted(bits: RegionBitmap, before: BitmapShape, after: BitmapShape): RegionBitmap {
  const regions = regionsOf(after);
  const next = new RegionBitmap(regions);
  next.load(bits.bytes, bits.regions);
  if (after.size > before.size && before.size % after.granularity !== 0) {
    next.delete(Math.floor(before.size / after.granularity));
  }
  return next;
}

/** Regions, the last one excluded. */
export interface RegionRange {
  /** The first. */
  readonly start: number;
  /** Behind the last. */
  readonly end: number;
}

function copyOf(bits: RegionBitmap): RegionBitmap {
  const copy = new RegionBitmap(bits.regions);
  copy.load(bits.bytes, bits.regions);
  return copy;
}

/** See the top of the file. All calls throw SystemError when a file fails. */
export class BitmapMedium {
  readonly #files: readonly [RawFile, RawFile];
  readonly #identity: Uint8Array;
  #shape: BitmapShape;
  #point = 1;
  /** Which file the marks go to. */
  #active = 0;
  #store: DiskStore;
  #group: GroupSync;
  /** What the medium has, or has after the next sync: at least the marks that there are. */
  #onMedium: RegionBitmap = NO_BITS;

  /**
   * Takes over two files, of which the first may have a bitmap. `identity` is 32 bytes that say which
   * storage it is about. Nothing is written before `begin` or `load`.
   */
  constructor(files: readonly [RawFile, RawFile], identity: Uint8Array, shape: BitmapShape) {
    this.#files = files;
    this.#identity = identity;
    this.#shape = shape;
    this.#store = this.#storeOf(0, true);
    this.#group = this.#groupOf();
  }

  /** Writes a new bitmap, durably; a point that was frozen is forgotten. */
  begin(clean: RegionBitmap): void {
    this.#reserve();
    this.#goOn(clean);
    // Not before: marks that only the other file had must not be lost in between.
    this.#writeUnused();
  }

  /**
   * Reads what the files have, for a disk of `size` bytes; `adopt` goes on with it. No bits for a disk
   * with more than REGIONS_MAX regions.
   */
  load(size: number): FoundBitmap {
    const slots = this.#files.map((file): Slot => ({
      file,
      label: decodeLabel(readStart(file, DISK_LOG_BITMAP_OFFSET)),
    }));
    const problem = this.#problemOf(slots);
    const used = slots.filter(({ label }) => label?.used === true)
      .sort((a, b) => (b.label?.point ?? 0) - (a.label?.point ?? 0));
    const [newest, older] = used;
    const label = newest?.label ?? null;
    const granularity = label?.granularity ?? this.#shape.granularity;
    const after = { size, granularity };
    this.#shape = after;
    if (newest === undefined || label === null || problem !== null) {
      this.#active = 0;
      if (regionsOf(after) > REGIONS_MAX) {
        return { granularity, clean: NO_BITS, frozen: null, problem };
      }
      const clean = new RegionBitmap(regionsOf(after));
      return { granularity, clean, frozen: null, problem: problem ?? "it was never finished" };
    }
    this.#active = slots.indexOf(newest);
    this.#point = label.point;
    if (regionsOf(after) > REGIONS_MAX) {
      return { granularity, clean: NO_BITS, frozen: null, problem };
    }
    const clean = this.#read(newest, after);
    const frozen = older === undefined ? null : this.#read(older, after);
    if (clean === null || frozen === null && older !== undefined) {
      const all = new RegionBitmap(regionsOf(after));
      return { granularity, clean: all, frozen: null, problem: "its header is damaged" };
    }
    return { granularity, clean, frozen, problem: null };
  }

  /** Goes on with what `load` has found: the marks are written with the labels of now. */
  adopt(clean: RegionBitmap, frozen: RegionBitmap | null): void {
    if (frozen === null) return this.begin(clean);
    this.#reserve();
    this.#storeOf(1 - this.#active, true, this.#point - 1).rewrite(frozen);
    this.#goOn(clean);
  }

  /** What is on the medium is not known: the next `mark` writes all of it. */
  get unknown(): boolean {
    return this.#store.unknown;
  }

  /**
   * Writes marks, and some ahead, if the medium does not have them. Gives the regions that it has after
   * the next `sync` or `syncLater`, or null if nothing had to be written.
   */
  mark(start: number, end: number): RegionRange | null {
    const onMedium = this.#onMedium, store = this.#store;
    if (!store.unknown && onMedium.next(true, start, end) === end) return null;
    const first = start - start % AHEAD_REGIONS;
    const last = Math.min(onMedium.regions, Math.ceil(end / AHEAD_REGIONS) * AHEAD_REGIONS);
    onMedium.deleteRange(first, last);
    if (store.unknown) store.rewrite(onMedium);
    else store.writeRange(first, last, onMedium);
    return { start: first, end: last };
  }

  /** Makes all marks durable. */
  sync(): void {
    this.#store.sync();
  }

  /** The same without keeping this thread; several calls share one flush. */
  syncLater(): Promise<void> {
    return this.#group.sync();
  }

  /** Writes the marks as they are, and no others, durably. */
  settle(clean: RegionBitmap): void {
    this.#store.rewrite(clean);
    this.#onMedium = copyOf(clean);
  }

  /** Begins a point with the marks of `before`: from now on marks go to the other file, which is `clean`. */
  freeze(before: RegionBitmap, clean: RegionBitmap): void {
    this.settle(before);
    this.#point += 1;
    const next = 1 - this.#active;
    const store = this.#storeOf(next, true);
    store.rewrite(clean);
    this.#active = next;
    this.#store = store;
    this.#group = this.#groupOf();
    this.#onMedium = copyOf(clean);
  }

  /** Forgets the frozen point. */
  drop(): void {
    this.#writeUnused();
  }

  /** Forgets it after its marks were added to `clean`, which is written first. */
  merge(clean: RegionBitmap): void {
    this.settle(clean);
    this.drop();
  }

  /** The disk has another size. */
  resize(size: number, clean: RegionBitmap, frozen: RegionBitmap | null): void {
    this.#shape = { ...this.#shape, size };
    this.adopt(clean, frozen);
  }

  /** Closes the files. */
  close(): void {
    for (const file of this.#files) file.close();
  }

  #groupOf(): GroupSync {
    const store = this.#store;
    return new GroupSync(async () => {
      await Promise.resolve(); // what comes in the same turn comes along
      await store.syncLater();
    });
  }

  #label(used: boolean, point: number): Uint8Array {
    return encodeLabel({ ...this.#shape, used, point, identity: this.#identity });
  }

  #storeOf(index: number, used: boolean, point = this.#point): DiskStore {
    const file = index === 0 ? this.#files[0] : this.#files[1];
    return new DiskStore(file, regionsOf(this.#shape), this.#label(used, point));
  }

  #goOn(clean: RegionBitmap): void {
    this.#store = this.#storeOf(this.#active, true);
    this.#group = this.#groupOf();
    this.settle(clean);
  }

  #writeUnused(): void {
    this.#storeOf(1 - this.#active, false, 0).writeHeader();
  }

  /** Marks must not fail for want of room later. */
  #reserve(): void {
    for (const file of this.#files) {
      const unit = Math.max(SECTOR_BYTES, file.alignment);
      try {
        file.allocate(0, logBytes(regionsOf(this.#shape), unit));
      } catch (error) {
        if (!(error instanceof Error && "code" in error && error.code === "EOPNOTSUPP")) {
          throw error;
        }
      }
    }
  }

  #problemOf(slots: readonly Slot[]): string | null {
    for (const { label } of slots) {
      if (label === null) return "its header is damaged";
      const same = label.identity.every((byte, at) => byte === this.#identity[at]);
      if (label.used && !same) return "it was kept for other storage";
    }
    return null;
  }

  /** The bits of a file, for the disk as it is now; null if it is damaged. */
  #read({ file, label }: Slot, after: BitmapShape): RegionBitmap | null {
    const found = readLog(file, REGIONS_MAX, Math.max(SECTOR_BYTES, file.alignment));
    if (label === null || found.regions !== regionsOf(label)) return null;
    const bits = new RegionBitmap(found.regions);
    bits.load(found.bits, found.regions);
    return fitted(bits, label, after);
  }
}
