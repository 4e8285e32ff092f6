/**
 * The numbers of traces, each with a name, in one place.
 *
 * @module
 */
import { REQUEST_BYTES_MAX } from "../block/limits.ts";

const KIB = 1024, MIB = 1024 * KIB;

/** Bytes of the description in the header of a native trace. */
export const DESCRIPTION_BYTES_MAX: number = 64 * KIB;
/** Bytes of records after which a block of a native trace is closed. */
export const BLOCK_BYTES: number = 256 * KIB;
/** Bytes of records in a block at most: one record with the largest payload may follow those of a block. */
export const BLOCK_BYTES_MAX: number = BLOCK_BYTES + REQUEST_BYTES_MAX + 64;
/** Lines or records of a foreign trace that are wrong and told one by one; more are only counted. */
export const PROBLEMS_TOLD_MAX = 20;
/** Bytes of records that a recorder may be behind, where data are not kept. */
export const RING_BYTES: number = 8 * MIB;
/** The same where data are kept. */
export const RING_PAYLOAD_BYTES: number = 256 * MIB;
/** Time in ms after which a recorder writes what it has, so that a crash loses no more than that. */
export const RECORDER_WAIT_MS = 50;
