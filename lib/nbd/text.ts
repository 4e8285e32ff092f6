/**
 * Strings of the NBD protocol, section "Conventions": UTF-8, no NUL, at most 4096 bytes.
 *
 * @module
 */
import { QUOTED_LENGTH_MAX, STRING_BYTES_MAX } from "./limits.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The bytes of a string, or null if the protocol cannot carry it. */
export function checkedString(text: string): Uint8Array | null {
  if (text.length > STRING_BYTES_MAX || text.includes("\0") || !text.isWellFormed()) return null;
  const bytes = encoder.encode(text);
  return bytes.length <= STRING_BYTES_MAX ? bytes : null;
}

/** The string in `bytes`, or null if it is none: too long, a NUL in it, not UTF-8. */
export function decodeString(bytes: Uint8Array): string | null {
  if (bytes.length > STRING_BYTES_MAX || bytes.includes(0)) return null;
  try {
    return decoder.decode(bytes);
  } catch {
    return null;
  }
}

/** A client's text inside quotes, for messages: shortened, control characters escaped. */
export function quoted(text: string): string {
  const short = text.length > QUOTED_LENGTH_MAX ? `${text.slice(0, QUOTED_LENGTH_MAX)}…` : text;
  return JSON.stringify(short.toWellFormed()).replace(
    /[\x7f-\x9f]/g,
    (control) => `\\u${control.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** The bytes of a message for a human, cut at `bytesMax` without breaking a character. */
export function messageBytes(text: string, bytesMax: number = STRING_BYTES_MAX): Uint8Array {
  const bytes = new Uint8Array(Math.min(bytesMax, text.length * 3));
  const { written } = encoder.encodeInto(text.replaceAll("\0", " "), bytes);
  return bytes.subarray(0, written);
}
