/**
 * The kernel's side of the interface, for tests of a daemon: requests that are repeated, a log that finds
 * its daemon again, a mirror that writes through it.
 *
 * @module
 */
export * from "./kernel.ts";
export * from "./mirror.ts";
export * from "./userspace_log.ts";
