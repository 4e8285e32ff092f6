/**
 * Copying what legs in resync lack, in the background: region after region that the log calls out of
 * sync, in pieces that are locked against writes. Waits for clients while they are at work, and keeps to
 * a rate. A region is in sync when it was copied and cleared when that was flushed.
 *
 * @module
 */
import type { Clock, Log } from "../../lib/block/context.ts";
import { toBlockError } from "../../lib/block/errors.ts";
import type { Run } from "../../lib/block/extent_walk.ts";
import { FLAG_MAY_TRIM, makeRequest, type Request } from "../../lib/block/request.ts";
import type { Maybe, ResyncStatus } from "../../lib/block/types.ts";
import type { DirtyLog } from "../../lib/dirty_log/log.ts";
import type { ActiveRegions } from "./active_regions.ts";
import type { Leg } from "./leg.ts";
import type { LegSet } from "./leg_set.ts";
import {
  COPIED_REGIONS_MAX,
  COPIED_US_MAX,
  COPY_BYTES,
  COPY_RETRY_MS,
  COPY_RUNS_MAX,
  COPY_TURN_US,
  COPY_YIELD_MS,
} from "./limits.ts";

/** What copying needs. */
export interface ResyncOptions {
  readonly legs: LegSet;
  readonly log: DirtyLog;
  readonly regions: ActiveRegions;
  readonly clock: Clock;
  readonly messages: Log;
  /** Bytes of the mirror and of a region. */
  readonly size: number;
  readonly regionBytes: number;
  /** Most bytes a second; 0 for as fast as it goes. */
  readonly rate: number;
  /** Runs work while nobody else changes a range. */
  readonly locked: <T>(offset: number, length: number, work: () => Maybe<T>) => Maybe<T>;
  /** Flushes all legs in use; false if nothing is known to be durable. Must not fail. */
  readonly flushLegs: () => Promise<boolean>;
  /** A number that rises with every request of a client, and whether one is in flight. */
  readonly foreground: () => { readonly count: number; readonly busy: boolean };
}

/** See the top of the file. */
export class Resync {
  readonly #options: ResyncOptions;
  readonly #ended = new AbortController();
  readonly #buffer: Uint8Array;
  #running: Promise<void> | null = null;
  /** Rises when regions lose sync: what is being copied then may lack a leg. */
  #generation = 0;
  /** Regions that were copied and not flushed yet, and when the first of them was. */
  #copied: number[] = [];
  #copiedSince_us = 0;
  #began_us = 0;
  /** Regions to be copied when it began. */
  #total = 0;
  #bytes = 0;
  #turn_us = 0;
  /** Bytes at the last look at clients, and their requests so far then. */
  #yielded = 0;
  #seen = 0;
  #waitsFor: string | null = null;

  /** Copies nothing before `kick`. */
  constructor(options: ResyncOptions) {
    this.#options = options;
    this.#buffer = new Uint8Array(Math.min(COPY_BYTES, options.regionBytes));
  }

  /** Begins, or goes on, if there is a leg in resync. */
  kick(): void {
    if (this.#ended.signal.aborted || this.#running !== null) return;
    if (this.#options.legs.inResync.length === 0) return;
    this.#running = this.#run().finally(() => {
      this.#running = null;
      // A leg may have come in the last moment.
      this.kick();
    });
  }

  /** All regions that are not clean are out of sync: a leg has come that lacks them. */
  loseSync(): void {
    this.#generation += 1;
    this.#options.log.loseSync();
    this.#total = 0;
  }

  /** Ends it; a piece that is being copied is finished. */
  async stop(): Promise<void> {
    this.#ended.abort();
    await this.#running;
  }

