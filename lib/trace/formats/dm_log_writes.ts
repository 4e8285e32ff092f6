/**
 * The log device of the kernel's dm-log-writes target (drivers/md/dm-log-writes.c, and
 * Documentation/admin-guide/device-mapper/log-writes.rst), little endian. The first sector is the super
 * block; each entry takes a sector, and its data follow in whole sectors, but for a discard:
 *
 *     super  0 u64 0x6a736677736872   8 u64 version 1   16 u64 entries   24 u32 bytes of a sector
 *     entry  0 u64 sector   8 u64 sectors   16 u64 flags   24 u64 bytes of a mark, behind the entry
 *
 * Flags: 1 flush before, 2 FUA, 4 discard, 8 mark, 16 metadata. Sectors are those of the super block. A
 * request is in the log when it is done, so the log tells the order of completions; it has no times, and
 * each entry is 1 µs.
 *
 * @module
 */
import { REQUEST_BYTES_MAX } from "../../block/limits.ts";
import { FLAG_FUA } from "../../block/request.ts";
import type { ByteWindow } from "../byte_window.ts";
import { type Decoder, type DecoderParts, decodeStream } from "../decoder.ts";
import type { TraceInfo } from "../event.ts";
import { NO_LATENCY } from "../event_list.ts";
import type { TraceFormat } from "../source.ts";
import { TraceError } from "../trace_error.ts";
import { DmLogWriter } from "./dm_log_writer.ts";
import {
  ENTRY_BYTES,
  FLAG,
  isSuper,
  isSwappedSuper,
  MARKS_TOLD_MAX,
  SECTOR_BYTES_MAX,
  SECTOR_BYTES_MIN,
  SUPER_BYTES,
  u64At,
  VERSION,
} from "./dm_log_layout.ts";

class DmLogDecoder implements Decoder {
  readonly #parts: DecoderParts;
  /** Bytes of a sector; 0 before the super block was read. */
  #sectorBytes = 0;
  #left = 0;
  #entries = 0;
  #skip = 0;
  readonly #marks: string[] = [];
  #markCount = 0;

  constructor(parts: DecoderParts) {
    this.#parts = parts;
  }

