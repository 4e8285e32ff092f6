/**
 * `pattern`: a read-only disk whose content follows from the offset, so that any read of it can be
 * checked. Each 8-byte big-endian word holds its own offset, as in nbdkit's pattern plugin.
 *
 * @module
 */
import { BlockError } from "../lib/block/errors.ts";
import { REQUEST_BYTES_MAX } from "../lib/block/limits.ts";
import { optionSchema, sizeOption } from "../lib/block/options.ts";
import type { Backend, BackendType, Opened } from "../lib/block/types.ts";

const WORD_BYTES = 8;
const HALF = 2 ** 32;

/** Options of the pattern backend. */
export interface PatternOptions {
  /** Bytes of the disk. */
  readonly size: number;
}

/** The byte of the pattern at `offset` (0 to 2^53 - 1). */
function patternByte(offset: number): number {
  const inWord = offset % WORD_BYTES;
  return Math.floor((offset - inWord) / 256 ** (WORD_BYTES - 1 - inWord)) % 256;
}

/** Calls `byte` for the bytes before the first whole word and after the last, `words` for what is between. */
function walk(
  length: number,
  offset: number,
  byte: (at: number) => boolean,
  words: (start: number, end: number) => boolean,
): void {
  const start = Math.min((WORD_BYTES - offset % WORD_BYTES) % WORD_BYTES, length);
  const end = length - (length - start) % WORD_BYTES;
  for (let at = 0; at < start; at += 1) if (!byte(at)) return;
  if (start < end && !words(start, end)) return;
  for (let at = end; at < length; at += 1) if (!byte(at)) return;
}

/** Fills `into` with the pattern as it is at `offset` bytes from the start of the disk. */
export function patternFill(into: Uint8Array, offset: number): void {
  walk(into.length, offset, (at) => {
    into[at] = patternByte(offset + at);
    return true;
  }, (start, end) => {
    const view = new DataView(into.buffer, into.byteOffset, into.length);
    let high = Math.floor((offset + start) / HALF), low = (offset + start) % HALF;
    for (let at = start; at < end; at += WORD_BYTES) {
      view.setUint32(at, high);
      view.setUint32(at + 4, low);
      low += WORD_BYTES;
      if (low === HALF) low = 0, high += 1;
    }
    return true;
  });
}

/** Where on the disk `bytes`, read from `offset`, first differs from the pattern; -1 if nowhere. */
export function patternMismatch(bytes: Uint8Array, offset: number): number {
  let found = -1;
  const byte = (at: number): boolean => {
    if (bytes[at] !== patternByte(offset + at)) found = offset + at;
    return found < 0;
  };
  walk(bytes.length, offset, byte, (start, end) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let high = Math.floor((offset + start) / HALF), low = (offset + start) % HALF;
    for (let at = start; at < end; at += WORD_BYTES) {
      if (view.getUint32(at) !== high || view.getUint32(at + 4) !== low) {
        for (let inWord = 0; inWord < WORD_BYTES; inWord += 1) {
          if (!byte(at + inWord)) return false;
        }
      }
      low += WORD_BYTES;
      if (low === HALF) low = 0, high += 1;
    }
    return true;
  });
  return found;
}

function refuse(): never {
  throw new BlockError("EROFS", "Cannot change a pattern: it is read-only");
}

function open(options: PatternOptions): Promise<Opened> {
  const backend: Backend = {
    geometry: {
      size: options.size,
      minimum: 1,
      preferred: 4096,
      maximum: REQUEST_BYTES_MAX,
      readOnly: true,
    },
    capabilities: { synchronous: true, fua: true },
    read: patternFill,
    write: refuse,
    flush: () => {},
    cache: () => {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  return Promise.resolve({ backend });
}

/** The pattern backend. */
export const pattern: BackendType<PatternOptions> = {
  name: "pattern",
  summary: "read-only disk whose content follows from the offset",
  argument: "size",
  options: optionSchema({ size: sizeOption({ summary: "size of the disk" }) }),
  open,
};
