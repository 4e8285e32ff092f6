/**
 * FUSE: the wire format, a mount's session, and the loop that serves it from one thread.
 *
 * @module
 */
export * from "./constants.ts";
export * from "./limits.ts";
export * from "./loop.ts";
export * from "./loop_clock.ts";
export * from "./replies.ts";
export * from "./requests.ts";
export * from "./session.ts";
export * from "./tree.ts";
