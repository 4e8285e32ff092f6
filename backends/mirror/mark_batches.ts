/**
 * Marks on their way to the medium of the log. Those that come together are one batch: one write, one
 * flush. While a batch is being flushed the next one gathers, and the writes of the one before go to the
 * legs. So that there is something to do meanwhile, a batch takes no more marks than BATCH_MARKS while the
 * medium is quick; of a slow one each flush takes all that wait.
 *
 * @module
 */
import type { Clock } from "../../lib/block/context.ts";
import type { DirtyLog } from "../../lib/dirty_log/log.ts";
import { BATCH_MARKS, QUICK_FLUSH_US } from "./limits.ts";

/** What becomes of a mark. */
export interface Marking {
  /** It is durable. */
  marked: boolean;
  /** What makes it so, while that is under way; rejects with EIO. */
  batch: Promise<void> | null;
}

/** What batches need of their mirror. */
export interface BatchesOptions {
  readonly log: DirtyLog;
  readonly clock: Clock;
  /** Makes durable what was put into the log. Throws EIO. */
  readonly commit: () => Promise<void>;
}

/** Marks that become durable together. */
class Batch {
  readonly regions: number[] = [];
  readonly #markings: Marking[] = [];
  readonly #end: PromiseWithResolvers<void> = Promise.withResolvers<void>();

  /** One more; gives what becomes of the batch. */
  add(region: number, marking: Marking): Promise<void> {
    this.regions.push(region);
    this.#markings.push(marking);
    marking.batch = this.#end.promise;
    return this.#end.promise;
  }

  succeed(): void {
    this.#settle(true);
    this.#end.resolve();
  }

  fail(error: unknown): void {
    this.#settle(false);
    this.#end.reject(error);
  }

  #settle(marked: boolean): void {
    for (const marking of this.#markings) {
      marking.marked = marked;
      marking.batch = null;
    }
  }
}

/** See the top of the file. */
export class MarkBatches {
  readonly #options: BatchesOptions;
  /** In the order in which they are flushed; the last one gathers. */
  readonly #queue: Batch[] = [];
  #running = false;
  /** How long the last flush took. */
  #flush_us = 0;

  /** None yet. */
  constructor(options: BatchesOptions) {
    this.#options = options;
  }

  /** Marks a region; resolves when that is durable, rejects with EIO if it cannot be. */
  add(region: number, marking: Marking): Promise<void> {
    let batch = this.#queue.at(-1);
    const isFull = batch !== undefined && batch.regions.length >= BATCH_MARKS &&
      this.#flush_us < QUICK_FLUSH_US;
    if (batch === undefined || isFull) this.#queue.push(batch = new Batch());
    const done = batch.add(region, marking);
    if (!this.#running) {
      this.#running = true;
      // What comes in the same turn comes along.
      queueMicrotask(() => this.#run());
    }
    return done;
  }

  async #run(): Promise<void> {
    const { clock, log, commit } = this.#options;
    for (let batch = this.#queue.shift(); batch !== undefined; batch = this.#queue.shift()) {
      const start_us = clock.now();
      try {
        log.mark(batch.regions);
        await commit();
        batch.succeed();
      } catch (error) {
        batch.fail(error);
      }
      // The next flush begins before those go on who have waited for this one.
      this.#flush_us = clock.now() - start_us;
    }
    this.#running = false;
  }
}
