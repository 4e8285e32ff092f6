/**
 * Runs a load on a Device: storage in this process, and whatever a backend or a simulated channel leads
 * to. Requests that are done at once cost no promise.
 *
 * @module
 */
import { toBlockError } from "../block/errors.ts";
import type { Request } from "../block/request.ts";
import type { Maybe } from "../block/types.ts";
import { type Load, LoadSlot, type Pause } from "./load.ts";
import { GivingWay, type LoadRunOptions } from "./turn.ts";

/** What a load runs on: a Device is one. */
export interface LoadTarget {
  /** Serves a request. */
  submit(request: Request): Maybe<void>;
}

/** Runs `load` to its end with `depth` requests in flight; what fails is counted and nothing else. */
export async function runOnDevice(
  target: LoadTarget,
  load: Load,
  depth: number,
  options: LoadRunOptions,
): Promise<void> {
  await new DeviceLoad(target, load, depth, options).run();
}

/** A slot with what is to happen when its request is done, made once. */
interface Lane {
  readonly slot: LoadSlot;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
}

class DeviceLoad {
  readonly #target: LoadTarget;
  readonly #load: Load;
  readonly #options: LoadRunOptions;
  readonly #free: Lane[];
  #wake: (() => void) | null = null;

  constructor(target: LoadTarget, load: Load, depth: number, options: LoadRunOptions) {
    this.#target = target;
    this.#load = load;
    this.#options = options;
    this.#free = Array.from({ length: depth }, () => this.#lane());
  }

  #lane(): Lane {
    const { clock } = this.#options;
    const slot = new LoadSlot(this.#load.slotBytes, 0);
    const finish = (error: unknown): void => {
      this.#load.finish(slot, error === null ? null : toBlockError(error), clock.now());
      this.#free.push(lane);
      const wake = this.#wake;
      this.#wake = null;
      wake?.();
    };
    const lane: Lane = { slot, done: () => finish(null), failed: finish };
    return lane;
  }

  async run(): Promise<void> {
    const { clock, signal } = this.#options;
    const load = this.#load;
    const way = new GivingWay(this.#options);
    load.start(clock.now());
    for (;;) {
      if (signal?.aborted) load.interrupt();
      const pause = this.#submitAll(way);
      if (pause === null) await way.now();
      else if (pause === "over" && load.inFlight === 0) return;
      else if (pause === "early") await this.#early(way);
      else await this.#oneDone();
    }
  }

  /** Submits while there are free lanes. Null if it is time to give way, "conflict" if one must end first. */
  #submitAll(way: GivingWay): Pause | null {
    const { clock } = this.#options;
    const load = this.#load, target = this.#target;
    for (;;) {
      const lane = this.#free.pop();
      if (lane === undefined) return "conflict";
      const { slot } = lane;
      const nowUs = clock.now();
      const pause = load.begin(slot, nowUs);
      if (pause !== null) {
        this.#free.push(lane);
        return pause;
      }
      let outcome: Maybe<void>;
      try {
        outcome = target.submit(slot);
      } catch (error) {
        load.finish(slot, toBlockError(error), clock.now());
        this.#free.push(lane);
        if (way.isDue(nowUs)) return null;
        continue;
      }
      if (outcome === undefined) {
        load.finish(slot, null, clock.recent === undefined ? clock.now() : clock.recent());
        this.#free.push(lane);
      } else {
        outcome.then(lane.done, lane.failed);
      }
      if (way.isDue(nowUs)) return null;
    }
  }

  /** The next request is not due: waits until it is, or one is done. */
  async #early(way: GivingWay): Promise<void> {
    await way.until(this.#load.dueUs);
  }

  #oneDone(): Promise<void> {
    return new Promise((resolve) => this.#wake = resolve);
  }
}
