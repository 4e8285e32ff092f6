/**
 * The records of blktrace, version 7: struct blk_io_trace of the kernel's <linux/blktrace_api.h>, in the
 * byte order of the machine that traced, 48 bytes and what they say follows:
 *
 *      0 u32 magic 0x65617400 and version   4 u32 sequence    8 u64 time, ns   16 u64 sector
 *     24 u32 bytes   28 u32 action   32 u32 pid   36 u32 device   40 u32 cpu
 *     44 u16 error (negative errno)  46 u16 bytes that follow the record
 *
 * @module
 */
import type { ByteWindow } from "../byte_window.ts";
import { REORDER_RECORDS } from "../limits.ts";
import { TraceError } from "../trace_error.ts";

/** Bytes of a record. */
export const RECORD_BYTES = 48;
/** The version that is read and written. */
export const VERSION = 7;
/** Magic number and version. */
export const MAGIC: number = 0x65_61_74_00 | VERSION;

/** Basic actions: the low 16 bits. */
export const ACTION = { queue: 1, requeue: 6, issue: 7, complete: 8 } as const;
/** Categories: the high 16 bits. */
export const CATEGORY = {
  read: 1 << 0,
  write: 1 << 1,
  flush: 1 << 2,
  queue: 1 << 4,
  issue: 1 << 6,
  complete: 1 << 7,
  notify: 1 << 10,
  discard: 1 << 13,
  fua: 1 << 15,
} as const;
/** Notice of the wall clock: seconds and nanoseconds since 1970 follow, u32 each. */
export const NOTIFY_TIMESTAMP = 1;

const MAGIC_MASK = 0xff_ff_ff_00;
const MAGIC_BYTES = MAGIC & MAGIC_MASK;
/** Cgroup of who did it: a bit of the action, and the first eight of the bytes that follow. */
const ACTION_CGROUP = 1 << 8;

/** The byte order of a stream that begins with these bytes: true for little endian; null if it is none. */
export function byteOrder(head: Uint8Array): boolean | null {
  if (head.length < 4) return null;
  const view = new DataView(head.buffer, head.byteOffset, 4);
  if ((view.getUint32(0, true) & MAGIC_MASK) === MAGIC_BYTES) return true;
  return (view.getUint32(0, false) & MAGIC_MASK) === MAGIC_BYTES ? false : null;
}

/** A record that was read. One object is used for all of them. */
export class BlktraceRecord {
  /** ns since the base that the reader chose. */
  timeNs = 0;
  /** First sector; more than 2^53 - 1 for one that is beyond. */
  sector = 0;
  /** Bytes. */
  bytes = 0;
  /** Basic action, see ACTION; that of a cgroup is taken out. */
  action = 0;
  /** Categories, see CATEGORY. */
  categories = 0;
  /** The process. */
  pid = 0;
  /** Major number << 20 | minor number. */
  device = 0;
  /** A positive errno, 0 for success. */
  error = 0;
}

/**
 * Records in the order of their times. Streams of several CPUs that were joined are in disorder by as
 * much as the kernel's buffers hold: records are gathered, and sorted where it is needed.
 */
export class RecordOrder {
  /** True when half of the records has to be taken. */
  get full(): boolean {
    return this.#count === REORDER_RECORDS;
  }

  readonly #times = new Float64Array(REORDER_RECORDS);
  readonly #sectors = new Float64Array(REORDER_RECORDS);
  readonly #lengths = new Uint32Array(REORDER_RECORDS);
  readonly #actions = new Uint32Array(REORDER_RECORDS);
  readonly #pids = new Uint32Array(REORDER_RECORDS);
  readonly #devices = new Uint32Array(REORDER_RECORDS);
  readonly #errors = new Uint16Array(REORDER_RECORDS);
  readonly #order = new Uint32Array(REORDER_RECORDS);
  #count = 0;
  #taken = 0;
  #until = 0;
  #littleEndian = true;
  /** The time that others are relative to, in halves: 2^64 ns are beyond 2^53. */
  #baseHigh = -1;
  #baseLow = 0;

