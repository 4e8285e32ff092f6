/**
 * Log objects: `log/SEQ` is a header and then the data, in lines. All numbers are little-endian.
 *
 * | at | bytes | header |
 * | -- | ----- | ------ |
 * | 0  | 8  | magic `dmu-log1` |
 * | 8  | 4  | bytes of the header, checksum included |
 * | 12 | 4  | flags: 1 claim, 2 detach, 4 claim that follows a detach |
 * | 16 | 16 | volume id |
 * | 32 | 16 | nonce of the writer |
 * | 48 | 8  | sequence number |
 * | 56 | 8  | epoch |
 * | 64 | 8  | sequence number of the object that follows |
 * | 72 | 8  | size of the disk from here on, bytes |
 * | 80 | 4  | bytes of data |
 * | 84 | 4  | extents |
 * | 88 | 16 each, 32 for a move | extents, in the order in which they apply |
 * |    | 4  | CRC-32 of all before |
 *
 * An extent is its kind (1 write, 2 zero, 3 trim, 4 move; the top byte of the first number) and offset on the
 * disk, its length, and for a move where the data was: origin (top byte) and sequence number, and place in the
 * data of that object. The data of writes and moves follow one another in the order of the extents.
 *
 * Data is cut into lines of 64 KiB, the last one shorter, each followed by a CRC-32 of its own that starts
 * from what the line is (volume, object, place): any line can be read and verified by itself, without the
 * header, and no line is taken for another. CRC-32 as in zlib: the platform computes it at 9 GB/s, six times as fast as
 * CRC-32C can be done here, and it finds the same faults.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { damaged, getU64, putU64, viewOf } from "./bytes.ts";
import {
  checkMagic,
  getHeader,
  type HeaderPlace,
  isHeaderIntact,
  putHeader,
  sealHeader,
} from "./header.ts";
import {
  LINE_BYTES,
  OBJECT_DATA_BYTES_MAX,
  OBJECT_EXTENTS_MAX,
  ORIGINS_MAX,
  SEQ_MAX,
} from "./limits.ts";

/** Bytes of the checksum behind a line. */
export const CHECK_BYTES = 4;
/** Bytes of a header before its extents: as much as is needed to tell its length. */
export const FIXED_HEADER_BYTES = 88;

const MAGIC = "dmu-log1";
const FLAG_CLAIM = 1, FLAG_DETACH = 2, FLAG_AFTER_DETACH = 4;
const KIND_WRITE = 1, KIND_ZERO = 2, KIND_TRIM = 3, KIND_MOVE = 4;
const EXTENT_BYTES = 16, MOVE_BYTES = 32;

/** What happened to a part of the disk. Offsets and lengths are bytes. */
export type LogExtent =
  | {
    /** New data, or zeroes that keep their place, or a hole. */
    readonly kind: "write" | "zero" | "trim";
    readonly offset: number;
    readonly length: number;
  }
  | {
    /** Data that was elsewhere: applies only where the disk still shows what is there. */
    readonly kind: "move";
    readonly offset: number;
    readonly length: number;
    /** The object that the data was in: 0 for this volume, 1 for its parent … */
    readonly origin: number;
    /** Sequence number of that object. */
    readonly seq: number;
    /** Where in the data of that object, bytes. */
    readonly at: number;
  };

/** What a log object says, besides its data: its place is its own. */
export interface LogHeader extends HeaderPlace {
  /** Bytes of data. */
  readonly dataBytes: number;
  /** A new writer begins here. */
  readonly claim: boolean;
  /** Its writer has ended: it writes nothing after this. */
  readonly detach: boolean;
  /** A claim that follows a detach: it keeps nobody out, and may be deleted as other objects are. */
  readonly afterDetach: boolean;
  /** What happened, in order. */
  readonly extents: readonly LogExtent[];
}

/** Lines that `dataBytes` of data take. */
export function lineCount(dataBytes: number): number {
  return Math.ceil(dataBytes / LINE_BYTES);
}

/** Bytes that data takes in its object: the checksums of its lines included. */
export function storedBytes(dataBytes: number): number {
  return dataBytes + CHECK_BYTES * lineCount(dataBytes);
}

/** Bytes of a whole object. */
export function objectBytes(headerBytes: number, dataBytes: number): number {
  return headerBytes + storedBytes(dataBytes);
}

