/**
 * Text traces: lines and their fields, read from bytes without a string a field.
 *
 * @module
 */
import type { ByteWindow } from "./byte_window.ts";
import type { Decoder, DecoderParts } from "./decoder.ts";
import type { TraceInfo } from "./event.ts";
import { LINE_BYTES_MAX, LINE_FIELDS_MAX, NAME_BYTES_MAX, NAMES_MAX } from "./limits.ts";

const NEWLINE = 0x0a, RETURN = 0x0d, BLANK = 0x20, TAB = 0x09, POINT = 0x2e;
const DIGIT_0 = 0x30;

/** What a number is that is not a whole one. */
export const NOT_WHOLE = -1;
/** What a whole number is that is larger than 2^53 - 1. */
export const TOO_LARGE = -2;

function isBlank(byte: number | undefined): boolean {
  return byte === BLANK || byte === TAB || byte === RETURN;
}

/** The fields of a line. */
export class Fields {
  /** Fields of the line. */
  count = 0;
  #bytes: Uint8Array = new Uint8Array(0);
  readonly #starts = new Int32Array(LINE_FIELDS_MAX + 1);
  readonly #ends = new Int32Array(LINE_FIELDS_MAX + 1);

  /** Takes a line that separates fields by a character; blanks around them do not count. */
  split(bytes: Uint8Array, start: number, end: number, separator: number): void {
    this.#bytes = bytes;
    this.count = 0;
    let from = start;
    for (let at = start; at < end; at += 1) {
      if (bytes[at] !== separator) continue;
      this.#trimmed(from, at);
      from = at + 1;
      if (this.count > LINE_FIELDS_MAX) return;
    }
    this.#trimmed(from, end);
  }

  /** Takes a line that separates fields by blanks. */
  splitBlank(bytes: Uint8Array, start: number, end: number): void {
    this.#bytes = bytes;
    this.count = 0;
    let at = start;
    for (;;) {
      while (at < end && isBlank(bytes[at])) at += 1;
      if (at === end || this.count > LINE_FIELDS_MAX) return;
      const from = at;
      while (at < end && !isBlank(bytes[at])) at += 1;
      this.#add(from, at);
    }
  }

  /** A field as a whole number; NOT_WHOLE or TOO_LARGE if it is none. */
  whole(index: number): number {
    const start = this.#starts[index] ?? 0, end = this.#ends[index] ?? 0;
    return index < this.count ? this.#whole(start, end) : NOT_WHOLE;
  }

  /** The last `digits` digits of a field as a whole number: the field must have more. */
  lowDigits(index: number, digits: number): number {
    const start = this.#starts[index] ?? 0, end = this.#ends[index] ?? 0;
    return index < this.count && end - start > digits ? this.#whole(end - digits, end) : NOT_WHOLE;
  }

  /** A field without its last `digits` digits as a whole number: the field must have more. */
  highDigits(index: number, digits: number): number {
    const start = this.#starts[index] ?? 0, end = this.#ends[index] ?? 0;
    return index < this.count && end - start > digits
      ? this.#whole(start, end - digits)
      : NOT_WHOLE;
  }

