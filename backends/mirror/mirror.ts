/**
 * The data path of a mirror. A change of data locks its range, is marked in the log, and goes to all legs
 * in use. Legs that fail while another one succeeds are dropped, and that is written down before the
 * change is answered. Reads go to the leg with the shortest queue that has the range.
 *
 * @module
 */
import type { Clock, Log } from "../../lib/block/context.ts";
import { BlockError, toBlockError } from "../../lib/block/errors.ts";
import { cutUp } from "../../lib/block/extent_walk.ts";
import { chain, ensure, oneByOne, rescue } from "../../lib/block/maybe.ts";
import { RangeLocks } from "../../lib/block/range_locks.ts";
import {
  FLAG_FAST_ONLY,
  FLAG_FUA,
  FLAG_MAY_TRIM,
  makeRequest,
  type Operation,
} from "../../lib/block/request.ts";
import type { Extent, Maybe, ZeroOptions } from "../../lib/block/types.ts";
import type { DirtyLog } from "../../lib/dirty_log/log.ts";
import { ActiveRegions, whileMarked } from "./active_regions.ts";
import type { Leg } from "./leg.ts";
import type { LegSet } from "./leg_set.ts";
import { COPY_BYTES, READ_ERRORS_MAX, ZERO_PIECE_BYTES } from "./limits.ts";
import { Resync } from "./resync.ts";

/** What a mirror is made of. */
export interface MirrorParts {
  readonly legs: LegSet;
  readonly log: DirtyLog;
  /** The log is on a medium. */
  readonly durable: boolean;
  /** Makes durable what was put into the log. Throws EIO. */
  readonly commit: () => Promise<void>;
  readonly size: number;
  readonly regionBytes: number;
  readonly readOnly: boolean;
  /** Most bytes a second that are copied; 0 for as fast as it goes. */
  readonly rate: number;
  readonly clock: Clock;
  readonly messages: Log;
}

/** What came of a request to several legs: an error or null for each. */
type Errors = (BlockError | null)[];

/** See the top of the file. */
export class Mirror {
  readonly legs: LegSet;
  readonly regions: ActiveRegions;
  readonly resync: Resync;
  readonly #parts: MirrorParts;
  readonly #locks = new RangeLocks();
  #inFlight = 0;
  #requests = 0;
  #turn = 0;

  /** Takes over the parts; copies what has to be copied. */
  constructor(parts: MirrorParts) {
    this.#parts = parts;
    const { legs, messages } = parts;
    this.legs = legs;
    const flushLegs = (): Promise<boolean> => this.#flushQuietly();
    this.regions = new ActiveRegions({ ...parts, flushLegs, whole: () => legs.whole });
    this.resync = new Resync({
      ...parts,
      messages,
      regions: this.regions,
      locked: (offset, length, work) => this.#locks.run(offset, length, "exclusive", work),
      flushLegs,
      foreground: () => ({ count: this.#requests, busy: this.#inFlight > 0 }),
    });
  }

  /** Reads. */
  read(into: Uint8Array, offset: number): Maybe<void> {
    return this.#counted(() => this.#read(into, offset, []));
  }

  /** Writes. */
  write(from: Uint8Array, offset: number, fua: boolean): Maybe<void> {
    return this.#change(
      offset,
      from.length,
      () => this.#toAll((leg) => leg.write(from, offset, fua)),
    );
  }

  /** Flushes all legs. */
  flush(): Maybe<void> {
    return this.#counted(() => this.#flush());
  }

  /** Zeroes all legs. */
  zero(offset: number, length: number, options: ZeroOptions): Maybe<void> {
    const flags = (options.fua ? FLAG_FUA : 0) | (options.mayTrim ? FLAG_MAY_TRIM : 0);
    return oneByOne(cutUp(offset, offset + length, ZERO_PIECE_BYTES), ([start, end]) => {
      // What the first piece can do fast the others can as well.
      const probe = options.fastOnly && start === offset;
      return this.#change(
        start,
        end - start,
        () => this.#zeroAll(start, end - start, flags, probe),
      );
    });
  }

  /** Trims all legs. They have to be equal afterwards, so what was trimmed reads as zeroes. */
  trim(offset: number, length: number, fua: boolean): Maybe<void> {
    return this.zero(offset, length, { fua, mayTrim: true, fastOnly: false });
  }

  /** Prefetches. */
  cache(offset: number, length: number): Maybe<void> {
    const [leg] = this.legs.inSync;
    return leg?.submit(makeRequest("cache", offset, length));
  }

  /** The extents of a leg that has everything. */
  extents(offset: number, length: number): Maybe<Extent[]> {
    const [leg] = this.legs.inSync;
    if (leg === undefined) throw noLeg("extents");
    return leg.extents(offset, length);
  }

