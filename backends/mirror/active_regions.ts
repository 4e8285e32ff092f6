/**
 * Regions that are being written to. Before the first write to one goes to a leg the region is marked in
 * the log, durably; marks of writes that come together share one flush. A region that nobody has written
 * to for a while is cleared, after all legs have flushed what was written there.
 *
 * @module
 */
import type { Clock } from "../../lib/block/context.ts";
import { chain, ensure } from "../../lib/block/maybe.ts";
import type { Maybe } from "../../lib/block/types.ts";
import type { DirtyLog } from "../../lib/dirty_log/log.ts";
import { CLEAN_TICK_MS } from "./limits.ts";

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
interface Use {
  /** Writes that are under way. */
  writes: number;
  /** The mark is durable. */
  marked: boolean;
  /** The number of the last write that is done. */
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

  /** None yet. */
  constructor(options: RegionsOptions) {
    this.#options = options;
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
    const { log, durable, regionBytes } = this.#options;
    const first = Math.floor(offset / regionBytes);
    const last = Math.floor((offset + length - 1) / regionBytes);
    const fresh: number[] = [];
    for (let region = first; region <= last; region += 1) {
      const use = this.#uses.get(region);
      if (use?.marked === true) use.writes += 1;
      else {
        if (use === undefined) {
          this.#uses.set(region, { writes: 1, marked: !durable, last: 0, tick: this.#tick });
        } else use.writes += 1;
        fresh.push(region);
      }
    }
    if (fresh.length === 0) return undefined;
    try {
      log.mark(fresh);
    } catch (error) {
      this.end(offset, length);
      throw error;
    }
    this.#startCleaning();
    return durable ? this.#markDurably(fresh, offset, length) : undefined;
  }

  async #markDurably(fresh: readonly number[], offset: number, length: number): Promise<void> {
    try {
      await this.#options.commit();
    } catch (error) {
      this.end(offset, length);
      throw error;
    }
    for (const region of fresh) {
      const use = this.#uses.get(region);
      if (use !== undefined) use.marked = true;
    }
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
    const idle = [...this.#uses].filter(([, use]) => use.writes === 0 && use.tick < tick);
    if (idle.length === 0) return;
    if (idle.some(([, { last }]) => last > this.#flushed)) await flushLegs();
    const clean: number[] = [];
    for (const [region, use] of idle) {
      if (use.writes > 0 || use.last > this.#flushed) continue;
      this.#uses.delete(region);
      clean.push(region);
    }
    // What a leg that is out of use lacks stays marked.
    if (!whole()) return;
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
  }

  /** Clears all that was flushed; nothing is being written any more. */
  clearFlushed(): Promise<void> {
    return this.#clean(Infinity);
  }
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
