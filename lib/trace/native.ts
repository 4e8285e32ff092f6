/**
 * The native trace format, version 1: a header with a description, then blocks of records
 * (record.ts). All numbers are little endian.
 *
 *     header  0 "dmutrace"   8 u32 version  12 u32 bytes of the description  16 u32 CRC-32 of it
 *            20 u32 0       24 description: JSON, padded with blanks to a multiple of eight
 *     block   0 u32 "TBLK"   4 u32 CRC-32 of bytes 8 to 63   8 u32 bytes of records
 *            12 u32 CRC-32 of the records  16 u32 events  20 u32 0
 *            24 f64 time of the first event, µs  32 f64 of the last  40 f64 number of the block, from 0
 *            48 f64 events lost before the end of this block, from the beginning of the trace
 *            56 f64 0       64 records
 *
 * A block is written when it is full, so a crash loses the last one at most: readers drop a block that
 * is cut off, or whose checksum is wrong, and say so. Headers of blocks tell times and lengths, so that
 * a reader of a file can go from one to the next without reading what is between.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import * as v from "valibot";
import type { TraceEvent, TraceInfo } from "./event.ts";
import { BLOCK_BYTES, BLOCK_BYTES_MAX, DESCRIPTION_BYTES_MAX } from "./limits.ts";
import { recordBytes, RecordMemory } from "./record.ts";
import { TraceError } from "./trace_error.ts";

/** What every native trace begins with. */
export const MAGIC: Uint8Array = new TextEncoder().encode("dmutrace");
/** The version that is written, and the highest one that is read. */
export const VERSION = 1;
/** Bytes of the header before the description. */
export const HEADER_BYTES = 24;
/** Bytes of the header of a block. */
export const BLOCK_HEADER_BYTES = 64;

const BLOCK_MAGIC = 0x4b_4c_42_54; // "TBLK"
const ALIGNMENT = 8;

/** The header of a block. */
export interface BlockHeader {
  /** Bytes of records that follow. */
  readonly bytes: number;
  /** CRC-32 of them. */
  readonly checksum: number;
  /** Events in them. */
  readonly events: number;
  /** Time of the first event, µs. */
  readonly firstUs: number;
  /** Time of the last event, µs. */
  readonly lastUs: number;
  /** Which block it is, from 0. */
  readonly number: number;
  /** Events that were lost before its end, from the beginning of the trace. */
  readonly lost: number;
}

const infoSchema = v.object({
  started_ms: v.nullable(v.number()),
  target: v.nullable(v.string()),
  size: v.nullable(v.pipe(v.number(), v.safeInteger(), v.minValue(0))),
  completes: v.boolean(),
});

/** The bytes that a trace begins with. */
export function encodeHeader(info: TraceInfo): Uint8Array<ArrayBuffer> {
  const { started_ms, target, size, completes } = info;
  const json = new TextEncoder().encode(JSON.stringify({ started_ms, target, size, completes }));
  const length = Math.ceil(json.length / ALIGNMENT) * ALIGNMENT;
  const bytes = new Uint8Array(HEADER_BYTES + length);
  bytes.set(MAGIC);
  bytes.fill(0x20, HEADER_BYTES);
  bytes.set(json, HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, length, true);
  view.setUint32(16, crc32(bytes.subarray(HEADER_BYTES)), true);
  return bytes;
}

/** True if bytes begin as a native trace does. */
export function isNative(bytes: Uint8Array): boolean {
  return MAGIC.every((byte, index) => bytes[index] === byte);
}

/** Bytes of the whole header, of which the first HEADER_BYTES are given. Throws TraceError. */
export function headerLength(bytes: Uint8Array): number {
  if (!isNative(bytes)) throw new TraceError("it does not begin as a native trace does");
  const view = viewOf(bytes);
  const version = view.getUint32(8, true);
  if (version !== VERSION) {
    const newer = version > VERSION ? ", it was written by a newer dmu" : "";
    throw new TraceError(`its version is ${version}, known is ${VERSION}${newer}`);
  }
  const length = view.getUint32(12, true);
  if (length > DESCRIPTION_BYTES_MAX) {
    throw new TraceError(`its description has more than ${DESCRIPTION_BYTES_MAX} bytes`);
  }
  return HEADER_BYTES + length;
}

/** The description of a trace from its whole header. Throws TraceError. */
export function decodeHeader(bytes: Uint8Array): TraceInfo {
  const json = bytes.subarray(HEADER_BYTES);
  if (crc32(json) !== viewOf(bytes).getUint32(16, true)) {
    throw new TraceError("the checksum of its description is wrong");
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(json));
  } catch (cause) {
    throw new TraceError("its description is no JSON", { cause });
  }
  const result = v.safeParse(infoSchema, value);
  if (!result.success) throw new TraceError("its description lacks what it has to tell");
  return result.output;
}

