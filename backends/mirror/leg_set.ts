/**
 * The legs of a mirror and what is known of them: which may be read, which are written, and that a change
 * of this is written down before anybody relies on it.
 *
 * Legs in sync have the same everywhere, but for what is being written. Legs in resync have it in regions
 * that the log calls in sync. So a region that is not is read from legs in sync alone.
 *
 * @module
 */
import type { Log } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { Maybe } from "../../lib/block/types.ts";
import type { Leg } from "./leg.ts";

/** Where it is written down which legs are in sync. */
export interface Witness {
  /** Events so far. */
  readonly events: number;
  /** True if the next start believes a leg whatever was written down. */
  believes(leg: Leg): boolean;
  /** Writes it down, durably. Throws EIO, also if nothing would remember it. */
  write(legs: readonly Leg[], closed: boolean): Promise<void>;
}

/** See the top of the file. */
export class LegSet {
  /** All of them, in the order of their numbers. */
  readonly all: readonly Leg[];
  readonly #witness: Witness;
  readonly #log: Log;
  #inSync: readonly Leg[] = [];
  #present: readonly Leg[] = [];
  /** Changes so far, and how many of them are written down. */
  #changes = 0;
  #written = 0;
  #writing: Promise<void> | null = null;

  /** Takes over legs whose states were set. */
  constructor(all: readonly Leg[], witness: Witness, log: Log) {
    this.all = all;
    this.#witness = witness;
    this.#log = log;
    this.changed();
  }

  /** How often states have changed: work that took no notice of it has to be done again. */
  get changes(): number {
    return this.#changes;
  }

  /** Legs that have everything. */
  get inSync(): readonly Leg[] {
    return this.#inSync;
  }

  /** Legs that are written to: those in sync and those in resync. */
  get present(): readonly Leg[] {
    return this.#present;
  }

  /** Legs that are copied to. */
  get inResync(): readonly Leg[] {
    return this.#present.filter(({ state }) => state === "resync");
  }

  /** All legs are in use, so that what all of these have need not be remembered. */
  get whole(): boolean {
    return this.#present.length === this.all.length;
  }

  /** States have changed: `settle` writes it down. */
  changed(): void {
    this.#inSync = this.all.filter(({ state }) => state === "in-sync");
    this.#present = this.all.filter(({ state }) => state !== "failed");
    this.#changes += 1;
  }

  /**
   * Resolves when it is written down which legs are in sync: nothing may be answered before that would be
   * lost if a leg was believed that has failed. Throws EIO.
   */
  settle(): Maybe<void> {
    if (this.#written === this.#changes) return undefined;
    return this.#settle();
  }

  async #settle(): Promise<void> {
    while (this.#written !== this.#changes) {
      this.#writing ??= this.#write(false).finally(() => this.#writing = null);
      await this.#writing;
    }
  }

  async #write(closed: boolean): Promise<void> {
    const changes = this.#changes;
    await this.#witness.write(this.all, closed);
    this.#written = changes;
  }

  /** Writes down that all legs in sync are equal now: nothing is written to them any more. Throws EIO. */
  async writeClosed(): Promise<void> {
    await this.#settle();
    await this.#write(true);
  }

  /** Throws EBUSY if a leg cannot be done without, since the next start would believe it. */
  checkDrop(leg: Leg): void {
    if (!this.#witness.believes(leg)) return;
    throw new BlockError(
      "EBUSY",
      `Cannot drop ${leg.label}: without a log the next start would take it for right`,
    );
  }

  /** Takes a leg out of use. Whoever calls has seen that another one is in sync. */
  drop(leg: Leg, error: BlockError): void {
    if (leg.state === "failed") return;
    leg.state = "failed";
    leg.candidate = false;
    leg.error = error;
    this.changed();
    this.#log.error(`Mirror: ${leg.label} is dropped: ${error.message}`);
    leg.close();
  }

  /**
   * Takes a leg out of use if another one has everything, or may take over. False if it is the last one.
   */
  tryDrop(leg: Leg, error: BlockError): boolean {
    if (leg.state === "failed") return true;
    const others = this.#inSync.some((each) => each !== leg);
    if (!others && leg.state === "in-sync" && !this.promote(leg)) return false;
    this.drop(leg, error);
    return true;
  }

  /** Makes another leg that lacks no answered write one in sync. False if there is none. */
  promote(instead: Leg, among: readonly Leg[] = this.#present): boolean {
    const heir = among.find((leg) => leg.candidate && leg.state === "resync" && leg !== instead);
    if (heir === undefined) return false;
    heir.state = "in-sync";
    heir.candidate = false;
    this.changed();
    this.#log.warn(
      `Mirror: ${heir.label} takes over from ${instead.label}; where they differed after a crash, ` +
        "what was read before may read differently now",
    );
    return true;
  }

  /** Legs in sync but the first are so no more: a write has failed on all of them. */
  demote(): void {
    const [, ...others] = this.#inSync;
    if (others.length === 0) return;
    for (const leg of others) {
      leg.state = "resync";
      leg.candidate = true;
    }
    this.changed();
  }

  /** The leg of a number, from 1. Throws ENOENT. */
  get(number: number): Leg {
    const leg = this.all[number - 1];
    if (leg !== undefined) return leg;
    throw new BlockError("ENOENT", `Cannot find leg ${number}: there are 1 to ${this.all.length}`);
  }
}
