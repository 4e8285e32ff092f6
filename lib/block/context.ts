/**
 * Everything that is not determined by the input comes in through a context: clock, random, files,
 * log, abort signal. That is what makes a whole stack run twice the same under a simulator.
 *
 * @module
 */
import type { FileAccess } from "../sys/file_access.ts";
import type { Opened } from "./types.ts";

/** Time. */
export interface Clock {
  /** Monotonic time in µs, from an arbitrary start. */
  now(): number;
  /**
   * What `now` gave last, for a clock whose owner reads it whenever work begins: the start of what follows
   * on other work in the same thread is the end of that. Left out by all others.
   */
  recent?(): number;
  /** Wall-clock time in ms since 1970. */
  wall(): number;
  /** Resolves after `ms` milliseconds, or rejects with the signal's reason if it aborts before. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Chance. */
export interface Random {
  /** An integer from 0 to 2^32 - 1. */
  uint32(): number;
  /** Fills `into` with random bytes. */
  fill(into: Uint8Array): void;
}

/** Where messages for a human go. Lines are complete sentences without a full stop; no secrets. */
export interface Log {
  /** Something failed; `cause` is printed with its stack when the user asked for it. */
  error(message: string, cause?: unknown): void;
  /** Something is not as the user may think. */
  warn(message: string): void;
  /** Something worth a line happened. */
  info(message: string): void;
  /** For whoever looks for a fault. */
  debug(message: string): void;
}

/** What a backend or filter is opened with. */
export interface OpenContext {
  /** Time. */
  readonly clock: Clock;
  /** Chance. */
  readonly random: Random;
  /** Raw files and block devices. */
  readonly files: FileAccess;
  /** Messages for a human. */
  readonly log: Log;
  /** Aborts when the target is being torn down: give up waiting. */
  readonly signal: AbortSignal;
  /** The target is wanted read-only: open media that way, and say so in `geometry.readOnly`. */
  readonly readOnly: boolean;
  /**
   * Calls may block their thread for long (a worker of its own). If false a call that waits for a
   * disk (fdatasync) has to be made off the thread, and `capabilities.synchronous` is false.
   */
  readonly mayBlock: boolean;
  /**
   * Opens what another spec says, in the same context, for storage that is made of other storage. The
   * registry puts it there. Throws UsageError for a wrong spec, BlockError for what cannot be opened.
   */
  readonly openSpec?: (text: string) => Promise<Opened>;
}