  /** Takes a leg out of use. Errno: ENOENT, EBUSY if nobody could take its place. */
  async dropLeg(number: number): Promise<void> {
    const leg = this.legs.get(number);
    const error = new BlockError("ENODEV", "it was taken out of use");
    this.legs.checkDrop(leg);
    if (!this.legs.tryDrop(leg, error)) {
      throw new BlockError("EBUSY", `Cannot drop ${leg.label}: no other leg is in sync`);
    }
    await this.legs.settle();
  }

  /** Takes a leg into use again. Errno: ENOENT, EEXIST, and those of opening. */
  async addLeg(number: number, full: boolean): Promise<void> {
    const leg = this.legs.get(number), [first] = this.legs.inSync;
    if (leg.state !== "failed") {
      throw new BlockError("EEXIST", `Cannot add ${leg.label}: it is in use`);
    }
    if (leg.device !== null) {
      throw new BlockError("EBUSY", `Cannot add ${leg.label}: it is opening`);
    }
    await leg.open(first?.device?.geometry ?? null);
    if (full) this.#parts.log.dirtyAll();
    leg.state = "resync";
    this.legs.changed();
    this.resync.loseSync();
    this.resync.kick();
  }

  /**
   * Ends what goes on in the background; then everything is flushed and cleared. False if that failed:
   * legs in sync may differ where the log is dirty.
   */
  async close(): Promise<boolean> {
    await this.resync.stop();
    await this.regions.stop();
    if (this.#parts.readOnly || !await this.#flushQuietly()) return false;
    await this.regions.clearFlushed();
    return true;
  }

  #counted<T>(work: () => Maybe<T>): Maybe<T> {
    this.#inFlight += 1;
    this.#requests += 1;
    return ensure(work, () => this.#inFlight -= 1);
  }

  /** Legs that have a range. */
  #readable(offset: number, length: number): readonly Leg[] {
    const { legs } = this;
    if (legs.inSync.length === legs.present.length) return legs.inSync;
    const { log, regionBytes } = this.#parts;
    const last = Math.floor((offset + length - 1) / regionBytes);
    for (let region = Math.floor(offset / regionBytes); region <= last; region += 1) {
      if (!log.inSync(region)) return legs.inSync;
    }
    return legs.present;
  }

  /** The leg with the shortest queue that is not among `failed`. */
  #choose(offset: number, length: number, failed: readonly Leg[]): Leg | null {
    const legs = this.#readable(offset, length);
    this.#turn += 1;
    let chosen: Leg | null = null;
    for (let at = 0; at < legs.length; at += 1) {
      const leg = legs[(at + this.#turn) % legs.length];
      if (leg === undefined || failed.includes(leg)) continue;
      if (chosen === null || leg.inFlight < chosen.inFlight) chosen = leg;
    }
    return chosen;
  }

  #read(into: Uint8Array, offset: number, failed: readonly Leg[], first?: BlockError): Maybe<void> {
    const leg = this.#choose(offset, into.length, failed);
    if (leg === null) throw first ?? noLeg("read");
    const done = (): Maybe<void> =>
      failed.length === 0 ? undefined : this.#mendAll(failed, offset, into.length);
    return chain(
      rescue<boolean>(
        () => chain(leg.read(into, offset), () => true),
        (error) => {
          const cause = toBlockError(error);
          leg.readErrors += 1;
          this.#parts.messages.warn(`Mirror: ${leg.label} cannot be read: ${cause.message}`);
          return chain(this.#read(into, offset, [...failed, leg], first ?? cause), () => false);
        },
      ),
      (well) => well ? done() : undefined,
    );
  }

  #mendAll(legs: readonly Leg[], offset: number, length: number): Maybe<void> {
    if (this.#parts.readOnly) return undefined;
    return rescue(
      () => oneByOne(legs, (leg) => this.#mend(leg, offset, length)),
      (error) => {
        this.#parts.messages.warn(`Mirror: cannot mend a leg: ${toBlockError(error).message}`);
      },
    );
  }

  /** Writes what another leg has to one that could not be read. */
  #mend(leg: Leg, offset: number, length: number): Maybe<void> {
    if (leg.state === "failed") return undefined;
    if (leg.readErrors > READ_ERRORS_MAX) {
      const error = new BlockError("EIO", `more than ${READ_ERRORS_MAX} reads of it have failed`);
      return this.legs.tryDrop(leg, error) ? this.legs.settle() : undefined;
    }
    return oneByOne(
      cutUp(offset, offset + length, COPY_BYTES),
      ([start, end]) =>
        this.#marked(start, end - start, () => this.#mendPiece(leg, start, end - start)),
    );
  }

  #mendPiece(leg: Leg, offset: number, length: number): Maybe<void> {
    const source = this.#choose(offset, length, [leg]);
    if (source === null || leg.state === "failed") return undefined;
    const bytes = new Uint8Array(length);
    const write = (): Maybe<void> =>
      rescue(() => leg.write(bytes, offset, false), (error) => {
        this.legs.tryDrop(leg, toBlockError(error));
        return this.legs.settle();
      });
    return chain(source.read(bytes, offset), write);
  }

