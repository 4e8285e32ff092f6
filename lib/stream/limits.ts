/**
 * The numbers of the framing layer, each with a name, in one place.
 *
 * @module
 */

const KIB = 1024, MIB = 1024 * KIB;

/** Memory for a cut frame that is taken at once, in bytes: what a peer can pin by announcing alone. */
export const ASSEMBLY_EAGER_BYTES: number = 1 * MIB;
/** Frames that are received behind a cut one to where they belong, and bytes of them together: all of its size. */
export const FRAMES_AFTER_MAX = 8, FRAMES_AFTER_BYTES_MAX: number = 1 * MIB;
/** A longer frame gets at most this many times the bytes that have arrived of it. */
export const ASSEMBLY_GROWTH = 4;
/** Bytes of one arena that replies are packed into: 64 replies with 4 KiB of data leave in one write. */
export const ARENA_BYTES: number = 320 * KIB;
/** A reply of more than this many bytes gets a buffer of its own. */
export const ARENA_REPLY_BYTES_MAX: number = 64 * KIB;
/** Outputs up to this many bytes are put together before they are written. */
export const COALESCE_BYTES_MAX: number = 16 * KIB;
/** Bytes of the buffer in which the streams driver puts small outputs together. */
export const COALESCE_BUFFER_BYTES: number = 64 * KIB;
/** Bytes in each direction of a memory pair that a write does not wait for. */
export const MEMORY_PAIR_BYTES: number = 64 * KIB;
