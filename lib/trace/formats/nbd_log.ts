/**
 * The transaction log of nbd-server (`transactionlog` in its configuration): requests and replies as they
 * are on the wire of the NBD protocol, in network byte order. With `datalog` the data of a write follow
 * its request; a record that is not of the protocol says so:
 *
 *     request     0 u32 0x25609513   4 u32 flags << 16 | command   8 cookie (8)  16 u64 offset  24 u32 length
 *     reply       0 u32 0x67446698   4 u32 error                   8 cookie (8)
 *     structured  0 u32 0x668e33ef   4 u16 flags   6 u16 type      8 cookie (8)  16 u32 length
 *     data log    0 u32 0x25609514   4 u32 1    8 (8)    16 u64 0x4a93ba39a54f31b6    24 u32 0 or 1
 *
 * The payload of a structured reply is not there. The log has no times: each record is 1 µs.
 *
 * @module
 */
import { errnoFromNbd, errnoToNbd } from "../../block/errors.ts";
import { REQUEST_BYTES_MAX } from "../../block/limits.ts";
import { FLAG_FAST_ONLY, FLAG_FUA, FLAG_MAY_TRIM, type Operation } from "../../block/request.ts";
import { BinaryOutput } from "../binary_output.ts";
import type { ByteWindow } from "../byte_window.ts";
import { type Decoder, type DecoderParts, decodeStream } from "../decoder.ts";
import type { CompleteEvent, SubmitEvent, TraceEvent, TraceInfo } from "../event.ts";
import { NO_LATENCY } from "../event_list.ts";
import { Losses, pieceCount } from "../losses.ts";
import { Pending } from "../pending.ts";
import type { PlainTraceBytes, TraceFormat, TraceNotes } from "../source.ts";
import { TraceError } from "../trace_error.ts";

const REQUEST = 0x25_60_95_13, REPLY = 0x67_44_66_98, STRUCTURED = 0x66_8e_33_ef;
const DATA_LOG = 0x25_60_95_14, SET_DATA_LOG = 1;
/** Where the offset of a request would be: what tells a setting of the log. */
const SETTING_HIGH = 0x4a_93_ba_39, SETTING_LOW = 0xa5_4f_31_b6;
const REQUEST_BYTES = 28, REPLY_BYTES = 16, STRUCTURED_BYTES = 20, MAGIC_BYTES = 4;
const FLAG_DONE = 1, TYPE_ERROR = 1 << 15;
const WIRE_FUA = 1, WIRE_NO_HOLE = 2, WIRE_FAST_ZERO = 16;
const COMMANDS: readonly (Operation | null)[] = [
  "read",
  "write",
  null,
  "flush",
  "trim",
  "cache",
  "zero",
  "extents",
];
const LENGTH_MAX = 2 ** 32 - 4096;

/** Commands by operation: their places in COMMANDS. */
function commandOf(operation: Operation): number {
  return COMMANDS.indexOf(operation);
}

class NbdLogDecoder implements Decoder {
  readonly #parts: DecoderParts;
  /** Ids of requests under way by cookie, the oldest first. */
  readonly #pending = new Pending<number | bigint, { readonly id: number; error: boolean }>();
  #records = 0;
  #dataLog = false;
  #skip = 0;
  #inDamage = false;
  #unmatched = 0;

  constructor(parts: DecoderParts) {
    this.#parts = parts;
  }

