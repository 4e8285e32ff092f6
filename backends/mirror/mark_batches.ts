/**
 * Marks on their way to the medium of the log. Those that come together are one batch: one write, one
 * flush. While a batch is being flushed the next one gathers, and the writes of the one before go to the
 * legs.
 *
 * @module
 */
import type { DirtyLog } from "../../lib/dirty_log/log.ts";

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
  /** What gathers. */
  #next: Batch | null = null;
  #running: Promise<void> | null = null;

  /** None yet. */
  constructor(options: BatchesOptions) {
    this.#options = options;
  }

  /** Marks a region; resolves when that is durable, rejects with EIO if it cannot be. */
  add(region: number, marking: Marking): Promise<void> {
    this.#next ??= new Batch();
    const done = this.#next.add(region, marking);
    this.#running ??= this.#run();
    return done;
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    const { log, commit } = this.#options;
    await Promise.resolve(); // what comes in the same turn comes along
    for (let batch = this.#take(); batch !== null; batch = this.#take()) {
      try {
        log.mark(batch.regions);
        await commit();
        batch.succeed();
      } catch (error) {
        batch.fail(error);
      }
      // The next flush begins before those go on who have waited for this one.
    }
    this.#running = null;
  }

  #take(): Batch | null {
    const batch = this.#next;
    this.#next = null;
    return batch;
  }
}
