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
import { OPERATIONS } from "../block/request.ts";
import type { CompleteEvent, SubmitEvent, TraceEvent } from "./event.ts";
import { TraceError } from "./trace_error.ts";

/** Bytes of a submit record without payload. */
export const SUBMIT_BYTES = 48;
/** Bytes of a complete record without payload. */
export const COMPLETE_BYTES = 32;

const SUBMIT = 1, COMPLETE = 2;
const HAS_DIGEST = 1, HAS_PAYLOAD = 2;
const ALIGNMENT = 8;

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

/** Writes an event at `at` of `view`, where `recordBytes` of it have room. */
export function encodeRecord(view: DataView, at: number, event: TraceEvent): void {
  const { payload } = event;
  if (event.kind === "submit") encodeSubmit(view, at, event);
  else encodeComplete(view, at, event);
  if (payload === null) return;
  const fixed = event.kind === "submit" ? SUBMIT_BYTES : COMPLETE_BYTES;
  const room = new Uint8Array(view.buffer, view.byteOffset + at + fixed, padded(payload.length));
  room.set(payload);
  room.fill(0, payload.length);
}

function encodeSubmit(view: DataView, at: number, event: SubmitEvent): void {
  view.setUint8(at, SUBMIT);
  view.setUint8(at + 1, OPERATIONS.indexOf(event.operation));
  view.setUint8(at + 2, event.flags);
  view.setUint8(at + 3, bitsOf(event));
  view.setUint32(at + 4, event.connection, true);
  view.setFloat64(at + 8, event.timeUs, true);
  view.setFloat64(at + 16, event.id, true);
  view.setFloat64(at + 24, event.offset, true);
  view.setFloat64(at + 32, event.length, true);
  view.setUint32(at + 40, event.digest ?? 0, true);
  view.setUint32(at + 44, event.payload?.length ?? 0, true);
}

function encodeComplete(view: DataView, at: number, event: CompleteEvent): void {
  view.setUint8(at, COMPLETE);
  view.setUint8(at + 1, bitsOf(event));
  view.setUint16(at + 2, event.errno === null ? 0 : errnoToLinux(event.errno), true);
  view.setUint32(at + 4, event.digest ?? 0, true);
  view.setFloat64(at + 8, event.timeUs, true);
  view.setFloat64(at + 16, event.id, true);
  view.setUint32(at + 24, event.payload?.length ?? 0, true);
  view.setUint32(at + 28, 0, true);
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
