/**
 * Dirty-region logs of mirrors: the wire format of dm-log-userspace, the logs themselves in memory and on
 * disk, a daemon's session, and a simulated kernel.
 *
 * @module
 */
export * from "./bitmap_label.ts";
export * from "./bitmap_medium.ts";
export * from "./constants.ts";
export * from "./dirty_bitmap.ts";
export * as limits from "./limits.ts";
export * from "./disk_layout.ts";
export * from "./disk_store.ts";
export * from "./group_sync.ts";
export * from "./inspect.ts";
export * from "./log.ts";
export * from "./log_arguments.ts";
export * from "./message.ts";
export * from "./payload.ts";
export * from "./places.ts";
export * from "./region_bitmap.ts";
export * from "./session.ts";
export * from "./target_bitmaps.ts";
export * as simulator from "./simulator/mod.ts";
