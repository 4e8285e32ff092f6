/**
 * How a disk log lies on its medium: a header of 16 bytes (magic, version, number of regions) and, from
 * byte 1024, one bit for each region, 1 for clean. The kernel's `disk` log and cmirrord have the same
 * layout, so that each can go on where another one stopped.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import type { RawFile } from "../sys/file_access.ts";
import {
  DISK_LOG_BITMAP_OFFSET,
  DISK_LOG_MAGIC,
  DISK_LOG_NOTE_BYTES,
  DISK_LOG_NOTE_OFFSET,
  DISK_LOG_VERSION,
} from "./constants.ts";
import { READ_BYTES_MAX } from "./limits.ts";
import { bitmapBytes } from "./region_bitmap.ts";

/** Bytes of the header that mean something to every reader. */
export const HEADER_BYTES = 16;

/** What of a file a log is read and written through. */
export type LogFile = Pick<RawFile, "alignment" | "read" | "write" | "flush" | "flushAsync">;

/** What the start of a medium says. */
export type LogHeader =
  /** A log with so many regions; volume managers write 2^64 - 1 for "as many as there are". */
  | { readonly kind: "log"; readonly regions: bigint }
  /** Zeroes: nobody has made a log here. */
  | { readonly kind: "new" }
  /** Something else. */
  | { readonly kind: "damaged"; readonly reason: string };

/** Reads a header from the first 1024 bytes. */
export function decodeHeader(bytes: Uint8Array): LogHeader {
  const head = bytes.subarray(0, DISK_LOG_BITMAP_OFFSET);
  if (head.length < HEADER_BYTES) {
    return { kind: "damaged", reason: `it has only ${head.length} bytes` };
  }
  const view = new DataView(head.buffer, head.byteOffset, head.length);
  const magic = view.getUint32(0, true), version = view.getUint32(4, true);
  if (magic !== DISK_LOG_MAGIC) {
    if (head.every((byte) => byte === 0)) return { kind: "new" };
    return { kind: "damaged", reason: `its magic is 0x${magic.toString(16).padStart(8, "0")}` };
  }
  if (version !== DISK_LOG_VERSION) {
    return { kind: "damaged", reason: `its version is ${version}, not ${DISK_LOG_VERSION}` };
  }
  return { kind: "log", regions: view.getBigUint64(8, true) };
}

/** Puts a header at the start of `into`. */
export function encodeHeader(into: Uint8Array, regions: number): void {
  const view = new DataView(into.buffer, into.byteOffset, into.length);
  view.setUint32(0, DISK_LOG_MAGIC, true);
  view.setUint32(4, DISK_LOG_VERSION, true);
  view.setBigUint64(8, BigInt(regions), true);
}

/** Bytes that a log of so many regions takes, in whole units of the medium. */
export function logBytes(regions: number, unit: number): number {
  return Math.ceil((DISK_LOG_BITMAP_OFFSET + bitmapBytes(regions)) / unit) * unit;
}

/** Reads `length` bytes from the start of a medium, which may be shorter: zeroes stand for the rest. */
export function readStart(file: Pick<LogFile, "read">, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += READ_BYTES_MAX) {
    file.read(bytes.subarray(at, at + READ_BYTES_MAX), at);
  }
  return bytes;
}

/** A log as it was found on a medium. */
export interface FoundLog {
  /** What its start says. */
  readonly header: LogHeader;
  /** Regions whose bits were read: 0 unless there is a log. */
  readonly regions: number;
  /** The bitmap of those regions. */
  readonly bits: Uint8Array;
  /** The note of whoever keeps it; zeroes if there is none. */
  readonly note: Uint8Array;
}

/**
 * Reads the log on a medium; of one with more than `regionsMax` regions the first ones. Throws
 * SystemError if it cannot be read.
 */
export function readLog(
  file: Pick<LogFile, "read">,
  regionsMax: number,
  unit: number,
): FoundLog {
  const head = readStart(file, Math.ceil(DISK_LOG_BITMAP_OFFSET / unit) * unit);
  const header = decodeHeader(head);
  const note = head.slice(DISK_LOG_NOTE_OFFSET, DISK_LOG_NOTE_OFFSET + DISK_LOG_NOTE_BYTES);
  if (header.kind !== "log") return { header, regions: 0, bits: new Uint8Array(0), note };
  const regions = header.regions > BigInt(regionsMax) ? regionsMax : Number(header.regions);
  const bytes = readStart(file, logBytes(regions, unit));
  const bits = bytes.subarray(DISK_LOG_BITMAP_OFFSET).subarray(0, bitmapBytes(regions));
  return { header, regions, bits, note };
}

/** Regions for which a medium of so many bytes has room. */
export function regionsIn(bytes: number): number {
  return Math.max(0, bytes - DISK_LOG_BITMAP_OFFSET) * 8;
}

/** Throws EINVAL if a log of so many regions does not fit into `bytes`. */
export function checkRoom(path: string, bytes: number, regions: number, unit: number): void {
  const needed = logBytes(regions, unit);
  if (bytes >= needed) return;
  throw new BlockError(
    "EINVAL",
    `Cannot keep a log on ${path}: it has ${bytes} bytes, ${regions} regions take ${needed}`,
  );
}
