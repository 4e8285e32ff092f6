/**
 * What the file of a dirty bitmap says besides its bits: 64 bytes behind the header of the log, in bytes
 * that logs leave at zero, and so in the sector that a medium writes whole or not at all. All numbers are
 * little-endian.
 *
 * | byte | size | meaning                                                       |
 * | ---- | ---- | ------------------------------------------------------------- |
 * | 16   | 4    | magic 0x42756d64, "dmuB"                                      |
 * | 20   | 4    | version, 1                                                    |
 * | 24   | 8    | size of the disk, in bytes                                    |
 * | 32   | 4    | granularity, as the exponent of 2                             |
 * | 36   | 4    | 1 if the file is in use, 0 if its bits mean nothing           |
 * | 40   | 8    | number of the point: of two files in use the greater one goes on |
 * | 48   | 32   | SHA-256 of the text that says which storage it is about       |
 *
 * @module
 */
import { HEADER_BYTES } from "./disk_layout.ts";

const MAGIC = 0x42756d64, VERSION = 1;
const LABEL_BYTES = 64, IDENTITY_BYTES = 32;

/** A label, decoded. */
export interface BitmapLabel {
  /** Size of the disk, in bytes. */
  readonly size: number;
  /** Bytes of a region: a power of two. */
  readonly granularity: number;
  /** The bits mean something. */
  readonly used: boolean;
  /** Counts up with each point that is begun. */
  readonly point: number;
  /** 32 bytes that say which storage the bits are about. */
  readonly identity: Uint8Array;
}

/** A label as it is written behind the header. */
export function encodeLabel(label: BitmapLabel): Uint8Array {
  const bytes = new Uint8Array(LABEL_BYTES), view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, VERSION, true);
  view.setBigUint64(8, BigInt(label.size), true);
  view.setUint32(16, Math.log2(label.granularity), true);
  view.setUint32(20, label.used ? 1 : 0, true);
  view.setBigUint64(24, BigInt(label.point), true);
  bytes.set(label.identity.subarray(0, IDENTITY_BYTES), 32);
  return bytes;
}

/** Reads the label from the start of a file; null if there is none that this version knows. */
export function decodeLabel(start: Uint8Array): BitmapLabel | null {
  if (start.length < HEADER_BYTES + LABEL_BYTES) return null;
  const view = new DataView(start.buffer, start.byteOffset + HEADER_BYTES, LABEL_BYTES);
  if (view.getUint32(0, true) !== MAGIC || view.getUint32(4, true) !== VERSION) return null;
  const size = Number(view.getBigUint64(8, true)), exponent = view.getUint32(16, true);
  const point = Number(view.getBigUint64(24, true));
  if (!Number.isSafeInteger(size) || !Number.isSafeInteger(point) || exponent > 31) return null;
  const at = HEADER_BYTES + 32;
  return {
    size,
    granularity: 2 ** exponent,
    used: view.getUint32(20, true) === 1,
    point,
    identity: start.slice(at, at + IDENTITY_BYTES),
  };
}
