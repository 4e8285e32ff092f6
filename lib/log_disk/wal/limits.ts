/**
 * Limits of the write-ahead log.
 *
 * @module
 */

/** Bytes in a KiB, MiB. */
const KIB = 1024, MIB = 1024 * KIB;

/** Least, usual and most bytes of the file. */
export const WAL_BYTES_MIN: number = 1 * MIB,
  WAL_BYTES: number = 256 * MIB,
  WAL_BYTES_MAX: number = 64 * 1024 * MIB;
/** Most bytes of one record's data: longer writes become several records. */
export const WAL_RECORD_DATA_BYTES_MAX: number = 256 * KIB;
/** Most records that a recovery does again in one log object: each may be an extent of it. */
export const REDO_RECORDS_MAX = 16_384;
/** Most writers that a file remembers as its own successors, the latest of them. */
export const WAL_CLAIMS_MAX = 128;
/** Share of the file from which on the disk below is asked to make durable what it holds. */
export const WAL_DRAIN_SHARE = 0.5;