  decode(window: ByteWindow): boolean {
    while (!this.#parts.events.full) {
      if (!this.#record(window)) return false;
    }
    return true;
  }

  finish(window: ByteWindow): void {
    const { remarks } = this.#parts.notes;
    if (window.length > 0 && !this.#inDamage) {
      remarks.push(
        `the trace is torn at byte ${window.position}: ${window.length} bytes were dropped`,
      );
    }
    window.at = window.end;
    if (this.#records > 0) remarks.push("the trace has no times: its records are 1 µs apart");
    if (this.#unmatched > 0) {
      remarks.push(`${this.#unmatched} replies are to requests that it does not show`);
    }
  }

  info(): TraceInfo {
    return { started_ms: null, target: null, size: null, completes: true };
  }

  /** Takes a record; false if it is not there whole. */
  #record(window: ByteWindow): boolean {
    if (this.#skip > 0) {
      const count = Math.min(this.#skip, window.length);
      window.at += count;
      this.#skip -= count;
      if (this.#skip > 0) return false;
    }
    if (window.length < MAGIC_BYTES) return false;
    const { view, at } = window;
    switch (view.getUint32(at)) {
      case REQUEST:
        return this.#request(window);
      case REPLY:
        return this.#whole(window, REPLY_BYTES, () => {
          const error = view.getUint32(at + 4);
          this.#reply(cookieAt(view, at + 8), error, true);
        });
      case STRUCTURED:
        return this.#whole(window, STRUCTURED_BYTES, () => {
          const failed = (view.getUint16(at + 6) & TYPE_ERROR) !== 0;
          const done = (view.getUint16(at + 4) & FLAG_DONE) !== 0;
          this.#reply(cookieAt(view, at + 8), failed ? errnoToNbd("EIO") : 0, done);
        });
      case DATA_LOG:
        return this.#whole(window, REQUEST_BYTES, () => this.#setting(window, at));
      default:
        return this.#damage(window);
    }
  }

  #whole(window: ByteWindow, bytes: number, take: () => void): boolean {
    if (window.length < bytes) return false;
    this.#inDamage = false;
    this.#records += 1;
    take();
    window.at += bytes;
    return true;
  }

  #setting(window: ByteWindow, at: number): void {
    const { view } = window;
    const setting = view.getUint32(at + 16) === SETTING_HIGH &&
      view.getUint32(at + 20) === SETTING_LOW && view.getUint32(at + 4) === SET_DATA_LOG;
    if (setting) this.#dataLog = view.getUint32(at + 24) !== 0;
    else this.#parts.notes.problem(`byte ${window.position}`, "there is a setting not known");
  }

  #request(window: ByteWindow): boolean {
    if (window.length < REQUEST_BYTES) return false;
    const { view, at, position } = window;
    const command = view.getUint16(at + 6), length = view.getUint32(at + 24);
    const operation = COMMANDS[command];
    const data = this.#dataLog && operation === "write" ? length : 0;
    const kept = data <= REQUEST_BYTES_MAX;
    if (kept && window.length < REQUEST_BYTES + data) return false;
    const start = at + REQUEST_BYTES;
    const payload = data > 0 && kept ? window.bytes.slice(start, start + data) : null;
    this.#inDamage = false;
    this.#records += 1;
    window.at = start + (kept ? data : 0);
    if (!kept) {
      this.#skip = data;
      this.#parts.notes.problem(`byte ${position}`, `a write has ${data} bytes of data`);
    } else if (operation === undefined) {
      this.#parts.notes.problem(`byte ${position}`, `there is no command ${command}`);
    } else if (operation === null) {
      // The client takes its leave: no reply follows.
    } else {
      this.#begin(view, at, position, operation, payload);
    }
    return true;
  }

  #begin(
    view: DataView,
    at: number,
    position: number,
    operation: Operation,
    payload: Uint8Array | null,
  ): void {
    const flush = operation === "flush";
    const offset = flush ? 0 : view.getUint32(at + 16) * 2 ** 32 + view.getUint32(at + 20);
    const length = flush ? 0 : view.getUint32(at + 24);
    if (offset + length > Number.MAX_SAFE_INTEGER) {
      this.#parts.notes.problem(`byte ${position}`, "a request ends after byte 2^53 - 1");
      return;
    }
    const flags = flagsOf(view.getUint16(at + 4), operation);
    const { events } = this.#parts;
    const timeUs = this.#records - 1;
    const id = events.request(timeUs, 0, operation, offset, length, flags, NO_LATENCY, payload);
    this.#pending.add(cookieAt(view, at + 8), { id, error: false });
  }

  #reply(cookie: number | bigint, error: number, done: boolean): void {
    const found = this.#pending.get(cookie);
    if (found === null) {
      this.#unmatched += 1;
      return;
    }
    found.error ||= error !== 0;
    if (!done) return;
    this.#pending.take(cookie);
    const errno = !found.error ? null : error === 0 ? "EIO" : errnoFromNbd(error);
    this.#parts.events.completion(this.#records - 1, found.id, errno);
  }

  /** Goes on behind bytes that are no record, at the next that begins as one. */
  #damage(window: ByteWindow): boolean {
    const { view, position, end } = window;
    if (this.#records === 0) {
      throw new TraceError(
        isMagic(view.getUint32(window.at, true))
          ? "it is a little-endian log of nbd-server: they are in network byte order"
          : "it does not begin with a record of nbd-server",
      );
    }
    if (!this.#inDamage) this.#parts.notes.problem(`byte ${position}`, "there is no record");
    this.#inDamage = true;
    for (window.at += 1; window.at + MAGIC_BYTES <= end; window.at += 1) {
      if (isMagic(view.getUint32(window.at))) return true;
    }
    return false;
  }
}

function isMagic(magic: number): boolean {
  return magic === REQUEST || magic === REPLY || magic === STRUCTURED || magic === DATA_LOG;
}

