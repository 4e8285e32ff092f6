/**
 * Limits of object stores.
 *
 * @module
 */

/** Age in ms from which a file that a killed process left half made in a folder store is removed. */
export const LEFTOVER_AGE_MS = 3_600_000;
/** First and longest pause in ms between attempts while I/O is held; they are drawn from its upper half. */
export const HOLD_PAUSE_FIRST_MS = 250, HOLD_PAUSE_MS_MAX = 15_000;
/** Time in ms that a call has which is under way, or begins, when waiting is over: no answer may ever come. */
export const LAST_CALL_MS = 20_000;
/** While I/O is held the log says so every so many ms. */
export const HOLD_NEWS_MS = 60_000;
