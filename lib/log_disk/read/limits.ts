/**
 * Limits of reading a log disk: every one has a name and a number.
 *
 * @module
 */

/** Bytes in a KiB, MiB. */
const KIB = 1024, MIB = 1024 * KIB;

/** Memory for lines, if not told. */
export const RAM_CACHE_BYTES: number = 64 * MIB;
/** Least memory for lines: what the requests in flight need at least. */
export const RAM_CACHE_BYTES_MIN: number = 4 * MIB;
/** Bytes that one GET asks for at most: 16 lines with their checksums. */
export const GET_BYTES_MAX: number = 1 * MIB + 4 * KIB;
/** Lines between two that are wanted which are fetched too, so that one GET does for both. */
export const GET_GAP_LINES_MAX = 1;
/** Bytes of GETs in flight that whoever reads waits for. */
export const IN_FLIGHT_BYTES_MAX: number = 32 * MIB;
/** GETs in flight at most. */
export const IN_FLIGHT_GETS_MAX = 32;
/** Share of the bytes and of the GETs in flight that reading ahead may take. */
export const AHEAD_SHARE = 0.5;
/** First and longest distance that is read ahead of a reader that goes forward. */
export const AHEAD_BYTES_MIN: number = 256 * KIB, AHEAD_BYTES_MAX: number = 16 * MIB;
/** Readers that go forward which are followed at a time. */
export const AHEAD_STREAMS_MAX = 16;

/** Least and most bytes of a disk cache; its index takes about 60 bytes of memory a line. */
export const DISK_CACHE_BYTES_MIN: number = 1 * MIB,
  DISK_CACHE_BYTES_MAX: number = 128 * 1024 * MIB;
/** Bytes of a disk cache, if not told. */
export const DISK_CACHE_BYTES: number = 1024 * MIB;
/** Lines of one object that a disk cache tells apart: as many as an object can have. */
export const DISK_CACHE_LINES_MAX = 1024;
/** Bytes of a disk cache's index that are read at once when it is opened. */
export const DISK_CACHE_INDEX_READ_BYTES: number = 1 * MIB;
