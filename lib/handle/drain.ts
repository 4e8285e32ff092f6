/**
 * Those who wait until nothing is inside an open file any more.
 *
 * @module
 */
import type { Clock } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import { DRAIN_MS_MAX } from "./limits.ts";

/** How long a drain may take. */
export interface DrainOptions {
  /** Time in ms, 0 to DRAIN_MS_MAX; DRAIN_MS if left out. */
  readonly limit_ms?: number;
}

/** What waiting needs of the open file. */
export interface DrainSurroundings {
  readonly clock: Clock;
  /** The minor of the file. */
  readonly minor: number;
  /** References now. */
  readonly inside: () => number;
}

/** One who waits from inside. */
interface Insider {
  readonly references: number;
  readonly resolve: () => void;
}

/** The waiters of one open file. */
export class Drain {
  readonly #surroundings: DrainSurroundings;
  readonly #empty = Promise.withResolvers<void>();
  readonly #insiders = new Set<Insider>();

  /** Nobody waits. */
  constructor(surroundings: DrainSurroundings) {
    this.#surroundings = surroundings;
  }

  /** Resolves at `done`; rejects with ETIMEDOUT after `limit_ms`. */
  wait(limit_ms: number): Promise<void> {
    return this.#within(limit_ms, this.#empty.promise);
  }

  /** Resolves when all that is inside waits here itself, with `references` of this caller. */
  async waitInside(references: number, limit_ms: number): Promise<void> {
    const alone = Promise.withResolvers<void>();
    const insider: Insider = { references, resolve: alone.resolve };
    this.#insiders.add(insider);
    try {
      this.look();
      await this.#within(limit_ms, alone.promise);
    } finally {
      this.#insiders.delete(insider);
    }
  }

  /** Something has left: wakes those who wait from inside if they are among themselves. */
  look(): void {
    if (this.#insiders.size === 0) return;
    let own = 0;
    for (const { references } of this.#insiders) own += references;
    if (this.#surroundings.inside() > own) return;
    for (const { resolve } of this.#insiders) resolve();
  }

  /** Nothing is inside any more, for good. */
  done(): void {
    this.#empty.resolve();
  }

  async #within(limit_ms: number, event: Promise<void>): Promise<void> {
    if (!(limit_ms >= 0 && limit_ms <= DRAIN_MS_MAX)) {
      throw new RangeError(`Cannot drain within ${limit_ms} ms: give 0 to ${DRAIN_MS_MAX}`);
    }
    const { clock, minor, inside } = this.#surroundings;
    const patience = new AbortController();
    const late = clock.sleep(limit_ms, patience.signal).then(() => {
      const reason = `${inside()} operation(s) or hold(s) remain after ${limit_ms} ms`;
      throw new BlockError("ETIMEDOUT", `Cannot drain open file ${minor}: ${reason}`);
    });
    try {
      await Promise.race([event, late]);
    } finally {
      patience.abort();
      late.catch(() => {});
    }
  }
}
