/**
 * Encoding of replies of the transmission phase: simple, structured and extended. Implements the
 * sections "Simple reply message", "Structured reply chunk message" and "Extended reply chunk
 * message". A reply is encoded when its outcome is known, never before.
 *
 * @module
 */
import { type BlockError, type Errno, errnoText, errnoToNbd } from "../block/errors.ts";
import {
  CHUNK,
  COMMAND,
  COMMAND_FLAG,
  EXTENDED_REPLY_MAGIC,
  REPLY_FLAG_DONE,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from "./constants.ts";
import { PAYLOAD_BYTES_MAX } from "./limits.ts";
import type { ReplyTo } from "./requests.ts";
import { messageBytes } from "./text.ts";

/** How a connection's replies look. */
export type ReplyStyle = "simple" | "structured" | "extended";

/** Bytes of a simple reply without data. */
export const SIMPLE_REPLY_BYTES = 16;
/** Bytes of the header of a structured chunk. */
export const STRUCTURED_CHUNK_BYTES = 20;
/** Bytes of the header of an extended chunk. */
export const EXTENDED_CHUNK_BYTES = 32;
/** Bytes before the data in an OFFSET_DATA chunk. */
export const DATA_OFFSET_BYTES = 8;
/** Bytes of the payload of an OFFSET_HOLE chunk. */
export const HOLE_PAYLOAD_BYTES = 12;
/** Bytes before the message in an ERROR chunk. */
const ERROR_FIXED_BYTES = 6;

function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value % 2 ** 32);
}

/** Writes replies of one style. Positions are those of the DataView given. */
export class ReplyEncoder {
  /** How replies look. */
  readonly style: ReplyStyle;
  /** Bytes of a chunk's header; 0 for simple replies. */
  readonly chunkBytes: number;
  /** Bytes before the data of a read that is answered in one piece. */
  readonly readBytes: number;
  /** Bytes of a reply that says success and nothing else. */
  readonly doneBytes: number;

  /** For replies of this style. */
  constructor(style: ReplyStyle) {
    this.style = style;
    this.chunkBytes =
      { simple: 0, structured: STRUCTURED_CHUNK_BYTES, extended: EXTENDED_CHUNK_BYTES }[style];
    this.readBytes = style === "simple" ? SIMPLE_REPLY_BYTES : this.chunkBytes + DATA_OFFSET_BYTES;
    this.doneBytes = style === "extended" ? EXTENDED_CHUNK_BYTES : SIMPLE_REPLY_BYTES;
  }

  /** A simple reply; `error` is an NBD error value or 0. */
  simple(view: DataView, at: number, to: ReplyTo, error: number): void {
    view.setUint32(at, SIMPLE_REPLY_MAGIC);
    view.setUint32(at + 4, error);
    view.setUint32(at + 8, to.cookieHigh);
    view.setUint32(at + 12, to.cookieLow);
  }

  /** The header of a chunk with `length` bytes of payload. */
  chunk(
    view: DataView,
    at: number,
    to: ReplyTo,
    flags: number,
    type: number,
    length: number,
  ): void {
    const extended = this.style === "extended";
    view.setUint32(at, extended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC);
    view.setUint16(at + 4, flags);
    view.setUint16(at + 6, type);
    view.setUint32(at + 8, to.cookieHigh);
    view.setUint32(at + 12, to.cookieLow);
    if (!extended) {
      view.setUint32(at + 16, length);
      return;
    }
    view.setUint32(at + 16, to.offsetHigh);
    view.setUint32(at + 20, to.offsetLow);
    setUint64(view, at + 24, length);
  }

  /** Whom a reply is for, from its first bytes. */
  replyToOf(view: DataView): ReplyTo {
    const extended = this.style === "extended";
    return {
      cookieHigh: view.getUint32(8),
      cookieLow: view.getUint32(12),
      offsetHigh: extended ? view.getUint32(16) : 0,
      offsetLow: extended ? view.getUint32(20) : 0,
    };
  }

