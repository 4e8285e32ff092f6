/**
 * Limits of the tools for volumes at rest.
 *
 * @module
 */

/** Most findings of a check that are told one by one. */
export const CHECK_MESSAGES_MAX = 200;
/** Whole objects that a deep check reads at a time. */
export const CHECK_READS = 4;
/** Entries of one page of a listing, as S3 gives them. */
export const LIST_PAGE_ENTRIES = 1000;
