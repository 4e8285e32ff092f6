/**
 * Regions that are being written to. Before the first write to one goes to a leg the region is marked in
 * the log, durably. Marks of writes that come together are a batch: they are written and flushed together,
 * and the batch before is written to the legs meanwhile. A region that nobody has written to for a while
 * is cleared, after all legs have flushed what was written there.
 *
 * @module
 */
import type { Clock } from "../../lib/block/context.ts";
import { chain, ensure } from "../../lib/block/maybe.ts";
import type { Maybe } from "../../lib/block/types.ts";
import type { DirtyLog } from "../../lib/dirty_log/log.ts";
import { AHEAD_REGIONS, CLEAN_TICK_MS } from "./limits.ts";
import { MarkBatches, type Marking } from "./mark_batches.ts";

/** What regions need of their mirror. */
export interface RegionsOptions {
  readonly log: DirtyLog;
  readonly clock: Clock;
  /** The log is on a medium. */
  readonly durable: boolean;
  /** Makes durable what was put into the log. Throws EIO. */
  readonly commit: () => Promise<void>;
  readonly regionBytes: number;
  /** Flushes all legs in use and calls `flushed`, or gives false. Must not fail. */
  readonly flushLegs: () => Promise<boolean>;
  /** No leg is out of use. */
  readonly whole: () => boolean;
}

/** A region that was written to. */
interface Use extends Marking {
  /** Writes that are under way. */
  writes: number;
  /** The number of the last write that is done; 0 for a region that was only marked ahead. */
  last: number;
  /** The look at regions before that write. */
  tick: number;
}

/** See the top of the file. */
export class ActiveRegions {
  readonly #options: RegionsOptions;
  readonly #uses = new Map<number, Use>();
  readonly #ended = new AbortController();
  /** Writes that are done, and those of them that all legs have flushed. */
  #done = 0;
  #flushed = 0;
  #tick = 0;
  #cleaning: Promise<void> | null = null;
  readonly #batches: MarkBatches;

  /** None yet. */
  constructor(options: RegionsOptions) {
    this.#options = options;
    this.#batches = new MarkBatches(options);
  }

  /** The number of the last write that is done: a flush that begins now covers all up to it. */
  get done(): number {
    return this.#done;
  }

  /** True if writes to a region are under way or were not cleared yet. */
  has(region: number): boolean {
    return this.#uses.has(region);
  }

  /** All legs in use have flushed the writes up to this number. */
  flushed(upTo: number): void {
    this.#flushed = Math.max(this.#flushed, upTo);
  }

  /** Marks what a write of this range touches, durably. Throws EIO; else `end` has to follow. */
  begin(offset: number, length: number): Maybe<void> {
    const { regionBytes } = this.#options;
    const first = Math.floor(offset / regionBytes);
    const last = Math.floor((offset + length - 1) / regionBytes);
    let waits: Promise<void>[] | null = null;
    for (let region = first; region <= last; region += 1) {
      const use = this.#useOf(region);
      use.writes += 1;
      const wait = use.marked ? undefined : this.#mark(region, use);
      if (wait !== undefined && wait !== waits?.at(-1)) (waits ??= []).push(wait);
    }
    if (waits === null) return undefined;
    return allOf(waits).catch((error: unknown) => {
      this.end(offset, length);
      throw error;
    });
  }

  #useOf(region: number): Use {
    const known = this.#uses.get(region);
    if (known !== undefined) return known;
    const use = { writes: 0, marked: false, batch: null, last: 0, tick: this.#tick };
    this.#uses.set(region, use);
    this.#startCleaning();
    return use;
  }

