/**
 * Where it is written down which legs of a mirror are in sync: in the note of its log or, without a log
 * on a medium, nowhere. Then a leg may only be dropped if the next start does not believe it.
 *
 * @module
 */
import { BlockError } from "../../lib/block/errors.ts";
import type { DirtyLog } from "../../lib/dirty_log/log.ts";
import type { Leg } from "./leg.ts";
import type { Witness } from "./leg_set.ts";
import { encodeRecord, type LegRecord } from "./record.ts";

/** What the record of a log is made of. */
export interface LogWitnessOptions {
  readonly log: DirtyLog;
  /** Makes durable what was put into the log. Throws EIO. */
  readonly commit: () => Promise<void>;
  /** The record so far: its legs are those of the mirror, in their order. */
  readonly record: LegRecord;
}

/** Keeps the record in the note of a log. */
export class LogWitness implements Witness {
  readonly #options: LogWitnessOptions;
  #record: LegRecord;

  /** Goes on from a record. */
  constructor(options: LogWitnessOptions) {
    this.#options = options;
    this.#record = options.record;
  }

  get events(): number {
    return this.#record.events;
  }

  believes(): boolean {
    return false;
  }

  async write(legs: readonly Leg[], closed: boolean): Promise<void> {
    const { log, commit } = this.#options;
    const before = this.#record;
    const events = before.events + 1;
    const now = before.legs.map((leg, at) => {
      const { state, candidate } = legs[at] ?? { state: "failed", candidate: false };
      return { ...leg, events: state === "in-sync" ? events : leg.events, candidate };
    });
    this.#record = { ...before, events, closed, legs: now };
    log.writeNote(encodeRecord(this.#record));
    await commit();
  }
}

/** A log in memory: what the next start believes is what the options say. */
export function forgetfulWitness(trusts: (leg: Leg) => boolean): Witness {
  return {
    events: 0,
    believes: trusts,
    write: (legs) => {
      const lost = legs.find((leg) => leg.state !== "in-sync" && trusts(leg));
      if (lost === undefined) return Promise.resolve();
      const error = new BlockError(
        "EIO",
        `Cannot write: ${lost.label} is not in sync, and without a log the next start would take ` +
          "it for right; give the mirror a log, or let it be volatile",
      );
      return Promise.reject(error);
    },
  };
}
