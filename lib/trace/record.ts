/**
 * Records of the native trace format: one an event, little endian, a multiple of eight bytes long.
 *
 *     submit    0 u8 kind (1)    1 u8 operation   2 u8 flags    3 u8 bits   4 u32 connection
 *               8 f64 time, µs  16 f64 id        24 f64 offset 32 f64 length
 *              40 u32 digest    44 u32 bytes of payload
 *     complete  0 u8 kind (2)    1 u8 bits        2 u16 errno (Linux, 0 for success)  4 u32 digest
 *               8 f64 time, µs  16 f64 id        24 u32 bytes of payload             28 u32 0
 *
 * The payload follows, padded with zeroes to a multiple of eight. Bits: 1 there is a digest, 2 there
 * is a payload.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { errnoFromLinux, errnoToLinux } from "../block/errors.ts";
import { REQUEST_BYTES_MAX } from "../block/limits.ts";
import { type Operation, OPERATIONS } from "../block/request.ts";
import type { CompleteEvent, SubmitEvent, TraceEvent } from "./event.ts";
import { TraceError } from "./trace_error.ts";

/** Bytes of a submit record without payload. */
export const SUBMIT_BYTES = 48;
/** Bytes of a complete record without payload. */
export const COMPLETE_BYTES = 32;

const SUBMIT = 1, COMPLETE = 2;
const HAS_DIGEST = 1, HAS_PAYLOAD = 2;
const ALIGNMENT = 8;

function numbered(): Record<Operation, number> {
  const numbers = { read: 0, write: 0, flush: 0, trim: 0, zero: 0, cache: 0, extents: 0 };
  OPERATIONS.forEach((operation, index) => numbers[operation] = index);
  return numbers;
}

/** Operations by number: their places in OPERATIONS. */
const OPERATION_NUMBERS = numbered();

/** The digest of data in a trace: CRC-32 (IEEE), 0 to 2^32 - 1. */
export function digestOf(data: Uint8Array): number {
  return crc32(data);
}

function padded(length: number): number {
  return Math.ceil(length / ALIGNMENT) * ALIGNMENT;
}

/** Bytes of the record of an event. */
export function recordBytes(event: TraceEvent): number {
  const fixed = event.kind === "submit" ? SUBMIT_BYTES : COMPLETE_BYTES;
  return fixed + padded(event.payload?.length ?? 0);
}

/** Bytes of the record at `at`, payload included. */
export function recordLength(view: DataView, at: number): number {
  return view.getUint8(at) === SUBMIT
    ? SUBMIT_BYTES + padded(view.getUint32(at + 44, true))
    : COMPLETE_BYTES + padded(view.getUint32(at + 24, true));
}

/** Time of the record at `at`, µs. */
export function recordTimeUs(view: DataView, at: number): number {
  return view.getFloat64(at + 8, true);
}

function bitsOf({ digest, payload }: TraceEvent): number {
  return (digest === null ? 0 : HAS_DIGEST) | (payload === null ? 0 : HAS_PAYLOAD);
}

/**
 * Memory that records are written to, seen in the three widths that records have: four times as fast as
 * a DataView where the memory is shared. Every platform of ours is little endian, as records are.
 */
export class RecordMemory {
  /** All of it. */
  readonly bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #floats: Float64Array;

  /** The memory from `byteOffset`, a multiple of eight, to its end. */
  constructor(buffer: ArrayBufferLike, byteOffset: number) {
    this.bytes = new Uint8Array(buffer, byteOffset);
    this.#words = new Uint32Array(buffer, byteOffset);
    this.#floats = new Float64Array(buffer, byteOffset);
  }

  /** Writes an event at `at`, a multiple of eight, where `recordBytes` of it have room. */
  encode(at: number, event: TraceEvent): void {
    const { payload } = event;
    if (event.kind === "submit") this.#submit(at, event);
    else this.#complete(at, event);
    if (payload === null) return;
    const start = at + (event.kind === "submit" ? SUBMIT_BYTES : COMPLETE_BYTES);
    this.bytes.set(payload, start);
    this.bytes.fill(0, start + payload.length, start + padded(payload.length));
  }

