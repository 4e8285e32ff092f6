/**
 * Messages: a header of four little-endian u32 (type, req_id, tx_id, length of the payload) and the
 * payload. Pure. Strings of payloads end in NUL; bytes and characters are the same thing (Latin-1), so
 * that whatever a client sends comes back unchanged.
 *
 * @module
 */
import { type FrameFormat, ProtocolError } from "../stream/frame.ts";
import { HEADER_BYTES, KEPT_TEXT_LENGTH_MAX, PAYLOAD_BYTES_MAX, TEXTS_KEPT } from "./limits.ts";

/** A message. */
export interface Message {
  /** One of OPERATION, or anything a client makes up. */
  readonly type: number;
  /** Chosen by whoever asks, repeated by the reply; 0 in events. */
  readonly requestId: number;
  /** The transaction, 0 for none. */
  readonly transactionId: number;
  /** At most PAYLOAD_BYTES_MAX bytes. */
  readonly payload: Uint8Array;
}

function word(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) | (bytes[at + 1] ?? 0) << 8 | (bytes[at + 2] ?? 0) << 16 |
    (bytes[at + 3] ?? 0) << 24) >>> 0;
}

function putWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** Messages in a stream of bytes. A payload of more than PAYLOAD_BYTES_MAX breaks the protocol. */
export const XENSTORE_FRAMES: FrameFormat = {
  headerLengthMin: HEADER_BYTES,
  frameLengthMax: HEADER_BYTES + PAYLOAD_BYTES_MAX,
  frameLength(bytes: Uint8Array, start: number, end: number): number {
    if (end - start < HEADER_BYTES) return 0;
    const length = word(bytes, start + 12);
    if (length <= PAYLOAD_BYTES_MAX) return HEADER_BYTES + length;
    throw new ProtocolError(
      `Cannot take a payload of ${length} bytes: the limit is ${PAYLOAD_BYTES_MAX}`,
    );
  },
};

/** Reads the message in bytes[start, end); the payload is a view of them. */
export function decodeMessage(bytes: Uint8Array, start: number, end: number): Message {
  return {
    type: word(bytes, start),
    requestId: word(bytes, start + 4),
    transactionId: word(bytes, start + 8),
    payload: bytes.subarray(start + HEADER_BYTES, end),
  };
}

/** The length of the payload that a header at `start` announces, in bytes. */
export function payloadLength(bytes: Uint8Array, start: number): number {
  return word(bytes, start + 12);
}

/** Writes a header at `at`, of a message with a payload of `length` bytes. */
export function encodeHeader(
  into: Uint8Array,
  at: number,
  type: number,
  requestId: number,
  transactionId: number,
  length: number,
): void {
  putWord(into, at, type);
  putWord(into, at + 4, requestId);
  putWord(into, at + 8, transactionId);
  putWord(into, at + 12, length);
}

/** The bytes of a message. Throws RangeError if its payload is too long. */
export function encodeMessage(message: Message): Uint8Array<ArrayBuffer> {
  const { type, requestId, transactionId, payload } = message;
  if (payload.length > PAYLOAD_BYTES_MAX) {
    throw new RangeError(
      `Cannot encode a message: its payload has ${payload.length} bytes, the limit is ${PAYLOAD_BYTES_MAX}`,
    );
  }
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  encodeHeader(bytes, 0, type, requestId, transactionId, payload.length);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** Characters that are made into a string at a time: an argument list has a limit. */
const PIECE = 4096;

/** Strings that were made before, by a hash of their characters. */
const TEXTS: string[] = new Array(TEXTS_KEPT).fill("");

/**
 * The same string again for bytes that were seen before: clients name the same nodes over and over, and
 * a string that is known need not be made, hashed or checked.
 */
function keptText(bytes: Uint8Array, start: number, end: number): string {
  let hash = end - start;
  for (let at = start; at < end; at++) hash = Math.imul(hash ^ (bytes[at] ?? 0), 0x01000193);
  const slot = (hash ^ hash >>> 15) & (TEXTS_KEPT - 1);
  const kept = TEXTS[slot] ?? "";
  if (kept.length === end - start) {
    let at = start;
    while (at < end && kept.charCodeAt(at - start) === bytes[at]) at += 1;
    if (at === end) return kept;
  }
  return TEXTS[slot] = String.fromCharCode(...bytes.subarray(start, end));
}

/** The string in bytes[start, end), a character for a byte. */
export function textOf(bytes: Uint8Array, start: number = 0, end: number = bytes.length): string {
  if (end - start <= KEPT_TEXT_LENGTH_MAX) return keptText(bytes, start, end);
  if (end - start <= PIECE) return String.fromCharCode(...bytes.subarray(start, end));
  let text = "";
  for (let at = start; at < end; at += PIECE) text += textOf(bytes, at, Math.min(end, at + PIECE));
  return text;
}

/** The bytes of a string whose characters are bytes. Throws RangeError if one is not. */
export function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code > 255) {
      throw new RangeError(`Cannot send ${JSON.stringify(text)}: it has characters beyond Latin-1`);
    }
    bytes[at] = code;
  }
  return bytes;
}

/** The only string of a payload, without its NUL; null if it is not exactly one. */
export function oneString(payload: Uint8Array): string | null {
  const end = payload.indexOf(0);
  return end === payload.length - 1 && end >= 0 ? textOf(payload, 0, end) : null;
}

/** All strings of a payload that end in NUL; what follows the last NUL is no string. */
export function allStrings(payload: Uint8Array): string[] {
  const strings: string[] = [];
  let start = 0;
  for (let end = payload.indexOf(0); end >= 0; end = payload.indexOf(0, start)) {
    strings.push(textOf(payload, start, end));
    start = end + 1;
  }
  return strings;
}

const LONG_MAX = 2n ** 63n - 1n;

/** The number at the front of a string as atoi(3) reads it: 32 bits with a sign, 0 if there is none. */
export function leadingNumber(text: string): number {
  const digits = /^[ \t-\r]*([+-]?\d+)/.exec(text)?.[1];
  if (digits === undefined) return 0;
  const long = BigInt(digits);
  const clamped = long > LONG_MAX ? LONG_MAX : long < -LONG_MAX ? -LONG_MAX - 1n : long;
  return Number(BigInt.asIntN(32, clamped));
}
