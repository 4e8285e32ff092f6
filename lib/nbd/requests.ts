/**
 * Decoding of requests of the transmission phase, compact and extended. One RequestHeader serves all
 * requests of a connection, so that a request costs no object. Implements the section "Request message".
 *
 * @module
 */
import { COMMAND, COMMAND_FLAG, TRANSMISSION } from "./constants.ts";
import { COMPACT_REQUEST_BYTES, EXTENDED_REQUEST_BYTES } from "./request_format.ts";

/** What of a request comes back in its replies, as 32-bit halves: no bigint, no rounding. */
export interface ReplyTo {
  /** Upper half of the cookie. */
  readonly cookieHigh: number;
  /** Lower half of the cookie. */
  readonly cookieLow: number;
  /** Upper half of the offset. */
  readonly offsetHigh: number;
  /** Lower half of the offset. */
  readonly offsetLow: number;
}

/** High halves from which on a 64-bit number has no exact `number`: 2^53. */
const HIGH_LIMIT = 2 ** 21;

/** The header of the request that was decoded last. */
export class RequestHeader implements ReplyTo {
  /** COMMAND_FLAG bits. */
  flags = 0;
  /** A COMMAND, or a number that is none. */
  type = 0;
  /** Upper half of the cookie. */
  cookieHigh = 0;
  /** Lower half of the cookie. */
  cookieLow = 0;
  /** Upper half of the offset. */
  offsetHigh = 0;
  /** Lower half of the offset. */
  offsetLow = 0;
  /** Bytes; exact if `representable`. */
  offset = 0;
  /** Bytes of payload or effect; exact if `representable`. */
  length = 0;
  /** Offset and length are below 2^53. */
  representable = true;
  /** Where the payload begins in the frame. */
  payloadStart = 0;

  /** Decodes the compact header at `start`. */
  decodeCompact(view: DataView, start: number): void {
    this.#common(view, start);
    this.length = view.getUint32(start + 24);
    this.representable = this.offsetHigh < HIGH_LIMIT;
    this.payloadStart = start + COMPACT_REQUEST_BYTES;
  }

  /** Decodes the extended header at `start`. */
  decodeExtended(view: DataView, start: number): void {
    this.#common(view, start);
    const lengthHigh = view.getUint32(start + 24);
    this.length = lengthHigh * 2 ** 32 + view.getUint32(start + 28);
    this.representable = this.offsetHigh < HIGH_LIMIT && lengthHigh < HIGH_LIMIT;
    this.payloadStart = start + EXTENDED_REQUEST_BYTES;
  }

  #common(view: DataView, start: number): void {
    this.flags = view.getUint16(start + 4);
    this.type = view.getUint16(start + 6);
    this.cookieHigh = view.getUint32(start + 8);
    this.cookieLow = view.getUint32(start + 12);
    this.offsetHigh = view.getUint32(start + 16);
    this.offsetLow = view.getUint32(start + 20);
    this.offset = this.offsetHigh * 2 ** 32 + this.offsetLow;
  }
}

/**
 * The flags that each command may carry on a connection with these transmission flags, by command
 * number. FUA goes with all of them: "the server MUST accept all commands with this bit set".
 */
export function flagsAllowed(transmissionFlags: number, extended: boolean): readonly number[] {
  const has = (flag: number): boolean => (transmissionFlags & flag) !== 0;
  const allowed: number[] = [];
  allowed[COMMAND.READ] = COMMAND_FLAG.FUA | (has(TRANSMISSION.SEND_DF) ? COMMAND_FLAG.DF : 0);
  allowed[COMMAND.WRITE] = COMMAND_FLAG.FUA | (extended ? COMMAND_FLAG.PAYLOAD_LEN : 0);
  allowed[COMMAND.DISC] = 0xffff;
  allowed[COMMAND.FLUSH] = COMMAND_FLAG.FUA;
  allowed[COMMAND.TRIM] = COMMAND_FLAG.FUA;
  allowed[COMMAND.CACHE] = COMMAND_FLAG.FUA;
  allowed[COMMAND.WRITE_ZEROES] = COMMAND_FLAG.FUA | COMMAND_FLAG.NO_HOLE |
    (has(TRANSMISSION.SEND_FAST_ZERO) ? COMMAND_FLAG.FAST_ZERO : 0);
  allowed[COMMAND.BLOCK_STATUS] = COMMAND_FLAG.FUA | COMMAND_FLAG.REQ_ONE |
    (has(TRANSMISSION.BLOCK_STATUS_PAYLOAD) ? COMMAND_FLAG.PAYLOAD_LEN : 0);
  return allowed;
}
