/**
 * Numbers of the FUSE protocol (version 7) as Linux has it: opcodes, flags, and where fields stand.
 * Taken from the kernel's user-space header linux/fuse.h; integers are in the machine's byte order,
 * which is little-endian on every machine that is supported.
 *
 * @module
 */

/** The protocol version that is spoken here: 7.38. The kernel comes down to it. */
export const FUSE_MAJOR = 7, FUSE_MINOR = 38;
/** Bytes of the header that begins every request. */
export const REQUEST_HEADER_BYTES = 40;
/** Bytes of the header that begins every reply. */
export const REPLY_HEADER_BYTES = 16;
/** The node of the mounted folder itself. */
export const ROOT_NODE = 1;

/** What a request asks for; others than these are refused, see also NAME_OPCODES. */
export const OPCODES = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  UNLINK: 10,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  GETXATTR: 22,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  ACCESS: 34,
  INTERRUPT: 36,
  DESTROY: 38,
  IOCTL: 39,
  POLL: 40,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
} as const;

/**
 * What would make or move names, which no mount here lets anybody do: SYMLINK, MKNOD, MKDIR, RMDIR,
 * RENAME, LINK, CREATE, RENAME2.
 */
export const NAME_OPCODES: ReadonlySet<number> = new Set([6, 8, 9, 11, 12, 13, 35, 45]);

/** Capabilities that are agreed on by INIT. */
export const INIT_FLAGS = {
  /** Several reads of one file at a time. */
  ASYNC_READ: 1 << 0,
  /** Writes of more than a page. */
  BIG_WRITES: 1 << 5,
  /** Asynchronous direct I/O stays asynchronous: what gives a loop device its queue depth. */
  ASYNC_DIO: 1 << 15,
  /** Lookups in one folder at a time. */
  PARALLEL_DIROPS: 1 << 18,
  /** The reply to INIT says how many pages a request may have. */
  MAX_PAGES: 1 << 22,
} as const;

/** How a file that was opened behaves. */
export const OPEN_FLAGS = {
  /** Past the page cache: each read(2) and write(2) comes here. */
  DIRECT_IO: 1 << 0,
  /** No seeking, no pread and pwrite (ESPIPE). */
  NONSEEKABLE: 1 << 2,
  /** No file position: a read that waits does not block a write. */
  STREAM: 1 << 4,
  /** Direct writes of one file at a time. */
  PARALLEL_DIRECT_WRITES: 1 << 6,
} as const;

/** Bit of a POLL: somebody waits for a change. */
export const POLL_SCHEDULE_NOTIFY = 1;
/** What stands in place of an error in a message that is no reply: somebody who polls is to look again. */
export const NOTIFY_POLL = 1;

/** Which fields of a SETATTR count. */
export const SETATTR_VALID = { SIZE: 1 << 3, HANDLE: 1 << 6 } as const;
/** Bit of a FSYNC: fdatasync(2). */
export const FSYNC_DATA_ONLY = 1;
/** Modes of fallocate(2). */
export const FALLOCATE_MODES = { KEEP_SIZE: 0x1, PUNCH_HOLE: 0x2, ZERO_RANGE: 0x10 } as const;
/** Bits of st_mode, and types of directory entries, which are the same shifted by 12. */
export const MODE_FOLDER = 0o040_000, MODE_FILE = 0o100_000;
/** Bits of open(2). The kernel sets O_DSYNC in a WRITE for every call that is to be durable. */
export const O_NONBLOCK = 0o4000, O_DSYNC = 0o10_000;
