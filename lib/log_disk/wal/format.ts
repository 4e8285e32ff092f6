/**
 * The file of a write-ahead log, little-endian:
 *
 * | bytes     | what                                                          |
 * | --------- | ------------------------------------------------------------- |
 * | 0, 4096   | two headers; the sound one of the higher generation counts    |
 * | from 8192 | a ring of records, each at a multiple of 8 bytes              |
 *
 * A header: magic (16), CRC-32 of the block with this field zero (4), number of claims (4), generation
 * (8), volume id (16), id of the ring's present use (16), number (8) and place (8) of the oldest record,
 * bytes of the ring (8), then the claims: epoch (8) and writer's nonce (16) each.
 *
 * A record: CRC-32 of what follows and of its data (4), kind (4), number (8), offset on the disk (8),
 * length there (8), id of the ring's use (16), bytes of data (4), tag of a log object (4); then the data.
 * Numbers ascend by one, so that a record left from an earlier round of the ring is never taken for a new
 * one. The tag says which log object was being filled when the record was added (`objectTag`).
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { beginsWith, getId, getU64, putAscii, putId, putU64, viewOf } from "../bytes.ts";
import type { Writer } from "../hooks.ts";
import { WAL_CLAIMS_MAX } from "./limits.ts";

/** Bytes of a header, and of a record without its data. */
export const HEADER_BYTES = 4096, RECORD_BYTES = 56;
/** Where the ring begins. */
export const RING_AT: number = 2 * HEADER_BYTES;
/** Records begin at multiples of this. */
export const RECORD_ALIGNMENT = 8;

const MAGIC = "dmu write-ahead1";
/** Where the fields of a header are. */
const HEADER_CRC_AT = 16, CLAIMS_AT = 20, GENERATION_AT = 24, VOLUME_AT = 32, USE_AT = 48;
const TAIL_NUMBER_AT = 64, TAIL_PLACE_AT = 72, RING_BYTES_AT = 80, CLAIM_LIST_AT = 88;
const CLAIM_BYTES = 24;
/** Where the fields of a record are. */
const RECORD_CRC_AT = 0, KIND_AT = 4, NUMBER_AT = 8, OFFSET_AT = 16, LENGTH_AT = 24;
const RECORD_USE_AT = 32, DATA_BYTES_AT = 48, TAG_AT = 52;
/** Tags are 1 to this. */
const TAGS = 2 ** 32 - 1;

/** What a record tells. `wrap`: the ring goes on at its beginning. */
export const RECORD_KINDS = ["wrap", "write", "zero", "trim"] as const;
/** One of RECORD_KINDS. */
export type RecordKind = typeof RECORD_KINDS[number];

/** A header. */
export interface WalHeader {
  /** Which of the two headers counts. */
  readonly generation: number;
  /** The volume whose writes are in it, 16 bytes in hexadecimal. */
  readonly volume: string;
  /** Changes whenever the ring is begun anew, 16 bytes in hexadecimal. */
  readonly use: string;
  /** Number and place (in the ring, bytes) of the oldest record. */
  readonly tailNumber: number;
  readonly tailPlace: number;
  /** Bytes of the ring. */
  readonly ringBytes: number;
  /**
   * The writer that made the records, and those that were to take over from it, oldest first: at most
   * WAL_CLAIMS_MAX.
   */
  readonly claims: readonly Writer[];
}

/** The head of a record. */
export interface RecordHead {
  readonly kind: RecordKind;
  readonly number: number;
  /** Bytes of the disk. */
  readonly offset: number;
  readonly length: number;
  /** Bytes of data behind the head: `length` for a write, else none. */
  readonly dataBytes: number;
  /** The log object that was being filled when it was added, an `objectTag`; 0 if that is not known. */
  readonly tag: number;
}

/** What a record keeps of the number of a log object: 32 bits, and never 0. */
export function objectTag(seq: number): number {
  return seq % TAGS + 1;
}

/**
 * True if a tag is known to be of the log object `seq` or of one before it. Numbers that are compared lie
 * less than 2^31 apart: records do not stay in the file for as many objects.
 */
export function isTagUpTo(tag: number, seq: number): boolean {
  if (tag === 0) return false;
  return (objectTag(seq) - tag + TAGS) % TAGS < TAGS / 2;
}

