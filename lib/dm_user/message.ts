/**
 * The codec of dm-user: headers, where messages and responses end, and words for people. Pure. The
 * five fields of a header are u64 and are carried whole, so that what this code has no name for
 * survives; hot code reads single fields as numbers.
 *
 * @module
 */
import { type FrameFormat, ProtocolError } from "../stream/frame.ts";
import {
  HEADER_BYTES,
  HEADER_OFFSETS,
  REQUEST_FLAGS,
  REQUEST_TYPES,
  RESPONSE_TYPES,
} from "./constants.ts";
import { BIO_BYTES_MAX } from "./limits.ts";

/** The header of a message or of a response: five u64, as they are on the wire. */
export interface MessageHeader {
  /** Number of the message, in the order in which the target mapped them; opaque to a daemon. */
  readonly seq: bigint;
  /** REQUEST_TYPES of a message, RESPONSE_TYPES of a response. */
  readonly type: bigint;
  /** REQUEST_FLAGS of a message, 0 of a response. */
  readonly flags: bigint;
  /** First sector (512 bytes), from the start of the dm device; ignored in a response. */
  readonly sector: bigint;
  /** Bytes of the BIO; ignored in a response. */
  readonly length: bigint;
}

function viewOf(bytes: Uint8Array, start: number): DataView {
  if (start < 0 || bytes.length - start < HEADER_BYTES) {
    throw new RangeError(
      `Cannot access a header at ${start}: it takes ${HEADER_BYTES} of ${bytes.length} bytes`,
    );
  }
  return new DataView(bytes.buffer, bytes.byteOffset + start, HEADER_BYTES);
}

/**
 * The header at `start`. Throws RangeError if fewer than 40 bytes are left.
 *
 * @example
 * ```ts
 * import { decodeHeader, describeMessage, encodeHeader } from "./message.ts";
 * const bytes = new Uint8Array(40);
 * encodeHeader({ seq: 7n, type: 1n, flags: 0x88n, sector: 8n, length: 4096n }, bytes);
 * const text = describeMessage(decodeHeader(bytes));
 * if (text !== "seq 7 WRITE sector 8 len 4096 flags 0x88 SYNC|IDLE") throw new Error(text);
 * ```
 */
export function decodeHeader(bytes: Uint8Array, start = 0): MessageHeader {
  const view = viewOf(bytes, start);
  return {
    seq: view.getBigUint64(HEADER_OFFSETS.seq, true),
    type: view.getBigUint64(HEADER_OFFSETS.type, true),
    flags: view.getBigUint64(HEADER_OFFSETS.flags, true),
    sector: view.getBigUint64(HEADER_OFFSETS.sector, true),
    length: view.getBigUint64(HEADER_OFFSETS.length, true),
  };
}

/** Puts a header at `start`. Throws RangeError if there is no room or a field is no u64. */
export function encodeHeader(header: MessageHeader, into: Uint8Array, start = 0): void {
  const view = viewOf(into, start);
  for (const name of ["seq", "type", "flags", "sector", "length"] as const) {
    const value = header[name];
    if (BigInt.asUintN(64, value) !== value) {
      throw new RangeError(`Cannot encode a header: ${name} ${value} is no u64`);
    }
    view.setBigUint64(HEADER_OFFSETS[name], value, true);
  }
}

/** The u32 at `at`, little-endian. */
export function u32At(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) | (bytes[at + 1] ?? 0) << 8 | (bytes[at + 2] ?? 0) << 16 |
    (bytes[at + 3] ?? 0) << 24) >>> 0;
}

/**
 * The u64 at `at`, little-endian, as a number: exact up to 2^53 - 1; whatever is larger comes out
 * rounded, but never as a safe integer.
 */
export function u64At(bytes: Uint8Array, at: number): number {
  return u32At(bytes, at + 4) * 2 ** 32 + u32At(bytes, at);
}

/** Puts a u32 at `at`, little-endian. */
export function putU32(into: Uint8Array, at: number, value: number): void {
  into[at] = value;
  into[at + 1] = value >>> 8;
  into[at + 2] = value >>> 16;
  into[at + 3] = value >>> 24;
}

