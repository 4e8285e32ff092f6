/**
 * Limits of object stores.
 *
 * @module
 */

/** Age in ms from which a file that a killed process left half made in a folder store is removed. */
export const LEFTOVER_AGE_MS = 3_600_000;
