/**
 * Encoding of FUSE replies: whole replies, header included, as one piece of bytes for one write to
 * /dev/fuse. Layouts are those of linux/fuse.h.
 *
 * @module
 */
import {
  FUSE_MAJOR,
  FUSE_MINOR,
  MODE_FOLDER,
  NOTIFY_POLL,
  REPLY_HEADER_BYTES,
} from "./constants.ts";
import {
  FUSE_BACKGROUND_MAX,
  FUSE_DATA_BYTES_MAX,
  FUSE_NAME_BYTES_MAX,
  FUSE_PAGES_MAX,
} from "./limits.ts";

/** Bytes of the structures in replies. */
const ENTRY_BYTES = 128, ATTR_BYTES = 104, INIT_BYTES = 64, OPEN_BYTES = 16, STATFS_BYTES = 80;
const DIRENT_BYTES = 24;
/** Where the attributes stand in an entry and in a reply to GETATTR. */
const ATTR_IN_ENTRY = 40, ATTR_IN_ATTR = 16;
/** Seconds for which attributes are right: they do not change. */
const ATTR_VALID_S = 3600;
const SECTOR_BYTES = 512, BLOCK_BYTES = 4096;

const ENCODER = new TextEncoder();

/** What a file system shows of a file. */
export interface Attributes {
  /** Number of the node. */
  readonly node: number;
  /** Bytes. */
  readonly size: number;
  /** st_mode: MODE_FILE or MODE_FOLDER, and permissions. */
  readonly mode: number;
  /** Its user. */
  readonly uid: number;
  /** Its group. */
  readonly gid: number;
  /** All of its times, in seconds since 1970. */
  readonly time: number;
}

class Reply {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;

  constructor(unique: number, bodyBytes: number) {
    this.bytes = new Uint8Array(REPLY_HEADER_BYTES + bodyBytes);
    this.#view = new DataView(this.bytes.buffer);
    putReplyHeader(this.bytes, unique, 0);
  }

  u16(at: number, value: number): void {
    this.#view.setUint16(REPLY_HEADER_BYTES + at, value, true);
  }

  u32(at: number, value: number): void {
    this.#view.setUint32(REPLY_HEADER_BYTES + at, value, true);
  }

  u64(at: number, value: number): void {
    this.u32(at, value % 0x1_0000_0000);
    this.u32(at + 4, Math.floor(value / 0x1_0000_0000));
  }

  attributes(at: number, attributes: Attributes): void {
    const { node, size, mode, uid, gid, time } = attributes;
    this.u64(at, node);
    this.u64(at + 8, size);
    this.u64(at + 16, Math.ceil(size / SECTOR_BYTES));
    for (const offset of [24, 32, 40]) this.u64(at + offset, time);
    this.u32(at + 60, mode);
    this.u32(at + 64, (mode & MODE_FOLDER) === 0 ? 1 : 2);
    this.u32(at + 68, uid);
    this.u32(at + 72, gid);
    this.u32(at + 80, BLOCK_BYTES);
  }

  /** The name is asked for again each time (it may be gone); its attributes stay. */
  entry(at: number, attributes: Attributes): void {
    this.u64(at, attributes.node);
    this.u64(at + 24, ATTR_VALID_S);
    this.attributes(at + ATTR_IN_ENTRY, attributes);
  }
}

/** Writes the header of a reply whose data stand behind it in `bytes`; `error` is 0 or minus an errno. */
export function putReplyHeader(
  bytes: Uint8Array<ArrayBuffer>,
  unique: number,
  error: number,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, REPLY_HEADER_BYTES);
  view.setUint32(0, bytes.length, true);
  view.setInt32(4, error, true);
  view.setUint32(8, unique % 0x1_0000_0000, true);
  view.setUint32(12, Math.floor(unique / 0x1_0000_0000), true);
}

/** A reply without data: `error` is 0 or minus an errno. */
export function encodeStatus(unique: number, error: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(REPLY_HEADER_BYTES);
  putReplyHeader(bytes, unique, error);
  return bytes;
}

/** What is agreed on by INIT. */
export interface InitReply {
  /** Bytes that are read ahead at most. */
  readonly readAheadMax: number;
  /** INIT_FLAGS. */
  readonly flags: number;
}

