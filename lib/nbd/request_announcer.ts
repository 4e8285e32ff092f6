/**
 * Looks ahead in what a client sends, for reads that wait behind others, and for writes: the Device is told of
 * each of them once, as soon as its header has come, so that its storage can work on several reads at a
 * time, and what has to be noted of writes is noted together. It follows the
 * frames by itself, since they are decoded only when their turn comes. Relies on the sections "Request
 * message", compact and extended.
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import { type FrameFormat, ProtocolError } from "../stream/frame.ts";
import { COMMAND } from "./constants.ts";
import { AHEAD_READS_MAX } from "./limits.ts";
import { RequestHeader } from "./requests.ts";

/** How a connection's requests are served. */
export interface AnnouncerOptions {
  /** Requests are extended ones. */
  readonly extended: boolean;
  /** A read that is alone is waited for at once: the storage is told of those behind it. */
  readonly waitsAlone: boolean;
}

/** Tells the Device of the requests of one connection. */
export class RequestAnnouncer {
  /** Reads that were looked at and are not served yet. */
  waiting = 0;
  /** The storage was told of reads that may not have been served. */
  announced = false;

  readonly #device: Device;
  readonly #format: FrameFormat;
  readonly #extended: boolean;
  readonly #waitsAlone: boolean;
  readonly #header = new RequestHeader();
  /** It knows where frames begin: it has seen all since a moment at which every frame had come whole. */
  #synchronous = false;
  /** What it is told of as soon as others are served, from `#laterAt` on. */
  #later: { readonly offset: number; readonly length: number }[] = [];
  #laterAt = 0;
  /** The next frame is the first of those that wait: it is about to be served, and nothing is gained. */
  #first = false;
  /** Bytes to come that belong to a frame whose header was seen. */
  #skip = 0;
  /** A header that has come in part. */
  readonly #head: Uint8Array<ArrayBuffer>;
  readonly #headView: DataView;
  #headFilled = 0;

  /** Requests are of `format`, with headers of `format.headerLengthMin` bytes. */
  constructor(device: Device, format: FrameFormat, { extended, waitsAlone }: AnnouncerOptions) {
    this.#device = device;
    this.#format = format;
    this.#extended = extended;
    this.#waitsAlone = waitsAlone;
    this.#head = new Uint8Array(format.headerLengthMin);
    this.#headView = new DataView(this.#head.buffer);
  }

  /** Looks at the bytes that came next. `whole`: all frames that came before them have come whole. */
  look(chunk: Uint8Array, whole: boolean): void {
    if (whole) this.#begin();
    if (!this.#synchronous) return;
    try {
      this.#lookAt(chunk);
    } catch (error) {
      // Whoever decodes the frames finds the same.
      if (!(error instanceof ProtocolError)) throw error;
      this.#synchronous = false;
    }
  }

  /** `count` bytes of a payload have come without being looked at. */
  passed(count: number): void {
    if (count <= this.#skip) this.#skip -= count;
    else this.#synchronous = false;
  }

  /** A read is served. */
  served(): void {
    if (this.waiting === 0) return;
    this.waiting -= 1;
    const next = this.#later[this.#laterAt];
    if (next === undefined) return;
    this.#laterAt += 1;
    this.#tell(next.offset, next.length);
  }

  /** Of the reads that wait, those that the storage is told of later: they are the last. */
  get untold(): number {
    return this.#later.length - this.#laterAt;
  }

  /** Bytes come that are not looked at, or none come any more: reads are announced again when nothing waits. */
  lose(): void {
    this.#synchronous = false;
    this.waiting = this.#laterAt = 0;
    if (this.#later.length > 0) this.#later = [];
  }

  /** The storage need not keep what it has of reads that were announced. */
  forget(): void {
    this.lose();
    if (!this.announced) return;
    this.announced = false;
    this.#device.ahead?.forget();
  }

  #begin(): void {
    this.#synchronous = true;
    this.#skip = this.#headFilled = 0;
    this.#first = this.#waitsAlone && this.waiting === 0;
    if (this.waiting > 0) return;
    this.announced = false;
    this.#later.length = this.#laterAt = 0;
  }

  #lookAt(chunk: Uint8Array): void {
    const size = this.#head.length;
    let at = this.#headFilled > 0 ? this.#complete(chunk) : 0;
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    for (;;) {
      const passed = Math.min(this.#skip, chunk.length - at);
      this.#skip -= passed;
      at += passed;
      if (chunk.length - at < size) break;
      this.#frame(chunk, view, at);
      at += size;
    }
    this.#head.set(chunk.subarray(at), this.#headFilled);
    this.#headFilled += chunk.length - at;
  }

  /** Completes a header that has come in part, if the chunk does; how many of its bytes that took. */
  #complete(chunk: Uint8Array): number {
    const count = Math.min(this.#head.length - this.#headFilled, chunk.length);
    this.#head.set(chunk.subarray(0, count), this.#headFilled);
    this.#headFilled += count;
    if (this.#headFilled === this.#head.length) {
      this.#headFilled = 0;
      this.#frame(this.#head, this.#headView, 0);
    }
    return count;
  }

  /** A frame whose header is at `start`; its payload is to be skipped. */
  #frame(bytes: Uint8Array, view: DataView, start: number): void {
    const end = start + this.#head.length;
    this.#skip = this.#format.frameLength(bytes, start, end) - this.#head.length;
    const header = this.#header, first = this.#first;
    this.#first = false;
    if (this.#extended) header.decodeExtended(view, start);
    else header.decodeCompact(view, start);
    if (header.type === COMMAND.WRITE) {
      this.#device.willSubmit("write", header.offset, header.length);
    }
    if (header.type !== COMMAND.READ) return;
    this.waiting += 1;
    if (first) return;
    const { offset, length } = header;
    if (this.waiting - this.untold <= AHEAD_READS_MAX) this.#tell(offset, length);
    else this.#later.push({ offset, length });
  }

  #tell(offset: number, length: number): void {
    this.announced = true;
    this.#device.willSubmit("read", offset, length);
  }
}
