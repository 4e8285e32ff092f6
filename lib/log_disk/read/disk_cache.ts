/**
 * Lines of objects in a local file, which survive a restart. Nothing in it is ever needed: the file is
 * never flushed, and what is damaged, torn or missing is a miss.
 *
 * The file, little-endian: a header of 4096 bytes (magic, slots, CRC-32), an index of 64 bytes a slot,
 * then the slots of LINE_BYTES bytes each. An entry of the index has CRCs of itself and of the bytes
 * in its slot, the id of the volume whose object it is, the object's sequence number, the number of the
 * line, and its length. Whatever order writes reach the medium in, an entry whose slot holds other
 * bytes than it says gives no hit. Objects never change, so a hit is never stale.
 *
 * Who has to go is found by the clock algorithm: a hand goes round the slots and passes by, once, those
 * that were used since it came last.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import type { Log } from "../../block/context.ts";
import { BlockError } from "../../block/errors.ts";
import type { FileAccess, RawFile } from "../../sys/file_access.ts";
import { LINE_BYTES } from "../limits.ts";
import {
  DISK_CACHE_BYTES_MAX,
  DISK_CACHE_BYTES_MIN,
  DISK_CACHE_INDEX_READ_BYTES,
  DISK_CACHE_LINES_MAX,
} from "./limits.ts";

const MAGIC = "dmu line cache 1";
const HEADER_BYTES = 4096, ENTRY_BYTES = 64;
/** Where the header's figures are. */
const SLOTS_AT = 16, HEADER_CRC_AT = 24;
/** Where the figures of an entry are. */
const ENTRY_CRC_AT = 0, DATA_CRC_AT = 4, SEQ_AT = 8, VOLUME_AT = 16, LINE_AT = 32, LENGTH_AT = 36;
/** Bytes of a volume's id. */
const VOLUME_ID_BYTES = 16;
/** Largest sequence number that is kept: number and line make one whole number. */
const SEQ_MAX = Math.floor(Number.MAX_SAFE_INTEGER / DISK_CACHE_LINES_MAX) - 1;
const NO_SLOT = -1, EMPTY = -1;
/** Most volumes whose lines one file holds: clones read their parents'. */
const VOLUMES_MAX = 65_536;

/** Which line: of which object of which volume. */
export interface LineKey {
  /** The volume whose object it is: 16 bytes in hexadecimal. */
  readonly volume: string;
  /** The object's sequence number. */
  readonly seq: number;
  /** The line in that object, 0 to DISK_CACHE_LINES_MAX - 1; others are not kept. */
  readonly line: number;
}

/** What a disk cache is opened with. */
export interface DiskCacheOptions {
  /** The file. */
  readonly path: string;
  /** Bytes that it may take. */
  readonly bytes: number;
}

function slotsOf(bytes: number): number {
  return Math.floor((bytes - HEADER_BYTES) / (LINE_BYTES + ENTRY_BYTES));
}

function header(slots: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES);
  bytes.set(new TextEncoder().encode(MAGIC));
  const view = new DataView(bytes.buffer);
  view.setFloat64(SLOTS_AT, slots, true);
  view.setUint32(HEADER_CRC_AT, crc32(bytes.subarray(0, HEADER_CRC_AT)), true);
  return bytes;
}

/** Sequence number and line as one number. */
function numberOf(seq: number, line: number): number {
  return seq * DISK_CACHE_LINES_MAX + line;
}

/** Lines in a local file. */
export class DiskCache {
  readonly #file: RawFile;
  readonly #log: Log;
  readonly #slots: number;
  readonly #dataAt: number;
  /** Slot by seq and line, by volume. */
  readonly #index = new Map<string, Map<number, number>>();
  /** What is in each slot: seq and line as one number or EMPTY, and the volume's place in the list. */
  readonly #numbers: Float64Array;
  readonly #volumeOf: Uint16Array;
  readonly #volumes: string[] = [];
  readonly #used: Uint8Array;
  readonly #entry = new Uint8Array(ENTRY_BYTES);
  #hand = 0;
  #broken = false;

