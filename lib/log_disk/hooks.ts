/**
 * How something on this host takes part in what a writer does: a write-ahead log.
 *
 * @module
 */

/** A writer of a volume. */
export interface Writer {
  /** Its epoch; 0 for none. */
  readonly epoch: number;
  /** Its nonce, 32 hexadecimal digits; empty for none. */
  readonly nonce: string;
}

/** The end of a log: who wrote it, and how far it goes. */
export interface LogEnd extends Writer {
  /** Sequence number of the last object; 0 for none. */
  readonly seq: number;
}

/** What a writer of a volume asks before it does something. */
export interface WriterHooks {
  /**
   * `next` is about to claim the volume, whose log ends with `last` so far. The attach fails with what
   * this throws; no such claim was sent yet.
   */
  beforeClaim(volume: string, last: LogEnd, next: Writer): Promise<void>;
  /** A log object is about to be created: what it holds was accepted before this call. */
  beforeCreate(): Promise<void>;
}