/** Puts a safe integer as a u64 at `at`, little-endian. */
export function putU64(into: Uint8Array, at: number, value: number): void {
  putU32(into, at, value % 2 ** 32);
  putU32(into, at + 4, Math.floor(value / 2 ** 32));
}

/** Bytes of data behind the header of the message at `start`: those of a WRITE, else 0. */
export function messagePayload(bytes: Uint8Array, start: number): number {
  return u64At(bytes, start + HEADER_OFFSETS.type) === REQUEST_TYPES.WRITE
    ? u64At(bytes, start + HEADER_OFFSETS.length)
    : 0;
}

/**
 * Frames of what the kernel sends: a header, and the data of a WRITE. `payloadMax` is the longest
 * data to be taken, in bytes; a longer WRITE is a ProtocolError.
 */
export function messageFormat(payloadMax: number = BIO_BYTES_MAX): FrameFormat {
  return {
    headerLengthMin: HEADER_BYTES,
    frameLengthMax: HEADER_BYTES + payloadMax,
    frameLength(bytes, start, end): number {
      if (end - start < HEADER_BYTES) return 0;
      const payload = messagePayload(bytes, start);
      if (payload > payloadMax) {
        throw new ProtocolError(
          `Cannot take a WRITE of ${payload} bytes: at most ${payloadMax} are possible`,
        );
      }
      return HEADER_BYTES + payload;
    },
  };
}

/**
 * Frames of what a daemon sends. A response alone does not tell its length, so `readLength` has to:
 * the bytes of the READ with that seq, 0 for any other message. Success to a READ carries that much.
 */
export function responseFormat(
  readLength: (seq: bigint) => number,
  payloadMax: number = BIO_BYTES_MAX,
): FrameFormat {
  return {
    headerLengthMin: HEADER_BYTES,
    frameLengthMax: HEADER_BYTES + payloadMax,
    frameLength(bytes, start, end): number {
      if (end - start < HEADER_BYTES) return 0;
      const { seq, type } = decodeHeader(bytes, start);
      return HEADER_BYTES + (type === BigInt(RESPONSE_TYPES.SUCCESS) ? readLength(seq) : 0);
    },
  };
}

function nameIn(names: Readonly<Record<string, number>>, value: number | bigint): string {
  const found = Object.entries(names).find(([, number]) => BigInt(number) === BigInt(value));
  return found === undefined ? `type ${value} (0x${value.toString(16)})` : found[0];
}

/** The name of a request type, or `type 500 (0x1f4)` if it has none. */
export function requestTypeName(type: number | bigint): string {
  return nameIn(REQUEST_TYPES, type);
}

/** The name of a response type, or `type 7 (0x7)` if it has none. */
export function responseTypeName(type: number | bigint): string {
  return nameIn(RESPONSE_TYPES, type);
}

/** Request flags as a number and the names of their bits: `0x88 SYNC|IDLE`, `0x80000 bit 19`, `0x0`. */
export function describeFlags(flags: number | bigint): string {
  let left = BigInt(flags);
  const names: string[] = [];
  for (const [name, bit] of Object.entries(REQUEST_FLAGS)) {
    if ((left & BigInt(bit)) === 0n) continue;
    names.push(name);
    left &= ~BigInt(bit);
  }
  for (let bit = 0n; left >> bit !== 0n; bit += 1n) {
    if ((left >> bit & 1n) !== 0n) names.push(`bit ${bit}`);
  }
  const number = `0x${flags.toString(16)}`;
  return names.length === 0 ? number : `${number} ${names.join("|")}`;
}

/** A message in words: `seq 7 WRITE sector 8 len 4096 flags 0x88 SYNC|IDLE`. */
export function describeMessage(header: MessageHeader): string {
  const { seq, type, flags, sector, length } = header;
  const what = requestTypeName(type);
  return `seq ${seq} ${what} sector ${sector} len ${length} flags ${describeFlags(flags)}`;
}

/** A response in words: `seq 7 SUCCESS`; flags are shown if there are any. */
export function describeResponse(header: MessageHeader): string {
  const { seq, type, flags } = header;
  const rest = flags === 0n ? "" : ` flags 0x${flags.toString(16)}`;
  return `seq ${seq} ${responseTypeName(type)}${rest}`;
}
