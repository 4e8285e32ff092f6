/**
 * Numbers of the dm-user wire format: request types, request flags, response types. Taken from the
 * kernel's user-space header for dm-user; every integer on the wire is little-endian.
 *
 * @module
 */

/** Bytes of the header that begins every message and every response. */
export const HEADER_BYTES = 40;
/** Bytes of a sector, the unit of the header's `sector` field. */
export const SECTOR_BYTES = 512;
/** The folder of the control devices; a channel is one open of `/dev/dm-user/NAME`. */
export const CONTROL_FOLDER = "/dev/dm-user";

/** Where the fields stand in a header, in bytes; each is a u64. */
export const HEADER_OFFSETS = { seq: 0, type: 8, flags: 16, sector: 24, length: 32 } as const;

/** What a message asks for. Only WRITE carries data to the daemon, only READ back from it. */
export const REQUEST_TYPES = {
  READ: 0,
  WRITE: 1,
  FLUSH: 2,
  DISCARD: 3,
  SECURE_ERASE: 4,
  WRITE_SAME: 5,
  WRITE_ZEROES: 6,
  ZONE_OPEN: 7,
  ZONE_CLOSE: 8,
  ZONE_FINISH: 9,
  ZONE_APPEND: 10,
  ZONE_RESET: 11,
  ZONE_RESET_ALL: 12,
} as const;

/** Flags of a message; more than one may be set. */
export const REQUEST_FLAGS = {
  FAILFAST_DEV: 0x1,
  FAILFAST_TRANSPORT: 0x2,
  FAILFAST_DRIVER: 0x4,
  SYNC: 0x8,
  META: 0x10,
  PRIO: 0x20,
  NOMERGE: 0x40,
  IDLE: 0x80,
  INTEGRITY: 0x100,
  FUA: 0x200,
  PREFLUSH: 0x400,
  RAHEAD: 0x800,
  BACKGROUND: 0x1000,
  NOWAIT: 0x2000,
  CGROUP_PUNT: 0x4000,
  NOUNMAP: 0x8000,
  HIPRI: 0x10000,
  DRV: 0x20000,
  SWAP: 0x40000,
} as const;

/** All request flags that have a number. */
export const REQUEST_FLAGS_KNOWN = 0x7ffff;

/** How a message is answered. The kernel takes any other value as an error. */
export const RESPONSE_TYPES = { SUCCESS: 0, ERROR: 1, UNSUPPORTED: 2 } as const;
