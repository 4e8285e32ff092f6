/**
 * A mirror of the simulated kernel: legs that hold some numbers for each region, and a region hash as
 * simple as it can be. It writes as the kernel does: mark, flush, then to all legs, each at a moment of
 * its own; a region that is not in sync is written to the first leg alone and copied later.
 *
 * @module
 */
import type { SimulatedUserspaceLog } from "./userspace_log.ts";

/** The steps of a mirror between which a machine may end, or a test may do something else. */
export type MirrorPause = () => Promise<void>;

/** Legs, which outlive the machine: the same number of sectors for each region, a number in each. */
export type Leg = Float64Array;

/** See the top of the file. */
export class SimulatedMirror {
  readonly #log: SimulatedUserspaceLog;
  readonly #legs: readonly Leg[];
  readonly #pause: MirrorPause;
  /** Sectors of a region. */
  readonly #sectors: number;
  /** Writes under way to each region. */
  readonly #writing = new Map<number, number>();
  /** Regions that are being copied; writes to them wait. */
  readonly #copying = new Map<number, Promise<void>>();
  /** Regions whose mark was sent. */
  readonly #marked = new Set<number>();
  /** The flush that is under way: others wait for it, as for the kernel's one thread. */
  #turn: Promise<unknown> = Promise.resolve();

  /** A mirror over a log that is in use. */
  constructor(log: SimulatedUserspaceLog, legs: readonly Leg[], pause: MirrorPause) {
    this.#log = log;
    this.#legs = legs;
    this.#pause = pause;
    this.#sectors = Math.floor((legs[0]?.length ?? 0) / log.regions);
  }

  /** Writes a number to a sector, alone there; resolves when all legs have it, false if it could not be logged. */
  async write(sector: number, value: number): Promise<boolean> {
    const region = Math.floor(sector / this.#sectors);
    while (this.#copying.has(region)) await this.#copying.get(region);
    this.#writing.set(region, (this.#writing.get(region) ?? 0) + 1);
    const inSync = await this.#inTurn(async () => {
      const inSync = await this.#log.inSync(region);
      if (!inSync) return inSync;
      const fresh = !this.#marked.has(region);
      if (fresh) this.#log.mark(region);
      this.#marked.add(region);
      if (await this.#log.flush() === 0) return inSync;
      if (fresh) this.#marked.delete(region);
      return null;
    });
    if (inSync !== null) {
      for (const leg of inSync ? this.#legs : this.#legs.slice(0, 1)) {
        await this.#pause();
        leg[sector] = value;
      }
    }
    await this.#writeEnded(region, inSync === true);
    return inSync !== null;
  }

  /** Copies the next region that the log names. False if there is none now. */
  async recover(): Promise<boolean> {
    const region = await this.#inTurn(() => this.#log.resyncWork());
    if (region === null) return false;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#copying.set(region, promise);
    while ((this.#writing.get(region) ?? 0) > 0) await this.#pause();
    const start = region * this.#sectors;
    const content = this.#legs[0]?.slice(start, start + this.#sectors) ?? [];
    for (const leg of this.#legs.slice(1)) {
      await this.#pause();
      leg.set(content, start);
    }
    await this.#inTurn(async () => {
      await this.#log.setRegionSync(region, true);
      this.#marked.delete(region);
      this.#log.clear(region);
      await this.#log.flush();
    });
    this.#copying.delete(region);
    resolve();
    return true;
  }

  async #writeEnded(region: number, wasInSync: boolean): Promise<void> {
    const left = (this.#writing.get(region) ?? 1) - 1;
    this.#writing.set(region, left);
    if (left > 0 || !wasInSync) return;
    await this.#inTurn(async () => {
      if ((this.#writing.get(region) ?? 0) > 0 || !this.#marked.delete(region)) return;
      this.#log.clear(region);
      await this.#log.flush();
    });
  }

  #inTurn<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(action);
    this.#turn = result.catch(() => {});
    return result;
  }
}
