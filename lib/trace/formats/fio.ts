/**
 * The iolog of fio, versions 2 and 3: see "Trace file format" in fio's HOWTO.
 *
 *     fio version 3 iolog              fio version 2 iolog
 *     TIME FILE add|open|close         FILE add|open|close
 *     TIME FILE ACTION OFFSET LENGTH   FILE ACTION OFFSET LENGTH
 *
 * Times of version 3 are in µs since the beginning. Version 2 has none, but for `wait`, whose OFFSET is
 * µs since the wait before. Offsets and lengths are in bytes. A file is a connection of the trace.
 *
 * @module
 */
import type { Operation } from "../../block/request.ts";
import { type DecoderParts, decodeStream } from "../decoder.ts";
import type { SubmitEvent, TraceEvent, TraceInfo } from "../event.ts";
import { NO_LATENCY } from "../event_list.ts";
import { PIECE_BYTES_MAX } from "../limits.ts";
import { Losses, pieceCount } from "../losses.ts";
import type { PlainTraceBytes, TraceFormat, TraceNotes } from "../source.ts";
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
import { TextOutput } from "../text_output.ts";
import { TraceError } from "../trace_error.ts";

const FIRST_LINE = /^fio version (\d+) iolog/;
const ACTIONS: readonly (readonly [action: string, operation: Operation])[] = [
  ["read", "read"],
  ["write", "write"],
  ["trim", "trim"],
  ["sync", "flush"],
  ["datasync", "flush"],
];
/** What a file is called that has no name of its own. */
const NO_NAME = "device";

class Parser implements LineParser {
  readonly #fields = new Fields();
  readonly #files = new NameNumbers();
  readonly #device: string | undefined;
  readonly #parts: DecoderParts;
  /** Fields before the name of the file: 1 in version 3, for the time. */
  #before = -1;
  #waitedUs = 0;
  #ranges = 0;
  #unknown = 0;

  constructor(parts: DecoderParts, device: string | undefined) {
    this.#parts = parts;
    this.#device = device;
  }

