/**
 * Open files: one table of all ways into the targets of a daemon, with active counts in shared memory,
 * onexit actions, and orderly revocation. docs/handles.md tells how they are used.
 *
 * @module
 */
export * from "./active_count.ts";
export type { DrainOptions } from "./drain.ts";
export * from "./limits.ts";
export type { ActionCall, Ending, Onexit, OnexitAction, OnexitEntry } from "./onexit.ts";
export * from "./open_file.ts";
export * from "./shared_gate.ts";
export * from "./table.ts";
