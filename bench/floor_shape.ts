/**
 * The shape of what the smallest server and its client say to each other: that of a simple NBD reply.
 *
 * @module
 */

/** Bytes of a request. */
export const REQUEST_BYTES = 28;
/** Bytes in front of an answer's block. */
export const HEAD_BYTES = 16;
/** Bytes of a block. */
export const BLOCK_BYTES = 4096;
/** Bytes of an answer. */
export const ANSWER_BYTES: number = HEAD_BYTES + BLOCK_BYTES;