/** A header as it is in the file. */
export function encodeHeader(header: WalHeader): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES), view = viewOf(bytes);
  putAscii(bytes, 0, MAGIC);
  const { claims } = header;
  view.setUint32(CLAIMS_AT, claims.length, true);
  putU64(view, GENERATION_AT, header.generation);
  putId(bytes, VOLUME_AT, header.volume);
  putId(bytes, USE_AT, header.use);
  putU64(view, TAIL_NUMBER_AT, header.tailNumber);
  putU64(view, TAIL_PLACE_AT, header.tailPlace);
  putU64(view, RING_BYTES_AT, header.ringBytes);
  for (const [index, { epoch, nonce }] of claims.entries()) {
    putU64(view, CLAIM_LIST_AT + index * CLAIM_BYTES, epoch);
    putId(bytes, CLAIM_LIST_AT + index * CLAIM_BYTES + 8, nonce);
  }
  view.setUint32(HEADER_CRC_AT, crc32(bytes), true);
  return bytes;
}

/** A header from the file; null if it is damaged or none. */
export function decodeHeader(bytes: Uint8Array<ArrayBuffer>): WalHeader | null {
  if (!beginsWith(bytes, MAGIC)) return null;
  const whole = bytes.slice(), view = viewOf(whole);
  const crc = view.getUint32(HEADER_CRC_AT, true);
  view.setUint32(HEADER_CRC_AT, 0, true);
  if (crc32(whole) !== crc) return null;
  const count = view.getUint32(CLAIMS_AT, true);
  if (count > WAL_CLAIMS_MAX) return null;
  const claims: Writer[] = [];
  for (let index = 0; index < count; index += 1) {
    const at = CLAIM_LIST_AT + index * CLAIM_BYTES;
    claims.push({ epoch: getU64(view, at), nonce: getId(whole, at + 8) });
  }
  return {
    generation: getU64(view, GENERATION_AT),
    volume: getId(whole, VOLUME_AT),
    use: getId(whole, USE_AT),
    tailNumber: getU64(view, TAIL_NUMBER_AT),
    tailPlace: getU64(view, TAIL_PLACE_AT),
    ringBytes: getU64(view, RING_BYTES_AT),
    claims,
  };
}

/** True if something that looks like one of our headers begins here, sound or not. */
export function isHeader(bytes: Uint8Array): boolean {
  return beginsWith(bytes, MAGIC);
}

/** Bytes that a record takes in the ring. */
export function recordSpan(dataBytes: number): number {
  return Math.ceil((RECORD_BYTES + dataBytes) / RECORD_ALIGNMENT) * RECORD_ALIGNMENT;
}

/** Writes the head of a record in front of its data, which is there already; `use` is 16 bytes. */
export function sealRecord(
  bytes: Uint8Array<ArrayBuffer>,
  head: RecordHead,
  use: Uint8Array,
): void {
  const view = viewOf(bytes);
  view.setUint32(KIND_AT, RECORD_KINDS.indexOf(head.kind), true);
  putU64(view, NUMBER_AT, head.number);
  putU64(view, OFFSET_AT, head.offset);
  putU64(view, LENGTH_AT, head.length);
  bytes.set(use, RECORD_USE_AT);
  view.setUint32(DATA_BYTES_AT, head.dataBytes, true);
  view.setUint32(TAG_AT, head.tag, true);
  const end = RECORD_BYTES + head.dataBytes;
  view.setUint32(RECORD_CRC_AT, crc32(bytes.subarray(KIND_AT, end)), true);
}

/** The head of a record, not checked against its data; null if it is not of this use of the ring. */
export function readRecordHead(bytes: Uint8Array, use: string): RecordHead | null {
  const view = viewOf(bytes);
  const kind = RECORD_KINDS[view.getUint32(KIND_AT, true)];
  if (kind === undefined || getId(bytes, RECORD_USE_AT) !== use) return null;
  return {
    kind,
    number: getU64(view, NUMBER_AT),
    offset: getU64(view, OFFSET_AT),
    length: getU64(view, LENGTH_AT),
    dataBytes: view.getUint32(DATA_BYTES_AT, true),
    tag: view.getUint32(TAG_AT, true),
  };
}

/** True if a whole record, head and data, is what was written. */
export function isSound(bytes: Uint8Array): boolean {
  return viewOf(bytes).getUint32(RECORD_CRC_AT, true) === crc32(bytes.subarray(KIND_AT));
}
