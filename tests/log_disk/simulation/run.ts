/**
 * One simulated run: hosts attach, write, flush, collect garbage, are paused and killed, several at a time. What has to hold:
 *
 * 1. What a writer leaves in the log is a prefix of what its client did, and includes all that was
 *    acknowledged: by a flush, or a write with FUA.
 * 2. That holds for every writer, whoever took over from it: so nobody acknowledges what his
 *    successor does not see, and never can two acknowledge at the same time.
 * 3. Whoever attaches in the end finds just what the log says, whatever checkpoints there are and
 *    whatever was deleted.
 * 4. A read that succeeds gives what was there when the reader attached, with its own writes.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Collector } from "../../../lib/log_disk/gc/collector.ts";
import { encodeVolume } from "../../../lib/log_disk/description.ts";
import { plainLineReader } from "../../../lib/log_disk/line_reader.ts";
import type { LogDisk } from "../../../lib/log_disk/log_disk.ts";
import {
  applyOperation,
  BLOCK_BYTES,
  BLOCKS,
  emptyState,
  fillBlock,
  type Image,
  type Operation,
  operationOf,
  type Reign,
  reigns,
} from "./oracle.ts";
import { type CallPoint, type Faults, Host, NO_FAULTS, World } from "./world.ts";

/** The code under test: as it is, or with a bug planted. */
export interface Engine {
  readonly LogDisk: typeof LogDisk;
  readonly Collector: typeof Collector;
}

/** What a run is like. */
export interface Scenario {
  readonly seed: number;
  /** Things that are done. */
  readonly steps: number;
  /** Hosts that live at a time. */
  readonly hostsMax: number;
  readonly faults: Faults;
  /** Objects after which a checkpoint is made. */
  readonly checkpointObjects: number;
  /** Slots of the window. */
  readonly windowSlots: number;
  /** Nobody is paused, killed or taken over from but where this is told. */
  readonly quiet: boolean;
  /** Where the first host is killed, if it is to be. */
  readonly killPoint: CallPoint | null;
}

/** What a run was. */
export interface Outcome {
  /** All calls of stores in their order. */
  readonly calls: readonly string[];
  /** What came to pass, counted. */
  readonly counts: Readonly<Record<string, number>>;
}

const VOLUME = "000102030405060708090a0b0c0d0e0f";
const SEAL_AFTER_MS = 40;

/** A disk on a host, and what its client knows. */
interface Session {
  readonly host: Host;
  readonly disk: LogDisk;
  readonly collector: Collector;
  readonly operations: Operation[];
  /** Operations that the client was told to be durable: the first so many. */
  acknowledged: number;
  /** What the disk shows. */
  readonly shown: Image;
  collecting: boolean;
}

/** A run in progress. */
class Run {
  readonly world: World;
  readonly counts: Record<string, number> = {};
  readonly #engine: Engine;
  readonly #scenario: Scenario;
  readonly #sessions: Session[] = [];
  readonly #hosts: Host[] = [];
  #attaching = 0;
  #operations = 0;
  #failure: unknown = null;

