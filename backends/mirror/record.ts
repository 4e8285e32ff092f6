/**
 * The record of a mirror's legs in the note of its log: which of them have everything. One sector,
 * written whole or not at all, little-endian.
 *
 *     0 magic "dmuM"   4 version (1)   8 identity of the mirror (16 bytes)   24 events (u64)
 *     32 bytes of the mirror (u64)   40 bytes of a region (u64)   48 legs (u32)   52 flags (u32)
 *     64 + 40 n: identity (16 bytes), events (u64), flags (u32), zeroes
 *     480 SHA-256 of all before
 *
 * Each time the record is written its count of events rises. A leg is in sync if it has that same count:
 * one that was not there, or had failed, keeps the count of the last record that it was part of.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { DISK_LOG_NOTE_BYTES } from "../../lib/dirty_log/constants.ts";
import type { LegStateName } from "../../lib/block/types.ts";

const MAGIC = 0x4d756d64, VERSION = 1;
const IDENTITY_BYTES = 16, LEGS_AT = 64, LEG_BYTES = 40, CHECKSUM_AT = 480;
/** All writes had reached all legs in sync: the mirror was closed. */
const FLAG_CLOSED = 1;
/** See `RecordedLeg.candidate`. */
const FLAG_CANDIDATE = 1;

/** A leg as a record has it. */
export interface RecordedLeg {
  /** Its identity, as hexadecimal digits. */
  readonly identity: string;
  /** The count of events when it was in sync last. */
  readonly events: number;
  /** Not in sync, and yet without a loss of writes that were answered and flushed. */
  readonly candidate: boolean;
}

/** A record. */
export interface LegRecord {
  /** What tells this mirror from others, as hexadecimal digits. */
  readonly id: string;
  /** How often it was written. */
  readonly events: number;
  /** Bytes of the mirror. */
  readonly size: number;
  /** Bytes of a region of its log. */
  readonly regionBytes: number;
  /** The mirror was closed: legs in sync are equal whatever the log says. */
  readonly closed: boolean;
  /** Its legs. */
  readonly legs: readonly RecordedLeg[];
}

/** What a note is. */
export type DecodedRecord =
  | { readonly kind: "record"; readonly record: LegRecord }
  | { readonly kind: "none" }
  | { readonly kind: "damaged"; readonly reason: string };

function checksum(note: Uint8Array): Uint8Array {
  return createHash("sha256").update(note.subarray(0, CHECKSUM_AT)).digest();
}

/**
 * The identities of legs in a record, from what they are known by. Legs that are known by the same (disks
 * in memory) are told apart by their order.
 */
export function identitiesOf(names: readonly string[]): string[] {
  return names.map((name, at) => {
    const before = names.slice(0, at).filter((each) => each === name).length;
    const hash = createHash("sha256").update(`${name}\0${before}`).digest();
    return new Uint8Array(hash.subarray(0, IDENTITY_BYTES)).toHex();
  });
}

/** The state of a leg by the record. */
export function recordedState(record: LegRecord, leg: RecordedLeg): LegStateName {
  return leg.events === record.events ? "in-sync" : "resync";
}

/** The note of a record with at most LEGS_MAX legs. */
export function encodeRecord(record: LegRecord): Uint8Array {
  const note = new Uint8Array(DISK_LOG_NOTE_BYTES), view = new DataView(note.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, VERSION, true);
  note.set(Uint8Array.fromHex(record.id), 8);
  view.setBigUint64(24, BigInt(record.events), true);
  view.setBigUint64(32, BigInt(record.size), true);
  view.setBigUint64(40, BigInt(record.regionBytes), true);
  view.setUint32(48, record.legs.length, true);
  view.setUint32(52, record.closed ? FLAG_CLOSED : 0, true);
  record.legs.forEach(({ identity, events, candidate }, at) => {
    const start = LEGS_AT + at * LEG_BYTES;
    note.set(Uint8Array.fromHex(identity), start);
    view.setBigUint64(start + IDENTITY_BYTES, BigInt(events), true);
    view.setUint32(start + IDENTITY_BYTES + 8, candidate ? FLAG_CANDIDATE : 0, true);
  });
  note.set(checksum(note), CHECKSUM_AT);
  return note;
}

/** Reads a note. */
export function decodeRecord(note: Uint8Array): DecodedRecord {
  if (note.every((byte) => byte === 0)) return { kind: "none" };
  const view = new DataView(note.buffer, note.byteOffset, note.length);
  if (view.getUint32(0, true) !== MAGIC) return { kind: "damaged", reason: "it is something else" };
  const sum = checksum(note);
  if (!sum.every((byte, at) => byte === note[CHECKSUM_AT + at])) {
    return { kind: "damaged", reason: "its checksum is wrong" };
  }
  const version = view.getUint32(4, true);
  if (version !== VERSION) return { kind: "damaged", reason: `its version is ${version}` };
  const legs = Array.from({ length: view.getUint32(48, true) }, (_, at): RecordedLeg => {
    const start = LEGS_AT + at * LEG_BYTES;
    return {
      identity: note.slice(start, start + IDENTITY_BYTES).toHex(),
      events: Number(view.getBigUint64(start + IDENTITY_BYTES, true)),
      candidate: (view.getUint32(start + IDENTITY_BYTES + 8, true) & FLAG_CANDIDATE) !== 0,
    };
  });
  const record: LegRecord = {
    id: note.slice(8, 8 + IDENTITY_BYTES).toHex(),
    events: Number(view.getBigUint64(24, true)),
    size: Number(view.getBigUint64(32, true)),
    regionBytes: Number(view.getBigUint64(40, true)),
    closed: (view.getUint32(52, true) & FLAG_CLOSED) !== 0,
    legs,
  };
  return { kind: "record", record };
}
