/**
 * Limits of garbage collection, snapshots and clones.
 *
 * @module
 */

/** Bytes in a MiB. */
const MIB = 1024 * 1024;

/** Attempts to create a small object whose outcome is unclear. */
export const CREATE_ATTEMPTS_MAX = 8;
/** Share of an object's data below which what is live of it is moved, so that the object can go. */
export const REPACK_LIVE_SHARE = 0.5;
/** Bytes of data that one round of garbage collection moves at most. */
export const MOVE_BYTES_MAX: number = 1024 * MIB;
/** Bytes of data that are read at a time to be moved. */
export const MOVE_READ_BYTES: number = 8 * MIB;
/** Keys of one request that deletes. */
export const DELETE_KEYS_MAX = 1000;
/** Extents of a map that are looked at before other work gets a turn. */
export const SCAN_EXTENTS = 50_000;
/** Least bytes of garbage for which a disk collects by itself. */
export const AUTO_GARBAGE_BYTES: number = 64 * MIB;
/** Least share of garbage in all data for which it does. */
export const AUTO_GARBAGE_SHARE = 0.25;
