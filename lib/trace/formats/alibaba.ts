/**
 * The block traces of Alibaba Cloud (2020): lines of `device_id,opcode,offset,length,timestamp`, as the
 * README of alibaba/block-traces tells. Offset and length are in bytes, the time is in µs since 1970;
 * a device is a connection of the trace.
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
const DEVICE_MAX = 2 ** 32 - 1;

class Parser implements LineParser {
  readonly #fields = new Fields();
  readonly #device: string | undefined;
  readonly #parts: DecoderParts;
  #startUs = -1;

  constructor(parts: DecoderParts, device: string | undefined) {
    this.#parts = parts;
    this.#device = device;
  }

  parse(bytes: Uint8Array, start: number, end: number, line: number): string | null {
    const fields = this.#fields;
    fields.split(bytes, start, end, COMMA);
    if (fields.count !== 5) return `it has ${fields.count} fields, not 5`;
    if (line === 1 && fields.is(0, "device_id")) return null;
    const device = fields.whole(0), offset = fields.whole(2), length = fields.whole(3);
    if (device < 0 || device > DEVICE_MAX) return "its device is no number below 2^32";
    const write = fields.is(1, "W");
    if (!write && !fields.is(1, "R")) return "its operation is neither R nor W";
    const wrong = wrongRange(offset, length);
    if (wrong !== null) return wrong;
    const timeUs = fields.whole(4);
    if (timeUs < 0) return wrongNumber("time", timeUs);
    if (this.#device !== undefined && !fields.is(0, this.#device)) return null;
    if (this.#startUs < 0) this.#startUs = timeUs;
    const operation = write ? "write" : "read";
    const since = timeUs - this.#startUs;
    this.#parts.events.request(since, device, operation, offset, length, 0, NO_LATENCY);
    return null;
  }

  info(): TraceInfo {
    const started_ms = this.#startUs < 0 ? null : Math.floor(this.#startUs / 1000);
    return { started_ms, target: this.#device ?? null, size: null, completes: false };
  }
}

/** The traces of Alibaba Cloud. */
export const alibaba: TraceFormat = {
  name: "alibaba",
  summary: "block traces of Alibaba Cloud, CSV",
  endings: [],
  detect: (head) => firstLines(head).some((line) => /^\d+,[RW],\d+,\d+,\d+\s*$/.test(line)),
  read: (input, options = {}) =>
    decodeStream(
      input,
      (parts) => new LineDecoder(new Parser(parts, options.device), parts),
    ),
};