  /** How far it is; null if there is nothing to copy. */
  get status(): ResyncStatus | null {
    const { log, regionBytes, legs, clock } = this.#options;
    if (legs.inResync.length === 0) return null;
    const left = log.arguments.regions - log.syncCount;
    const total = Math.max(this.#total, left);
    const seconds = (clock.now() - this.#began_us) / 1e6;
    const done = (total - left) * regionBytes;
    const rate = this.#running !== null && seconds > 0 ? done / seconds : 0;
    return {
      done,
      total: total * regionBytes,
      rate: Math.round(rate),
      eta_s: rate > 0 ? Math.ceil(left * regionBytes / rate) : null,
      waitsFor: this.#waitsFor,
    };
  }

  async #run(): Promise<void> {
    const { legs } = this.#options, { signal } = this.#ended;
    while (!signal.aborted && legs.inResync.length > 0) {
      try {
        await this.#step();
      } catch (error) {
        if (signal.aborted) return; // the end of the mirror interrupts a wait
        this.#waitsFor = toBlockError(error).message;
        this.#options.messages.error("Mirror: copying has to wait", error);
        await this.#retryLater().catch(() => {});
      }
    }
  }

  async #step(): Promise<void> {
    const { clock, log } = this.#options;
    if (this.#total === 0) {
      this.#total = log.arguments.regions - log.syncCount;
      this.#began_us = this.#turn_us = clock.now();
      this.#bytes = this.#yielded = 0;
    }
    const region = log.resyncWork();
    if (region !== null) await this.#copyRegion(region);
    else if (!await this.#finish()) await this.#retryLater();
  }

  async #copyRegion(region: number): Promise<void> {
    const { log, legs, size, regionBytes, locked } = this.#options;
    const generation = this.#generation, { changes } = legs;
    const start = region * regionBytes, end = Math.min(size, start + regionBytes);
    let whole = true;
    for (let at = start; at < end; at += COPY_BYTES) {
      const length = Math.min(COPY_BYTES, end - at);
      await this.#pause();
      if (this.#ended.signal.aborted || generation !== this.#generation) return;
      whole = await locked(at, length, () => this.#copyPiece(at, length)) && whole;
      this.#bytes += length;
    }
    // Of legs that came, went or took over meanwhile some have only a part: it is copied once more.
    if (generation !== this.#generation || changes !== legs.changes) return;
    log.setRegionSync(region, whole);
    if (!whole) return;
    this.#options.regions.touched(region);
    this.#waitsFor = null;
    if (this.#copied.length === 0) this.#copiedSince_us = this.#options.clock.now();
    this.#copied.push(region);
    const since_us = this.#options.clock.now() - this.#copiedSince_us;
    if (this.#copied.length >= COPIED_REGIONS_MAX || since_us >= COPIED_US_MAX) {
      await this.#flushCopied();
    }
  }

  /** False if no leg in sync can be read. */
  async #copyPiece(offset: number, length: number): Promise<boolean> {
    for (const source of this.#options.legs.inSync) {
      let runs: Run[];
      try {
        runs = await runsOf(source, offset, length);
        for (const run of runs) {
          if (!run.zero) await source.read(this.#part(run, offset), run.offset);
        }
      } catch (error) {
        source.readErrors += 1;
        this.#waitsFor = toBlockError(error).message;
        continue;
      }
      await this.#writePiece(runs, offset);
      return true;
    }
    return false;
  }

  /** Where a run is in the buffer of a piece that begins at `start`. */
  #part(run: Run, start: number): Uint8Array {
    return this.#buffer.subarray(run.offset - start, run.offset - start + run.length);
  }

  async #writePiece(runs: readonly Run[], start: number): Promise<void> {
    const { legs } = this.#options;
    await Promise.all(legs.inResync.map(async (leg) => {
      try {
        for (const run of runs) {
          if (run.zero) await leg.submit(zeroed(run));
          else await leg.write(this.#part(run, start), run.offset, false);
        }
      } catch (error) {
        // Nobody believed it, so that nothing has to be written down before the next write is answered.
        legs.drop(leg, toBlockError(error));
      }
    }));
  }

  /** False if nothing is known to be durable. */
  async #flushCopied(): Promise<boolean> {
    const { regions, flushLegs } = this.#options;
    const generation = this.#generation, copied = this.#copied;
    this.#copied = [];
    const flushed = await flushLegs();
    if (flushed && generation === this.#generation) regions.copied(copied);
    return flushed;
  }

  /** All was looked at: what is in sync now is made durable. False if some of it is not in sync. */
  async #finish(): Promise<boolean> {
    const { legs, log, messages } = this.#options;
    const before = legs.inResync, generation = this.#generation;
    if (!await this.#flushCopied()) return false;
    if (generation !== this.#generation) return true;
    // What is said to be in sync has to be durable there. A flush that failed has dropped its leg.
    if (log.syncCount < log.arguments.regions) return false;
    for (const leg of before) {
      if (leg.state !== "resync") continue;
      leg.state = "in-sync";
      leg.candidate = false;
      messages.info(`Mirror: ${leg.label} is in sync`);
    }
    legs.changed();
    this.#total = 0;
    this.#waitsFor = null;
    await legs.settle();
    return true;
  }

  /** Some regions could not be read: they are tried again later, with whatever else lost sync. */
  async #retryLater(): Promise<void> {
    const { clock, log } = this.#options;
    this.#waitsFor ??= "regions that cannot be read";
    await clock.sleep(COPY_RETRY_MS, this.#ended.signal);
    log.loseSync();
  }

  /** Lets clients go first, keeps to the rate, and gives others a turn. */
  async #pause(): Promise<void> {
    const { clock, foreground, rate } = this.#options;
    const { signal } = this.#ended;
    if (this.#bytes - this.#yielded >= COPY_BYTES) {
      this.#yielded = this.#bytes;
      const { count, busy } = foreground();
      if (busy || count !== this.#seen) await clock.sleep(COPY_YIELD_MS, signal);
      this.#seen = foreground().count;
    }
    const due_us = rate === 0 ? 0 : this.#began_us + this.#bytes / rate * 1e6;
    if (due_us > clock.now()) await clock.sleep((due_us - clock.now()) / 1000, signal);
    if (clock.now() - this.#turn_us < COPY_TURN_US) return;
    await clock.sleep(0, signal);
    this.#turn_us = clock.now();
  }
}

/** What of a range is data and what zeroes; all of it is data if that is in too many runs to tell. */
async function runsOf(leg: Leg, offset: number, length: number): Promise<Run[]> {
  const runs: { offset: number; length: number; zero: boolean }[] = [];
  let at = offset;
  for (const { length: told, zero } of await leg.extents(offset, length)) {
    const count = Math.min(told, offset + length - at), last = runs.at(-1);
    if (last?.zero === zero) last.length += count;
    else runs.push({ offset: at, length: count, zero });
    at += count;
    if (at === offset + length) break;
  }
  const known = at === offset + length && runs.length <= COPY_RUNS_MAX;
  return known ? runs : [{ offset, length, zero: false }];
}

function zeroed({ offset, length }: Run): Request {
  return makeRequest("zero", offset, length, { flags: FLAG_MAY_TRIM });
}