  constructor(engine: Engine, scenario: Scenario) {
    this.#engine = engine;
    this.#scenario = scenario;
    this.world = new World(scenario.seed);
    const volume = {
      id: VOLUME,
      diskBytes: BLOCKS * BLOCK_BYTES,
      blockBytes: BLOCK_BYTES,
      windowSlots: scenario.windowSlots,
      createdMs: 0,
      parent: null,
    };
    this.world.bucket.add("volume", encodeVolume(volume));
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  /** Something that must not fail goes on by itself. */
  #background(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      this.#failure ??= error;
    });
  }

  async #attach(host: Host): Promise<void> {
    this.#attaching += 1;
    try {
      await this.#begin(host, host.context);
      this.#count("attached");
    } catch (error) {
      assert.match(String(error), EXPECTED, `an attach failed: ${String(error)}`);
      this.#count("not attached");
    } finally {
      this.#attaching -= 1;
    }
  }

  async #begin(host: Host, context: Host["context"]): Promise<Session> {
    const { checkpointObjects } = this.#scenario;
    const disk = await this.#engine.LogDisk.attach(host.store, context, {
      sealAfterMs: SEAL_AFTER_MS,
      putsMax: 4,
      checkpoints: { afterBytes: Infinity, afterObjects: checkpointObjects },
    });
    const { store } = host, { clock, signal } = context;
    const reader = plainLineReader(disk.origins);
    const neededBy = (): never => assert.fail("there are no snapshots");
    const collector = new this.#engine.Collector({ disk, store, reader, neededBy, clock, signal });
    const reign = this.#reignOf(disk);
    const session = {
      host,
      disk,
      collector,
      operations: [],
      acknowledged: 0,
      shown: reign.before.image.slice(),
      collecting: false,
    };
    this.#sessions.push(session);
    return session;
  }

  #reignOf(disk: LogDisk): Reign {
    const reign = reigns(this.world.bucket.created).findLast(({ nonce }) => nonce === disk.nonce);
    assert.ok(reign !== undefined, "a disk was attached without a claim in the log");
    return reign;
  }

  /** One thing that happens, drawn by chance. */
  act(): void {
    const { random } = this.world;
    const awake = this.#sessions.filter(({ host }) => !host.isDead && !host.isPaused);
    const living = this.#hosts.filter((host) => !host.isDead);
    const draw = this.#scenario.quiet ? 10 + random.below(90) : random.below(100);
    const attachers = this.#scenario.quiet ? 1 : 2;
    if (this.#attaching < attachers && (awake.length === 0 || draw < 3)) {
      this.#newHost(living);
    } else if (draw < 8 && living.length > 0) {
      const host = random.pick(living);
      if (host.isPaused) host.goOn();
      else host.pause();
      this.#count("paused or woken");
    } else if (draw < 10 && living.length > 1) {
      random.pick(living).kill();
      this.#count("killed");
    } else if (awake.length > 0) {
      // Mostly the newest: older ones are those that were taken over from.
      const newest = awake.at(-1);
      this.#client(random.oneIn(3) || newest === undefined ? random.pick(awake) : newest, draw);
    }
  }

  #newHost(living: readonly Host[]): void {
    const { hostsMax, faults, killPoint, quiet } = this.#scenario;
    if (living.length >= hostsMax) living[0]?.kill();
    const first = this.#hosts.length === 0;
    const name = `host${this.#hosts.length}`;
    // A host that is held up while it attaches meets a log that has gone on.
    const { random } = this.world;
    const point = random.oneIn(2) ? "before" as const : "after" as const;
    const pause = !first && !quiet && random.oneIn(2) ? { call: random.below(12), point } : null;
    const host = new Host(this.world, name, faults, { kill: first ? killPoint : null, pause });
    this.#hosts.push(host);
    this.#background(this.#attach(host));
  }

  #client(session: Session, draw: number): void {
    if (draw < 60) this.#change(session);
    else if (draw < 75) this.#background(this.#flush(session, Promise.resolve()));
    else if (draw < 85) this.#background(this.#read(session));
    else if (draw < 93) this.#background(this.#collect(session));
    else this.#background(this.#tolerant(session, session.disk.checkpoint()));
  }

  #change(session: Session): void {
    const { random } = this.world, { disk } = session;
    const block = random.below(BLOCKS), count = 1 + random.below(Math.min(6, BLOCKS - block));
    const kind = random.pick(["write", "write", "write", "write", "zero", "trim"] as const);
    const fua = random.oneIn(6), offset = block * BLOCK_BYTES, length = count * BLOCK_BYTES;
    const operation = { id: this.#operations + 1, kind, block, count };
    let done: unknown;
    try {
      if (kind === "write") {
        const from = new Uint8Array(length);
        for (let index = 0; index < count; index += 1) {
          const at = index * BLOCK_BYTES;
          fillBlock(from.subarray(at, at + BLOCK_BYTES), operation.id, block + index);
        }
        done = disk.write(from, offset, { fua: false });
      } else if (kind === "zero") {
        done = disk.zero(offset, length, { mayTrim: random.oneIn(2), fastOnly: false, fua: false });
      } else done = disk.trim(offset, length, { fua: false });
    } catch (error) {
      assert.match(String(error), EXPECTED, `a write failed: ${String(error)}`);
      this.#count("write refused");
      return;
    }
    assert.equal(done, undefined, "a small write waits for nothing");
    this.#operations += 1;
    session.operations.push(operation);
    applyOperation(session.shown, operation);
    if (fua) this.#background(this.#flush(session, Promise.resolve()));
  }

  async #flush(session: Session, before: Promise<void>): Promise<void> {
    const { length } = session.operations;
    try {
      await before;
      await session.disk.flush();
    } catch (error) {
      assert.match(String(error), EXPECTED, `a flush failed: ${String(error)}`);
      this.#count("flush failed");
      return;
    }
    this.#count("flushed");
    session.acknowledged = Math.max(session.acknowledged, length);
  }

  async #read(session: Session): Promise<void> {
    const { random } = this.world, { disk, shown } = session;
    const block = random.below(BLOCKS), count = 1 + random.below(BLOCKS - block);
    const into = new Uint8Array(count * BLOCK_BYTES), before = shown.slice();
    try {
      await disk.read(into, block * BLOCK_BYTES);
    } catch (error) {
      assert.match(String(error), EXPECTED, `a read failed: ${String(error)}`);
      this.#count("read failed");
      return;
    }
    this.#count("read");
    for (let index = 0; index < count; index += 1) {
      const at = index * BLOCK_BYTES, each = block + index;
      // What was written meanwhile may have come before or after.
      if (before[each] !== shown[each]) continue;
      const found = operationOf(into.subarray(at, at + BLOCK_BYTES), each);
      assert.equal(found, before[each], `block ${each} reads as what it was not`);
    }
  }

  async #collect(session: Session): Promise<void> {
    if (session.collecting) return;
    session.collecting = true;
    const collected = session.collector.collect().then(({ deletedObjects }) => {
      if (deletedObjects > 0) this.#count("collected");
    });
    await this.#tolerant(session, collected);
    session.collecting = false;
  }

  async #tolerant({ host }: Session, work: Promise<unknown>): Promise<void> {
    try {
      await work;
    } catch (error) {
      assert.match(String(error), EXPECTED, `${host.name} failed: ${String(error)}`);
    }
  }

  throwFailure(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** Ends all hosts, lets all that is on its way arrive, and looks at what is left. */
  async finish(): Promise<void> {
    for (const host of this.#hosts) host.kill();
    await this.world.drain();
    this.throwFailure();
    const all = reigns(this.world.bucket.created);
    for (const session of this.#sessions) this.#checkReign(session, all);
    const host = new Host(this.world, "last", NO_FAULTS);
    const last = (all.at(-1)?.after ?? emptyState()).image;
    const session = await this.world.until(this.#begin(host, host.context)).catch((
      error: unknown,
    ) => assert.fail(`in the end nobody can attach: ${String(error)}`));
    const into = new Uint8Array(BLOCKS * BLOCK_BYTES);
    await this.world.until(Promise.resolve(session.disk.read(into, 0))).catch((error: unknown) =>
      assert.fail(`in the end not all can be read: ${String(error)}`)
    );
    for (let block = 0; block < BLOCKS; block += 1) {
      const at = block * BLOCK_BYTES;
      const found = operationOf(into.subarray(at, at + BLOCK_BYTES), block);
      assert.equal(found, last[block], `block ${block} is not what the log says`);
    }
    await this.world.until(session.disk[Symbol.asyncDispose]());
    await this.world.drain();
    this.throwFailure();
  }

  /** What is in the log of a writer is a prefix of what was done, and all that was acknowledged. */
  #checkReign({ disk, host, operations, acknowledged }: Session, all: readonly Reign[]): void {
    const reign = all.findLast(({ nonce }) => nonce === disk.nonce);
    assert.ok(reign !== undefined);
    const image = reign.before.image.slice(), after = reign.after.image;
    const isAfter = (): boolean => image.every((id, block) => id === after[block]);
    let prefix = isAfter() ? 0 : -1;
    for (const [index, operation] of operations.entries()) {
      applyOperation(image, operation);
      if (isAfter()) prefix = index + 1;
    }
    assert.ok(prefix >= 0, `${host.name} left something that is no prefix of what was done`);
    assert.ok(
      prefix >= acknowledged,
      `${host.name} acknowledged ${acknowledged} operations and left ${prefix}`,
    );
  }
}

