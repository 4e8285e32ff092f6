/**
 * The numbers that bound FUSE, each with a name, in one place.
 *
 * @module
 */

const KIB = 1024, MIB = 1024 * KIB;

/** Bytes of data in one READ or WRITE at most: what the kernel allows without further settings. */
export const FUSE_DATA_BYTES_MAX: number = 1 * MIB;
/** Pages of 4 KiB that such a request has. */
export const FUSE_PAGES_MAX = 256;
/** Bytes of the longest request: its data, and room for headers as the kernel wants it. */
export const FUSE_REQUEST_BYTES_MAX: number = FUSE_DATA_BYTES_MAX + 4 * KIB;
/** Requests of asynchronous I/O that the kernel has under way at once. */
export const FUSE_BACKGROUND_MAX = 256;
/** Longest name of a file, in bytes. */
export const FUSE_NAME_BYTES_MAX = 255;
/** Requests that are read before the answers to others get their turn. */
export const FUSE_REQUESTS_PER_TURN_MAX = 64;
