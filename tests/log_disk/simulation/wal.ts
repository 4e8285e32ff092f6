/**
 * Simulated runs of one volume whose writers have write-ahead logs: machines open it in turns and at the same
 * time, write, flush, are paused, crash and come again, with files that forget at a crash what was not made
 * durable, on a store that fails. What has to hold:
 *
 * 1. A machine that opens the volume again after it was the last to write to it finds the disk as it was after some
 *    of its writes, all that it had flushed among them, however often it crashed while it recovered.
 * 2. A machine that takes the volume over from another one finds the disk as it was after some of the
 *    writes of the other one, and puts nothing of its own older log on it.
 * 3. A log is refused only if another machine has continued the volume since.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Backend, Management } from "../../../lib/block/types.ts";
import { encodeVolume } from "../../../lib/log_disk/description.ts";
import type { openManagedDisk } from "../../../lib/log_disk/managed_disk.ts";
import { VOLUME_KEY } from "../../../lib/log_disk/names.ts";
import { WAL_BYTES_MIN } from "../../../lib/log_disk/wal/limits.ts";
import { testContext } from "../../support/context.ts";
import { CrashFiles } from "../../support/crash_files.ts";
import {
  applyOperation,
  BLOCK_BYTES,
  BLOCKS,
  fillBlock,
  type Image,
  type Operation,
  operationOf,
  type Reign,
  reigns,
} from "./oracle.ts";
import { EXPECTED } from "./run.ts";
import { type Faults, Host, NO_FAULTS, World } from "./world.ts";

/** The code under test: as it is, or with a bug planted. */
export interface WalEngine {
  readonly openManagedDisk: typeof openManagedDisk;
}

/** What a run is like. */
export interface WalScenario {
  readonly seed: number;
  /** Things that are done. */
  readonly steps: number;
  readonly machines: number;
  readonly faults: Faults;
  /** Time after which what nobody needs in the store is sent there, ms. */
  readonly sealAfterMs: number;
}

/** Longest time between two things that are done, ms. */
const STEP_MS_MAX = 80;
const VOLUME = "000102030405060708090a0b0c0d0e0f";

/** What a run was. */
export interface WalOutcome {
  /** All calls of the store in their order. */
  readonly calls: readonly string[];
  /** What came to pass, counted. */
  readonly counts: Readonly<Record<string, number>>;
}

/** A machine with its files, which outlive what runs on it. */
interface Machine {
  readonly name: string;
  files: CrashFiles;
  /** Nonces of all writers that ever ran on it. */
  readonly nonces: Set<string>;
  host: Host | null;
}

/** A disk on a machine, and what its client knows. */
interface Session {
  readonly machine: Machine;
  readonly host: Host;
  readonly backend: Backend;
  readonly management: Management;
  readonly epoch: number;
  /** What the disk was once it was open. */
  readonly opened: Image;
  readonly operations: Operation[];
  /** Operations that the client was told to be durable: the first so many. */
  acknowledged: number;
  readonly image: Image;
}

function isSame(a: Image, b: Image): boolean {
  return a.every((id, block) => id === b[block]);
}

/** Numbers of operations after which the disk was like this, from `from` on. */
function momentsOf({ opened, operations }: Session, image: Image, from = 0): number[] {
  const now = opened.slice(), found: number[] = [];
  for (let count = 0; count <= operations.length; count += 1) {
    if (count >= from && isSame(now, image)) found.push(count);
    const next = operations[count];
    if (next !== undefined) applyOperation(now, next);
  }
  return found;
}

/** A run in progress. */
class Run {
  readonly world: World;
  readonly counts: Record<string, number> = {};
  readonly #engine: WalEngine;
  readonly #scenario: WalScenario;
  readonly #machines: Machine[];
  readonly #sessions: Session[] = [];
  #operations = 0;
  #hosts = 0;
  #failure: unknown = null;