  /** The byte order of the records. */
  set littleEndian(value: boolean) {
    this.#littleEndian = value;
  }

  /** ns of a time at `at` of a view, since the base, which is the first time that was asked for. */
  nsAt(view: DataView, at: number): number {
    const little = this.#littleEndian;
    const high = view.getUint32(little ? at + 4 : at, little);
    const low = view.getUint32(little ? at : at + 4, little);
    if (this.#baseHigh < 0) {
      this.#baseHigh = high;
      this.#baseLow = low;
    }
    return (high - this.#baseHigh) * 2 ** 32 + (low - this.#baseLow);
  }

  /** Adds the record at `at` of a window. There must be room. */
  add({ view }: ByteWindow, at: number): void {
    const to = this.#count, little = this.#littleEndian;
    const high = view.getUint32(little ? at + 20 : at + 16, little);
    const low = view.getUint32(little ? at + 16 : at + 20, little);
    this.#times[to] = this.nsAt(view, at + 8);
    this.#sectors[to] = high * 2 ** 32 + low;
    this.#lengths[to] = view.getUint32(at + 24, little);
    this.#actions[to] = view.getUint32(at + 28, little);
    this.#pids[to] = view.getUint32(at + 32, little);
    this.#devices[to] = view.getUint32(at + 36, little);
    this.#errors[to] = Math.abs(view.getInt16(at + 44, little));
    this.#count += 1;
  }

  /** Makes the earlier half ready to be taken; all of them at the end. */
  arrange(end: boolean): void {
    const count = this.#count, order = this.#order, times = this.#times;
    let sorted = true;
    for (let at = 0; at < count; at += 1) {
      order[at] = at;
      if (at > 0 && (times[at] ?? 0) < (times[at - 1] ?? 0)) sorted = false;
    }
    if (!sorted) {
      order.subarray(0, count).sort((a, b) => (times[a] ?? 0) - (times[b] ?? 0) || a - b);
    }
    this.#taken = 0;
    this.#until = end ? count : count >> 1;
  }

  /** Takes the next record of those that are ready; false if there is none. */
  take(record: BlktraceRecord): boolean {
    if (this.#taken === this.#until) {
      this.#compact();
      return false;
    }
    const index = this.#order[this.#taken] ?? 0, action = this.#actions[index] ?? 0;
    this.#taken += 1;
    record.timeNs = this.#times[index] ?? 0;
    record.sector = this.#sectors[index] ?? 0;
    record.bytes = this.#lengths[index] ?? 0;
    record.action = action & 0xff_ff & ~ACTION_CGROUP;
    record.categories = action >>> 16;
    record.pid = this.#pids[index] ?? 0;
    record.device = this.#devices[index] ?? 0;
    record.error = this.#errors[index] ?? 0;
    return true;
  }

  /** Drops what was taken, and keeps the rest in its order. */
  #compact(): void {
    if (this.#until === 0) return;
    const left = this.#order.subarray(this.#until, this.#count).sort();
    left.forEach((from, to) => {
      this.#times[to] = this.#times[from] ?? 0;
      this.#sectors[to] = this.#sectors[from] ?? 0;
      this.#lengths[to] = this.#lengths[from] ?? 0;
      this.#actions[to] = this.#actions[from] ?? 0;
      this.#pids[to] = this.#pids[from] ?? 0;
      this.#devices[to] = this.#devices[from] ?? 0;
      this.#errors[to] = this.#errors[from] ?? 0;
    });
    this.#count = left.length;
    this.#taken = 0;
    this.#until = 0;
  }
}

/** Throws TraceError for a record of another version. */
export function checkVersion(magic: number): void {
  const version = magic & 0xff;
  if (version !== VERSION) {
    throw new TraceError(`it is a blktrace of version ${version}, known is ${VERSION}`);
  }
}

/** True if a number is the magic one of a record, of any version. */
export function isMagic(magic: number): boolean {
  return (magic & MAGIC_MASK) === MAGIC_BYTES;
}
