/**
 * Payloads of the 17 requests and their replies. Pure. Regions, counts and sizes are u64 on the wire
 * and `number` here: one that is no safe integer is past every log and is refused like any region that
 * is not there.
 *
 * @module
 */
import { PAYLOAD_BYTES_MAX } from "./limits.ts";

/** Bytes of a u64. */
const WORD_BYTES = 8;
/** Most regions in one payload. */
const REGIONS_PER_PAYLOAD_MAX: number = Math.floor(PAYLOAD_BYTES_MAX / WORD_BYTES);
const ENCODER = new TextEncoder();
const DECODER = new TextDecoder("utf-8", { ignoreBOM: true });
const NOTHING = new Uint8Array(0);

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** u64 words of a payload as numbers, or null if it is not whole words. Huge ones become Infinity. */
export function decodeWords(data: Uint8Array): number[] | null {
  if (data.length % WORD_BYTES !== 0) return null;
  const view = viewOf(data);
  const words: number[] = [];
  for (let at = 0; at < data.length; at += WORD_BYTES) {
    const word = Number(view.getBigUint64(at, true));
    words.push(Number.isSafeInteger(word) ? word : Infinity);
  }
  return words;
}

/** u64 (or s64) words as a payload. Throws RangeError for more than fit, or for what is no safe integer. */
export function encodeWords(...words: readonly number[]): Uint8Array<ArrayBuffer> {
  if (words.length > REGIONS_PER_PAYLOAD_MAX) {
    throw new RangeError(
      `Cannot encode ${words.length} regions: a payload has at most ${REGIONS_PER_PAYLOAD_MAX}`,
    );
  }
  const data = new Uint8Array(words.length * WORD_BYTES);
  const view = viewOf(data);
  for (const [index, word] of words.entries()) {
    if (!Number.isSafeInteger(word)) {
      throw new RangeError(`Cannot encode ${word}: it is no integer`);
    }
    view.setBigInt64(index * WORD_BYTES, BigInt(word), true);
  }
  return data;
}

/** The payload of SET_REGION_SYNC: a region, and whether its legs are the same. Null if it is none. */
export function decodeRegionSync(data: Uint8Array): { region: number; inSync: boolean } | null {
  const words = data.length === 2 * WORD_BYTES ? decodeWords(data) : null;
  const [region, inSync] = words ?? [];
  return region === undefined || inSync === undefined ? null : { region, inSync: inSync !== 0 };
}

/** The one region of IS_CLEAN, IN_SYNC and IS_REMOTE_RECOVERING, or null if the payload is none. */
export function decodeRegion(data: Uint8Array): number | null {
  return data.length === WORD_BYTES ? decodeWords(data)?.[0] ?? null : null;
}

/** What CTR carries: the text, and whether a NUL ends it, which tells a reconnect from a creation. */
export interface ConstructorText {
  /** Length, type and arguments. */
  readonly text: string;
  /** The kernel had this log before, with another daemon. */
  readonly reconnects: boolean;
}

/** The text of a CTR. */
export function decodeConstructor(data: Uint8Array): ConstructorText {
  const end = data.indexOf(0);
  const text = DECODER.decode(end < 0 ? data : data.subarray(0, end));
  return { text, reconnects: end >= 0 };
}

/** The payload of a CTR. */
export function encodeConstructor({ text, reconnects }: ConstructorText): Uint8Array<ArrayBuffer> {
  return ENCODER.encode(reconnects ? `${text}\0` : text);
}

/** A text as a payload, cut to what fits; a status line needs no NUL. */
export function encodeText(text: string): Uint8Array<ArrayBuffer> {
  return ENCODER.encode(text).slice(0, PAYLOAD_BYTES_MAX);
}

/** The reply to CTR: a device that the kernel is to hold open, or nothing. */
export function encodeDevice(device: string | null): Uint8Array {
  return device === null ? NOTHING : ENCODER.encode(`${device}\0`);
}

/** The text of a payload, without a NUL at its end. */
export function decodeText(data: Uint8Array): string {
  return DECODER.decode(data).replace(/\0+$/, "");
}
