/**
 * Framing over Web Streams: bytes to frames and back, and the driver loop for byte sessions.
 *
 * @module
 */
export * from "./frame.ts";
export * from "./limits.ts";
export * from "./memory_pair.ts";
export * from "./reply_queue.ts";
export * from "./run_session.ts";
export * from "./session.ts";
export * from "./splitter.ts";
export * from "./transform.ts";
