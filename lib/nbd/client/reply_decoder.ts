/**
 * Replies in the transmission phase, cut anywhere: simple, structured and extended. Data goes from
 * the chunk straight to where the reader wants it; everything else is looked at in place, or put
 * together in one small buffer if it was cut. Implements the sections "Simple reply message",
 * "Structured reply chunk message" and "Extended reply chunk message" of the NBD protocol document.
 *
 * @module
 */
import { ProtocolError } from "../../stream/frame.ts";
import {
  CHUNK,
  COMMAND,
  EXTENDED_REPLY_MAGIC,
  REPLY_FLAG_DONE,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from "../constants.ts";
import { ERROR_PAYLOAD_BYTES_MAX, STATUS_DESCRIPTORS_MAX } from "./limits.ts";
import { printable } from "./option_messages.ts";
import type { Pending } from "./pending.ts";

const SIMPLE_BYTES = 16, STRUCTURED_BYTES = 20, EXTENDED_BYTES = 32;
/** Bit of chunk types that are errors. */
const ERROR_BIT = 0x8000;
/** Above this the high half of a 64-bit number makes it unsafe as a `number`. */
const HIGH_MAX = 0x1fffff;

/** What was negotiated, as far as replies depend on it. */
export interface ReplyTerms {
  readonly structured: boolean;
  readonly extended: boolean;
  readonly statusContext: number | null;
}

/** The requests in flight. */
export interface PendingTable {
  /** The request of a cookie, or undefined. */
  find(cookie: number): Pending | undefined;
  /** The reply is whole: the cookie is free again. */
  finished(cookie: number, pending: Pending): void;
}

type State = "header" | "content" | "hole" | "status" | "descriptor" | "error";

function uint64(view: DataView, at: number): number {
  const high = view.getUint32(at);
  return high > HIGH_MAX ? Infinity : high * 2 ** 32 + view.getUint32(at + 4);
}

/** Takes the server's bytes and completes the requests of a table. Throws ProtocolError. */
export class ReplyDecoder {
  readonly #terms: ReplyTerms;
  readonly #table: PendingTable;
  readonly #scratch = new Uint8Array(ERROR_PAYLOAD_BYTES_MAX);
  readonly #scratchView = new DataView(this.#scratch.buffer);
  /** Bytes of a cut piece that are in the scratch buffer. */
  #filled = 0;

  #state: State = "header";
  /** Length of the next piece: a header, an error, a descriptor. */
  #need: number;
  /** Where data goes, and how much of it is missing. */
  #target: Uint8Array | null = null;
  #targetAt = 0;
  #targetEnd = 0;

  #cookie = 0;
  #pending: Pending | null = null;
  #type = 0;
  #done = false;
  /** Payload of the chunk that was not looked at yet, in bytes. */
  #payload = 0;

  /** Starts in front of a reply. */
  constructor(terms: ReplyTerms, table: PendingTable) {
    this.#terms = terms;
    this.#table = table;
    this.#need = this.#headerBytes();
  }

  /** True in front of a reply: nothing has come of the next one. */
  get idle(): boolean {
    return this.#state === "header" && this.#filled === 0 && this.#pending === null;
  }

  /** Takes the next bytes; keeps nothing of the chunk. */
  receive(chunk: Uint8Array): void {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    let at = 0;
    while (at < chunk.length) {
      if (this.#target !== null) {
        at += this.#copy(chunk, at);
      } else if (this.#filled === 0 && chunk.length - at >= this.#need) {
        const length = this.#need;
        if (this.#piece(chunk, view, at)) at += length;
      } else {
        at += this.#collect(chunk, at);
      }
    }
  }

  #headerBytes(): number {
    return this.#terms.extended ? EXTENDED_BYTES : SIMPLE_BYTES;
  }

  #copy(chunk: Uint8Array, at: number): number {
    const target = this.#target;
    if (target === null) return 0;
    const count = Math.min(chunk.length - at, this.#targetEnd - this.#targetAt);
    target.set(
      at === 0 && count === chunk.length ? chunk : chunk.subarray(at, at + count),
      this.#targetAt,
    );
    this.#targetAt += count;
    if (this.#targetAt === this.#targetEnd) {
      this.#target = null;
      this.#chunkEnd();
    }
    return count;
  }

  #collect(chunk: Uint8Array, at: number): number {
    const count = Math.min(chunk.length - at, this.#need - this.#filled);
    this.#scratch.set(chunk.subarray(at, at + count), this.#filled);
    this.#filled += count;
    if (this.#filled === this.#need && this.#piece(this.#scratch, this.#scratchView, 0)) {
      this.#filled = 0;
    }
    return count;
  }

  /** Looks at a whole piece; false if it turned out to be longer (`need` has grown). */
  #piece(bytes: Uint8Array, view: DataView, at: number): boolean {
    switch (this.#state) {
      case "header":
        return this.#header(view, at);
      case "content":
        this.#content(uint64(view, at));
        return true;
      case "hole":
        this.#hole(uint64(view, at), view.getUint32(at + 8));
        return true;
      case "status":
        this.#status(view, at);
        return true;
      case "descriptor":
        this.#descriptor(view, at);
        return true;
      case "error":
        this.#error(bytes, view, at);
        return true;
    }
  }

  #header(view: DataView, at: number): boolean {
    const magic = view.getUint32(at);
    const { structured, extended } = this.#terms;
    if (extended && magic === EXTENDED_REPLY_MAGIC) {
      const cookie = uint64(view, at + 8);
      const pending = this.#find(cookie);
      if (uint64(view, at + 16) !== pending.request.offset) {
        throw new ProtocolError(`Cannot read a reply: its offset is not that of request ${cookie}`);
      }
      this.#chunk(view.getUint16(at + 4), view.getUint16(at + 6), uint64(view, at + 24));
      return true;
    }
    if (!extended && magic === SIMPLE_REPLY_MAGIC) {
      this.#simple(view.getUint32(at + 4), uint64(view, at + 8));
      return true;
    }
    if (!extended && structured && magic === STRUCTURED_REPLY_MAGIC) {
      if (this.#need < STRUCTURED_BYTES) {
        this.#need = STRUCTURED_BYTES;
        return false;
      }
      this.#find(uint64(view, at + 8));
      this.#chunk(view.getUint16(at + 4), view.getUint16(at + 6), view.getUint32(at + 16));
      return true;
    }
    throw new ProtocolError(`Cannot read a reply: its magic is 0x${magic.toString(16)}`);
  }

  #find(cookie: number): Pending {
    const pending = this.#table.find(cookie);
    if (pending === undefined) {
      throw new ProtocolError(`Cannot read a reply: no request ${cookie} is in flight`);
    }
    this.#cookie = cookie;
    this.#pending = pending;
    return pending;
  }

  #current(): Pending {
    if (this.#pending === null) throw new Error("The decoder is inside a reply without a request");
    return this.#pending;
  }

  #simple(error: number, cookie: number): void {
    const pending = this.#find(cookie);
    const { request } = pending;
    this.#done = true;
    if (error !== 0) {
      pending.fail(error, "");
    } else if (request.command === COMMAND.BLOCK_STATUS) {
      throw new ProtocolError("Cannot read a reply: a simple one cannot tell block status");
    } else if (request.command === COMMAND.READ) {
      if (this.#terms.structured) {
        throw new ProtocolError(
          "Cannot read a reply: a simple one with data, where structured ones are agreed",
        );
      }
      this.#fill(pending, request.offset, request.length);
      return;
    }
    this.#chunkEnd();
  }

  /** Data of `length` bytes follows. */
  #fill(pending: Pending, offset: number, length: number): void {
    const start = pending.content(offset, length);
    this.#target = pending.request.data;
    this.#targetAt = start;
    this.#targetEnd = start + length;
  }

  #chunk(flags: number, type: number, length: number): void {
    this.#type = type;
    this.#done = (flags & REPLY_FLAG_DONE) !== 0;
    this.#payload = length;
    const { extended } = this.#terms;
    const statusHead = extended ? 8 : 4, descriptor = extended ? 16 : 8;
    if (type >= ERROR_BIT) {
      const least = type === CHUNK.ERROR_OFFSET ? 14 : 6;
      if (length < least || length > ERROR_PAYLOAD_BYTES_MAX) this.#badLength();
      this.#enter("error", length);
    } else if (type === CHUNK.NONE) {
      if (length !== 0) this.#badLength();
      if (!this.#done) {
        throw new ProtocolError("Cannot read a reply: a chunk NONE is not the last one");
      }
      this.#chunkEnd();
    } else if (type === CHUNK.OFFSET_DATA) {
      if (length < 9 || length - 8 > this.#current().request.length) this.#badLength();
      this.#enter("content", 8);
    } else if (type === CHUNK.OFFSET_HOLE) {
      if (length !== 12) this.#badLength();
      this.#enter("hole", 12);
    } else if (type === (extended ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS)) {
      const count = (length - statusHead) / descriptor;
      if (!Number.isInteger(count) || count < 1 || count > STATUS_DESCRIPTORS_MAX) {
        this.#badLength();
      }
      this.#enter("status", statusHead);
    } else {
      throw new ProtocolError(`Cannot read a reply: a chunk of type ${type} is not known here`);
    }
  }

  #badLength(): never {
    throw new ProtocolError(
      `Cannot read a reply: a chunk of type 0x${
        this.#type.toString(16)
      } has ${this.#payload} bytes`,
    );
  }

  #enter(state: State, need: number): void {
    this.#state = state;
    this.#need = need;
  }

  #content(offset: number): void {
    this.#fill(this.#current(), offset, this.#payload - 8);
  }

  #hole(offset: number, length: number): void {
    const pending = this.#current();
    const start = pending.content(offset, length);
    pending.request.data.fill(0, start, start + length);
    this.#chunkEnd();
  }

  #status(view: DataView, at: number): void {
    const { extended, statusContext } = this.#terms;
    const id = view.getUint32(at);
    if (id !== statusContext) {
      throw new ProtocolError(`Cannot read a reply: the context ${id} was not selected`);
    }
    this.#current().beginStatus();
    this.#payload -= extended ? 8 : 4;
    if (extended && view.getUint32(at + 4) !== this.#payload / 16) this.#badLength();
    this.#enter("descriptor", extended ? 16 : 8);
  }

  #descriptor(view: DataView, at: number): void {
    const pending = this.#current();
    if (this.#terms.extended) pending.extent(uint64(view, at), view.getUint32(at + 12));
    else pending.extent(view.getUint32(at), view.getUint32(at + 4));
    this.#payload -= this.#need;
    if (this.#payload === 0) this.#chunkEnd();
  }

  #error(bytes: Uint8Array, view: DataView, at: number): void {
    const pending = this.#current();
    const value = view.getUint32(at), wordsLength = view.getUint16(at + 4);
    const fixed = this.#type === CHUNK.ERROR_OFFSET ? 14 : 6;
    if (wordsLength > this.#payload - fixed) this.#badLength();
    const words = printable(bytes.subarray(at + 6, at + 6 + wordsLength));
    if (this.#type === CHUNK.ERROR_OFFSET) pending.failedAt(uint64(view, at + 6 + wordsLength));
    pending.fail(value, words);
    this.#chunkEnd();
  }

  #chunkEnd(): void {
    const pending = this.#current();
    this.#enter("header", this.#headerBytes());
    this.#pending = null;
    if (!this.#done) return;
    pending.finish();
    this.#table.finished(this.#cookie, pending);
  }
}
