/**
 * Limits of the S3 client.
 *
 * @module
 */

/** Attempts that one call makes at most, the first one counted. */
export const ATTEMPTS_MAX = 6;
/** The first pause between two attempts is at most this long, in ms; it doubles from one to the next. */
export const PAUSE_FIRST_MS = 100;
/** No pause is longer, in ms. */
export const PAUSE_MS_MAX = 5000;
/**
 * Retries that all calls together have in store. Each one takes 1 out and each call that succeeds at once
 * puts RETRY_REFUND back, so that a server which fails most of what it gets is not asked several times as
 * much.
 */
export const RETRY_BUDGET = 100;
/** What a call that succeeds without a retry adds to the budget. */
export const RETRY_REFUND = 0.2;
/** Time in ms that an attempt has for everything but bytes. */
export const ATTEMPT_MS_MAX = 20_000;
/** Slowest transfer that is waited for, in bytes a ms. */
export const BYTES_PER_MS_MIN = 128;
/** Time in ms that finding credentials has. */
export const CREDENTIALS_MS_MAX = 20_000;
/** Credentials that end are renewed so many ms before. */
export const RENEWAL_MS = 300_000;
/** Keys in one request that deletes: what S3 takes. */
export const DELETE_KEYS_MAX = 1000;
/** Entries of one page of a listing: what S3 gives. */
export const PAGE_ENTRIES_MAX = 1000;
/** Connections that are kept open for the next request. */
export const IDLE_CONNECTIONS_MAX = 64;
/** An answer that says it is longer is not read. */
export const ANSWER_BYTES_MAX = 2 ** 29;
/** Characters of a server's message that are passed on. */
export const MESSAGE_CHARS_MAX = 200;