  parse(bytes: Uint8Array, start: number, end: number): string | null {
    if (this.#before < 0) return this.#version(bytes.subarray(start, end));
    const fields = this.#fields, before = this.#before;
    fields.splitBlank(bytes, start, end);
    let timeUs = this.#waitedUs;
    if (before === 1) {
      timeUs = fields.whole(0);
      if (timeUs < 0) return wrongNumber("time", timeUs);
    }
    if (fields.count === before + 2) return this.#fileAction();
    if (fields.count !== before + 4) {
      return `it has ${fields.count} fields, not ${before + 2} or ${before + 4}`;
    }
    if (fields.is(before + 1, "wait")) return this.#wait();
    const operation = this.#operation();
    if (operation === null) return `there is no action "${fields.text(before + 1).slice(0, 20)}"`;
    const offset = fields.whole(before + 2), length = fields.whole(before + 3);
    const wrong = wrongRange(offset, length);
    if (wrong !== null) return wrong;
    const known = this.#files.names.length;
    const file = this.#files.of(fields.raw(before));
    if (file === 0) return WRONG_NAME;
    if (file > known) this.#unknown += 1;
    if (this.#device !== undefined && this.#files.names[file - 1] !== this.#device) return null;
    if (operation !== "flush") {
      this.#parts.events.request(timeUs, file, operation, offset, length, 0, NO_LATENCY);
      return null;
    }
    // What a sync says of a range is that of the write before it.
    if (length !== 0) this.#ranges += 1;
    this.#parts.events.request(timeUs, file, operation, 0, 0, 0, NO_LATENCY);
    return null;
  }

  info(): TraceInfo {
    const { names } = this.#files;
    const target = this.#device ?? (names.length === 1 ? names[0] ?? null : null);
    return { started_ms: null, target, size: null, completes: false };
  }

  finish(): void {
    const { remarks } = this.#parts.notes;
    if (this.#before < 0) throw new TraceError("it has no line");
    if (this.#before === 0 && this.#waitedUs === 0) remarks.push("the trace has no times");
    if (this.#ranges > 0) remarks.push(`${this.#ranges} syncs of a range are flushes of all`);
    if (this.#unknown > 0) remarks.push(`${this.#unknown} files were used before they were added`);
  }

  #version(line: Uint8Array): string | null {
    const version = FIRST_LINE.exec(new TextDecoder().decode(line))?.[1];
    if (version === undefined) throw new TraceError('it does not begin with "fio version 3 iolog"');
    if (version !== "2" && version !== "3") {
      throw new TraceError(`it is an iolog of version ${version}, known are 2 and 3`);
    }
    this.#before = version === "3" ? 1 : 0;
    return null;
  }

  #fileAction(): string | null {
    const fields = this.#fields, before = this.#before;
    const add = fields.is(before + 1, "add");
    if (!add && !fields.is(before + 1, "open") && !fields.is(before + 1, "close")) {
      return `there is no action of files "${fields.text(before + 1).slice(0, 20)}"`;
    }
    const file = add ? this.#files.of(fields.raw(before)) : 1;
    return file === 0 ? WRONG_NAME : null;
  }

  #wait(): string | null {
    if (this.#before === 1) return "there is no wait in version 3";
    const waitUs = this.#fields.whole(2);
    if (waitUs < 0) return wrongNumber("wait", waitUs);
    if (this.#waitedUs + waitUs > Number.MAX_SAFE_INTEGER) return "its wait ends after 2^53 µs";
    this.#waitedUs += waitUs;
    return null;
  }

  #operation(): Operation | null {
    for (const [action, operation] of ACTIONS) {
      if (this.#fields.is(this.#before + 1, action)) return operation;
    }
    return null;
  }
}

class Writer {
  readonly #version: 2 | 3;
  readonly #target: string | null;
  readonly #open = new Map<number, string>();
  readonly #losses = new Losses();
  readonly #output = new TextOutput();
  #lastUs = 0;

  constructor(version: 2 | 3, target: string | null) {
    this.#version = version;
    this.#target = target;
  }

  async *write(batches: AsyncIterable<readonly TraceEvent[]>, notes: TraceNotes): PlainTraceBytes {
    const output = this.#output;
    output.add(`fio version ${this.#version} iolog\n`);
    for await (const batch of batches) {
      for (const event of batch) {
        if (event.kind !== "submit") continue;
        this.#request(event);
        if (output.full) yield output.take();
      }
    }
    for (const name of new Set(this.#open.values())) output.add(`${this.#time()}${name} close\n`);
    yield output.take();
    this.#losses.tell(notes);
  }

  #request(event: SubmitEvent): void {
    const { operation, length } = event;
    const action = this.#action(operation);
    if (action === null) return;
    this.#losses.flagsAndData(event);
    // fio has nothing to do for a read of nothing, and stops at one.
    if (length === 0 && action !== "sync") return this.#losses.count("without data were left out");
    this.#lastUs = Math.max(this.#lastUs, Math.round(event.timeUs));
    const name = this.#open.get(event.connection) ?? this.#opened(event.connection);
    const start = `${this.#time()}${name} ${action} `;
    if (action === "sync") return this.#output.add(`${start}0 0\n`);
    const count = pieceCount(length);
    if (count === 0) this.#losses.count("were left out: they are too long");
    for (let from = 0, left = count; left > 0; from += PIECE_BYTES_MAX, left -= 1) {
      const bytes = Math.min(PIECE_BYTES_MAX, length - from);
      this.#output.add(`${start}${event.offset + from} ${bytes}\n`);
    }
  }

  #action(operation: Operation): string | null {
    switch (operation) {
      case "read":
      case "write":
      case "trim":
        return operation;
      case "flush":
        return "sync";
      case "zero":
        this.#losses.count("that zero became writes");
        return "write";
      case "cache":
      case "extents":
        this.#losses.count(`were left out: fio has no ${operation}`);
        return null;
    }
  }

  #time(): string {
    return this.#version === 3 ? `${this.#lastUs} ` : "";
  }

  /**
   * The file of a connection, which is opened. The connections of a target that is named are ways in
   * to one device; those of a trace that names none are volumes or files of their own.
   */
  #opened(connection: number): string {
    const plain = (this.#target ?? `${NO_NAME}${connection}`).replace(/[\s:]+/g, "_").slice(0, 255);
    const known = [...this.#open.values()].includes(plain);
    this.#open.set(connection, plain);
    const time = this.#time();
    if (!known) this.#output.add(`${time}${plain} add\n${time}${plain} open\n`);
    return plain;
  }
}

/** `begins` is what the first line is. */
function iolog(
  version: 2 | 3,
  begins: RegExp,
  rest: Pick<TraceFormat, "name" | "summary" | "endings">,
): TraceFormat {
  return {
    ...rest,
    detect: (head) => begins.test(firstLines(head)[0] ?? ""),
    read: (input, options = {}) =>
      decodeStream(input, (parts) => new LineDecoder(new Parser(parts, options.device), parts)),
    write: (info, batches, notes) => new Writer(version, info.target).write(batches, notes),
  };
}

/** The iolog of fio, version 3; of others it says that it does not know them. */
export const fio: TraceFormat = iolog(3, /^fio version (?!2 )\d+ iolog/, {
  name: "fio",
  summary: "iolog of fio, version 3, with times",
  endings: [".iolog"],
});

/** The iolog of fio, version 2: without times, as fio itself wrote it. */
export const fio2: TraceFormat = iolog(2, /^fio version 2 iolog/, {
  name: "fio2",
  summary: "iolog of fio, version 2, for fio before 3.31; written without times",
  endings: [],
});
