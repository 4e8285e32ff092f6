/**
 * The numbers that bound dm-user, each with a name, in one place.
 *
 * @module
 */

const MIB = 1024 * 1024;

/** Bytes that the kernel can put into one BIO at most: its size is a u32, in whole sectors. */
export const BIO_BYTES_MAX: number = 2 ** 32 - 512;
/**
 * Longest READ that the daemon answers, in bytes; a longer one is answered with ERROR. The status
 * has to be known before the first byte of data goes out, so all of the data is held in memory.
 */
export const READ_BYTES_MAX: number = 256 * MIB;
/** Bytes of one DISCARD or WRITE_ZEROES that the simulated block layer sends; longer ones are split. */
export const RANGE_BYTES_MAX: number = 2 ** 31;
/** Longest chunk that the stream of a simulated channel gives, in bytes. */
export const CHANNEL_CHUNK_BYTES_MAX: number = 1 * MIB;
/** Policy "fail": how long a BIO waits for the first daemon, in milliseconds. */
export const DAEMON_WAIT_MS = 4_000;
