/**
 * The limits of mirrors, by name.
 *
 * @module
 */

const MIB: number = 1024 * 1024;

/** Fewest and most legs. */
export const LEGS_MIN = 2, LEGS_MAX = 8;
/** Bytes of a region, if not told and the log has none; doubled until there are at most REGIONS_USUAL_MAX. */
export const REGION_BYTES_USUAL: number = MIB;
/**
 * Most regions that are made if nobody says how large they are. Few enough for a region to be written to
 * again before it is cleared, when writes are spread over all of a busy mirror, and for all of them to be
 * looked at in a few ms; many enough for one of them to be little to copy.
 */
export const REGIONS_USUAL_MAX: number = 2 ** 15;
/**
 * Regions that are marked with one flush where writes follow each other, as an aligned run: sequential
 * writes then wait for the log once a run.
 */
export const AHEAD_REGIONS = 16;
/** Time in ms between two looks at regions that were written to; one without writes between is cleared. */
export const CLEAN_TICK_MS = 5_000;
/** Bytes that are copied at once, and locked against writes meanwhile. */
export const COPY_BYTES: number = MIB;
/** Runs of data and zeroes in a piece above which all of it is copied as data. */
export const COPY_RUNS_MAX = 16;
/** Time in ms that copying waits after each COPY_BYTES while clients are at work. */
export const COPY_YIELD_MS = 10;
/** Time in µs after which copying lets others have the thread. */
export const COPY_TURN_US = 20_000;
/** Time in ms after which regions that could not be read are tried again. */
export const COPY_RETRY_MS = 10_000;
/** Copied regions, and time in µs, after which copies are flushed and the regions cleared. */
export const COPIED_REGIONS_MAX = 1_024, COPIED_US_MAX = 2_000_000;
/** Reads of one leg that may fail and be mended by writing; after one more it is dropped. */
export const READ_ERRORS_MAX = 64;
/** Bytes that one zeroing or trimming of the legs takes at most: longer ones are done in pieces. */
export const ZERO_PIECE_BYTES: number = 1024 * MIB;