  /** All before the data of a read answered in one piece: `readBytes` bytes. */
  readWhole(view: DataView, at: number, to: ReplyTo, length: number): void {
    if (this.style === "simple") {
      this.simple(view, at, to, 0);
      return;
    }
    this.chunk(view, at, to, REPLY_FLAG_DONE, CHUNK.OFFSET_DATA, DATA_OFFSET_BYTES + length);
    view.setUint32(at + this.chunkBytes, to.offsetHigh);
    view.setUint32(at + this.chunkBytes + 4, to.offsetLow);
  }

  /** All before the data of one piece of a read. */
  dataPiece(
    view: DataView,
    at: number,
    to: ReplyTo,
    flags: number,
    offset: number,
    length: number,
  ): void {
    this.chunk(view, at, to, flags, CHUNK.OFFSET_DATA, DATA_OFFSET_BYTES + length);
    setUint64(view, at + this.chunkBytes, offset);
  }

  /** One piece of a read that is all zeroes; `length` below 2^32. */
  holePiece(
    view: DataView,
    at: number,
    to: ReplyTo,
    flags: number,
    offset: number,
    length: number,
  ): void {
    this.chunk(view, at, to, flags, CHUNK.OFFSET_HOLE, HOLE_PAYLOAD_BYTES);
    setUint64(view, at + this.chunkBytes, offset);
    view.setUint32(at + this.chunkBytes + 8, length);
  }

  /** Success without data: `doneBytes` bytes. Structured replies allow the shorter simple one. */
  done(view: DataView, at: number, to: ReplyTo): void {
    if (this.style === "extended") this.chunk(view, at, to, REPLY_FLAG_DONE, CHUNK.NONE, 0);
    else this.simple(view, at, to, 0);
  }

  /** A whole reply that says failure, with a message where the style has room for one. */
  error(to: ReplyTo, error: number, message: string): Uint8Array<ArrayBuffer> {
    if (this.style === "simple") {
      const bytes = new Uint8Array(SIMPLE_REPLY_BYTES);
      this.simple(new DataView(bytes.buffer), 0, to, error);
      return bytes;
    }
    const text = messageBytes(message);
    const bytes = new Uint8Array(this.chunkBytes + ERROR_FIXED_BYTES + text.length);
    const view = new DataView(bytes.buffer);
    const length = ERROR_FIXED_BYTES + text.length;
    this.chunk(view, 0, to, REPLY_FLAG_DONE, CHUNK.ERROR, length);
    view.setUint32(this.chunkBytes, error);
    view.setUint16(this.chunkBytes + 4, text.length);
    bytes.set(text, this.chunkBytes + ERROR_FIXED_BYTES);
    return bytes;
  }
}

/** What of a request decides how its failure is told. */
export interface FailedRequest {
  /** The command. */
  readonly type: number;
  /** Its flags. */
  readonly flags: number;
  /** Bytes of payload or effect. */
  readonly length: number;
}

/** The NBD error value of a failure; section "Error values" limits which error goes where. */
export function nbdErrorOf(errno: Errno, request: FailedRequest, style: ReplyStyle): number {
  switch (errno) {
    case "EOPNOTSUPP": {
      const fast = request.type === COMMAND.WRITE_ZEROES &&
        (request.flags & COMMAND_FLAG.FAST_ZERO) !== 0;
      return errnoToNbd(fast ? "EOPNOTSUPP" : "EINVAL");
    }
    case "EOVERFLOW": {
      const fits = request.type === COMMAND.READ
        ? style !== "simple"
        : request.type !== COMMAND.WRITE && request.length > PAYLOAD_BYTES_MAX;
      return errnoToNbd(fits ? "EOVERFLOW" : "EINVAL");
    }
    // Access was taken away: for this client the server is going down.
    case "ENODEV":
      return errnoToNbd("ESHUTDOWN");
    default:
      return errnoToNbd(errno);
  }
}

/**
 * What a client is told of a failure. What went wrong further inside (an error with a cause) may
 * name files and hosts of the server: there the errno's words have to do.
 */
export function clientMessage(error: BlockError): string {
  return error.cause === undefined ? error.message : errnoText(error.errno);
}
