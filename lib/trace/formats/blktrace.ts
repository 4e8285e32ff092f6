/**
 * What blktrace writes: the files of the CPUs, or one stream of them all (`blktrace -o -`, `blkparse -d`),
 * in the byte order of either kind of machine. See blktrace_record.ts for the bytes.
 *
 * @module
 */
import { UsageError } from "../../block/usage_error.ts";
import type { ByteWindow } from "../byte_window.ts";
import { type Decoder, type DecoderParts, decodeStream } from "../decoder.ts";
import type { TraceInfo } from "../event.ts";
import { TRACE_DEVICES_MAX } from "../limits.ts";
import { type ReadOptions, type TraceFormat, TraceNotes, type TraceSource } from "../source.ts";
import { TraceError } from "../trace_error.ts";
import { BlktracePairs } from "./blktrace_pairs.ts";
import {
  ACTION,
  BlktraceRecord,
  byteOrder,
  CATEGORY,
  checkVersion,
  isMagic,
  NOTIFY_TIMESTAMP,
  RECORD_BYTES,
  RecordOrder,
} from "./blktrace_record.ts";
import { mergedCpus } from "./blktrace_merge.ts";
import { BlktraceWriter } from "./blktrace_writer.ts";

const MAGIC_BYTES = 4;

class BlktraceDecoder implements Decoder {
  readonly #parts: DecoderParts;
  readonly #device: number | null;
  readonly #order = new RecordOrder();
  readonly #pairs: BlktracePairs;
  readonly #record = new BlktraceRecord();
  readonly #devices = new Set<number>();
  /** Devices of which it is settled whether requests begin when queued or when issued. */
  readonly #decided = new Set<number>();
  #littleEndian: boolean | null = null;
  #version = 0;
  #inDamage = false;
  #arranged = false;
  #begun = false;
  #completions = 0;
  #wallMs: number | null = null;
  #wallNs = 0;
  #startedMs: number | null = null;

  constructor(parts: DecoderParts, device: string | undefined) {
    this.#parts = parts;
    this.#device = device === undefined ? null : deviceNumber(device);
    this.#pairs = new BlktracePairs(parts.events);
  }