  private constructor(file: RawFile, slots: number, log: Log) {
    this.#file = file;
    this.#log = log;
    this.#slots = slots;
    this.#dataAt = HEADER_BYTES + slots * ENTRY_BYTES;
    this.#numbers = new Float64Array(slots).fill(EMPTY);
    this.#volumeOf = new Uint16Array(slots);
    this.#used = new Uint8Array(slots);
  }

  /**
   * Opens the file, or makes it. One that was made with another size, or is none of ours, is begun
   * anew. Throws EINVAL for the size, SystemError if the file cannot be opened or is in use (EAGAIN).
   */
  static open({ path, bytes }: DiskCacheOptions, files: FileAccess, log: Log): DiskCache {
    if (bytes < DISK_CACHE_BYTES_MIN || bytes > DISK_CACHE_BYTES_MAX) {
      throw new BlockError(
        "EINVAL",
        `Cannot use a disk cache of ${bytes} bytes: ${DISK_CACHE_BYTES_MIN} to ` +
          `${DISK_CACHE_BYTES_MAX} are possible`,
      );
    }
    const slots = slotsOf(bytes);
    const file = files.open(path, { readOnly: false, createSize: 0, direct: false, lock: true });
    try {
      const cache = new DiskCache(file, slots, log);
      cache.#begin();
      return cache;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Lines that are held. */
  get lines(): number {
    let count = 0;
    for (const lines of this.#index.values()) count += lines.size;
    return count;
  }

  /** The bytes of a line, or null: a miss. */
  get({ volume, seq, line }: LineKey): Uint8Array<ArrayBuffer> | null {
    const slot = this.#find(volume, seq, line);
    if (slot === NO_SLOT) return null;
    try {
      const bytes = this.#readSlot(slot, { volume, seq, line });
      if (bytes === null) this.#drop(slot);
      else this.#used[slot] = 1;
      return bytes;
    } catch (error) {
      this.#fail(error);
      return null;
    }
  }

  /** Keeps a line, of at most LINE_BYTES bytes. What cannot be kept is not: there is no error. */
  put(key: LineKey, bytes: Uint8Array<ArrayBuffer>): void {
    const { volume, seq, line } = key;
    if (this.#broken || line >= DISK_CACHE_LINES_MAX || seq > SEQ_MAX) return;
    if (bytes.length === 0 || bytes.length > LINE_BYTES) return;
    if (this.#find(volume, seq, line) !== NO_SLOT) return;
    const slot = this.#free();
    this.#drop(slot);
    try {
      this.#file.write(bytes, this.#dataAt + slot * LINE_BYTES);
      this.#file.write(this.#encode(key, bytes), HEADER_BYTES + slot * ENTRY_BYTES);
    } catch (error) {
      return this.#fail(error);
    }
    this.#hold(slot, { volume, seq, line });
  }

  /** Closes the file. */
  close(): void {
    this.#file.close();
  }

  #find(volume: string, seq: number, line: number): number {
    if (this.#broken) return NO_SLOT;
    return this.#index.get(volume)?.get(numberOf(seq, line)) ?? NO_SLOT;
  }

  #hold(slot: number, { volume, seq, line }: LineKey): void {
    let lines = this.#index.get(volume);
    let place = this.#volumes.indexOf(volume);
    if (place < 0) {
      if (this.#volumes.length === VOLUMES_MAX) return;
      place = this.#volumes.push(volume) - 1;
    }
    if (lines === undefined) this.#index.set(volume, lines = new Map());
    const number = numberOf(seq, line);
    const twin = lines.get(number);
    if (twin !== undefined) this.#numbers[twin] = EMPTY;
    lines.set(number, slot);
    this.#numbers[slot] = number;
    this.#volumeOf[slot] = place;
  }

  #drop(slot: number): void {
    const number = this.#numbers[slot] ?? EMPTY;
    if (number === EMPTY) return;
    this.#numbers[slot] = EMPTY;
    this.#used[slot] = 0;
    this.#index.get(this.#volumes[this.#volumeOf[slot] ?? 0] ?? "")?.delete(number);
  }

  /** The slot that is used next: after two rounds at most one is found. */
  #free(): number {
    for (;;) {
      const slot = this.#hand;
      this.#hand = (slot + 1) % this.#slots;
      if (this.#used[slot] === 0) return slot;
      this.#used[slot] = 0;
    }
  }

  #encode({ volume, seq, line }: LineKey, bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    const entry = this.#entry.fill(0);
    const view = new DataView(entry.buffer);
    view.setUint32(DATA_CRC_AT, crc32(bytes), true);
    view.setFloat64(SEQ_AT, seq, true);
    entry.set(Uint8Array.fromHex(volume).subarray(0, VOLUME_ID_BYTES), VOLUME_AT);
    view.setUint32(LINE_AT, line, true);
    view.setUint32(LENGTH_AT, bytes.length, true);
    view.setUint32(ENTRY_CRC_AT, crc32(entry.subarray(DATA_CRC_AT)), true);
    return entry;
  }

  /** What is in a slot, if it is what the slot's entry on the medium says. */
  #readSlot(slot: number, key: LineKey): Uint8Array<ArrayBuffer> | null {
    this.#file.read(this.#entry, HEADER_BYTES + slot * ENTRY_BYTES);
    const entry = decode(this.#entry, 0);
    if (entry === null || !sameKey(key, entry.key)) return null;
    const bytes = new Uint8Array(entry.length);
    this.#file.read(bytes, this.#dataAt + slot * LINE_BYTES);
    return crc32(bytes) === entry.dataCrc ? bytes : null;
  }

  /** Reads the index, or begins a file anew. */
  #begin(): void {
    const wanted = header(this.#slots), found = new Uint8Array(HEADER_BYTES);
    const size = this.#dataAt + this.#slots * LINE_BYTES;
    this.#file.read(found, 0);
    if (this.#file.size() !== size || found.some((byte, at) => byte !== wanted[at])) {
      this.#file.truncate(0);
      this.#file.truncate(size);
      this.#file.write(wanted, 0);
      return;
    }
    const piece = new Uint8Array(DISK_CACHE_INDEX_READ_BYTES);
    const each = DISK_CACHE_INDEX_READ_BYTES / ENTRY_BYTES;
    for (let first = 0; first < this.#slots; first += each) {
      const count = Math.min(each, this.#slots - first);
      const part = piece.subarray(0, count * ENTRY_BYTES);
      this.#file.read(part, HEADER_BYTES + first * ENTRY_BYTES);
      for (let at = 0; at < count; at += 1) {
        const entry = decode(part, at * ENTRY_BYTES);
        if (entry !== null) this.#hold(first + at, entry.key);
      }
    }
  }

  /** A cache that cannot be used is not: reading goes on without it. */
  #fail(error: unknown): void {
    if (this.#broken) return;
    this.#broken = true;
    const reason = error instanceof Error ? error.message : String(error);
    this.#log.warn(`The disk cache ${this.#file.path} is not used any more: ${reason}`);
  }
}

function sameKey(a: LineKey, b: LineKey): boolean {
  return a.volume === b.volume && a.seq === b.seq && a.line === b.line;
}

/** The entry at `at`, or null if there is none or it is damaged. */
function decode(
  bytes: Uint8Array<ArrayBuffer>,
  at: number,
): { key: LineKey; length: number; dataCrc: number } | null {
  const entry = bytes.subarray(at, at + ENTRY_BYTES);
  const view = new DataView(entry.buffer, entry.byteOffset, ENTRY_BYTES);
  if (view.getUint32(ENTRY_CRC_AT, true) !== crc32(entry.subarray(DATA_CRC_AT))) return null;
  const length = view.getUint32(LENGTH_AT, true);
  if (length === 0 || length > LINE_BYTES) return null;
  const key: LineKey = {
    volume: entry.subarray(VOLUME_AT, VOLUME_AT + VOLUME_ID_BYTES).toHex(),
    seq: view.getFloat64(SEQ_AT, true),
    line: view.getUint32(LINE_AT, true),
  };
  return { key, length, dataCrc: view.getUint32(DATA_CRC_AT, true) };
}
