/**
 * What a server sends, byte by byte, for tests of the client: greeting, replies to options, replies to
 * requests. Written down from the NBD protocol document, not with the code under test.
 *
 * @module
 */

/** Fields one after another: [bits, value] or bytes or text. */
export type Field = readonly [bits: 16 | 32 | 64, value: number | bigint] | Uint8Array | string;

/** Puts fields together, big-endian. */
export function bytes(...fields: readonly Field[]): Uint8Array {
  const parts = fields.map((field) => {
    if (typeof field === "string") return new TextEncoder().encode(field);
    if (field instanceof Uint8Array) return field;
    const [bits, value] = field;
    const part = new Uint8Array(bits / 8);
    const view = new DataView(part.buffer);
    if (bits === 64) view.setBigUint64(0, BigInt(value));
    else if (bits === 32) view.setUint32(0, Number(value));
    else view.setUint16(0, Number(value));
    return part;
  });
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The greeting; flags: 1 fixed newstyle, 2 no zeroes. */
export function greeting(flags: number): Uint8Array {
  return bytes("NBDMAGIC", "IHAVEOPT", [16, flags]);
}

/** A reply to an option. */
export function optionReply(option: number, type: number, ...data: readonly Field[]): Uint8Array {
  const body = bytes(...data);
  return bytes([64, 0x3e889045565a9n], [32, option], [32, type], [32, body.length], body);
}

/** Numbers of options and their replies, as the document gives them. */
export const EXPORT_NAME = 1, ABORT = 2, LIST = 3, STARTTLS = 5, INFO = 6, GO = 7;
export const STRUCTURED = 8, LIST_META = 9, SET_META = 10, EXTENDED = 11;
export const ACK = 1, SERVER = 2, INFO_REPLY = 3, META = 4;
export const UNSUP = 2 ** 31 + 1, POLICY = 2 ** 31 + 2, TLS_REQD = 2 ** 31 + 5;
export const UNKNOWN = 2 ** 31 + 6, SHUTDOWN = 2 ** 31 + 7;

/** ACK. */
export function ack(option: number): Uint8Array {
  return optionReply(option, ACK);
}

/** INFO_EXPORT in reply to an option. */
export function infoExport(option: number, size: number | bigint, flags: number): Uint8Array {
  return optionReply(option, INFO_REPLY, [16, 0], [64, size], [16, flags]);
}

/** The options of what a client has sent behind its flags: number and data. */
export function sentOptions(sent: Uint8Array): { option: number; data: Uint8Array }[] {
  const view = new DataView(sent.buffer, sent.byteOffset, sent.byteLength);
  const options: { option: number; data: Uint8Array }[] = [];
  for (let at = 4; at < sent.length;) {
    if (view.getBigUint64(at) !== 0x49484156454f5054n) throw new Error("no IHAVEOPT");
    const length = view.getUint32(at + 12);
    options.push({
      option: view.getUint32(at + 8),
      data: sent.slice(at + 16, at + 16 + length),
    });
    at += 16 + length;
  }
  return options;
}

/** A simple reply. */
export function simple(cookie: number, error: number, data: Uint8Array | null = null): Uint8Array {
  return bytes([32, 0x67446698], [32, error], [64, cookie], data ?? new Uint8Array(0));
}

/** Writes one chunk of a reply: structured, or extended if `offset` of the request is given. */
export type ChunkWriter = (
  cookie: number,
  done: boolean,
  type: number,
  ...payload: readonly Field[]
) => Uint8Array;

/** A chunk of a structured reply. */
export function structured(
  cookie: number,
  done: boolean,
  type: number,
  ...payload: readonly Field[]
): Uint8Array {
  const body = bytes(...payload);
  return bytes(
    [32, 0x668e33ef],
    [16, done ? 1 : 0],
    [16, type],
    [64, cookie],
    [32, body.length],
    body,
  );
}

/** A writer of extended chunks for a request at `offset`. */
export function extendedAt(offset: number): ChunkWriter {
  return (cookie, done, type, ...payload) => {
    const body = bytes(...payload);
    return bytes(
      [32, 0x6e8a278c],
      [16, done ? 1 : 0],
      [16, type],
      [64, cookie],
      [64, offset],
      [64, body.length],
      body,
    );
  };
}

/** Types of chunks. */
export const NONE = 0, DATA = 1, HOLE = 2, STATUS = 5, STATUS_EXT = 6;
export const ERROR = 0x8001, ERROR_OFFSET = 0x8002;

/** Bytes that can be told apart by their place. */
export function pattern(length: number, seed = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + (index >> 8) * 13 + seed) & 0xff);
}

/** Hands `whole` to `receive` in chunks of `size` bytes. */
export function inChunks(
  whole: Uint8Array,
  size: number,
  receive: (chunk: Uint8Array) => void,
): void {
  for (let at = 0; at < whole.length; at += size) receive(whole.slice(at, at + size));
}
