/**
 * The block traces of Tencent Cloud (CBS, 2018): lines of `Timestamp,Offset,Size,IOType,VolumeID`, as the
 * README of SNIA IOTTA trace set 27917 tells. The time is in whole seconds since 1970, offset and size
 * are in sectors of 512 bytes, the type is 0 for a read and 1 for a write; a volume is a connection.
 *
 * @module
 */
import { type DecoderParts, decodeStream } from "../decoder.ts";
import type { TraceInfo } from "../event.ts";
import { NO_LATENCY } from "../event_list.ts";
import type { TraceFormat } from "../source.ts";
import {
  Fields,
  firstLines,
  LineDecoder,
  type LineParser,
  wrongNumber,
  wrongRange,
} from "../text.ts";

const COMMA = 0x2c;
const SECTOR_BYTES = 512;
const VOLUME_MAX = 2 ** 32 - 1;

class Parser implements LineParser {
  readonly #fields = new Fields();
  readonly #volume: string | undefined;
  readonly #parts: DecoderParts;
  #start = -1;

  constructor(parts: DecoderParts, volume: string | undefined) {
    this.#parts = parts;
    this.#volume = volume;
  }

  parse(bytes: Uint8Array, start: number, end: number, line: number): string | null {
    const fields = this.#fields;
    fields.split(bytes, start, end, COMMA);
    if (fields.count !== 5) return `it has ${fields.count} fields, not 5`;
    if (line === 1 && fields.is(0, "Timestamp")) return null;
    const time = fields.whole(0), volume = fields.whole(4);
    if (time < 0) return wrongNumber("time", time);
    if (volume < 0 || volume > VOLUME_MAX) return "its volume is no number below 2^32";
    const write = fields.is(3, "1");
    if (!write && !fields.is(3, "0")) return "its type is neither 0 nor 1";
    const offset = sectors(fields.whole(1)), length = sectors(fields.whole(2));
    const wrong = wrongRange(offset, length);
    if (wrong !== null) return wrong;
    if (this.#volume !== undefined && !fields.is(4, this.#volume)) return null;
    if (this.#start < 0) this.#start = time;
    const operation = write ? "write" : "read";
    const sinceUs = (time - this.#start) * 1e6;
    this.#parts.events.request(sinceUs, volume, operation, offset, length, 0, NO_LATENCY);
    return null;
  }

  info(): TraceInfo {
    const started_ms = this.#start < 0 ? null : this.#start * 1000;
    return { started_ms, target: this.#volume ?? null, size: null, completes: false };
  }
}

/** Sectors in bytes; what is no number stays what it is. */
function sectors(count: number): number {
  return count < 0 ? count : count * SECTOR_BYTES;
}

/** The traces of Tencent Cloud. */
export const tencent: TraceFormat = {
  name: "tencent",
  summary: "block traces of Tencent Cloud (CBS), CSV",
  endings: [],
  detect: (head) => firstLines(head).some((line) => /^\d+,\d+,\d+,[01],\d+\s*$/.test(line)),
  read: (input, options = {}) =>
    decodeStream(
      input,
      (parts) => new LineDecoder(new Parser(parts, options.device), parts),
    ),
};
