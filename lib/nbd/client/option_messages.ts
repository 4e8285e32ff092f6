/**
 * Bytes of the option phase, as the client writes and reads them: options, their replies, and what
 * the replies carry. Implements the sections "Fixed newstyle negotiation", "Option types" and
 * "Option reply types" of the NBD protocol document.
 *
 * @module
 */
import type { Errno } from "../../block/errors.ts";
import { ProtocolError } from "../../stream/frame.ts";
import {
  INFO,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  optionName,
  REPLY,
  replyName,
  TRANSMISSION,
} from "../constants.ts";
import { checkedString, decodeString } from "../text.ts";
import { OPTION_REPLY_BYTES_MAX } from "./limits.ts";

/** Bytes of the header of a reply. */
export const REPLY_HEADER_BYTES = 20;

/** Announced I/O sizes in bytes; section "Size constraints". */
export interface BlockSizes {
  /** A power of two, 1 to 65536. */
  readonly minimum: number;
  /** A power of two, at least 512 and `minimum`. */
  readonly preferred: number;
  /** Largest payload of a request; 2^32 - 1 means that the server has no bound. */
  readonly maximum: number;
}

/** What a server tells of an export. */
export interface ExportFacts {
  /** Bytes, up to 2^64 - 1. */
  readonly size: bigint;
  /** TRANSMISSION flags. */
  readonly flags: number;
  /** Null if the server announces none. */
  readonly blockSizes: BlockSizes | null;
  /** For a human, control characters replaced; null if there is none. */
  readonly description: string | null;
  /** The server's own name of the export, if it has told one. */
  readonly canonicalName: string | null;
}

/** One reply to an option. */
export interface OptionReply {
  /** A value of REPLY, or one that nobody knows. */
  readonly type: number;
  readonly data: Uint8Array;
}

const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A server's text as one line that a terminal or a log can take. */
export function printable(bytes: Uint8Array): string {
  return lenient.decode(bytes).replaceAll(/\p{C}+/gu, " ").trim();
}

/** True if the reply says that the option failed. */
export function isError(type: number): boolean {
  return type >= 0x80000000;
}

/** An option with its data. */
export function encodeOption(option: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const bytes = new Uint8Array(16 + length);
  const view = viewOf(bytes);
  view.setBigUint64(0, OPTION_MAGIC);
  view.setUint32(8, option);
  view.setUint32(12, length);
  let at = 16;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** An export name as bytes. Throws RangeError if the protocol cannot carry it. */
export function encodeName(name: string): Uint8Array {
  const bytes = checkedString(name);
  if (bytes === null) {
    throw new RangeError(`Cannot ask for the export ${JSON.stringify(name)}: it is no name of NBD`);
  }
  return bytes;
}

function uint32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value);
  return bytes;
}

/** INFO or GO for an export, asking for items of INFO. */
export function encodeInfo(option: number, name: Uint8Array, items: readonly number[]): Uint8Array {
  const list = new Uint8Array(2 + 2 * items.length);
  const view = viewOf(list);
  view.setUint16(0, items.length);
  items.forEach((item, index) => view.setUint16(2 + 2 * index, item));
  return encodeOption(option, uint32(name.length), name, list);
}

/** LIST_META_CONTEXT or SET_META_CONTEXT for an export. */
export function encodeMeta(
  option: number,
  name: Uint8Array,
  queries: readonly string[],
): Uint8Array {
  const encoder = new TextEncoder();
  const parts = queries.map((query) => encoder.encode(query));
  return encodeOption(
    option,
    uint32(name.length),
    name,
    uint32(parts.length),
    ...parts.flatMap((part) => [uint32(part.length), part]),
  );
}

/** Reads the header of a reply to `option`: its type and the length of its data. */
export function decodeReplyHeader(
  bytes: Uint8Array,
  option: number,
): { readonly type: number; readonly length: number } {
  const view = viewOf(bytes);
  const magic = view.getBigUint64(0), answered = view.getUint32(8);
  const type = view.getUint32(12), length = view.getUint32(16);
  const asked = optionName(option);
  if (magic !== OPTION_REPLY_MAGIC) {
    throw new ProtocolError(
      `Cannot read the reply to ${asked}: its magic is 0x${magic.toString(16)}`,
    );
  }
  if (answered !== option) {
    throw new ProtocolError(
      `Cannot read the reply to ${asked}: it answers ${optionName(answered)}`,
    );
  }
  if (length > OPTION_REPLY_BYTES_MAX) {
    throw new ProtocolError(
      `Cannot read the reply ${replyName(type)} to ${asked}: it has ${length} bytes, at most ` +
        `${OPTION_REPLY_BYTES_MAX} are taken`,
    );
  }
  return { type, length };
}

function strict(bytes: Uint8Array, what: string): string {
  const text = decodeString(bytes);
  if (text === null) throw new ProtocolError(`Cannot read ${what}: it is no string of NBD`);
  return text;
}

