/**
 * Numbers of the kernel's interface for dirty-region logs in user space: linux/netlink.h,
 * linux/connector.h and linux/dm-log-userspace.h. All fields are in the byte order of the machine,
 * which is little-endian on x86-64 and aarch64.
 *
 * @module
 */

/** The connector's number of the mirror log, and the netlink group that requests come to. */
export const CONNECTOR_INDEX = 7, CONNECTOR_VALUE = 1, CONNECTOR_GROUP = 7;
/** nlmsg_type of the kernel's frames (NLMSG_DONE). */
export const NETLINK_DONE = 3;
/** Bytes of struct nlmsghdr, struct cn_msg and struct dm_ulog_request. */
export const NETLINK_HEADER_BYTES = 16, CONNECTOR_HEADER_BYTES = 20, REQUEST_HEADER_BYTES = 160;
/** Bytes in front of the payload of a frame. */
export const FRAME_HEADER_BYTES: number = NETLINK_HEADER_BYTES + CONNECTOR_HEADER_BYTES +
  REQUEST_HEADER_BYTES;
/** Bytes of the uuid field, its NUL included. */
export const UUID_FIELD_BYTES = 129;
/** Bits of request_type that hold the type. */
export const REQUEST_TYPE_MASK = 0xff;
/** Versions of the interface that differ in nothing that is sent (2 added the device name, 3 integrated_flush). */
export const REQUEST_VERSIONS: readonly number[] = [1, 2, 3];
/** The version that this code writes. */
export const REQUEST_VERSION = 3;

/** The requests. */
export const REQUEST_TYPES = {
  CTR: 1,
  DTR: 2,
  PRESUSPEND: 3,
  POSTSUSPEND: 4,
  RESUME: 5,
  GET_REGION_SIZE: 6,
  IS_CLEAN: 7,
  IN_SYNC: 8,
  FLUSH: 9,
  MARK_REGION: 10,
  CLEAR_REGION: 11,
  GET_RESYNC_WORK: 12,
  SET_REGION_SYNC: 13,
  GET_SYNC_COUNT: 14,
  STATUS_INFO: 15,
  STATUS_TABLE: 16,
  IS_REMOTE_RECOVERING: 17,
} as const;

/** The name of a request. */
export type RequestName = keyof typeof REQUEST_TYPES;

/** Where the fields of a frame are, in bytes from its start. */
export const FRAME_OFFSETS = {
  netlinkLength: 0,
  netlinkType: 4,
  netlinkSeq: 8,
  index: 16,
  value: 20,
  connectorSeq: 24,
  ack: 28,
  connectorLength: 32,
  luid: 36,
  uuid: 44,
  version: 176,
  error: 180,
  seq: 184,
  type: 188,
  dataSize: 192,
} as const;

/** "MiRr" as the kernel stores it, little-endian, at the start of a disk log. */
export const DISK_LOG_MAGIC = 0x4d695272;
/** The only version of disk logs. */
export const DISK_LOG_VERSION = 2;
/** Where the bitmap of a disk log begins, in bytes. */
export const DISK_LOG_BITMAP_OFFSET = 1024;
/** Where whoever keeps a disk log may leave a note: a sector that the kernel leaves alone, or zeroes. */
export const DISK_LOG_NOTE_OFFSET = 512, DISK_LOG_NOTE_BYTES = 512;
/** Bytes of a sector. */
export const SECTOR_BYTES = 512;

/** Linux's numbers of errors that have a meaning of their own to the kernel's side. */
export const ESRCH = 3, EINVAL = 22, EIO = 5, EBUSY = 16, ENOENT = 2, ENOSPC = 28, ENOSYS = 38;
