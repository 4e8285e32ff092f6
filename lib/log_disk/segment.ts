/**
 * A log object while it is in memory: data in lines as they will be stored, copied once from where it comes,
 * and the extents that say what it is.
 *
 * @module
 */
import { LINE_BYTES, OBJECT_EXTENTS_MAX } from "./limits.ts";
import {
  CHECK_BYTES,
  encodeLogHeader,
  lineDataBytes,
  type LogExtent,
  type LogHeader,
  sealLine,
} from "./log_object.ts";

/** What of a header is known before the object is sealed. */
export type SegmentIdentity = Pick<LogHeader, "volume" | "nonce" | "seq" | "epoch" | "diskBytes">;

type Mutable = { -readonly [Key in keyof LogExtent]: LogExtent[Key] };

/** A log object that is being filled, or waits until it is durable. */
export class Segment {
  /** Which it is. */
  readonly identity: SegmentIdentity;
  /** When it got its first extent, µs of the clock. */
  readonly openedUs: number;
  /** Its lines: 64 KiB of data and room for a checksum each; the last is cut when it is sealed. */
  readonly lines: Uint8Array<ArrayBuffer>[] = [];
  readonly #extents: LogExtent[] = [];
  #last: Mutable | null = null;
  #dataBytes = 0;
  #hasMoves = false;

  constructor(identity: SegmentIdentity, openedUs: number) {
    this.identity = identity;
    this.openedUs = openedUs;
  }

  /** Its sequence number. */
  get seq(): number {
    return this.identity.seq;
  }

  /** Bytes of data in it. */
  get dataBytes(): number {
    return this.#dataBytes;
  }

  /** True if data in it may be changed in its place: what was moved has to stay what it was. */
  get isChangeable(): boolean {
    return !this.#hasMoves;
  }

  /** True if no further extent fits. */
  get isFull(): boolean {
    return this.#extents.length >= OBJECT_EXTENTS_MAX;
  }

  #push(extent: LogExtent): void {
    const own = { ...extent };
    this.#extents.push(own);
    this.#last = own;
  }

  /** Adds zeroes or a hole. */
  clear(kind: "zero" | "trim", offset: number, length: number): void {
    const last = this.#last;
    if (last?.kind === kind && last.offset + last.length === offset) {
      last.length += length;
      return;
    }
    this.#push({ kind, offset, length });
  }

  /** Adds data; gives its place. */
  write(from: Uint8Array, offset: number): number {
    const last = this.#last;
    if (last?.kind === "write" && last.offset + last.length === offset) {
      // Data of one extent is in one piece: nothing lies between, for this is the last one.
      last.length += from.length;
    } else {
      this.#push({ kind: "write", offset, length: from.length });
    }
    return this.#append(from);
  }

  /** Adds data that was elsewhere; gives its place. */
  move(from: Uint8Array, extent: LogExtent & { readonly kind: "move" }): number {
    this.#hasMoves = true;
    this.#push(extent);
    return this.#append(from);
  }

  #append(from: Uint8Array): number {
    const at = this.#dataBytes;
    this.#dataBytes = at + from.length;
    this.overwrite(from, at);
    return at;
  }

  #line(index: number): Uint8Array<ArrayBuffer> {
    let line = this.lines[index];
    if (line === undefined) {
      line = new Uint8Array(LINE_BYTES + CHECK_BYTES);
      this.lines[index] = line;
    }
    return line;
  }

  /** Puts data where there is some: of an object that is not sealed only what it ends up with counts. */
  overwrite(from: Uint8Array, at: number): void {
    let done = 0;
    while (done < from.length) {
      const place = at + done, start = place % LINE_BYTES;
      const length = Math.min(LINE_BYTES - start, from.length - done);
      const part = length === from.length ? from : from.subarray(done, done + length);
      this.#line((place - start) / LINE_BYTES).set(part, start);
      done += length;
    }
  }

  /** Reads data. */
  read(into: Uint8Array, at: number): void {
    let done = 0;
    while (done < into.length) {
      const place = at + done, start = place % LINE_BYTES;
      const length = Math.min(LINE_BYTES - start, into.length - done);
      into.set(this.#line((place - start) / LINE_BYTES).subarray(start, start + length), done);
      done += length;
    }
  }

  /** Computes the checksums; gives the whole object and the bytes of its header. Nothing may be added any more. */
  seal(detach: boolean): { body: Uint8Array<ArrayBuffer>[]; headerBytes: number } {
    const { identity, lines } = this;
    lines.forEach((line, index) => {
      const stored = line.subarray(0, lineDataBytes(this.#dataBytes, index) + CHECK_BYTES);
      sealLine(stored, identity.volume, identity.seq, index);
      lines[index] = stored;
    });
    const header = encodeLogHeader({
      ...identity,
      next: identity.seq + 1,
      dataBytes: this.#dataBytes,
      claim: false,
      detach,
      afterDetach: false,
      extents: this.#extents,
    });
    return { body: [header, ...lines], headerBytes: header.length };
  }
}
