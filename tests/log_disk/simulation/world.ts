/**
 * A world for simulations of log-structured disks: time that goes from event to event, a bucket that
 * remembers all that was ever created, hosts that can be paused and killed.
 *
 * The fault model. A host acts only when an event reaches it: a reply of the store, or the end of a wait. A
 * host that is paused gets its events when it goes on, in their order; one that is killed gets none any
 * more. A request that was sent takes effect whatever happens to its host, unless the host was killed before: then
 * chance decides. Creations may have an unclear outcome in all the ways of the store in memory. Delays are
 * drawn for each request and reply, so that they overtake one another. Everything is drawn from one
 * seed, and one event is delivered at a time: the same seed gives the same run, which the log of calls shows.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import type { Clock, Log } from "../../../lib/block/context.ts";
import type { DiskContext } from "../../../lib/log_disk/context.ts";
import { type SeededRandom, seededRandom } from "../../../lib/testing/random.ts";
import {
  type Fate,
  MemoryBucket,
  MemoryStore,
  type StoreCall,
  type StorePlan,
} from "../../support/memory_store.ts";

/** Chances of faults, once in so many calls; 0: never. */
export interface Faults {
  readonly fail: number;
  readonly unclear: number;
  readonly lostReply: number;
  readonly late: number;
}

/** No faults. */
export const NO_FAULTS: Faults = { fail: 0, unclear: 0, lostReply: 0, late: 0 };

/** Longest delay of a request, a reply, and a request that comes late, ms. */
const DELAY_MS_MAX = 30, LATE_MS_MAX = 3_000;

/** A bucket that remembers the first object of each key. */
export class RecordingBucket extends MemoryBucket {
  /** All that was ever created. */
  readonly created: Map<string, Uint8Array> = new Map();

  override add(key: string, bytes: Uint8Array<ArrayBuffer>): boolean {
    const isNew = super.add(key, bytes);
    if (isNew && !this.created.has(key)) this.created.set(key, bytes);
    return isNew;
  }
}

interface Event {
  readonly dueUs: number;
  readonly happen: () => void;
}

/** Time and what is to happen. */
export class World {
  readonly bucket: RecordingBucket = new RecordingBucket();
  readonly random: SeededRandom;
  /** Calls of all hosts at each of their points, as they happened. */
  readonly calls: string[] = [];
  #nowUs = 0;
  #events: Event[] = [];

  constructor(seed: number) {
    this.random = seededRandom(seed);
  }

  /** Time since the beginning, µs. */
  get nowUs(): number {
    return this.#nowUs;
  }

  /** Lets something happen later. */
  after(ms: number, happen: () => void): void {
    this.#events.push({ dueUs: this.#nowUs + ms * 1000, happen });
  }