  /** A client writes to it, or has just done so. */
  #isWritten(region: number): boolean {
    const use = this.#uses.get(region);
    return use !== undefined && (use.writes > 0 || use.last > 0);
  }

  /** Marks what follows a region along with it: it is cleared like any other if nobody writes there. */
  #markAhead(region: number): void {
    const { log } = this.#options;
    const end = Math.ceil((region + 1) / AHEAD_REGIONS) * AHEAD_REGIONS;
    for (let next = region + 1; next < Math.min(end, log.arguments.regions); next += 1) {
      if (!this.#uses.has(next) && log.isClean(next)) this.#batches.add(next, this.#useOf(next));
    }
  }

  #mark(region: number, use: Use): Maybe<void> {
    // What another write has marked is waited for, not marked again.
    if (use.batch !== null) return use.batch;
    if (this.#options.durable) {
      const done = this.#batches.add(region, use);
      if (this.#isWritten(region - 1) && this.#isWritten(region - 2)) this.#markAhead(region);
      return done;
    }
    this.#options.log.mark([region]);
    use.marked = true;
    return undefined;
  }

  /** The write of this range is done, well or not. */
  end(offset: number, length: number): void {
    const { regionBytes } = this.#options;
    const first = Math.floor(offset / regionBytes);
    const last = Math.floor((offset + length - 1) / regionBytes);
    this.#done += 1;
    for (let region = first; region <= last; region += 1) {
      const use = this.#uses.get(region);
      if (use === undefined) throw new Error(`Region ${region} is written to and not known`);
      use.writes -= 1;
      use.last = this.#done;
      use.tick = this.#tick;
    }
  }

  #startCleaning(): void {
    if (this.#ended.signal.aborted || this.#cleaning !== null) return;
    this.#cleaning = this.#cleanNowAndThen().finally(() => {
      this.#cleaning = null;
      // A region may have come in the last moment.
      if (this.#uses.size > 0) this.#startCleaning();
    });
  }

  async #cleanNowAndThen(): Promise<void> {
    const { clock } = this.#options, { signal } = this.#ended;
    while (this.#uses.size > 0 && !signal.aborted) {
      try {
        await clock.sleep(CLEAN_TICK_MS, signal);
      } catch {
        return; // the mirror ends
      }
      await this.#clean(this.#tick);
      this.#tick += 1;
    }
  }

  /** Clears regions that were not written to since the look before `tick`. */
  async #clean(tick: number): Promise<void> {
    const { log, flushLegs, whole } = this.#options;
    const idle = [...this.#uses].filter(([, use]) =>
      use.writes === 0 && use.batch === null && use.tick < tick
    );
    if (idle.length === 0) return;
    if (idle.some(([, { last }]) => last > this.#flushed)) await flushLegs();
    const clean: number[] = [], isWhole = whole();
    for (const [region, use] of idle) {
      if (use.writes > 0 || use.last > this.#flushed) continue;
      this.#uses.delete(region);
      // What a leg that is out of use lacks stays marked; what was marked ahead in vain it does not lack.
      if (isWhole || use.last === 0) clean.push(region);
    }
    if (clean.length === 0) return;
    log.clear(clean);
    log.settle(true);
  }

  /** A region was copied: flushes of before do not count for it, since they lack the copy. */
  touched(region: number): void {
    const use = this.#uses.get(region);
    if (use === undefined) return;
    this.#done += 1;
    use.last = this.#done;
  }

  /** Regions were copied, and flushed by all legs: those that are not written to are cleared. */
  copied(regions: readonly number[]): void {
    const { log, whole } = this.#options;
    if (!whole()) return;
    log.clear(regions.filter((region) => !this.#uses.has(region)));
    log.settle(true);
  }

  /** Ends the looks at regions. */
  async stop(): Promise<void> {
    this.#ended.abort();
    await this.#cleaning;
    await this.#batches.idle();
  }

  /** Clears all that was flushed; nothing is being written any more. */
  clearFlushed(): Promise<void> {
    return this.#clean(Infinity);
  }
}

function allOf(waits: readonly Promise<void>[]): Promise<void> {
  const [only] = waits;
  return only !== undefined && waits.length === 1 ? only : Promise.all(waits).then(() => {});
}

/** Marks a range, works on it and ends the marks, at once if all of it is. */
export function whileMarked<T>(
  regions: ActiveRegions,
  offset: number,
  length: number,
  work: () => Maybe<T>,
): Maybe<T> {
  return chain(
    regions.begin(offset, length),
    () => ensure(work, () => regions.end(offset, length)),
  );
}