/** Reads an entry of the list of exports. */
export function decodeServer(data: Uint8Array): { name: string; description: string | null } {
  const nameLength = data.length < 4 ? -1 : viewOf(data).getUint32(0);
  if (nameLength < 0 || nameLength > data.length - 4) {
    throw new ProtocolError("Cannot read an entry of the list of exports: its lengths do not fit");
  }
  const name = strict(data.subarray(4, 4 + nameLength), "the name of an export");
  const description = printable(data.subarray(4 + nameLength));
  return { name, description: description === "" ? null : description };
}

/** Reads a metadata context. */
export function decodeMetaContext(data: Uint8Array): { id: number; name: string } {
  if (data.length < 4) {
    throw new ProtocolError(`Cannot read a metadata context: it has ${data.length} bytes`);
  }
  return { id: viewOf(data).getUint32(0), name: strict(data.subarray(4), "a metadata context") };
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}

function decodeBlockSizes(view: DataView): BlockSizes {
  const minimum = view.getUint32(2), preferred = view.getUint32(6), maximum = view.getUint32(10);
  const sound = isPowerOfTwo(minimum) && minimum <= 65_536 && isPowerOfTwo(preferred) &&
    preferred >= Math.max(minimum, 512) && maximum >= preferred;
  if (!sound) {
    throw new ProtocolError(
      `Cannot use the block sizes of the export: ${minimum}, ${preferred} and ${maximum} are not ` +
        "what the protocol allows",
    );
  }
  return { minimum, preferred, maximum };
}

/** Puts the information items of INFO and GO together. */
export class FactsCollector {
  #size: bigint | null = null;
  #flags = 0;
  #blockSizes: BlockSizes | null = null;
  #description: string | null = null;
  #canonicalName: string | null = null;

  /** Takes the data of one INFO reply; what nobody knows is passed over. */
  add(data: Uint8Array): void {
    const view = viewOf(data);
    const item = data.length < 2 ? -1 : view.getUint16(0);
    switch (item) {
      case -1:
        throw new ProtocolError("Cannot read an information item: it has no type");
      case INFO.EXPORT:
        requireLength(data, 12);
        this.#size = view.getBigUint64(2);
        this.#flags = checkFlags(view.getUint16(10));
        break;
      case INFO.BLOCK_SIZE:
        requireLength(data, 14);
        this.#blockSizes = decodeBlockSizes(view);
        break;
      case INFO.DESCRIPTION:
        this.#description = printable(data.subarray(2));
        break;
      case INFO.NAME:
        this.#canonicalName = strict(data.subarray(2), "the name of the export");
        break;
    }
  }

  /** What was collected, at the ACK. */
  finish(): ExportFacts {
    if (this.#size === null) {
      throw new ProtocolError("Cannot use the export: the server did not tell its size");
    }
    return {
      size: this.#size,
      flags: this.#flags,
      blockSizes: this.#blockSizes,
      description: this.#description,
      canonicalName: this.#canonicalName,
    };
  }
}

function requireLength(data: Uint8Array, length: number): void {
  if (data.length !== length) {
    throw new ProtocolError(
      `Cannot read an information item: it has ${data.length} bytes instead of ${length}`,
    );
  }
}

/** The transmission flags, if they are some. */
export function checkFlags(flags: number): number {
  if ((flags & TRANSMISSION.HAS_FLAGS) === 0) {
    throw new ProtocolError(
      `Cannot use the export: its transmission flags 0x${flags.toString(16)} are none`,
    );
  }
  return flags;
}

const REFUSALS: Readonly<Record<number, readonly [Errno, string]>> = {
  [REPLY.ERR_UNSUP]: ["EOPNOTSUPP", "it does not know this option"],
  [REPLY.ERR_POLICY]: ["EPERM", "its policy forbids it"],
  [REPLY.ERR_INVALID]: ["EINVAL", "it finds the option invalid"],
  [REPLY.ERR_PLATFORM]: ["EOPNOTSUPP", "it cannot do it on its platform"],
  [REPLY.ERR_TLS_REQD]: ["EACCES", "it requires TLS, so use the scheme nbds or nbds+unix"],
  [REPLY.ERR_UNKNOWN]: ["ENOENT", "there is no such export"],
  [REPLY.ERR_SHUTDOWN]: ["ESHUTDOWN", "it is shutting down"],
  [REPLY.ERR_BLOCK_SIZE_REQD]: ["EINVAL", "it requires block sizes to be kept"],
  [REPLY.ERR_TOO_BIG]: ["E2BIG", "the request or its reply is too big"],
  [REPLY.ERR_EXT_HEADER_REQD]: ["EOPNOTSUPP", "it requires extended headers"],
};

/** What an error reply means: an errno and a reason, with the server's own words if it has some. */
export function explainRefusal(reply: OptionReply): readonly [Errno, string] {
  const [errno, reason] = REFUSALS[reply.type] ?? ["EINVAL", `it answers ${replyName(reply.type)}`];
  const words = printable(reply.data);
  return [errno, words === "" ? reason : `${reason}: ${words}`];
}
