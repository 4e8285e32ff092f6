/**
 * Numbers and ids in the objects of a log-structured disk: little-endian, 64-bit fields that hold a
 * `number`, ids of 16 bytes written as 32 hexadecimal digits.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";

const WORD = 2 ** 32;
const ID_BYTES = 16;
const ID_PATTERN = /^[0-9a-f]{32}$/;

/** Why an object cannot be used: EIO, with its name in front. */
export function damaged(name: string, reason: string): BlockError {
  return new BlockError("EIO", `Cannot use ${name}: ${reason}`);
}

/** A view of exactly these bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Writes a whole number from 0 to 2^53 - 1 as 64 bits. */
export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % WORD, true);
  view.setUint32(at + 4, Math.floor(value / WORD), true);
}

/** Reads 64 bits as a number; what is 2^53 or more comes out as Infinity, which no check lets pass. */
export function getU64(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  return high < 2 ** 21 ? high * WORD + view.getUint32(at, true) : Infinity;
}

/** True for 32 lower-case hexadecimal digits. */
export function isId(id: string): boolean {
  return ID_PATTERN.test(id);
}

/** Writes an id as 16 bytes. */
export function putId(bytes: Uint8Array, at: number, id: string): void {
  if (!isId(id)) throw new RangeError(`Cannot encode the id "${id}": it is not 32 hex digits`);
  for (let index = 0; index < ID_BYTES; index += 1) {
    bytes[at + index] = parseInt(id.slice(2 * index, 2 * index + 2), 16);
  }
}

/** Reads 16 bytes as an id. */
export function getId(bytes: Uint8Array, at: number): string {
  return bytes.subarray(at, at + ID_BYTES).toHex();
}

/** True if `bytes` begin with the ASCII text. */
export function beginsWith(bytes: Uint8Array, text: string): boolean {
  if (bytes.length < text.length) return false;
  for (let at = 0; at < text.length; at += 1) {
    if (bytes[at] !== text.charCodeAt(at)) return false;
  }
  return true;
}

/** Writes an ASCII text. */
export function putAscii(bytes: Uint8Array, at: number, text: string): void {
  for (let index = 0; index < text.length; index += 1) bytes[at + index] = text.charCodeAt(index);
}