/** Where line `line` (0 …) begins in an object with that header, bytes. */
export function lineOffset(headerBytes: number, line: number): number {
  return headerBytes + line * (LINE_BYTES + CHECK_BYTES);
}

/** Bytes of data in line `line` of an object with `dataBytes` of data; the last line is shorter. */
export function lineDataBytes(dataBytes: number, line: number): number {
  return Math.min(LINE_BYTES, dataBytes - line * LINE_BYTES);
}

/** What the checksum of a line starts from. */
function lineSeed(volume: string, seq: number, line: number): number {
  const place = Math.imul(seq % 2 ** 32, 0x9e3779b1) ^ Math.imul(line + 1, 0x85ebca6b);
  return (parseInt(volume.slice(0, 8), 16) ^ place) >>> 0;
}

/** The checksum of a line's data. `volume` is the id of the volume that the object is of. */
export function lineChecksum(data: Uint8Array, volume: string, seq: number, line: number): number {
  return crc32(data, lineSeed(volume, seq, line));
}

/** Writes the checksum of the line in `stored` (data, and room for the checksum) to its end. */
export function sealLine(stored: Uint8Array, volume: string, seq: number, line: number): void {
  const end = stored.length - CHECK_BYTES;
  viewOf(stored).setUint32(end, lineChecksum(stored.subarray(0, end), volume, seq, line), true);
}

/** True if the line in `stored` (data and checksum) is what was written as that line. */
export function isLineIntact(
  stored: Uint8Array,
  volume: string,
  seq: number,
  line: number,
): boolean {
  const end = stored.length - CHECK_BYTES;
  if (end <= 0) return false;
  return viewOf(stored).getUint32(end, true) ===
    lineChecksum(stored.subarray(0, end), volume, seq, line);
}

/** Bytes of the header that has these extents. */
export function headerBytesOf(extents: readonly LogExtent[]): number {
  let bytes = FIXED_HEADER_BYTES + CHECK_BYTES;
  for (const { kind } of extents) bytes += kind === "move" ? MOVE_BYTES : EXTENT_BYTES;
  return bytes;
}

const KIND_NUMBERS = { write: KIND_WRITE, zero: KIND_ZERO, trim: KIND_TRIM, move: KIND_MOVE };

/** A number below 2^53 with a tag in the byte above. */
function putTagged(view: DataView, at: number, value: number, tag: number): void {
  putU64(view, at, value);
  view.setUint8(at + 7, tag);
}

function getTagged(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true) & 0xffffff;
  return high < 2 ** 21 ? high * 2 ** 32 + view.getUint32(at, true) : Infinity;
}

function putExtents(view: DataView, extents: readonly LogExtent[]): void {
  let at = FIXED_HEADER_BYTES;
  for (const extent of extents) {
    putTagged(view, at, extent.offset, KIND_NUMBERS[extent.kind]);
    putU64(view, at + 8, extent.length);
    at += EXTENT_BYTES;
    if (extent.kind !== "move") continue;
    putTagged(view, at, extent.seq, extent.origin);
    putU64(view, at + 8, extent.at);
    at += MOVE_BYTES - EXTENT_BYTES;
  }
}

/** Encodes a header. */
export function encodeLogHeader(header: LogHeader): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(headerBytesOf(header.extents));
  const flags = (header.claim ? FLAG_CLAIM : 0) | (header.detach ? FLAG_DETACH : 0) |
    (header.afterDetach ? FLAG_AFTER_DETACH : 0);
  const view = putHeader(bytes, MAGIC, flags, header);
  view.setUint32(80, header.dataBytes, true);
  view.setUint32(84, header.extents.length, true);
  putExtents(view, header.extents);
  sealHeader(bytes);
  return bytes;
}

/**
 * Bytes of the header that `bytes` begin with; they may be its first FIXED_HEADER_BYTES alone. Throws
 * EIO, naming `name`, if they are no header.
 */
export function logHeaderBytes(bytes: Uint8Array, name: string): number {
  checkMagic(bytes, MAGIC, FIXED_HEADER_BYTES, { name, what: "log object" });
  const headerBytes = viewOf(bytes).getUint32(8, true);
  const least = FIXED_HEADER_BYTES + CHECK_BYTES;
  if (headerBytes < least || headerBytes > least + OBJECT_EXTENTS_MAX * MOVE_BYTES) {
    throw damaged(name, `its header cannot have ${headerBytes} bytes`);
  }
  return headerBytes;
}

interface ExtentReader {
  readonly view: DataView;
  readonly end: number;
  readonly name: string;
  at: number;
}

