/**
 * The numbers of files, each with a name, in one place.
 *
 * @module
 */

const KIB = 1024, MIB = 1024 * KIB;

/** Bytes that direct I/O moves at once by one call; longer requests take several. */
export const DIRECT_CHUNK_BYTES: number = 1 * MIB;
/** Reads of a direct file that may be under way ahead of those that ask for them: a power of two. */
export const AHEAD_READS_MAX = 256;
/** Memory for what is read ahead of a direct file, in bytes; it is taken when it is used first. */
export const AHEAD_BYTES_MAX: number = 32 * MIB;
/** The memory of a read ahead is a multiple of this, in bytes. */
export const AHEAD_UNIT_BYTES: number = 64 * KIB;
/** Longest read, in bytes, that is waited for while the page cache makes it: it has longer ones in pieces. */
export const CACHE_AHEAD_BYTES_MAX: number = 64 * KIB;
/** Longest read, in bytes, that is begun ahead: a longer one keeps a disk busy by itself. */
export const AHEAD_READ_BYTES_MAX: number = 1 * MIB;
/**
 * Time in ms for which what was read ahead can be used. Whoever asked for it reads it soon or never, and
 * what other programs write to the file meanwhile does not show in it.
 */
export const AHEAD_MS_MAX = 5_000;

/** Longest write, in bytes, that goes through a mapping of the file where writing is slow. */
export const MAPPED_WRITE_BYTES_MAX: number = 64 * KIB;
/** Blocks of 2 MiB of a file that are mapped for writing at once: they count as memory of this process. */
export const MAPPED_BLOCKS_MAX = 2_048;
/** Writes in ten seconds without which a block that is mapped for writing is written the usual way again. */
export const MAPPED_WRITES_MIN = 40;