  constructor(engine: WalEngine, scenario: WalScenario) {
    this.#engine = engine;
    this.#scenario = scenario;
    this.world = new World(scenario.seed);
    this.#machines = Array.from({ length: scenario.machines }, (_, index) => {
      const files = this.#newFiles();
      return { name: `machine${index}`, files, nonces: new Set<string>(), host: null };
    });
    const volume = {
      id: VOLUME,
      diskBytes: BLOCKS * BLOCK_BYTES,
      blockBytes: BLOCK_BYTES,
      windowSlots: this.world.random.pick([3, 16]),
      createdMs: 0,
      parent: null,
    };
    this.world.bucket.add(VOLUME_KEY, encodeVolume(volume));
  }

  #newFiles(): CrashFiles {
    return new CrashFiles({ seed: this.world.random.uint32(), survival: 0.4 });
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  /** Something that may fail as stores fail, and on a machine that has crashed in any way. */
  #background(host: Host, what: string, work: () => Promise<void>): void {
    const done = async (): Promise<void> => {
      try {
        await work();
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        if (host.isDead) return;
        assert.match(String(error), EXPECTED, `${what} failed: ${String(error)}`);
        return this.#count(`${what} failed`);
      }
      this.#count(what);
    };
    done().catch((error: unknown) => this.#failure ??= error);
  }

  throwFailure(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** One thing that happens, drawn by chance. */
  act(): void {
    const { random } = this.world, draw = random.below(100);
    const machine = random.pick(this.#machines), { host } = machine;
    const session = this.#sessions.findLast((each) => each.host === host);
    if (host === null) return draw < 50 ? this.#boot(machine, this.#scenario.faults) : undefined;
    if (draw < 6) return this.#crash(machine);
    if (draw < 12) return host.isPaused ? host.goOn() : host.pause();
    if (session === undefined || host.isPaused) return;
    if (draw < 75) return this.#change(session);
    if (draw < 90) return this.#background(host, "flush", () => this.#flush(session));
    if (draw < 96) return this.#background(host, "read", () => this.#read(session));
    this.#background(host, "collect", async () => void await session.management.collect?.());
  }

  #crash(machine: Machine): void {
    machine.host?.kill();
    machine.host = null;
    machine.files.crash();
    this.#count("crash");
  }

  /** Opens the volume; crashes now and then while it recovers. */
  #boot(machine: Machine, faults: Faults): void {
    const host = new Host(this.world, `${machine.name}.${this.#hosts += 1}`, faults);
    machine.host = host;
    this.#background(host, "open", async () => {
      try {
        await this.open(machine, host);
      } catch (error) {
        // What could not open ends.
        if (machine.host === host) this.#crash(machine);
        throw error;
      }
    });
    const { random } = this.world;
    if (faults !== NO_FAULTS && random.oneIn(3)) {
      this.world.after(random.below(400), () => {
        if (machine.host === host) this.#crash(machine);
      });
    }
  }

  /** Opens the volume on a machine, and looks at what is there. */
  async open(machine: Machine, host: Host): Promise<Session | null> {
    const { random } = host.context, last = reigns(this.world.bucket.created).at(-1);
    const noted = {
      uint32: (): number => random.uint32(),
      fill: (into: Uint8Array): void => {
        random.fill(into);
        if (into.length === 16) machine.nonces.add(into.toHex());
      },
    };
    const context = testContext({ ...host.context, random: noted, files: machine.files });
    try {
      const { backend, management } = await this.#engine.openManagedDisk(host.store, {
        snapshot: null,
        cacheBytes: 0,
        diskCache: null,
        wal: { path: "/wal", bytes: WAL_BYTES_MIN },
        readAheadBytes: 0,
        dirtyBytes: 2 ** 24,
        sealAfterMs: this.#scenario.sealAfterMs,
        puts: 4,
        collects: false,
        resolve: () => Promise.reject(new Error("there are no parents")),
      }, context);
      const facts = await management?.describe?.();
      assert.ok(management !== undefined && facts !== undefined);
      return this.#opened(machine, host, { backend, management }, Number(facts["epoch"]));
    } catch (error) {
      if (!/another writer has continued the volume/.test(String(error))) throw error;
      this.#refused(machine, last);
      return null;
    }
  }

  #opened(
    machine: Machine,
    host: Host,
    disk: { readonly backend: Backend; readonly management: Management },
    epoch: number,
  ): Session {
    const all = reigns(this.world.bucket.created);
    const index = all.findIndex((each) => each.epoch === epoch), own = all[index];
    assert.ok(own !== undefined, "a disk was opened without a claim in its log");
    // What it has recovered is in the log.
    const opened = own.after.image;
    this.#checkOpened(machine, all.slice(0, index), own);
    const rest = { operations: [], acknowledged: 0, image: opened.slice() };
    const session = { machine, host, ...disk, epoch, opened: opened.slice(), ...rest };
    this.#sessions.push(session);
    return session;
  }

  /** The last one who had the disk open before, and whether others have begun to open it since. */
  #lastBefore(before: readonly Reign[]): { last: Session | null; others: Reign[] } {
    const others: Reign[] = [];
    for (const reign of before.toReversed()) {
      const last = this.#sessions.find(({ epoch }) => epoch === reign.epoch);
      if (last !== undefined) return { last, others };
      others.push(reign);
    }
    return { last: null, others };
  }

  #checkOpened(machine: Machine, before: readonly Reign[], own: Reign): void {
    const { last, others } = this.#lastBefore(before), { name } = machine;
    if (last === null) {
      return assert.ok(
        own.after.image.every((id) => id === 0),
        `${name} has found what nobody wrote`,
      );
    }
    const isOwn = last.machine === machine &&
      others.every(({ nonce }) => machine.nonces.has(nonce));
    const found = own.after.image;
    if (isOwn) {
      const states = momentsOf(last, found, last.acknowledged);
      const lost = `${name} has acknowledged ${last.acknowledged} of ${last.operations.length} ` +
        `operations, and has after a crash those up to ${momentsOf(last, found).at(-1) ?? "none"}`;
      assert.ok(states.length > 0, lost);
      return this.#count("recovered");
    }
    assert.ok(isSame(found, own.before.image), `${name} has put its old log on what others wrote`);
    assert.ok(
      momentsOf(last, found).length > 0,
      `${name} has found what the disk never was on ${last.machine.name}, which had it before`,
    );
    this.#count("taken over");
  }

  /** A log was refused: somebody else has continued. Its administrator goes on without it. */
  #refused(machine: Machine, last: Reign | undefined): void {
    const all = reigns(this.world.bucket.created);
    const from = all.findLastIndex(({ nonce }) => machine.nonces.has(nonce));
    const isOther = all.slice(from + 1).length > 0 || last !== undefined &&
        !machine.nonces.has(last.nonce);
    assert.ok(isOther, `the log of ${machine.name} was refused, and nobody else has continued`);
    this.#count("refused");
    machine.host?.kill();
    machine.host = null;
    machine.files = this.#newFiles();
  }

  #change(session: Session): void {
    const { random } = this.world, { backend } = session;
    const block = random.below(BLOCKS), count = 1 + random.below(Math.min(6, BLOCKS - block));
    const kind = random.pick(["write", "write", "write", "zero", "trim"] as const);
    const operation: Operation = { id: this.#operations + 1, kind, block, count };
    const offset = block * BLOCK_BYTES, length = count * BLOCK_BYTES;
    let done: unknown;
    try {
      if (kind === "write") {
        const from = new Uint8Array(length);
        for (let index = 0; index < count; index += 1) {
          const at = index * BLOCK_BYTES;
          fillBlock(from.subarray(at, at + BLOCK_BYTES), operation.id, block + index);
        }
        done = backend.write(from, offset, { fua: false });
      } else if (kind === "zero") {
        done = backend.zero?.(offset, length, { mayTrim: false, fastOnly: false, fua: false });
      } else done = backend.trim?.(offset, length, { fua: false });
    } catch (error) {
      assert.match(String(error), EXPECTED, `a change failed: ${String(error)}`);
      return this.#count("change refused");
    }
    assert.equal(done, undefined, "a small change waits for nothing");
    this.#operations += 1;
    session.operations.push(operation);
    applyOperation(session.image, operation);
  }

  async #flush(session: Session): Promise<void> {
    const { length } = session.operations;
    await session.backend.flush();
    session.acknowledged = Math.max(session.acknowledged, length);
  }

  async #read({ backend, image }: Session): Promise<void> {
    const into = new Uint8Array(BLOCKS * BLOCK_BYTES), before = image.slice();
    await backend.read(into, 0);
    for (let block = 0; block < BLOCKS; block += 1) {
      const at = block * BLOCK_BYTES;
      if (before[block] !== image[block]) continue;
      const found = operationOf(into.subarray(at, at + BLOCK_BYTES), block);
      assert.equal(found, before[block], `block ${block} reads as what it was not`);
    }
  }

  /** All machines crash; then each opens the volume once more, those that had it last first. */
  async finish(): Promise<void> {
    await this.world.step(() => true);
    for (const machine of this.#machines) if (machine.host !== null) this.#crash(machine);
    await this.world.drain();
    this.throwFailure();
    const last = this.#lastBefore(reigns(this.world.bucket.created)).last?.machine;
    for (const machine of this.#machines.toSorted((a, b) => +(b === last) - +(a === last))) {
      const host = new Host(this.world, `${machine.name}.last`, NO_FAULTS);
      machine.host = host;
      const opening = this.open(machine, host);
      const session = await this.world.until(opening).catch((error: unknown) => {
        if (error instanceof assert.AssertionError) throw error;
        assert.fail(`in the end ${machine.name} cannot open the volume: ${String(error)}`);
      });
      if (session === null) continue;
      await this.world.until(Promise.resolve(session.backend[Symbol.asyncDispose]()));
    }
    await this.world.drain();
    this.throwFailure();
  }
}

/** Runs a scenario to its end. Throws if something does not hold. */
export async function simulateWal(
  engine: WalEngine,
  scenario: WalScenario,
): Promise<WalOutcome> {
  const run = new Run(engine, scenario), { world } = run;
  for (let step = 0; step < scenario.steps; step += 1) {
    // A machine crashes between two events, and not in what follows from one.
    await world.step(() => true);
    run.act();
    let isOver = false;
    world.after(world.random.below(STEP_MS_MAX), () => isOver = true);
    while (!isOver) await world.step();
    run.throwFailure();
  }
  await run.finish();
  return { calls: world.calls, counts: run.counts };
}

/** A scenario drawn from a seed. */
export function walScenarioOf(seed: number): WalScenario {
  const { random } = new World(seed ^ 0x3c6ef372);
  const rare = (): number => random.oneIn(2) ? 0 : 8 + random.below(60);
  return {
    seed,
    steps: 60 + random.below(120),
    machines: 1 + random.below(2),
    sealAfterMs: random.pick([40, 400, 4000]),
    faults: random.oneIn(2)
      ? { ...NO_FAULTS }
      : { fail: rare(), unclear: rare(), lostReply: rare(), late: rare() },
  };
}
