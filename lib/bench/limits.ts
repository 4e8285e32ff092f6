/**
 * The numbers of the load generator, each with a name, in one place.
 *
 * @module
 */
import { CONNECTION_REQUESTS_MAX, REQUEST_BYTES_MAX } from "../block/limits.ts";

const KIB = 1024, MIB = 1024 * KIB, GIB = 1024 * MIB;

/** Requests in flight on each connection, if not told. */
export const LOAD_DEPTH = 16;
/** Requests in flight on each connection at most: what a server of this project serves at a time. */
export const LOAD_DEPTH_MAX: number = CONNECTION_REQUESTS_MAX;
/** Connections, or channels, at most. */
export const LOAD_CONNECTIONS_MAX = 1_024;
/** Requests in flight on all connections at most. */
export const LOAD_SLOTS_MAX = 16_384;
/** Bytes of the buffers of all requests in flight at most. */
export const LOAD_BUFFER_BYTES_MAX: number = 4 * GIB;
/** Bytes of one request at most. */
export const LOAD_BLOCK_BYTES_MAX: number = REQUEST_BYTES_MAX;
/** Block sizes, or ranges of them, of one load. */
export const LOAD_BLOCK_KINDS_MAX = 32;
/** Weight of a block size at most. */
export const LOAD_WEIGHT_MAX = 1_000_000;
/** Time of a load, in s, if neither time nor requests nor bytes are told. */
export const LOAD_TIME_S = 10;
/** Time of a load at most, in s. */
export const LOAD_TIME_S_MAX = 86_400 * 30;
/** Requests a second at most, where a rate is told. */
export const LOAD_RATE_MAX = 100_000_000;
/** Exponent of Zipf's law, if not told, and at most. */
export const ZIPF_EXPONENT = 1.1, ZIPF_EXPONENT_MAX = 5;
/** Size of a disk that is made for a load, in bytes, if not told. */
export const LOAD_DISK_BYTES: number = GIB;
/** Bytes of the largest block that carries one stamp. */
export const STAMP_BYTES_MAX: number = 4 * KIB;
/** Bytes of the smallest one: a sector, the least that a disk writes whole. */
export const STAMP_BYTES_MIN = 512;
/** Blocks with a stamp of one load: 4 bytes of memory for each, and 2 more while it runs. */
export const STAMPS_MAX: number = 2 ** 27;
/** Bytes of a request that reads a disk to its end to check it. */
export const CHECK_BYTES: number = 256 * KIB;
/** Failed requests, and blocks with wrong data, that are told one by one. */
export const FAULTS_TOLD_MAX = 8;
/** Time between two turns of the event loop while a load runs, in µs: signals and progress wait so long. */
export const LOAD_TURN_US = 20_000;
/** Time before a request is due that is spent in turns of the event loop, in µs: timers are that coarse. */
export const LOAD_SPIN_US = 2_000;
/** Longest sleep of a load between two looks at whether it is to end, in ms. */
export const LOAD_SLEEP_MS_MAX = 100;
/** Bytes that are received at once. */
export const LOAD_RECEIVE_BYTES: number = 512 * KIB;