function readExtent(reader: ExtentReader): LogExtent {
  const { view, name, at } = reader;
  if (at + EXTENT_BYTES > reader.end) throw damaged(name, "its extents do not fit its header");
  const kind = view.getUint8(at + 7), offset = getTagged(view, at), length = getU64(view, at + 8);
  if (length === 0 || offset + length > Number.MAX_SAFE_INTEGER) {
    throw damaged(name, `it has an extent of ${length} bytes at ${offset}`);
  }
  reader.at += EXTENT_BYTES;
  if (kind === KIND_WRITE) return { kind: "write", offset, length };
  if (kind === KIND_ZERO) return { kind: "zero", offset, length };
  if (kind === KIND_TRIM) return { kind: "trim", offset, length };
  if (kind !== KIND_MOVE) throw damaged(name, `it has an extent of the unknown kind ${kind}`);
  if (at + MOVE_BYTES > reader.end) throw damaged(name, "its extents do not fit its header");
  reader.at += MOVE_BYTES - EXTENT_BYTES;
  const origin = view.getUint8(at + 23),
    seq = getTagged(view, at + 16),
    from = getU64(view, at + 24);
  if (origin >= ORIGINS_MAX || seq > SEQ_MAX || from + length > OBJECT_DATA_BYTES_MAX) {
    throw damaged(name, `it moves data from an impossible place`);
  }
  return { kind: "move", offset, length, origin, seq, at: from };
}

function readExtents(bytes: Uint8Array, count: number, name: string): LogExtent[] {
  const reader = {
    view: viewOf(bytes),
    end: bytes.length - CHECK_BYTES,
    name,
    at: FIXED_HEADER_BYTES,
  };
  const extents: LogExtent[] = [];
  while (extents.length < count) extents.push(readExtent(reader));
  if (reader.at !== reader.end) throw damaged(name, "its extents do not fill its header");
  return extents;
}

function checkHeader(header: LogHeader, name: string): LogHeader {
  const { seq, epoch, next, diskBytes, dataBytes, claim, afterDetach } = header;
  if (seq < 1 || seq > SEQ_MAX || next <= seq || next > SEQ_MAX) {
    throw damaged(name, `it says that object ${next} follows ${seq}`);
  }
  if (epoch < 1 || epoch > SEQ_MAX) throw damaged(name, `its epoch is ${epoch}`);
  if (diskBytes > Number.MAX_SAFE_INTEGER) throw damaged(name, "its disk is larger than any");
  if (dataBytes > OBJECT_DATA_BYTES_MAX) throw damaged(name, `it has ${dataBytes} bytes of data`);
  let expected = 0;
  for (const { kind, length } of header.extents) {
    if (kind === "write" || kind === "move") expected += length;
  }
  if (expected !== dataBytes) {
    throw damaged(name, `it has ${dataBytes} bytes of data where its extents need ${expected}`);
  }
  if (claim ? header.extents.length > 0 : afterDetach || next !== seq + 1) {
    throw damaged(name, claim ? "it is a claim that has extents" : "only a claim leaves slots out");
  }
  return header;
}

/**
 * Decodes the header of the object `name` from its first bytes, at least `logHeaderBytes` of them. Throws
 * EIO, naming the object, for whatever is not such a header.
 */
export function decodeLogHeader(bytes: Uint8Array, name: string): LogHeader {
  const headerBytes = logHeaderBytes(bytes, name);
  if (bytes.length < headerBytes) throw damaged(name, "it is cut short");
  const whole = bytes.subarray(0, headerBytes), view = viewOf(whole);
  if (!isHeaderIntact(whole)) throw damaged(name, "its header has a wrong checksum");
  const { flags, ...place } = getHeader(whole);
  if (flags > (FLAG_CLAIM | FLAG_DETACH | FLAG_AFTER_DETACH)) {
    throw damaged(name, `it has unknown flags (${flags})`);
  }
  const count = view.getUint32(84, true);
  if (count > OBJECT_EXTENTS_MAX) throw damaged(name, `it has ${count} extents`);
  return checkHeader({
    ...place,
    dataBytes: view.getUint32(80, true),
    claim: (flags & FLAG_CLAIM) !== 0,
    detach: (flags & FLAG_DETACH) !== 0,
    afterDetach: (flags & FLAG_AFTER_DETACH) !== 0,
    extents: readExtents(whole, count, name),
  }, name);
}