/** Writes the header of a block at the beginning of `view`. */
export function encodeBlockHeader(view: DataView, header: BlockHeader): void {
  view.setUint32(0, BLOCK_MAGIC, true);
  view.setUint32(8, header.bytes, true);
  view.setUint32(12, header.checksum, true);
  view.setUint32(16, header.events, true);
  view.setUint32(20, 0, true);
  view.setFloat64(24, header.firstUs, true);
  view.setFloat64(32, header.lastUs, true);
  view.setFloat64(40, header.number, true);
  view.setFloat64(48, header.lost, true);
  view.setFloat64(56, 0, true);
  view.setUint32(4, headerChecksum(view), true);
}

/** The header of a block, null for bytes that are none: the trace ends there. */
export function decodeBlockHeader(bytes: Uint8Array): BlockHeader | null {
  if (bytes.length < BLOCK_HEADER_BYTES) return null;
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== BLOCK_MAGIC) return null;
  if (view.getUint32(4, true) !== headerChecksum(view)) return null;
  const header = {
    bytes: view.getUint32(8, true),
    checksum: view.getUint32(12, true),
    events: view.getUint32(16, true),
    firstUs: view.getFloat64(24, true),
    lastUs: view.getFloat64(32, true),
    number: view.getFloat64(40, true),
    lost: view.getFloat64(48, true),
  };
  return header.bytes > BLOCK_BYTES_MAX ? null : header;
}

function headerChecksum(view: DataView): number {
  return crc32(new Uint8Array(view.buffer, view.byteOffset + 8, BLOCK_HEADER_BYTES - 8));
}

/** True if these are the records of a block. */
export function recordsFit(header: BlockHeader, records: Uint8Array): boolean {
  return records.length === header.bytes && crc32(records) === header.checksum;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Puts events into blocks.
 *
 * @example
 * ```ts
 * import { NO_INFO } from "./event.ts";
 * import { BlockBuilder, encodeHeader } from "./native.ts";
 *
 * const builder = new BlockBuilder();
 * builder.add({ kind: "complete", timeUs: 1, id: 1, errno: null, digest: null, payload: null });
 * const parts = [encodeHeader(NO_INFO), builder.take()];
 * if (parts.some((part) => part === null || part.length % 8 !== 0)) throw new Error("unaligned");
 * ```
 */
export class BlockBuilder {
  /** Events that could not be recorded so far: written with the next block. */
  lost = 0;
  #bytes = new Uint8Array(BLOCK_HEADER_BYTES + BLOCK_BYTES);
  #memory = new RecordMemory(this.#bytes.buffer, 0);
  #end = BLOCK_HEADER_BYTES;
  #events = 0;
  #firstUs = 0;
  #lastUs = 0;
  #number = 0;

  /** Events that were added since the last block was taken. */
  get events(): number {
    return this.#events;
  }

  /** True when a block should be taken. */
  get full(): boolean {
    return this.#end - BLOCK_HEADER_BYTES >= BLOCK_BYTES;
  }

  /** Adds an event; allowed also when it is full, up to the largest payload. */
  add(event: TraceEvent): void {
    const length = recordBytes(event);
    if (this.#end + length > this.#bytes.length) this.#grow(this.#end + length);
    this.#memory.encode(this.#end, event);
    this.#end += length;
    this.#counted(1, event.timeUs, event.timeUs);
  }

  /** Adds records that were encoded elsewhere, with their number and the times of first and last, µs. */
  addRecords(records: Uint8Array, events: number, firstUs: number, lastUs: number): void {
    if (this.#end + records.length > this.#bytes.length) this.#grow(this.#end + records.length);
    this.#bytes.set(records, this.#end);
    this.#end += records.length;
    this.#counted(events, firstUs, lastUs);
  }

  /** The block of what was added, header included; null if nothing was. Its memory is the caller's. */
  take(): Uint8Array<ArrayBuffer> | null {
    if (this.#events === 0) return null;
    const block = this.#bytes.slice(0, this.#end);
    encodeBlockHeader(new DataView(block.buffer), {
      bytes: this.#end - BLOCK_HEADER_BYTES,
      checksum: crc32(block.subarray(BLOCK_HEADER_BYTES)),
      events: this.#events,
      firstUs: this.#firstUs,
      lastUs: this.#lastUs,
      number: this.#number,
      lost: this.lost,
    });
    this.#number += 1;
    this.#events = 0;
    this.#end = BLOCK_HEADER_BYTES;
    return block;
  }

  #counted(events: number, firstUs: number, lastUs: number): void {
    if (this.#events === 0) this.#firstUs = firstUs;
    this.#lastUs = lastUs;
    this.#events += events;
  }

  #grow(atLeast: number): void {
    const bytes = Math.max(atLeast, this.#bytes.length * 2);
    const grown = new Uint8Array(Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
    grown.set(this.#bytes.subarray(0, this.#end));
    this.#bytes = grown;
    this.#memory = new RecordMemory(grown.buffer, 0);
  }
}