/** The reply to INIT. */
export function encodeInit(unique: number, init: InitReply): Uint8Array<ArrayBuffer> {
  const reply = new Reply(unique, INIT_BYTES);
  reply.u32(0, FUSE_MAJOR);
  reply.u32(4, FUSE_MINOR);
  reply.u32(8, init.readAheadMax);
  reply.u32(12, init.flags);
  reply.u16(16, FUSE_BACKGROUND_MAX);
  reply.u16(18, (FUSE_BACKGROUND_MAX * 3) / 4); // from here on the device counts as congested
  reply.u32(20, FUSE_DATA_BYTES_MAX);
  reply.u32(24, 1); // granularity of times in ns
  reply.u16(28, FUSE_PAGES_MAX);
  return reply.bytes;
}

/** The reply to LOOKUP. */
export function encodeEntry(unique: number, attributes: Attributes): Uint8Array<ArrayBuffer> {
  const reply = new Reply(unique, ENTRY_BYTES);
  reply.entry(0, attributes);
  return reply.bytes;
}

/** The reply to GETATTR and SETATTR. */
export function encodeAttributes(unique: number, attributes: Attributes): Uint8Array<ArrayBuffer> {
  const reply = new Reply(unique, ATTR_BYTES);
  reply.u64(0, ATTR_VALID_S);
  reply.attributes(ATTR_IN_ATTR, attributes);
  return reply.bytes;
}

/** The reply to OPEN and OPENDIR; `flags` are OPEN_FLAGS. */
export function encodeOpen(
  unique: number,
  handle: number,
  flags: number,
): Uint8Array<ArrayBuffer> {
  const reply = new Reply(unique, OPEN_BYTES);
  reply.u64(0, handle);
  reply.u32(8, flags);
  return reply.bytes;
}

/** The reply to WRITE: bytes taken. */
export function encodeWritten(unique: number, count: number): Uint8Array<ArrayBuffer> {
  const reply = new Reply(unique, 8);
  reply.u32(0, count);
  return reply.bytes;
}

/** The reply to POLL: what is ready, as poll(2) has it. */
export function encodePoll(unique: number, events: number): Uint8Array<ArrayBuffer> {
  const reply = new Reply(unique, 8);
  reply.u32(0, events);
  return reply.bytes;
}

/** No reply: makes whoever polls under the name `wakeup` look again. */
export function encodePollWakeup(wakeup: number): Uint8Array<ArrayBuffer> {
  const reply = new Reply(0, 8);
  reply.u64(0, wakeup);
  putReplyHeader(reply.bytes, 0, NOTIFY_POLL);
  return reply.bytes;
}

/** The reply to STATFS: a file system without free space. */
export function encodeStatfs(unique: number, files: number): Uint8Array<ArrayBuffer> {
  const reply = new Reply(unique, STATFS_BYTES);
  reply.u64(24, files);
  reply.u32(40, BLOCK_BYTES);
  reply.u32(44, FUSE_NAME_BYTES_MAX);
  reply.u32(48, BLOCK_BYTES);
  return reply.bytes;
}

/** One name in a folder. */
export interface FolderEntry {
  /** Without slashes. */
  readonly name: string;
  /** What is to be seen of it. */
  readonly attributes: Attributes;
}

/**
 * The reply to READDIR (`plus`: READDIRPLUS): entries from number `first` on, as many as fit `size`
 * bytes. An entry's position is its number plus 1.
 */
export function encodeFolder(
  unique: number,
  entries: readonly FolderEntry[],
  first: number,
  size: number,
  plus: boolean,
): Uint8Array<ArrayBuffer> {
  const before = plus ? ENTRY_BYTES : 0;
  const reply = new Reply(unique, size);
  let at = 0;
  for (const [index, { name, attributes }] of entries.entries()) {
    if (index < first) continue;
    const bytes = ENCODER.encode(name);
    const end = at + Math.ceil((before + DIRENT_BYTES + bytes.length) / 8) * 8;
    if (end > size) break;
    // "." and ".." are no look-ups: the kernel wants no node for them.
    if (plus && name !== "." && name !== "..") reply.entry(at, attributes);
    reply.u64(at + before, attributes.node);
    reply.u64(at + before + 8, index + 1);
    reply.u32(at + before + 16, bytes.length);
    reply.u32(at + before + 20, attributes.mode >>> 12);
    reply.bytes.set(bytes, REPLY_HEADER_BYTES + at + before + DIRENT_BYTES);
    at = end;
  }
  const whole = reply.bytes.subarray(0, REPLY_HEADER_BYTES + at);
  putReplyHeader(whole, unique, 0);
  return whole;
}
