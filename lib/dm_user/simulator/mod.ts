/**
 * A kernel with dm-user, simulated: targets, channels, messages, errors, closing and removal, with the
 * same bytes and errnos as the real one, and the same run for the same seed.
 *
 * @module
 */
export * from "./backend.ts";
export * from "./bio.ts";
export * from "./channel.ts";
export * from "./device.ts";
export * from "./event.ts";
export * from "./kernel.ts";
export * from "./pending_message.ts";
export * from "./streams.ts";
export * from "./target.ts";