  decode(window: ByteWindow): boolean {
    for (;;) {
      if (this.#drain()) return true;
      while (!this.#order.full && this.#ingest(window));
      if (!this.#order.full) return false;
      this.#arrange(false);
    }
  }

  finish(window: ByteWindow): void {
    this.#cutOff(window);
    this.#end();
  }

  info(): TraceInfo {
    const devices = [...this.#devices];
    const target = devices.length === 1 ? deviceText(devices[0] ?? 0) : null;
    return { started_ms: this.#startedMs, target, size: null, completes: this.#pairs.completes };
  }

  /** Puts the records that are there in order. */
  #arrange(end: boolean): void {
    // What the first records show holds for all: the info that is given with them must stay true.
    if (!this.#begun) {
      this.#pairs.completes = this.#completions > 0;
      this.#pairs.startNs = this.#wallMs === null ? null : this.#wallNs;
      this.#startedMs = this.#wallMs;
      for (const device of this.#devices) this.#decided.add(device);
    }
    this.#begun = true;
    this.#order.arrange(end);
    this.#arranged = true;
  }

  /** Makes events of the records that are in order; true if the list is full before. */
  #drain(): boolean {
    if (!this.#arranged) return false;
    while (!this.#parts.events.full) {
      if (!this.#order.take(this.#record)) {
        this.#arranged = false;
        return false;
      }
      this.#pairs.add(this.#record);
    }
    return true;
  }

  /** Makes events of all that is left. */
  #end(): void {
    for (const rest of [false, true]) {
      if (rest) this.#arrange(true);
      while (this.#order.take(this.#record)) this.#pairs.add(this.#record);
    }
    this.#pairs.finish(this.#parts.notes);
    if (this.#devices.size < 2) return;
    const names = [...this.#devices].slice(0, 8).map(deviceText).join(", ");
    this.#parts.notes.remarks.push(`it has ${this.#devices.size} devices: ${names}`);
  }

  /** Tells of bytes at the end of a stream that are no whole record. */
  #cutOff(window: ByteWindow): void {
    if (window.length === 0) return;
    if (this.#littleEndian === null) throw new TraceError("it is cut off in its first record");
    const { position, length } = window;
    this.#parts.notes.remarks.push(
      `the trace is torn at byte ${position}: ${length} bytes were dropped`,
    );
    window.at = window.end;
  }

  /** Takes a record of a stream; false if it is not there whole. */
  #ingest(window: ByteWindow): boolean {
    if (window.length < RECORD_BYTES) return false;
    const little = this.#littleEndian ??= this.#begin(window);
    const { view, at } = window;
    const magic = view.getUint32(at, little);
    if (!isMagic(magic) || (magic & 0xff) !== this.#version) return this.#skip(window);
    const after = view.getUint16(at + 46, little);
    if (window.length < RECORD_BYTES + after) return false;
    this.#take(window, after);
    window.at += RECORD_BYTES + after;
    return true;
  }

  #begin(window: ByteWindow): boolean {
    const little = byteOrder(window.bytes.subarray(window.at, window.end));
    if (little === null) throw new TraceError("it does not begin with a record of blktrace");
    const magic = window.view.getUint32(window.at, little);
    checkVersion(magic);
    this.#version = magic & 0xff;
    this.#order.littleEndian = little;
    return little;
  }

  #take(window: ByteWindow, after: number): void {
    const { view, at } = window, little = this.#littleEndian ?? true;
    const action = view.getUint32(at + 28, little), device = view.getUint32(at + 36, little);
    if ((action >>> 16 & CATEGORY.notify) !== 0) {
      if ((action & 0xff) === NOTIFY_TIMESTAMP && after >= 8) this.#wall(window);
      return;
    }
    if (this.#device !== null && device !== this.#device) return;
    const basic = action & 0xff;
    if (basic !== ACTION.queue && basic !== ACTION.issue && basic !== ACTION.complete) {
      if (basic !== ACTION.requeue) return;
    }
    if (!this.#devices.has(device)) {
      if (this.#devices.size === TRACE_DEVICES_MAX) {
        const what = `there are more than ${TRACE_DEVICES_MAX} devices`;
        return this.#parts.notes.problem(`byte ${window.position}`, what);
      }
      this.#devices.add(device);
    }
    if (basic === ACTION.issue && !this.#decided.has(device)) this.#pairs.issuing.add(device);
    if (basic === ACTION.complete) this.#completions += 1;
    this.#order.add(window, at);
  }

  #wall(window: ByteWindow): void {
    if (this.#wallMs !== null) return;
    const { view, at } = window, little = this.#littleEndian ?? true;
    const seconds = view.getUint32(at + RECORD_BYTES, little);
    const nanoseconds = view.getUint32(at + RECORD_BYTES + 4, little);
    this.#wallNs = this.#order.nsAt(view, at + 8);
    this.#wallMs = seconds * 1000 + Math.floor(nanoseconds / 1e6);
  }

  /** Goes on behind bytes that are no record, at the next that begins as one; false if there is none. */
  #skip(window: ByteWindow): boolean {
    const from = window.position, little = this.#littleEndian ?? true;
    const { view } = window;
    let at = window.at + 1;
    for (; at + MAGIC_BYTES <= window.end; at += 1) {
      const magic = view.getUint32(at, little);
      if (isMagic(magic) && (magic & 0xff) === this.#version) break;
    }
    window.at = at;
    if (!this.#inDamage) this.#parts.notes.problem(`byte ${from}`, "there is no record");
    this.#inDamage = at + MAGIC_BYTES > window.end;
    return window.length >= RECORD_BYTES;
  }
}

function deviceNumber(text: string): number {
  const found = /^(\d{1,4})[,:](\d{1,7})$/.exec(text);
  if (found !== null) return (Number(found[1]) << 20 | Number(found[2])) >>> 0;
  throw new UsageError(`"${text}" is no device of a blktrace: write MAJOR,MINOR, as in 8,0`);
}

function deviceText(device: number): string {
  return `${device >>> 20},${device & 0xf_ff_ff}`;
}

/** Reads the files of the CPUs as one trace. Throws TraceError. */
export async function readBlktrace(
  inputs: readonly ReadableStream<Uint8Array>[],
  { device }: ReadOptions = {},
): Promise<TraceSource> {
  const notes = new TraceNotes();
  const input = ReadableStream.from(mergedCpus(inputs, notes));
  return await decodeStream(input, (parts) => new BlktraceDecoder(parts, device), notes);
}

/** The format of blktrace. */
export const blktrace: TraceFormat = {
  name: "blktrace",
  summary: "records of blktrace, of one CPU or all",
  endings: [".blktrace", ".blktrace.0"],
  detect: (head) => byteOrder(head) !== null,
  read: (input, { device } = {}) =>
    decodeStream(input, (parts) => new BlktraceDecoder(parts, device)),
  write: (info, batches, notes) => new BlktraceWriter(info).write(batches, notes),
};
