/**
 * The limits of dirty-region logs, by name.
 *
 * @module
 */

/** Longest payload of a request or reply, in bytes: what the kernel's buffer of 512 leaves. */
export const PAYLOAD_BYTES_MAX = 332;
/** Room in bytes that the kernel is sure to have for a status line: its real room is not known. */
export const STATUS_ROOM_BYTES = 255;
/** Longest frame that is taken, in bytes: more than the kernel ever sends. */
export const DATAGRAM_BYTES_MAX = 8_192;
/** Longest uuid, in bytes. */
export const UUID_BYTES_MAX = 128;
/** Longest device name in a reply to CTR, in bytes, without its NUL. */
export const DEVICE_NAME_BYTES_MAX = 127;
/** Most regions of one log: 32 MiB of memory for each of its bitmaps. */
export const REGIONS_MAX: number = 2 ** 28;
/** Smallest and largest region, in sectors of 512 bytes: as the kernel's own logs have it. */
export const REGION_SECTORS_MIN = 2, REGION_SECTORS_MAX: number = 2 ** 31;
/** Most logs of one daemon. */
export const LOGS_MAX = 16_384;
/** Regions cleared in memory before they are written though no other write takes them along. */
export const CLEARS_HELD_MAX = 1_024;
/** Longest time in µs that a cleared region waits for other writes, if requests come. */
export const CLEAR_HOLD_US = 1_000_000;
/** Time in ms without requests after which regions that were cleared are written. */
export const IDLE_MS = 1_000;
/** Bytes of the socket's receive buffer: some ten thousand requests. */
export const RECEIVE_BUFFER_BYTES: number = 16 * 1024 * 1024;
/** Requests answered before signals and messages of the main thread are looked at. */
export const REQUESTS_PER_TURN_MAX = 256;
/** Runs of regions that are printed or returned at once, if not told. */
export const RUNS_MAX = 1_000_000;
/** Longest reading of a log file at once, in bytes. */
export const READ_BYTES_MAX: number = 1024 * 1024;
/** Smallest and largest granularity of a dirty bitmap, in bytes: powers of two. */
export const GRANULARITY_BYTES_MIN = 512, GRANULARITY_BYTES_MAX: number = 2 ** 31;
/** Granularity of a dirty bitmap, in bytes, if not told. */
export const GRANULARITY_BYTES_DEFAULT: number = 64 * 1024;
/** Most dirty bitmaps of one target: all are told of in one reply of the control plane. */
export const BITMAPS_MAX = 16;
/** Longest name of a dirty bitmap, in characters. */
export const BITMAP_NAME_LENGTH_MAX = 64;
/** Regions that are looked at for one answer about a bitmap, after which it stops short. */
export const RUN_SCAN_REGIONS_MAX: number = 2 ** 23;
/**
 * Regions that are marked at once on the medium of a persistent bitmap, as one aligned run: what of them
 * is written next costs no sync, and after a crash all of them count as changed.
 */
export const AHEAD_REGIONS = 64;
