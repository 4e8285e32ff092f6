/**
 * dm-user: the wire format, a daemon's session, and the simulated kernel.
 *
 * @module
 */
export * from "./constants.ts";
export * from "./limits.ts";
export * from "./message.ts";
export * from "./serve.ts";
export * from "./session.ts";
export * from "./simulator/mod.ts";
export * from "./table.ts";
