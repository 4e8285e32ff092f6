/**
 * Decoding of FUSE requests: the bytes of one read of /dev/fuse become one plain object. Layouts are
 * those of linux/fuse.h. Ids (unique, nodes, handles) are below 2^53: the kernel counts them, and so
 * do we.
 *
 * @module
 */
import { ProtocolError } from "../stream/frame.ts";
import {
  FSYNC_DATA_ONLY,
  OPCODES,
  POLL_SCHEDULE_NOTIFY,
  REQUEST_HEADER_BYTES,
} from "./constants.ts";

/** What every request begins with. */
export interface RequestHeader {
  /** OPCODES, or another number. */
  readonly opcode: number;
  /** Names the request; its reply carries the same. */
  readonly unique: number;
  /** The node that it is about. */
  readonly node: number;
  /** The user who asks. */
  readonly uid: number;
  /** The group. */
  readonly gid: number;
  /** The process (thread), or 0 if it cannot be seen from here. */
  readonly pid: number;
}

/** A read of a file or a folder. */
export interface ReadArguments {
  /** What the reply to OPEN or OPENDIR gave. */
  readonly handle: number;
  /** Bytes, or the position of an entry. */
  readonly offset: number;
  /** Bytes that the reply may have. */
  readonly size: number;
  /** Flags of the open file now, as of open(2). */
  readonly flags: number;
}

/** What a request asks for. */
export type RequestBody =
  | {
    readonly kind: "init";
    readonly major: number;
    readonly minor: number;
    /** Bytes that the kernel reads ahead at most. */
    readonly readAheadMax: number;
    /** INIT_FLAGS that the kernel offers. */
    readonly flags: number;
  }
  | { readonly kind: "lookup"; readonly name: string }
  | { readonly kind: "unlink"; readonly name: string }
  | { readonly kind: "setattr"; readonly valid: number; readonly size: number }
  /** `flags` are those of open(2). */
  | { readonly kind: "open"; readonly flags: number }
  | { readonly kind: "opendir"; readonly flags: number }
  | ({ readonly kind: "read" } & ReadArguments)
  | ({ readonly kind: "readdir" } & ReadArguments)
  | ({ readonly kind: "readdirplus" } & ReadArguments)
  | {
    readonly kind: "write";
    readonly handle: number;
    readonly offset: number;
    /** A view of the request's bytes. */
    readonly data: Uint8Array<ArrayBuffer>;
    readonly flags: number;
  }
  | { readonly kind: "release"; readonly handle: number }
  | { readonly kind: "releasedir" | "flush" | "ioctl"; readonly handle: number }
  | { readonly kind: "fsync"; readonly handle: number; readonly dataOnly: boolean }
  | {
    readonly kind: "fallocate";
    readonly handle: number;
    readonly offset: number;
    readonly length: number;
    /** FALLOCATE_MODES. */
    readonly mode: number;
  }
  /** `wakeup` names whoever waits for a change, if `waits`. */
  | {
    readonly kind: "poll";
    readonly handle: number;
    readonly wakeup: number;
    readonly waits: boolean;
  }
  /** The caller of request `interrupted` got a signal. */
  | { readonly kind: "interrupt"; readonly interrupted: number }
  | { readonly kind: "getattr" | "statfs" | "forget" | "destroy" | "unknown" };

/** One request. */
export type FuseRequest = RequestHeader & RequestBody;

const UTF8 = new TextDecoder();

class Fields {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u32(at: number): number {
    return this.#view.getUint32(at, true);
  }

  u64(at: number): number {
    return this.u32(at) + this.u32(at + 4) * 0x1_0000_0000;
  }

