/**
 * Big-endian 64-bit numbers of the qcow2 format as `number`, and names as text.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";

const HIGH = 2 ** 32;

/** A view of the same bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A 64-bit number; what is above 2^53 is rounded, so compare the result with a bound before use. */
export function getU64(view: DataView, at: number): number {
  return view.getUint32(at) * HIGH + view.getUint32(at + 4);
}

/** Stores a whole number of 0 to 2^53 - 1, or a multiple of 512 below 2^62, in 64 bits. */
export function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / HIGH));
  view.setUint32(at + 4, value % HIGH);
}

/** `value` rounded up to a multiple of 8. */
export function roundUp8(value: number): number {
  return Math.ceil(value / 8) * 8;
}

/** An image is damaged or hostile: EINVAL with "Cannot use PATH: REASON". */
export function badImage(path: string, reason: string): BlockError {
  return new BlockError("EINVAL", `Cannot use ${path}: ${reason}`);
}

/** An image is fine, but this program cannot use it: EOPNOTSUPP with "Cannot use PATH: REASON". */
export function unsupportedImage(path: string, reason: string): BlockError {
  return new BlockError("EOPNOTSUPP", `Cannot use ${path}: ${reason}`);
}

/**
 * Text of an image (a file name, a snapshot's name). Throws EINVAL, naming `what`, if it is not UTF-8 or
 * has a NUL: it could not be written back as it was.
 */
export function decodeText(bytes: Uint8Array, path: string, what: string): string {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new BlockError("EINVAL", `Cannot use ${path}: ${what} is not valid UTF-8`, { cause });
  }
  if (text.includes("\0")) throw badImage(path, `${what} has a NUL character in it`);
  return text;
}