/** A cookie as a number, if it is safe as one. */
function cookieAt(view: DataView, at: number): number | bigint {
  const high = view.getUint32(at);
  return high < 2 ** 21 ? high * 2 ** 32 + view.getUint32(at + 4) : view.getBigUint64(at);
}

function flagsOf(wire: number, operation: Operation): number {
  const changes = operation === "write" || operation === "trim" || operation === "zero";
  let flags = changes && (wire & WIRE_FUA) !== 0 ? FLAG_FUA : 0;
  if (operation !== "zero") return flags;
  if ((wire & WIRE_NO_HOLE) === 0) flags |= FLAG_MAY_TRIM;
  return (wire & WIRE_FAST_ZERO) === 0 ? flags : flags | FLAG_FAST_ONLY;
}

function wireFlags({ flags, operation }: SubmitEvent): number {
  const fua = (flags & FLAG_FUA) === 0 ? 0 : WIRE_FUA;
  if (operation !== "zero") return fua;
  const hole = (flags & FLAG_MAY_TRIM) === 0 ? WIRE_NO_HOLE : 0;
  return fua | hole | ((flags & FLAG_FAST_ONLY) === 0 ? 0 : WIRE_FAST_ZERO);
}

class Writer {
  readonly #output = new BinaryOutput();
  readonly #losses = new Losses();
  #dataLog = false;

  async *write(batches: AsyncIterable<readonly TraceEvent[]>, notes: TraceNotes): PlainTraceBytes {
    const output = this.#output;
    for await (const batch of batches) {
      for (const event of batch) {
        if (event.kind === "submit") this.#submit(event);
        else this.#complete(event);
        if (output.full) yield output.take();
      }
    }
    yield output.take();
    this.#losses.tell(notes);
  }

  #submit(event: SubmitEvent): void {
    const { operation, payload, length } = event;
    if (payload === null && event.digest !== null) this.#losses.count("lost their digest");
    if (operation === "write" && (payload !== null) !== this.#dataLog) {
      this.#setDataLog(!this.#dataLog);
    }
    if (length > LENGTH_MAX) this.#losses.count("were cut in pieces: the first alone has a reply");
    const count = pieceCount(length, LENGTH_MAX);
    if (count === 0) this.#losses.count("were left out: they are too long");
    for (let from = 0, left = count; left > 0; from += LENGTH_MAX, left -= 1) {
      this.#request(event, from === 0 ? event.id : 0, from, Math.min(LENGTH_MAX, length - from));
    }
    if (payload !== null && operation === "write") this.#output.add(payload);
  }

  #request(event: SubmitEvent, cookie: number, from: number, bytes: number): void {
    const at = this.#output.room(REQUEST_BYTES), view = this.#output.view;
    const offset = event.offset + from;
    view.setUint32(at, REQUEST);
    view.setUint16(at + 4, wireFlags(event));
    view.setUint16(at + 6, commandOf(event.operation));
    setNumber(view, at + 8, cookie);
    setNumber(view, at + 16, offset);
    view.setUint32(at + 24, bytes);
  }

  #complete({ id, errno }: CompleteEvent): void {
    const at = this.#output.room(REPLY_BYTES), view = this.#output.view;
    view.setUint32(at, REPLY);
    view.setUint32(at + 4, errno === null ? 0 : errnoToNbd(errno));
    setNumber(view, at + 8, id);
  }

  #setDataLog(on: boolean): void {
    const at = this.#output.room(REQUEST_BYTES), view = this.#output.view;
    view.setUint32(at, DATA_LOG);
    view.setUint32(at + 4, SET_DATA_LOG);
    view.setUint32(at + 16, SETTING_HIGH);
    view.setUint32(at + 20, SETTING_LOW);
    view.setUint32(at + 24, on ? 1 : 0);
    this.#dataLog = on;
  }
}

/** A whole number below 2^53 as 64 bits. */
function setNumber(view: DataView, at: number, value: number): void {
  view.setUint32(at, value / 2 ** 32);
  view.setUint32(at + 4, value % 2 ** 32);
}

/** The transaction log of nbd-server. */
export const nbdLog: TraceFormat = {
  name: "nbd-log",
  summary: "transaction log of nbd-server, with or without data; no times",
  endings: [".nbdlog"],
  detect(head): boolean {
    if (head.length < MAGIC_BYTES) return false;
    const view = new DataView(head.buffer, head.byteOffset, MAGIC_BYTES);
    return isMagic(view.getUint32(0)) || isMagic(view.getUint32(0, true));
  },
  read: (input) => decodeStream(input, (parts) => new NbdLogDecoder(parts)),
  write: (_info, batches, notes) => new Writer().write(batches, notes),
};
