/**
 * The loads of blkreplay: lines of `start ; sector ; length ; op ; replay_delay ; replay_duration`, as
 * its manual and its example loads have them. Times are in seconds with nine digits, sectors are of 512
 * bytes, the operation is R or W. Whatever stands before the line that names the columns is a comment:
 * copyright notices, the history of the file. In a result of blkreplay, whose columns begin with
 * `orig_start`, delay and duration tell when each request was done.
 *
 * @module
 */
import { type DecoderParts, decodeStream } from "../decoder.ts";
import type { SubmitEvent, TraceEvent, TraceInfo } from "../event.ts";
import { NO_LATENCY } from "../event_list.ts";
import { PIECE_BYTES_MAX } from "../limits.ts";
import { Losses, pieceCount } from "../losses.ts";
import type { PlainTraceBytes, TraceFormat, TraceNotes } from "../source.ts";
import { Fields, LineDecoder, type LineParser, wrongNumber, wrongRange } from "../text.ts";
import { TextOutput } from "../text_output.ts";

const SEMICOLON = 0x3b, LETTER_R = 0x72, LETTER_W = 0x77;
const LOWER_CASE = 0x20;
const SECTOR_BYTES = 512;
const COLUMNS = "start ; sector; length ; op ;  replay_delay=0 ; replay_duration=0\n";
const HEAD_LINE = /^(orig_)?start\s*;\s*sector\s*;\s*length\s*;\s*op\b/m;
const DATA_LINE = /^\s*\d+\.\d{1,9}\s*;\s*\d+\s*;\s*\d+\s*;\s*[RWrw][A-Z]*\s*(;|$)/m;

class Parser implements LineParser {
  readonly #fields = new Fields();
  readonly #parts: DecoderParts;
  #results = false;
  /** Lines that are no data, before the first that is: comments, if the columns follow. */
  #comments = 0;
  #messages = 0;
  #begun = false;

  constructor(parts: DecoderParts) {
    this.#parts = parts;
  }

  parse(bytes: Uint8Array, start: number, end: number): string | null {
    const fields = this.#fields;
    fields.split(bytes, start, end, SEMICOLON);
    const columns = fields.is(0, "start");
    if (columns || fields.is(0, "orig_start")) {
      this.#begun = true;
      this.#results = !columns;
      return null;
    }
    if (!this.#begun && (fields.count < 4 || fields.secondsUs(0) < 0)) {
      this.#comments += 1;
      return null;
    }
    this.#begun = true;
    // Between its results blkreplay tells how it fares.
    if (this.#results && fields.count === 1) {
      this.#messages += 1;
      return null;
    }
    return this.#request();
  }

  info(): TraceInfo {
    return { started_ms: null, target: null, size: null, completes: this.#results };
  }

  finish(): void {
    const { notes } = this.#parts;
    if (this.#messages > 0) notes.remarks.push(`${this.#messages} lines are messages of blkreplay`);
    if (this.#begun || this.#comments === 0) return;
    notes.problem("line 1", "no line of it and of those that follow is of a load");
  }

  #request(): string | null {
    const fields = this.#fields;
    if (fields.count < 4 || fields.count > 6) return `it has ${fields.count} fields, not 4 to 6`;
    const timeUs = fields.secondsUs(0);
    if (timeUs < 0) return wrongNumber("time", timeUs);
    // As blkreplay does it: the first letter counts, so that "RA" (read ahead) is a read.
    const op = fields.raw(3)[0] ?? 0, write = (op | LOWER_CASE) === LETTER_W;
    if (!write && (op | LOWER_CASE) !== LETTER_R) return "its op is neither R nor W";
    const offset = sectors(fields.whole(1)), length = sectors(fields.whole(2));
    const wrong = wrongRange(offset, length);
    if (wrong !== null) return wrong;
    let latencyUs = NO_LATENCY;
    if (this.#results) {
      const delay = fields.secondsUs(4), duration = fields.secondsUs(5);
      if (delay < 0 || duration < 0) return "its delay or duration is no number";
      latencyUs = delay + duration;
    }
    const operation = write ? "write" : "read";
    this.#parts.events.request(timeUs, 0, operation, offset, length, 0, latencyUs);
    return null;
  }
}

/** Sectors in bytes; what is no number stays what it is. */
function sectors(count: number): number {
  return count < 0 ? count : count * SECTOR_BYTES;
}

class Writer {
  readonly #losses = new Losses();
  readonly #output = new TextOutput();

  async *write(batches: AsyncIterable<readonly TraceEvent[]>, notes: TraceNotes): PlainTraceBytes {
    const output = this.#output;
    output.add(COLUMNS);
    for await (const batch of batches) {
      for (const event of batch) {
        if (event.kind === "submit") this.#request(event);
        if (output.full) yield output.take();
      }
    }
    yield output.take();
    this.#losses.tell(notes);
  }

  #request(event: SubmitEvent): void {
    const { operation, offset, length } = event;
    if (operation !== "read" && operation !== "write" && operation !== "zero") {
      return this.#losses.count(`were left out: blkreplay has no ${operation}`);
    }
    if (length === 0) return this.#losses.count("without data were left out");
    if (operation === "zero") this.#losses.count("that zero became writes");
    this.#losses.flagsAndData(event);
    const first = Math.floor(offset / SECTOR_BYTES);
    const last = Math.ceil((offset + length) / SECTOR_BYTES);
    if (offset % SECTOR_BYTES !== 0 || length % SECTOR_BYTES !== 0) {
      this.#losses.count("were widened to sectors");
    }
    const time = seconds(event.timeUs), op = operation === "read" ? "R" : "W";
    const most = PIECE_BYTES_MAX / SECTOR_BYTES, count = pieceCount(last - first, most);
    if (count === 0) this.#losses.count("were left out: they are too long");
    for (let from = first, left = count; left > 0; from += most, left -= 1) {
      const sectors = Math.min(most, last - from);
      this.#output.add(`${time} ; ${from} ; ${sectors} ; ${op} ; 0.0 ; 0.0\n`);
    }
  }
}

/** A time in µs as seconds with nine digits, which blkreplay expects all of. */
function seconds(timeUs: number): string {
  const nanoseconds = Math.round(Math.max(0, timeUs) * 1e3);
  const rest = String(nanoseconds % 1e9).padStart(9, "0");
  return `${Math.floor(nanoseconds / 1e9)}.${rest}`;
}

/** The loads of blkreplay. */
export const blkreplay: TraceFormat = {
  name: "blkreplay",
  summary: "loads and results of blkreplay",
  endings: [".load"],
  detect(head): boolean {
    const text = new TextDecoder().decode(head);
    return HEAD_LINE.test(text) || DATA_LINE.test(text);
  },
  read: (input) => decodeStream(input, (parts) => new LineDecoder(new Parser(parts), parts)),
  write: (_info, batches, notes) => new Writer().write(batches, notes),
};
