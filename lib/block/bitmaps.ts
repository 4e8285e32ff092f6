/**
 * Dirty bitmaps as a Device sees them: who hears, before storage does, of what is about to change, and who
 * tells afterwards what has changed. lib/dirty_log keeps such bitmaps.
 *
 * @module
 */
import type { Maybe } from "./types.ts";

/** A run of bytes that have all changed since a bitmap began, or all not. */
export interface BitmapRun {
  /** Bytes, at least 1. */
  readonly length: number;
  /** Changed, as far as the bitmap's granularity tells. */
  readonly dirty: boolean;
}

/** The bitmaps of a device. Offsets and lengths are bytes that the Device has validated. */
export interface DeviceBitmaps {
  /** Their names, in the order in which they were made. */
  readonly names: readonly string[];
  /**
   * Called before each write, zero and trim, which goes to storage only when this is done. Throws, or
   * rejects with, BlockError if the change cannot be noted: the request then fails and changes nothing.
   */
  changing(offset: number, length: number): Maybe<void>;
  /** Noting a change costs less if several are known of ahead: see `willChange`. */
  readonly wantsAhead: boolean;
  /** This range is going to be changed, behind others: `changing` follows, or nothing does. Never fails. */
  willChange(offset: number, length: number): void;
  /** Throws EINVAL if the bitmaps cannot go with a device of that size (bytes). */
  checkSize(size: number): void;
  /** The device has another size (bytes); nothing is in flight. */
  resized(size: number): Maybe<void>;
  /**
   * What a bitmap says, as consecutive runs from `offset`: at least one, neighbours differ, at most
   * `limits.EXTENTS_PER_CALL_MAX`. May stop short; the last run may reach past the range, never past the
   * device. Errno: EINVAL if there is no bitmap of that name.
   */
  runs(name: string, offset: number, length: number): BitmapRun[];
}