  /** A field in seconds, with up to nine digits behind the point, in µs; NOT_WHOLE or TOO_LARGE. */
  secondsUs(index: number): number {
    if (index >= this.count) return NOT_WHOLE;
    const start = this.#starts[index] ?? 0, end = this.#ends[index] ?? 0;
    let point = start;
    while (point < end && this.#bytes[point] !== POINT) point += 1;
    const seconds = this.#whole(start, point);
    if (seconds < 0 || point === end) return seconds < 0 ? seconds : micros(seconds, 0);
    const digits = end - point - 1;
    if (digits > 9) return NOT_WHOLE;
    const fraction = digits === 0 ? 0 : this.#whole(point + 1, end);
    return fraction < 0 ? fraction : micros(seconds, fraction * 10 ** (9 - digits));
  }

  /** True if a field is that text (ASCII). */
  is(index: number, text: string): boolean {
    const start = this.#starts[index] ?? 0, end = this.#ends[index] ?? 0;
    if (index >= this.count || end - start !== text.length) return false;
    for (let at = 0; at < text.length; at += 1) {
      if (this.#bytes[start + at] !== text.charCodeAt(at)) return false;
    }
    return true;
  }

  /** A field as a string; "" if there is none. */
  text(index: number): string {
    return new TextDecoder().decode(this.raw(index));
  }

  /** The bytes of a field: a view, good until the next line. */
  raw(index: number): Uint8Array {
    if (index >= this.count) return new Uint8Array(0);
    return this.#bytes.subarray(this.#starts[index], this.#ends[index]);
  }

  #trimmed(start: number, end: number): void {
    let from = start, to = end;
    while (from < to && isBlank(this.#bytes[from])) from += 1;
    while (to > from && isBlank(this.#bytes[to - 1])) to -= 1;
    this.#add(from, to);
  }

  #add(start: number, end: number): void {
    this.#starts[this.count] = start;
    this.#ends[this.count] = end;
    this.count += 1;
  }

  #whole(start: number, end: number): number {
    if (start === end) return NOT_WHOLE;
    let value = 0;
    for (let at = start; at < end; at += 1) {
      const digit = (this.#bytes[at] ?? 0) - DIGIT_0;
      if (digit < 0 || digit > 9) return NOT_WHOLE;
      value = value * 10 + digit;
    }
    return value > Number.MAX_SAFE_INTEGER ? TOO_LARGE : value;
  }
}

function micros(seconds: number, nanoseconds: number): number {
  const value = seconds * 1e6 + nanoseconds / 1e3;
  return value > Number.MAX_SAFE_INTEGER ? TOO_LARGE : value;
}

/** What is wrong with a number that is NOT_WHOLE or TOO_LARGE. */
export function wrongNumber(what: string, value: number): string {
  return value === TOO_LARGE ? `its ${what} is larger than 2^53 - 1` : `its ${what} is no number`;
}

/**
 * What is wrong with a range in bytes, or numbers of one that are NOT_WHOLE or TOO_LARGE; null if
 * nothing is.
 */
export function wrongRange(offset: number, length: number): string | null {
  if (offset < 0) return wrongNumber("offset", offset);
  if (length < 0) return wrongNumber("length", length);
  return offset + length > Number.MAX_SAFE_INTEGER ? "it ends after byte 2^53 - 1" : null;
}

/** What is wrong with a name that has no number. */
export const WRONG_NAME =
  `its name has more than ${NAME_BYTES_MAX} bytes, or is not of the first ${NAMES_MAX}`;

/** Numbers names of files, volumes and the like, in the order in which they come, from 1. */
export class NameNumbers {
  /** The names, decoded. */
  readonly names: string[] = [];
  readonly #byHash = new Map<number, { readonly bytes: Uint8Array; readonly number: number }[]>();

  /** The number of a name; 0 if it is too long, or one too many. */
  of(name: Uint8Array): number {
    const hash = hashOf(name);
    const found = this.#byHash.get(hash);
    if (found !== undefined) {
      for (const { bytes, number } of found) if (sameBytes(bytes, name)) return number;
    }
    if (this.names.length >= NAMES_MAX || name.length > NAME_BYTES_MAX) return 0;
    const number = this.names.push(new TextDecoder().decode(name));
    const entry = { bytes: name.slice(), number };
    if (found === undefined) this.#byHash.set(hash, [entry]);
    else found.push(entry);
    return number;
  }
}

function hashOf(bytes: Uint8Array): number {
  let hash = 0;
  for (let at = 0; at < bytes.length; at += 1) hash = Math.imul(hash, 31) + (bytes[at] ?? 0) | 0;
  return hash;
}

function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  if (one.length !== other.length) return false;
  for (let at = 0; at < one.length; at += 1) if (one[at] !== other[at]) return false;
  return true;
}

/** Understands the lines of a format. */
export interface LineParser {
  /** Understands a line, of which `line` is the number, from 1. Gives what is wrong with it, or null. */
  parse(bytes: Uint8Array, start: number, end: number, line: number): string | null;
  /** What is known of the trace when its first events are. */
  info(): TraceInfo;
  /** Called at the end. */
  finish?(): void;
}

/** A decoder of lines. Lines that are empty are passed over. */
export class LineDecoder implements Decoder {
  readonly #parser: LineParser;
  readonly #parts: DecoderParts;
  #line = 0;
  /** In a line that is too long, of which the beginning is gone. */
  #inLong = false;
  /** Where the search for the end of a line goes on, relative to `at`. */
  #searched = 0;

  /** Reads lines with a parser. */
  constructor(parser: LineParser, parts: DecoderParts) {
    this.#parser = parser;
    this.#parts = parts;
  }

  decode(window: ByteWindow): boolean {
    const bytes = window.bytes.subarray(0, window.end);
    while (!this.#parts.events.full) {
      const end = bytes.indexOf(NEWLINE, window.at + this.#searched);
      if (end === -1) {
        this.#unended(window);
        return false;
      }
      this.#take(bytes, window.at, end);
      window.at = end + 1;
      this.#searched = 0;
    }
    return true;
  }

  finish(window: ByteWindow): void {
    if (window.length > 0 && !this.#inLong) {
      this.#take(window.bytes, window.at, window.end);
      this.#parts.notes.remarks.push(
        `line ${this.#line}, the last, has no end: the trace may be cut off there`,
      );
    }
    window.at = window.end;
    this.#parser.finish?.();
  }

  info(): TraceInfo {
    return this.#parser.info();
  }

  #take(bytes: Uint8Array, start: number, end: number): void {
    if (this.#inLong) {
      this.#inLong = false;
      return;
    }
    this.#line += 1;
    const to = end > start && bytes[end - 1] === RETURN ? end - 1 : end;
    if (to === start) return;
    const wrong = to - start > LINE_BYTES_MAX
      ? tooLong
      : this.#parser.parse(bytes, start, to, this.#line);
    if (wrong !== null) this.#parts.notes.problem(`line ${this.#line}`, wrong);
  }

  /** Keeps the beginning of a line, unless it is too long already: then it is dropped. */
  #unended(window: ByteWindow): void {
    this.#searched = window.length;
    if (window.length <= LINE_BYTES_MAX) return;
    if (!this.#inLong) {
      this.#line += 1;
      this.#parts.notes.problem(`line ${this.#line}`, tooLong);
    }
    this.#inLong = true;
    this.#searched = 0;
    window.at = window.end;
  }
}

const tooLong = `it has more than ${LINE_BYTES_MAX} bytes`;

/** The first lines of a head of a text trace, for finding its format; whole ones, up to sixteen. */
export function firstLines(head: Uint8Array): readonly string[] {
  const lines = new TextDecoder().decode(head).split(/\r?\n/, 17);
  return lines.length > 16 ? lines.slice(0, 16) : lines;
}
