/**
 * The small objects that describe: `volume`, `snap/NAME.ID`. A line of ASCII (`dmu-volume1` or `dmu-snap1`,
 * a space, and the CRC-32 of what follows as 8 hexadecimal digits), then JSON: few, read once, and
 * a human may look at them.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { BlockError } from "../block/errors.ts";
import { beginsWith, damaged, isId } from "./bytes.ts";
import {
  BLOCK_BYTES_MAX,
  BLOCK_BYTES_MIN,
  DESCRIPTION_BYTES_MAX,
  PARENT_ADDRESS_BYTES_MAX,
  SEQ_MAX,
  WINDOW_SLOTS_MAX,
} from "./limits.ts";

/** What a clone stands on. */
export interface Parent {
  /** Where the parent volume is: an address that whoever opens the clone can resolve. */
  readonly address: string;
  /** The parent's volume id. */
  readonly volume: string;
  /** Name of the snapshot. */
  readonly snapshot: string;
  /** Its id: 32 hexadecimal digits. */
  readonly snapshotId: string;
}

/** What a volume is; never changes. */
export interface VolumeDescription {
  /** Volume id: 32 hexadecimal digits. */
  readonly id: string;
  /** Size of the disk at first, bytes; later sizes are in the log. */
  readonly diskBytes: number;
  /** Smallest unit of the disk, bytes: a power of two. */
  readonly blockBytes: number;
  /** Slots of the log that a writer may have unacknowledged. */
  readonly windowSlots: number;
  /** When it was created, ms since 1970. */
  readonly createdMs: number;
  /** What it was cloned from; null if it began empty. */
  readonly parent: Parent | null;
}

/** A state of a volume that is kept. */
export interface SnapshotDescription {
  /** The volume it is of. */
  readonly volume: string;
  /** Its name. */
  readonly name: string;
  /** Its id, which no other snapshot ever has: 32 hexadecimal digits. */
  readonly id: string;
  /** Key of the checkpoint from which its map is made; null if there was none yet. */
  readonly checkpoint: string | null;
  /** The last log object that it includes: those behind the checkpoint are replayed up to it. 0 if none. */
  readonly seq: number;
  /** Size of the disk then, bytes. */
  readonly diskBytes: number;
  /** When it was taken, ms since 1970. */
  readonly createdMs: number;
}

const VOLUME_MAGIC = "dmu-volume1 ", SNAPSHOT_MAGIC = "dmu-snap1 ";
const SUM_DIGITS = 8;

type Fields = Record<string, unknown>;

function encode(magic: string, fields: Fields): Uint8Array<ArrayBuffer> {
  const json = JSON.stringify(fields);
  const sum = crc32(json).toString(16).padStart(SUM_DIGITS, "0");
  return new TextEncoder().encode(`${magic}${sum}\n${json}\n`);
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function decode(magic: string, bytes: Uint8Array, name: string): Fields {
  if (bytes.length > DESCRIPTION_BYTES_MAX) throw damaged(name, "it is too large");
  if (!beginsWith(bytes, magic)) {
    // "dmu-volume1 " without the version: another version has another digit.
    const known = beginsWith(bytes, magic.slice(0, -2));
    throw damaged(name, known ? "it is in a later format than this program knows" : "it is none");
  }
  const start = magic.length + SUM_DIGITS + 1, end = bytes.length - 1;
  const sum = new TextDecoder().decode(bytes.subarray(magic.length, start - 1));
  if (bytes[start - 1] !== 10 || bytes[end] !== 10) throw damaged(name, "it is cut short");
  const json = bytes.subarray(start, end);
  if (sum !== crc32(json).toString(16).padStart(SUM_DIGITS, "0")) {
    throw damaged(name, "it has a wrong checksum");
  }
  try {
    const fields: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(json));
    if (isFields(fields)) return fields;
  } catch {
    // Answered below, as what is JSON and no object.
  }
  throw damaged(name, "it is no JSON object");
}

