/**
 * What a check has found so far: counts as `qemu-img check` has them, and messages for a human.
 *
 * @module
 */
import { CHECK_MESSAGES_MAX } from "../limits.ts";

/** Counts and messages. */
export class Findings {
  /** What endangers data. */
  corruptions = 0;
  /** Clusters that are in use for nothing. */
  leaks = 0;
  /** What could not be checked. */
  checkErrors = 0;
  /** Guest clusters with storage. */
  allocated = 0;
  /** Those that do not follow the one before. */
  fragmented = 0;
  /** Those that are compressed. */
  compressed = 0;
  /** The highest cluster in use. */
  highest = 0;
  /** A sentence each, without a full stop. */
  readonly messages: string[] = [];

  #say(message: string): void {
    if (this.messages.length < CHECK_MESSAGES_MAX) this.messages.push(message);
    else if (this.messages.length === CHECK_MESSAGES_MAX) {
      this.messages.push(
        `There is more, which is counted alone (limit: ${CHECK_MESSAGES_MAX} messages)`,
      );
    }
  }

  /** Counts a corruption, as often as it is met, and tells of it. */
  corruption(message: string, times = 1): void {
    this.corruptions += times;
    this.#say(message);
  }

  /** Counts a leaked cluster and tells of it. */
  leak(message: string): void {
    this.leaks += 1;
    this.#say(message);
  }

  /** Counts something that could not be checked and tells of it. */
  checkError(message: string): void {
    this.checkErrors += 1;
    this.#say(message);
  }
}