/** What may go wrong when others take over and stores fail. */
export const EXPECTED: RegExp =
  /another writer has taken it over|\(planned\)|outcome of \d+ tries is unclear|outcome stays unclear|others (change|claim) it all|it does not exist$/;

/** Runs a scenario to its end. Throws if something does not hold. */
export async function simulate(engine: Engine, scenario: Scenario): Promise<Outcome> {
  const run = new Run(engine, scenario);
  const { world } = run;
  for (let step = 0; step < scenario.steps; step += 1) {
    run.act();
    for (let events = world.random.below(8); events > 0; events -= 1) {
      if (!await world.step()) break;
    }
    run.throwFailure();
  }
  await run.finish();
  return { calls: world.calls, counts: run.counts };
}

/** A scenario drawn from a seed. */
export function scenarioOf(seed: number): Scenario {
  const { random } = new World(seed ^ 0x5bd1e995);
  const rare = (): number => random.oneIn(2) ? 0 : 5 + random.below(40);
  const faults = random.oneIn(3)
    ? NO_FAULTS
    : { fail: rare(), unclear: rare(), lostReply: rare(), late: rare() };
  return {
    seed,
    steps: 40 + random.below(80),
    hostsMax: 1 + random.below(3),
    faults,
    checkpointObjects: 3 + random.below(20),
    windowSlots: random.pick([2, 3, 4, 16]),
    quiet: false,
    killPoint: null,
  };
}
