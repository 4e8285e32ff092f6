/**
 * Dirty-region logs of mirrors: the wire format of dm-log-userspace, the logs themselves in memory and on
 * disk, a daemon's session, and a simulated kernel.
 *
 * @module
 */
export * from "./constants.ts";
export * as limits from "./limits.ts";
export * from "./disk_layout.ts";
export * from "./disk_store.ts";
export * from "./inspect.ts";
export * from "./log.ts";
export * from "./log_arguments.ts";
export * from "./message.ts";
export * from "./payload.ts";
export * from "./places.ts";
export * from "./region_bitmap.ts";
export * from "./session.ts";
export * as simulator from "./simulator/mod.ts";
