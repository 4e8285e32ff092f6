/**
 * Numbers of the NBD protocol: one table each for magics, options, replies, commands and flags, from
 * which names for logs and docs come too. Source: doc/proto.md of NetworkBlockDevice/nbd, and its
 * branch extension-ext-header for extended headers.
 *
 * @module
 */

/** "NBDMAGIC", the first 8 bytes of the server. */
export const INIT_MAGIC = 0x4e42444d41474943n;
/** "IHAVEOPT", the next 8 bytes, and the start of each option. */
export const OPTION_MAGIC = 0x49484156454f5054n;
/** Start of each reply to an option. */
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
/** Start of a compact request. */
export const REQUEST_MAGIC = 0x25609513;
/** Start of an extended request. */
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
/** Start of a simple reply. */
export const SIMPLE_REPLY_MAGIC = 0x67446698;
/** Start of a structured reply chunk. */
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
/** Start of an extended reply chunk. */
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** Handshake flags of the server and, with the same values, of the client. */
export const HANDSHAKE = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

/** Transmission flags of an export. */
export const TRANSMISSION = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_RESIZE: 1 << 9,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
  BLOCK_STATUS_PAYLOAD: 1 << 12,
} as const;

/** Options of the handshake. */
export const OPTION = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

/** Replies to options; errors have bit 31 set. */
export const REPLY = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const;

/** Information types of INFO and GO. */
export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

/** Commands of the transmission phase. */
export const COMMAND = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

/** Flags of a command. */
export const COMMAND_FLAG = {
  FUA: 1 << 0,
  NO_HOLE: 1 << 1,
  DF: 1 << 2,
  REQ_ONE: 1 << 3,
  FAST_ZERO: 1 << 4,
  PAYLOAD_LEN: 1 << 5,
} as const;

/** The flag of a structured or extended reply chunk: the last one of its reply. */
export const REPLY_FLAG_DONE = 1;

/** Types of structured and extended reply chunks; errors have bit 15 set. */
export const CHUNK = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;

/** Flags of the context base:allocation. */
export const STATE = { HOLE: 1, ZERO: 2 } as const;

/** The metadata context that every export with extents has. */
export const BASE_ALLOCATION = "base:allocation";

/** The flag of a dirty bitmap's context: the range has changed (docs/interop/nbd.txt of qemu). */
export const STATE_DIRTY = 1;

/** What the name of a dirty bitmap's metadata context begins with; the bitmap's name follows. */
export const DIRTY_BITMAP_PREFIX = "qemu:dirty-bitmap:";

function nameIn(table: Record<string, number>, value: number): string {
  for (const [name, number] of Object.entries(table)) {
    if (number === value) return name;
  }
  return `0x${value.toString(16)}`;
}

/** The name of an option for messages; the number in hexadecimal if it has none. */
export function optionName(option: number): string {
  return nameIn(OPTION, option);
}

/** The name of an option reply. */
export function replyName(reply: number): string {
  return nameIn(REPLY, reply);
}

/** The name of a command. */
export function commandName(command: number): string {
  return nameIn(COMMAND, command);
}
