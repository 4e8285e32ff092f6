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
/** Bytes of the ring in which messages of a real channel go to the home thread; a power of two. */
export const CHANNEL_RING_BYTES: number = 256 * 1024;
/** Longest message that goes through the ring, in bytes with its header; longer ones go aside. */
export const CHANNEL_MESSAGE_BYTES_MAX: number = 64 * 1024 + 40;
/** Longest piece of a long message, in bytes with the header: up to this it is passed on in one. */
export const CHANNEL_PIECE_BYTES: number = 8 * MIB + 40;
/** Pieces of long messages that were read and are not taken up by the session, for each channel. */
export const CHANNEL_PIECES_MAX = 2;
/** Time in ms between two signals to a thread that is to come back from its read: first, and at most. */
export const CHANNEL_WAKE_MS_MIN = 1, CHANNEL_WAKE_MS_MAX = 50;
/** Time in µs that a channel whose messages never stop may keep the home thread from everything else. */
export const CHANNEL_TURN_US = 2_000;