  /** The text from `at` to its NUL. */
  name(at: number): string {
    const end = this.#bytes.indexOf(0, at);
    if (end < 0) throw new ProtocolError("Cannot decode a FUSE request: a name in it does not end");
    return UTF8.decode(this.#bytes.subarray(at, end));
  }

  data(at: number, length: number): Uint8Array<ArrayBuffer> {
    if (at + length > this.#bytes.length) {
      throw new ProtocolError(
        `Cannot decode a FUSE request: ${this.#bytes.length} bytes cannot carry ${length} of data`,
      );
    }
    return this.#bytes.subarray(at, at + length);
  }
}

/** Bytes that the arguments of an opcode take at least. */
const ARGUMENT_BYTES: ReadonlyMap<number, number> = new Map([
  [OPCODES.LOOKUP, 1],
  [OPCODES.UNLINK, 1],
  [OPCODES.SETATTR, 88],
  [OPCODES.OPEN, 8],
  [OPCODES.OPENDIR, 8],
  [OPCODES.READ, 40],
  [OPCODES.READDIR, 40],
  [OPCODES.READDIRPLUS, 40],
  [OPCODES.WRITE, 40],
  [OPCODES.RELEASE, 24],
  [OPCODES.RELEASEDIR, 24],
  [OPCODES.FSYNC, 16],
  [OPCODES.FLUSH, 24],
  [OPCODES.INIT, 16],
  [OPCODES.INTERRUPT, 8],
  [OPCODES.IOCTL, 32],
  [OPCODES.POLL, 24],
  [OPCODES.FALLOCATE, 32],
]);

function bodyOf(opcode: number, fields: Fields): RequestBody {
  const at = REQUEST_HEADER_BYTES;
  switch (opcode) {
    case OPCODES.INIT: {
      const [major, minor] = [fields.u32(at), fields.u32(at + 4)];
      const [readAheadMax, flags] = [fields.u32(at + 8), fields.u32(at + 12)];
      return { kind: "init", major, minor, readAheadMax, flags };
    }
    case OPCODES.LOOKUP:
      return { kind: "lookup", name: fields.name(at) };
    case OPCODES.UNLINK:
      return { kind: "unlink", name: fields.name(at) };
    case OPCODES.SETATTR:
      return { kind: "setattr", valid: fields.u32(at), size: fields.u64(at + 16) };
    case OPCODES.OPEN:
      return { kind: "open", flags: fields.u32(at) };
    case OPCODES.OPENDIR:
      return { kind: "opendir", flags: fields.u32(at) };
    case OPCODES.READ:
    case OPCODES.READDIR:
    case OPCODES.READDIRPLUS: {
      const [handle, offset, size] = [fields.u64(at), fields.u64(at + 8), fields.u32(at + 16)];
      const rest = { handle, offset, size, flags: fields.u32(at + 32) };
      if (opcode === OPCODES.READ) return { kind: "read", ...rest };
      return { kind: opcode === OPCODES.READDIR ? "readdir" : "readdirplus", ...rest };
    }
    case OPCODES.WRITE: {
      const [handle, offset, flags] = [fields.u64(at), fields.u64(at + 8), fields.u32(at + 32)];
      const data = fields.data(at + 40, fields.u32(at + 16));
      return { kind: "write", handle, offset, data, flags };
    }
    case OPCODES.RELEASE:
      return { kind: "release", handle: fields.u64(at) };
    case OPCODES.RELEASEDIR:
      return { kind: "releasedir", handle: fields.u64(at) };
    case OPCODES.FLUSH:
      return { kind: "flush", handle: fields.u64(at) };
    case OPCODES.IOCTL:
      return { kind: "ioctl", handle: fields.u64(at) };
    case OPCODES.POLL: {
      const waits = (fields.u32(at + 16) & POLL_SCHEDULE_NOTIFY) !== 0;
      return { kind: "poll", handle: fields.u64(at), wakeup: fields.u64(at + 8), waits };
    }
    case OPCODES.FSYNC: {
      const dataOnly = (fields.u32(at + 8) & FSYNC_DATA_ONLY) !== 0;
      return { kind: "fsync", handle: fields.u64(at), dataOnly };
    }
    case OPCODES.FALLOCATE: {
      const [handle, offset, length] = [fields.u64(at), fields.u64(at + 8), fields.u64(at + 16)];
      return { kind: "fallocate", handle, offset, length, mode: fields.u32(at + 24) };
    }
    case OPCODES.INTERRUPT:
      return { kind: "interrupt", interrupted: fields.u64(at) };
    case OPCODES.FORGET:
    case OPCODES.BATCH_FORGET:
      return { kind: "forget" };
    case OPCODES.GETATTR:
      return { kind: "getattr" };
    case OPCODES.STATFS:
      return { kind: "statfs" };
    case OPCODES.DESTROY:
      return { kind: "destroy" };
    default:
      return { kind: "unknown" };
  }
}

/**
 * Decodes one request, which `bytes` holds whole. Throws ProtocolError for what cannot have come from
 * the kernel.
 */
export function decodeRequest(bytes: Uint8Array<ArrayBuffer>): FuseRequest {
  if (bytes.length < REQUEST_HEADER_BYTES) {
    throw new ProtocolError(
      `Cannot decode a FUSE request: it has ${bytes.length} bytes, its header alone has 40`,
    );
  }
  const fields = new Fields(bytes);
  const length = fields.u32(0), opcode = fields.u32(4);
  const least = REQUEST_HEADER_BYTES + (ARGUMENT_BYTES.get(opcode) ?? 0);
  if (length !== bytes.length || length < least) {
    throw new ProtocolError(
      `Cannot decode a FUSE request: opcode ${opcode}, length ${length}, ${bytes.length} bytes came`,
    );
  }
  return {
    opcode,
    unique: fields.u64(8),
    node: fields.u64(16),
    uid: fields.u32(24),
    gid: fields.u32(28),
    pid: fields.u32(32),
    ...bodyOf(opcode, fields),
  };
}
