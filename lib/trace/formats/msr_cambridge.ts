/**
 * The block traces of Microsoft Research Cambridge: lines of
 * `Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime`, as the README of SNIA IOTTA trace set
 * 388 tells. Timestamp is a Windows file time (100 ns since 1601), ResponseTime is in 100 ns as well,
 * offset and size are in bytes. File times are beyond 2^53, so seconds and the rest are read apart.
 *
 * @module
 */
import { type DecoderParts, decodeStream } from "../decoder.ts";
import type { TraceInfo } from "../event.ts";
import { NAME_BYTES_MAX } from "../limits.ts";
import type { ReadOptions, TraceFormat } from "../source.ts";
import {
  Fields,
  firstLines,
  LineDecoder,
  type LineParser,
  NameNumbers,
  WRONG_NAME,
  wrongNumber,
  wrongRange,
} from "../text.ts";

const COMMA = 0x2c;
/** Digits of a file time below the second. */
const TICK_DIGITS = 7;
const TICKS_PER_US = 10;
/** Seconds from 1601 to 1970. */
const SECONDS_TO_1970 = 11_644_473_600;

class Parser implements LineParser {
  readonly #fields = new Fields();
  readonly #volumes = new NameNumbers();
  readonly #volume = new Uint8Array(NAME_BYTES_MAX);
  readonly #device: string | undefined;
  readonly #parts: DecoderParts;
  #seconds = -1;
  #ticks = 0;

  constructor(parts: DecoderParts, device: string | undefined) {
    this.#parts = parts;
    this.#device = device;
  }

  parse(bytes: Uint8Array, start: number, end: number, line: number): string | null {
    const fields = this.#fields;
    fields.split(bytes, start, end, COMMA);
    if (fields.count !== 7) return `it has ${fields.count} fields, not 7`;
    if (line === 1 && fields.is(0, "Timestamp")) return null;
    const seconds = fields.highDigits(0, TICK_DIGITS), ticks = fields.lowDigits(0, TICK_DIGITS);
    if (seconds < 0 || ticks < 0) return "its time is no Windows file time";
    const write = fields.is(3, "Write");
    if (!write && !fields.is(3, "Read")) return "its type is neither Read nor Write";
    const offset = fields.whole(4), length = fields.whole(5), response = fields.whole(6);
    const wrong = wrongRange(offset, length);
    if (wrong !== null) return wrong;
    if (response < 0) return wrongNumber("response time", response);
    const volume = this.#volumeNumber();
    if (volume === 0) return WRONG_NAME;
    if (this.#device !== undefined && this.#volumes.names[volume - 1] !== this.#device) return null;
    if (this.#seconds < 0) {
      this.#seconds = seconds;
      this.#ticks = ticks;
    }
    const timeUs = (seconds - this.#seconds) * 1e6 + (ticks - this.#ticks) / TICKS_PER_US;
    const operation = write ? "write" : "read";
    this.#parts.events.request(
      timeUs,
      volume,
      operation,
      offset,
      length,
      0,
      response / TICKS_PER_US,
    );
    return null;
  }

  info(): TraceInfo {
    const started_ms = this.#seconds < 0
      ? null
      : (this.#seconds - SECONDS_TO_1970) * 1000 + Math.floor(this.#ticks / 10_000);
    const target = this.#device ?? this.#volumes.names[0] ?? null;
    return { started_ms, target, size: null, completes: true };
  }

  finish(): void {
    const { names } = this.#volumes;
    if (names.length < 2 || this.#device !== undefined) return;
    this.#parts.notes.remarks.push(
      `it has ${names.length} volumes, each a connection: ${names.slice(0, 8).join(", ")}` +
        (names.length > 8 ? " and more" : ""),
    );
  }

  /** The number of the volume `Hostname.DiskNumber`; as the files of the traces are named. */
  #volumeNumber(): number {
    const host = this.#fields.raw(1), disk = this.#fields.raw(2);
    if (host.length + 1 + disk.length > this.#volume.length) return 0;
    this.#volume.set(host);
    this.#volume[host.length] = 0x2e;
    this.#volume.set(disk, host.length + 1);
    return this.#volumes.of(this.#volume.subarray(0, host.length + 1 + disk.length));
  }
}

/** The traces of Microsoft Research Cambridge. */
export const msrCambridge: TraceFormat = {
  name: "msr",
  summary: "block traces of Microsoft Research Cambridge, CSV",
  endings: [],
  detect: (head) =>
    firstLines(head).some((line) => /^\d{9,20},[^,]+,\d+,(Read|Write),\d+,\d+,\d+\s*$/.test(line)),
  read: (input, options: ReadOptions = {}) =>
    decodeStream(
      input,
      (parts) => new LineDecoder(new Parser(parts, options.device), parts),
    ),
};
