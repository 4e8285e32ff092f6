/**
 * A disk log that is being written. It knows what was last written to each place, so that a region is
 * written only if its medium may still say clean, and syncs only if something was written that has to be
 * durable. A whole log is written with its first block last: until that is on the medium, nobody takes
 * new bits for old ones.
 *
 * What was written but not synced outlives the program, though not the machine. So a mark that was
 * answered survives a kill of this daemon, and only the machine's end needs `sync`, which the kernel
 * asks for before it writes.
 *
 * @module
 */
import {
  DISK_LOG_BITMAP_OFFSET,
  DISK_LOG_NOTE_BYTES,
  DISK_LOG_NOTE_OFFSET,
  SECTOR_BYTES,
} from "./constants.ts";
import {
  encodeHeader,
  type FoundLog,
  HEADER_BYTES,
  logBytes,
  type LogFile,
  readLog,
} from "./disk_layout.ts";
import type { RegionBitmap } from "./region_bitmap.ts";

const NO_LABEL = new Uint8Array(0);

/** Runs of numbers that follow each other; `end` is behind the last. */
function runsOf(numbers: ReadonlySet<number>): { start: number; end: number }[] {
  const runs: { start: number; end: number }[] = [];
  for (const each of [...numbers].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last?.end === each) last.end += 1;
    else runs.push({ start: each, end: each + 1 });
  }
  return runs;
}

/** See the top of the file. All calls throw SystemError when the medium fails. */
export class DiskStore {
  readonly #file: LogFile;
  readonly #regions: number;
  /** What is written at once, in bytes: what the medium writes whole or not at all. */
  readonly #unit: number;
  /** The log as it was last written. */
  readonly #image: Uint8Array;
  /** Something has been written that is not known to be durable, and has to be. */
  #unsynced = false;
  /** What is on the medium is not known: all of it has to be written. */
  #unknown = true;

  /**
   * A store for a log of so many regions; the file stays the caller's. `label` is written behind the
   * header, into bytes that logs do not use: at most what is left of the first sector.
   */
  constructor(file: LogFile, regions: number, label: Uint8Array = NO_LABEL) {
    this.#file = file;
    this.#regions = regions;
    this.#unit = Math.max(SECTOR_BYTES, file.alignment);
    this.#image = new Uint8Array(logBytes(regions, this.#unit));
    this.#image.set(label, HEADER_BYTES);
  }

  /** What is on the medium. */
  load(): FoundLog {
    this.#unknown = true;
    return readLog(this.#file, this.#regions, this.#unit);
  }

  /** The medium is not in the state that is wanted; `rewrite` has to come first. */
  get unknown(): boolean {
    return this.#unknown;
  }

  /** True if the medium may say that a region is clean. */
  mayBeClean(region: number): boolean {
    const byte = this.#image[DISK_LOG_BITMAP_OFFSET + (region >> 3)] ?? 0;
    return this.#unknown || (byte >> (region & 7) & 1) === 1;
  }

  /** Writes the whole log, durably: everything but the first block, then that one. */
  rewrite(clean: RegionBitmap): void {
    this.#unknown = true;
    const image = this.#image, unit = this.#unit;
    encodeHeader(image, this.#regions);
    image.set(clean.bytes, DISK_LOG_BITMAP_OFFSET);
    if (image.length > unit) {
      this.#file.write(image.subarray(unit), unit);
      this.#file.flush();
    }
    this.#file.write(image.subarray(0, unit), 0);
    this.#file.flush();
    this.#unknown = false;
    this.#unsynced = false;
  }

  /**
   * Writes the blocks in which the bits of these regions are. `mustLast`: what is written has to be
   * durable after the next `sync`; bits that only became clean need not be.
   */
  write(regions: Iterable<number>, clean: RegionBitmap, mustLast: boolean): void {
    const blocks = new Set<number>();
    for (const region of regions) blocks.add(this.#blockOf(region));
    if (blocks.size === 0) return;
    // A write that fails may have reached the medium in part.
    const settled = !this.#unknown;
    this.#unknown = true;
    if (mustLast) this.#unsynced = true;
    for (const { start, end } of runsOf(blocks)) {
      this.#writeBytes(start * this.#unit, end * this.#unit, clean);
    }
    this.#unknown = !settled;
  }

  /** Writes the blocks in which the bits from `start` to before `end` are; the next `sync` counts. */
  writeRange(start: number, end: number, clean: RegionBitmap): void {
    const first = this.#blockOf(start) * this.#unit;
    const last = (this.#blockOf(end - 1) + 1) * this.#unit;
    const settled = !this.#unknown;
    this.#unknown = true;
    this.#unsynced = true;
    this.#writeBytes(first, last, clean);
    this.#unknown = !settled;
  }

  /** Writes the header and the label alone, durably: of a log whose bits mean nothing. */
  writeHeader(): void {
    this.#unknown = true;
    encodeHeader(this.#image, this.#regions);
    this.#file.write(this.#image.subarray(0, this.#unit), 0);
    this.#file.flush();
  }

  /**
   * Puts a note of whoever keeps the log between header and bitmap: DISK_LOG_NOTE_BYTES, written whole or
   * not at all, durable after the next `sync`.
   */
  writeNote(note: Uint8Array): void {
    this.#image.set(note.subarray(0, DISK_LOG_NOTE_BYTES), DISK_LOG_NOTE_OFFSET);
    if (this.#unknown) return; // it goes out with the rest
    this.#unknown = true;
    this.#unsynced = true;
    const start = Math.floor(DISK_LOG_NOTE_OFFSET / this.#unit) * this.#unit;
    this.#file.write(this.#image.subarray(start, start + this.#unit), start);
    this.#unknown = false;
  }

  /** As `sync`, without keeping this thread; covers what was written before the call. */
  async syncLater(): Promise<void> {
    if (!this.#unsynced) return;
    this.#unsynced = false;
    try {
      await this.#file.flushAsync();
    } catch (error) {
      this.#unknown = true;
      throw error;
    }
  }

  /** Makes durable what has to be. */
  sync(): void {
    if (!this.#unsynced) return;
    try {
      this.#file.flush();
    } catch (error) {
      // The kernel forgets what it could not write: all of it has to be written again.
      this.#unknown = true;
      throw error;
    }
    this.#unsynced = false;
  }

  #blockOf(region: number): number {
    return Math.floor((DISK_LOG_BITMAP_OFFSET + (region >> 3)) / this.#unit);
  }

  #writeBytes(start: number, end: number, clean: RegionBitmap): void {
    const from = Math.max(start, DISK_LOG_BITMAP_OFFSET);
    const bits = clean.bytes.subarray(from - DISK_LOG_BITMAP_OFFSET, end - DISK_LOG_BITMAP_OFFSET);
    this.#image.set(bits, from);
    this.#file.write(this.#image.subarray(start, end), start);
  }
}