  /**
   * Lets all run that follows from what has happened, and then the next thing happen. False if there is
   * nothing, or no need any more.
   */
  async step(isEnough: () => boolean = () => false): Promise<boolean> {
    await settle();
    if (isEnough()) return false;
    let next = 0;
    for (const [index, { dueUs }] of this.#events.entries()) {
      if (dueUs < (this.#events[next]?.dueUs ?? 0)) next = index;
    }
    // In the order in which they were added, for those that are due at the same time.
    const [event] = this.#events.splice(next, 1);
    if (event === undefined) return false;
    this.#nowUs = Math.max(this.#nowUs, event.dueUs);
    event.happen();
    return true;
  }

  /** Goes on until `promise` is settled. Throws if nothing happens any more before. */
  async until<T>(promise: Promise<T>): Promise<T> {
    let isDone = false;
    const done = (): void => void (isDone = true);
    promise.then(done, done);
    while (await this.step(() => isDone));
    if (!isDone) throw new Error("Nothing happens any more, and what was waited for has not");
    return await promise;
  }

  /** Goes on until nothing happens any more. */
  async drain(): Promise<void> {
    while (await this.step());
  }
}

/** Lets everything run that waits for no event. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => resolve()));
}

/** Where a host is to be killed or paused: the call, and whether before or after its effect. */
export interface CallPoint {
  readonly call: number;
  readonly point: "before" | "after";
}

/** What is to happen to a host at its calls. */
export interface Fortune {
  readonly kill: CallPoint | null;
  readonly pause: CallPoint | null;
}

const NO_FORTUNE: Fortune = { kill: null, pause: null };

/** A machine that runs a disk. */
export class Host {
  readonly name: string;
  readonly store: MemoryStore;
  readonly context: DiskContext;
  readonly lines: string[] = [];
  readonly #world: World;
  readonly #faults: Faults;
  readonly #fortune: Fortune;
  #isPaused = false;
  #isDead = false;
  #held: (() => void)[] = [];

  constructor(world: World, name: string, faults: Faults, fortune: Fortune = NO_FORTUNE) {
    this.#world = world;
    this.name = name;
    this.#faults = faults;
    this.#fortune = fortune;
    this.store = new MemoryStore(world.bucket, this.#plan(), name);
    const note = (message: string): void => void this.lines.push(message);
    const log: Log = { error: note, warn: note, info: note, debug: note };
    const random = seededRandom(world.random.uint32());
    this.context = { clock: this.#clock(), random, log, signal: new AbortController().signal };
  }

  /** A store on another bucket, with the same faults. */
  storeOn(bucket: MemoryBucket): MemoryStore {
    return new MemoryStore(bucket, this.#plan(), this.name);
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  get isDead(): boolean {
    return this.#isDead;
  }

  /** It acts no more until it goes on. */
  pause(): void {
    this.#isPaused = true;
  }

  /** It goes on with all that has come meanwhile. */
  goOn(): void {
    this.#isPaused = false;
    const held = this.#held;
    this.#held = [];
    for (const happen of held) this.#deliver(happen);
  }

  /** It acts no more. */
  kill(): void {
    this.#isDead = true;
    this.#held = [];
  }

  #deliver(happen: () => void): void {
    if (this.#isDead) return;
    if (this.#isPaused) this.#held.push(happen);
    else happen();
  }

  #clock(): Clock {
    return {
      now: () => this.#world.nowUs,
      wall: () => Math.floor(this.#world.nowUs / 1000),
      sleep: (ms, signal) =>
        new Promise((resolve, reject) => {
          if (signal?.aborted) return reject(signal.reason);
          const abort = (): void => reject(signal?.reason);
          signal?.addEventListener("abort", abort, { once: true });
          this.#world.after(ms, () => this.#deliver(resolve));
        }),
    };
  }

  #fate({ verb }: StoreCall): Fate {
    const { random } = this.#world, { fail, unclear, lostReply, late } = this.#faults;
    const happens = (rate: number): boolean => rate > 0 && random.oneIn(rate);
    if (happens(fail)) return { fail: "unavailable" };
    if (verb !== "create") return "done";
    if (happens(unclear)) return "unclear";
    if (happens(lostReply)) return "lost-reply";
    return happens(late) ? "late" : "done";
  }

  #plan(): StorePlan {
    return {
      fate: (call) => this.#fate(call),
      pass: (call, point) => this.#pass(call, point),
    };
  }

  #pass(call: StoreCall, point: "before" | "after" | "late"): Promise<void> {
    const world = this.#world, { random } = world;
    world.calls.push(
      `${world.nowUs} ${this.name} ${call.number} ${call.verb} ${call.key} ${point}`,
    );
    const { kill, pause } = this.#fortune;
    if (call.number === kill?.call && point === kill.point) this.kill();
    if (call.number === pause?.call && point === pause.point) this.pause();
    const delayMs = random.below(point === "late" ? LATE_MS_MAX : DELAY_MS_MAX);
    return new Promise((resolve) => {
      world.after(delayMs, () => {
        if (point === "after") return this.#deliver(resolve);
        // It is on its way: what happens to its sender does not call it back.
        if (!this.#isDead || random.oneIn(2)) resolve();
      });
    });
  }
}
