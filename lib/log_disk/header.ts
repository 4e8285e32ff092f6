/**
 * What the headers of log objects and of checkpoints have in common: a magic of 8 characters whose last one is the
 * version, their length, flags, who wrote it and where in the log it belongs, up to byte 80; and a CRC-32 of all
 * before at the end. Numbers are little-endian.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { beginsWith, damaged, getId, getU64, putAscii, putId, putU64, viewOf } from "./bytes.ts";

/** Where an object belongs. */
export interface HeaderPlace {
  /** Volume id: 32 hexadecimal digits. */
  readonly volume: string;
  /** Nonce of its writer. */
  readonly nonce: string;
  /** Sequence number of a log object, 1 to SEQ_MAX. */
  readonly seq: number;
  /** The epoch of that object, which is the number of the attach: each claim has a higher one. */
  readonly epoch: number;
  /** Sequence number of the object that follows. What lies between is void for ever. */
  readonly next: number;
  /** Size of the disk after that object, bytes. */
  readonly diskBytes: number;
}

const MAGIC_BYTES = 8, SUM_BYTES = 4;

/** Fills the first 80 bytes of a header, which is all of `bytes`. */
export function putHeader(
  bytes: Uint8Array,
  magic: string,
  flags: number,
  place: HeaderPlace,
): DataView {
  const view = viewOf(bytes);
  putAscii(bytes, 0, magic);
  view.setUint32(8, bytes.length, true);
  view.setUint32(12, flags, true);
  putId(bytes, 16, place.volume);
  putId(bytes, 32, place.nonce);
  putU64(view, 48, place.seq);
  putU64(view, 56, place.epoch);
  putU64(view, 64, place.next);
  putU64(view, 72, place.diskBytes);
  return view;
}

/** Reads what `putHeader` wrote, unchecked. */
export function getHeader(bytes: Uint8Array): HeaderPlace & { readonly flags: number } {
  const view = viewOf(bytes);
  return {
    flags: view.getUint32(12, true),
    volume: getId(bytes, 16),
    nonce: getId(bytes, 32),
    seq: getU64(view, 48),
    epoch: getU64(view, 56),
    next: getU64(view, 64),
    diskBytes: getU64(view, 72),
  };
}

/** Ends a header that is complete with its checksum. */
export function sealHeader(bytes: Uint8Array): void {
  const end = bytes.length - SUM_BYTES;
  viewOf(bytes).setUint32(end, crc32(bytes.subarray(0, end)), true);
}

/** True if the checksum at the end of a header is right. */
export function isHeaderIntact(bytes: Uint8Array): boolean {
  const end = bytes.length - SUM_BYTES;
  return viewOf(bytes).getUint32(end, true) === crc32(bytes.subarray(0, end));
}

/** Throws EIO, naming `name`, if what is there does not begin as "it is no WHAT" should, or is cut short. */
export function checkMagic(
  bytes: Uint8Array,
  magic: string,
  least: number,
  { name, what }: { readonly name: string; readonly what: string },
): void {
  if (!beginsWith(bytes, magic)) {
    const isLater = bytes.length >= MAGIC_BYTES && beginsWith(bytes, magic.slice(0, -1));
    throw damaged(
      name,
      isLater ? "it is in a later format than this program knows" : `it is no ${what}`,
    );
  }
  if (bytes.length < least) throw damaged(name, "it is cut short");
}