  #submit(at: number, event: SubmitEvent): void {
    const words = this.#words, floats = this.#floats, word = at >>> 2, float = at >>> 3;
    words[word] = SUBMIT | OPERATION_NUMBERS[event.operation] << 8 | (event.flags & 0xff) << 16 |
      bitsOf(event) << 24;
    words[word + 1] = event.connection;
    floats[float + 1] = event.timeUs;
    floats[float + 2] = event.id;
    floats[float + 3] = event.offset;
    floats[float + 4] = event.length;
    words[word + 10] = event.digest ?? 0;
    words[word + 11] = event.payload?.length ?? 0;
  }

  #complete(at: number, event: CompleteEvent): void {
    const words = this.#words, floats = this.#floats, word = at >>> 2, float = at >>> 3;
    const errno = event.errno === null ? 0 : errnoToLinux(event.errno);
    words[word] = COMPLETE | bitsOf(event) << 8 | errno << 16;
    words[word + 1] = event.digest ?? 0;
    floats[float + 1] = event.timeUs;
    floats[float + 2] = event.id;
    words[word + 6] = event.payload?.length ?? 0;
    words[word + 7] = 0;
  }
}

/** Reads the records of a block one after another. */
export class RecordReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  /** `bytes` are whole records; payloads of events are views of them. */
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The next event, null at the end. Throws TraceError for bytes that are no record. */
  next(): TraceEvent | null {
    if (this.#at === this.#bytes.length) return null;
    const left = this.#bytes.length - this.#at;
    if (left < COMPLETE_BYTES) throw new TraceError("a record is cut off");
    const kind = this.#view.getUint8(this.#at);
    if (kind === SUBMIT && left >= SUBMIT_BYTES) return this.#submit();
    if (kind === COMPLETE) return this.#complete();
    throw new TraceError(`there is no record of kind ${kind}`);
  }

  #submit(): SubmitEvent {
    const view = this.#view, at = this.#at;
    const operation = OPERATIONS[view.getUint8(at + 1)];
    if (operation === undefined) throw new TraceError("a record names no operation");
    const bits = view.getUint8(at + 3);
    const event = {
      kind: "submit",
      timeUs: time(view, at + 8),
      id: whole(view, at + 16, "id"),
      connection: view.getUint32(at + 4, true),
      operation,
      offset: whole(view, at + 24, "offset"),
      length: whole(view, at + 32, "length"),
      flags: view.getUint8(at + 2),
      digest: (bits & HAS_DIGEST) === 0 ? null : view.getUint32(at + 40, true),
    } as const;
    return { ...event, payload: this.#payload(bits, view.getUint32(at + 44, true), SUBMIT_BYTES) };
  }

  #complete(): CompleteEvent {
    const view = this.#view, at = this.#at;
    const bits = view.getUint8(at + 1);
    const errno = view.getUint16(at + 2, true);
    const event = {
      kind: "complete",
      timeUs: time(view, at + 8),
      id: whole(view, at + 16, "id"),
      errno: errno === 0 ? null : errnoFromLinux(errno),
      digest: (bits & HAS_DIGEST) === 0 ? null : view.getUint32(at + 4, true),
    } as const;
    const bytes = view.getUint32(at + 24, true);
    return { ...event, payload: this.#payload(bits, bytes, COMPLETE_BYTES) };
  }

  /** The payload behind the fixed part; moves on to the next record. */
  #payload(bits: number, length: number, fixed: number): Uint8Array | null {
    if ((bits & HAS_PAYLOAD) === 0 && length !== 0) throw new TraceError("a payload is not told");
    const start = this.#at + fixed;
    const next = start + padded(length);
    if (length > REQUEST_BYTES_MAX || next > this.#bytes.length) {
      throw new TraceError("a payload is cut off");
    }
    this.#at = next;
    return (bits & HAS_PAYLOAD) === 0 ? null : this.#bytes.subarray(start, start + length);
  }
}

function time(view: DataView, at: number): number {
  const value = view.getFloat64(at, true);
  if (Number.isFinite(value)) return value;
  throw new TraceError("a time is no number");
}

function whole(view: DataView, at: number, what: string): number {
  const value = view.getFloat64(at, true);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new TraceError(`its ${what} is no whole number`);
}