  /** Runs work on a range while nobody else changes it and it is marked. */
  #marked<T>(offset: number, length: number, work: () => Maybe<T>): Maybe<T> {
    return this.#locks.run(
      offset,
      length,
      "exclusive",
      () => whileMarked(this.regions, offset, length, work),
    );
  }

  #change(offset: number, length: number, work: () => Maybe<void>): Maybe<void> {
    return this.#counted(() => this.#marked(offset, length, work));
  }

  #attempt(leg: Leg, call: (leg: Leg) => Maybe<void>): Maybe<BlockError | null> {
    return rescue<BlockError | null>(() => chain(call(leg), () => null), toBlockError);
  }

  #errorsOf(legs: readonly Leg[], call: (leg: Leg) => Maybe<void>): Maybe<Errors> {
    const outcomes = legs.map((leg) => this.#attempt(leg, call));
    const settled: Errors = [];
    for (const outcome of outcomes) if (!(outcome instanceof Promise)) settled.push(outcome);
    return settled.length === outcomes.length ? settled : Promise.all(outcomes);
  }

  #toAll(call: (leg: Leg) => Maybe<void>): Maybe<void> {
    const legs = this.legs.present;
    return chain(this.#errorsOf(legs, call), (errors) => this.#judge(legs, errors));
  }

  #zeroAll(offset: number, length: number, flags: number, fastOnly: boolean): Maybe<void> {
    const legs = this.legs.present, [first, ...rest] = legs;
    const slow = (leg: Leg): Maybe<void> => leg.submit(zeroRequest(offset, length, flags));
    if (!fastOnly || first === undefined) return this.#toAll(slow);
    const fast = (leg: Leg): Maybe<void> =>
      leg.submit(zeroRequest(offset, length, flags | FLAG_FAST_ONLY));
    // If the first leg cannot, nothing has happened to any.
    return chain(this.#attempt(first, fast), (error) => {
      if (error?.errno === "EOPNOTSUPP") throw error;
      return chain(this.#errorsOf(rest, slow), (errors) => this.#judge(legs, [error, ...errors]));
    });
  }

  /** Nothing is answered before it is written down which legs are in sync. */
  #judge(legs: readonly Leg[], errors: Errors): Maybe<void> {
    const failure = this.#decide(legs, errors);
    return chain(this.legs.settle(), () => {
      if (failure !== null) throw failure;
    });
  }

  /** Drops legs that failed while others did not. If none that has everything did it, gives the error. */
  #decide(legs: readonly Leg[], errors: Errors): BlockError | null {
    const first = errors.find((error) => error !== null) ?? null;
    if (first === null) return null;
    const well = legs.filter((leg, at) => errors[at] === null && leg.state !== "failed");
    const failed = legs.filter((leg, at) => errors[at] !== null && leg.state !== "failed");
    const [before] = this.legs.inSync;
    const safe = well.some(({ state }) => state === "in-sync") ||
      (before !== undefined && this.legs.promote(before, well));
    if (!safe) {
      // They may differ there now.
      this.legs.demote();
      this.resync.loseSync();
      this.resync.kick();
      return first;
    }
    for (const leg of failed) this.legs.drop(leg, errors[legs.indexOf(leg)] ?? first);
    return null;
  }

  #flush(): Maybe<void> {
    const upTo = this.regions.done;
    const flushed = this.#toAll(flushLeg);
    return chain(flushed, () => this.regions.flushed(upTo));
  }

  /** As `flush`, for the mirror's own ends: a leg that fails is dropped, and nobody is answered. */
  async #flushQuietly(): Promise<boolean> {
    const upTo = this.regions.done, legs = this.legs.present;
    const failure = this.#decide(legs, await this.#errorsOf(legs, flushLeg));
    if (failure === null) this.regions.flushed(upTo);
    else this.#parts.messages.warn(`Mirror: cannot flush: ${failure.message}`);
    return failure === null;
  }
}

function flushLeg(leg: Leg): Maybe<void> {
  return leg.submit(makeRequest("flush"));
}

function zeroRequest(
  offset: number,
  length: number,
  flags: number,
): ReturnType<typeof makeRequest> {
  return makeRequest("zero", offset, length, { flags });
}

function noLeg(operation: Operation): BlockError {
  return new BlockError("EIO", `Cannot ${operation}: no leg of the mirror is in sync`);
}