  decode(window: ByteWindow): boolean {
    while (!this.#parts.events.full) {
      if (!this.#next(window)) return false;
    }
    return true;
  }

  finish(window: ByteWindow): void {
    if (this.#sectorBytes === 0) throw new TraceError("it is cut off in its super block");
    const { remarks } = this.#parts.notes;
    if (this.#left > 0) {
      remarks.push(
        `the trace is torn at byte ${window.position}: ${this.#left} of ` +
          `${this.#entries + this.#left} entries are not there`,
      );
    }
    window.at = window.end;
    if (this.#entries > 0) remarks.push("the trace has no times: its entries are 1 µs apart");
    if (this.#markCount === 0) return;
    const more = this.#markCount > MARKS_TOLD_MAX ? " and more" : "";
    remarks.push(`it has ${this.#markCount} marks: ${this.#marks.join(", ")}${more}`);
  }

  info(): TraceInfo {
    return { started_ms: null, target: null, size: null, completes: true };
  }

  /** Takes what is next; false if it is not there whole. */
  #next(window: ByteWindow): boolean {
    if (this.#sectorBytes === 0) return this.#super(window);
    if (this.#skip > 0) {
      const count = Math.min(this.#skip, window.length);
      window.at += count;
      this.#skip -= count;
      return this.#skip === 0;
    }
    // The log device is larger than the log: what is behind the last entry is of an older one.
    if (this.#left === 0) {
      window.at = window.end;
      return false;
    }
    return window.length >= this.#sectorBytes && this.#entry(window);
  }

  #super(window: ByteWindow): boolean {
    if (window.length < SUPER_BYTES) return false;
    const { view, at, bytes } = window;
    if (isSwappedSuper(bytes.subarray(at, window.end))) {
      throw new TraceError("it is a big-endian log of dm-log-writes: they are little endian");
    }
    if (!isSuper(bytes.subarray(at, window.end))) {
      throw new TraceError("it does not begin with the super block of dm-log-writes");
    }
    const version = u64At(view, at + 8), entries = u64At(view, at + 16);
    const sectorBytes = view.getUint32(at + 24, true);
    if (version !== VERSION) {
      throw new TraceError(`it is a dm-log-writes of version ${version}, known is ${VERSION}`);
    }
    const power = (sectorBytes & (sectorBytes - 1)) === 0;
    if (sectorBytes < SECTOR_BYTES_MIN || sectorBytes > SECTOR_BYTES_MAX || !power) {
      throw new TraceError(`its sectors have ${sectorBytes} bytes`);
    }
    if (!Number.isSafeInteger(entries)) throw new TraceError("it tells of too many entries");
    this.#sectorBytes = sectorBytes;
    this.#left = entries;
    this.#skip = sectorBytes;
    return true;
  }

  #entry(window: ByteWindow): boolean {
    const { view, at, position } = window, sector = this.#sectorBytes;
    const flags = view.getUint32(at + 16, true);
    const offset = u64At(view, at) * sector, length = u64At(view, at + 8) * sector;
    const hasData = (flags & (FLAG.discard | FLAG.mark)) === 0;
    const kept = !hasData || length <= REQUEST_BYTES_MAX;
    if (kept && hasData && window.length < sector + length) return false;
    this.#entries += 1;
    this.#left -= 1;
    window.at += sector;
    if (!kept) {
      this.#skip = length;
      this.#parts.notes.problem(`byte ${position}`, `an entry has ${length} bytes of data`);
      return true;
    }
    if ((flags & FLAG.mark) !== 0) this.#mark(window, at);
    else if (offset + length > Number.MAX_SAFE_INTEGER) {
      this.#parts.notes.problem(`byte ${position}`, "an entry ends after byte 2^53 - 1");
    } else this.#events(window, flags, offset, length);
    if (hasData) window.at += length;
    return true;
  }

  #events(window: ByteWindow, flags: number, offset: number, length: number): void {
    const timeUs = this.#entries - 1;
    const { events } = this.#parts;
    function done(id: number): void {
      events.completion(timeUs, id, null);
    }
    if ((flags & FLAG.flush) !== 0) {
      done(events.request(timeUs, 0, "flush", 0, 0, 0, NO_LATENCY));
    }
    if (length === 0) return;
    const fua = (flags & FLAG.fua) === 0 ? 0 : FLAG_FUA;
    if ((flags & FLAG.discard) !== 0) {
      done(events.request(timeUs, 0, "trim", offset, length, fua, NO_LATENCY));
      return;
    }
    const payload = window.bytes.slice(window.at, window.at + length);
    done(events.request(timeUs, 0, "write", offset, length, fua, NO_LATENCY, payload));
  }

  #mark(window: ByteWindow, at: number): void {
    this.#markCount += 1;
    if (this.#marks.length >= MARKS_TOLD_MAX) return;
    const bytes = Math.min(u64At(window.view, at + 24), this.#sectorBytes - ENTRY_BYTES);
    const text = window.bytes.subarray(at + ENTRY_BYTES, at + ENTRY_BYTES + bytes);
    this.#marks.push(new TextDecoder().decode(text).replace(/\p{Cc}/gu, ""));
  }
}

/** The log of dm-log-writes. */
export const dmLogWrites: TraceFormat = {
  name: "dm-log-writes",
  summary: "log device of the kernel's dm-log-writes: changes and their data; no times",
  endings: [".logwrites"],
  detect: (head) => isSuper(head) || isSwappedSuper(head),
  read: (input) => decodeStream(input, (parts) => new DmLogDecoder(parts)),
  write: (info, batches, notes) => new DmLogWriter(info).write(batches, notes),
};