/** Takes fields out of a description, each checked. */
class Taker {
  readonly #fields: Fields;
  readonly #name: string;

  constructor(fields: Fields, name: string) {
    this.#fields = fields;
    this.#name = name;
  }

  #wrong(field: string): BlockError {
    return damaged(this.#name, `its "${field}" is missing or wrong`);
  }

  number(field: string, min: number, max: number): number {
    const value = this.#fields[field];
    const good = typeof value === "number" && Number.isInteger(value) && value >= min &&
      value <= max;
    if (!good) throw this.#wrong(field);
    return value;
  }

  text(field: string, lengthMax: number): string {
    const value = this.#fields[field];
    if (typeof value !== "string" || value.length === 0 || value.length > lengthMax) {
      throw this.#wrong(field);
    }
    return value;
  }

  id(field: string): string {
    const value = this.#fields[field];
    if (typeof value !== "string" || !isId(value)) throw this.#wrong(field);
    return value;
  }

  part(field: string): Taker | null {
    const value = this.#fields[field];
    if (value === null) return null;
    if (!isFields(value)) throw this.#wrong(field);
    return new Taker(value, this.#name);
  }

  optionalText(field: string, lengthMax: number): string | null {
    return this.#fields[field] === null ? null : this.text(field, lengthMax);
  }
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value));
}

/** Encodes the description of a volume. */
export function encodeVolume(volume: VolumeDescription): Uint8Array<ArrayBuffer> {
  const { id, diskBytes, blockBytes, windowSlots, createdMs, parent } = volume;
  return encode(VOLUME_MAGIC, { id, diskBytes, blockBytes, windowSlots, createdMs, parent });
}

/** Decodes the description of a volume. Throws EIO, naming `name`, for whatever is none. */
export function decodeVolume(bytes: Uint8Array, name: string): VolumeDescription {
  const taker = new Taker(decode(VOLUME_MAGIC, bytes, name), name);
  const blockBytes = taker.number("blockBytes", BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
  if (!isPowerOfTwo(blockBytes)) throw damaged(name, `its "blockBytes" is no power of two`);
  const parent = taker.part("parent");
  return {
    id: taker.id("id"),
    diskBytes: taker.number("diskBytes", 0, Number.MAX_SAFE_INTEGER),
    blockBytes,
    windowSlots: taker.number("windowSlots", 1, WINDOW_SLOTS_MAX),
    createdMs: taker.number("createdMs", 0, Number.MAX_SAFE_INTEGER),
    parent: parent === null ? null : {
      address: parent.text("address", PARENT_ADDRESS_BYTES_MAX),
      volume: parent.id("volume"),
      snapshot: parent.text("snapshot", PARENT_ADDRESS_BYTES_MAX),
      snapshotId: parent.id("snapshotId"),
    },
  };
}

/** Encodes a snapshot. */
export function encodeSnapshot(snapshot: SnapshotDescription): Uint8Array<ArrayBuffer> {
  const { volume, name, id, checkpoint, seq, diskBytes, createdMs } = snapshot;
  return encode(SNAPSHOT_MAGIC, { volume, name, id, checkpoint, seq, diskBytes, createdMs });
}

/** Decodes a snapshot. Throws EIO, naming `name`, for whatever is none. */
export function decodeSnapshot(bytes: Uint8Array, name: string): SnapshotDescription {
  const taker = new Taker(decode(SNAPSHOT_MAGIC, bytes, name), name);
  return {
    volume: taker.id("volume"),
    name: taker.text("name", PARENT_ADDRESS_BYTES_MAX),
    id: taker.id("id"),
    checkpoint: taker.optionalText("checkpoint", PARENT_ADDRESS_BYTES_MAX),
    seq: taker.number("seq", 0, SEQ_MAX),
    diskBytes: taker.number("diskBytes", 0, Number.MAX_SAFE_INTEGER),
    createdMs: taker.number("createdMs", 0, Number.MAX_SAFE_INTEGER),
  };
}
