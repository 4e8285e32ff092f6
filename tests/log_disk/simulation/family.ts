/**
 * Simulated runs of a family of volumes, opened as `dmu serve` opens them: with the cached reader, garbage
 * collection and the verbs of an administrator. Hosts write, resize, take, read and delete snapshots, make clones and
 * write to those, all while others do the same, are paused and killed, and stores fail. What has to hold:
 *
 * 1. What a writer leaves in the log of its volume is a prefix of what its client did, resizes among it, and
 *    includes all that was acknowledged.
 * 2. A snapshot that was acknowledged is the disk at some moment between its order and its acknowledgement. It
 *    reads the same for ever, until somebody begins to delete it.
 * 3. A snapshot that a clone stands on is never deleted. A clone begins as that snapshot, and neither what is
 *    done to the parent nor garbage collection there changes it.
 * 4. A read that succeeds gives what is there.
 *
 * The oracle knows the log as it was created; no checkpoint, no deletion, no cache.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Backend, Management } from "../../../lib/block/types.ts";
import { decodeSnapshot, encodeVolume } from "../../../lib/log_disk/description.ts";
import type { ManagedDiskOptions, openManagedDisk } from "../../../lib/log_disk/managed_disk.ts";
import { parseSnapshotKey, VOLUME_KEY } from "../../../lib/log_disk/names.ts";
import type { cloneVolume } from "../../../lib/log_disk/tools/clone.ts";
import { testContext } from "../../support/context.ts";
import type { MemoryStore } from "../../support/memory_store.ts";
import {
  applyOperation,
  BLOCK_BYTES,
  BLOCKS,
  emptyState,
  fillBlock,
  history,
  type Image,
  isSame,
  type Operation,
  operationOf,
  type Reign,
  reigns,
  type State,
} from "./oracle.ts";
import { EXPECTED } from "./run.ts";
import { type Faults, Host, NO_FAULTS, RecordingBucket, World } from "./world.ts";

/** The code under test: as it is, or with a bug planted. */
export interface FamilyEngine {
  readonly openManagedDisk: typeof openManagedDisk;
  readonly cloneVolume: typeof cloneVolume;
}

/** What a run is like. */
export interface FamilyScenario {
  readonly seed: number;
  /** Things that are done. */
  readonly steps: number;
  /** Hosts that live at a time. */
  readonly hostsMax: number;
  readonly faults: Faults;
  /** Memory of the cached reader, bytes: it takes its least if that is more. */
  readonly cacheBytes: number;
}

/** What a run was. */
export interface FamilyOutcome {
  /** All calls of stores in their order. */
  readonly calls: readonly string[];
  /** What came to pass, counted. */
  readonly counts: Readonly<Record<string, number>>;
}

/** Most volumes; blocks of the smallest disk. */
const VOLUMES_MAX = 3, BLOCKS_MIN = 16;
/** Longest time between the order to delete a snapshot and those to clone it, ms; and how many. */
const DELETE_MS = 240, CLONERS = 4;

/** A volume. */
interface Place {
  readonly address: string;
  readonly bucket: RecordingBucket;
  /** What it began as. */
  readonly base: State;
}

/** A disk on a host, and what its client knows. */
interface Session {
  readonly host: Host;
  readonly place: Place;
  readonly backend: Backend;
  readonly management: Management;
  readonly epoch: number;
  /** What the disk was when it was opened. */
  readonly before: State;
  readonly operations: Operation[];
  /** Operations that the client was told to be durable: the first so many. */
  acknowledged: number;
  readonly image: Image;
  blocks: number;
}

/** A snapshot that was acknowledged. */
interface Kept {
  readonly place: Place;
  readonly name: string;
  /** The disk that it holds. */
  readonly state: State;
  /** Somebody has begun to delete it. */
  isDeleting: boolean;
  isDeleted: boolean;
  /** Clones that stand on it. */
  clones: number;
}

/** The states of a disk while a client worked on it: before all, and after each operation. */
function* statesOf({ before, operations }: Session): Generator<State> {
  const image = before.image.slice();
  let { blocks } = before;
  yield { image, blocks };
  for (const operation of operations) {
    applyOperation(image, operation);
    if (operation.kind === "resize") blocks = operation.block;
    yield { image, blocks };
  }
}

/** A run in progress. */
class Run {
  readonly world: World;
  readonly counts: Record<string, number> = {};
  readonly #engine: FamilyEngine;
  readonly #scenario: FamilyScenario;
  readonly #places: Place[];
  readonly #hosts: Host[] = [];
  readonly #sessions: Session[] = [];
  readonly #kept: Kept[] = [];
  #opening = 0;
  #operations = 0;
  #names = 0;
  #failure: unknown = null;

  constructor(engine: FamilyEngine, scenario: FamilyScenario) {
    this.#engine = engine;
    this.#scenario = scenario;
    this.world = new World(scenario.seed);
    const { bucket } = this.world;
    this.#places = [{ address: "memory:0", bucket, base: emptyState() }];
    const volume = {
      id: "000102030405060708090a0b0c0d0e0f",
      diskBytes: BLOCKS * BLOCK_BYTES,
      blockBytes: BLOCK_BYTES,
      windowSlots: this.world.random.pick([3, 16]),
      createdMs: 0,
      parent: null,
    };
    bucket.add(VOLUME_KEY, encodeVolume(volume));
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  /** Something that may fail as stores fail, and not otherwise, goes on by itself. */
  #background(what: string, work: () => Promise<void>): void {
    const done = async (): Promise<void> => {
      try {
        await work();
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        assert.match(String(error), ALLOWED, `${what} failed: ${String(error)}`);
        this.#count(`${what} failed`);
        return;
      }
      this.#count(what);
    };
    done().catch((error: unknown) => this.#failure ??= error);
  }

  throwFailure(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  #store(host: Host, address: string): MemoryStore {
    const place = this.#places.find((each) => each.address === address);
    assert.ok(place !== undefined, `there is no ${address}`);
    return host.storeOn(place.bucket);
  }

  #options(host: Host, snapshot: string | null): ManagedDiskOptions {
    return {
      snapshot,
      cacheBytes: this.#scenario.cacheBytes,
      diskCache: null,
      wal: null,
      readAheadBytes: 4 * BLOCK_BYTES,
      dirtyBytes: 2 ** 24,
      sealAfterMs: 40,
      puts: 4,
      collects: true,
      resolve: (address) => Promise.resolve(this.#store(host, address)),
    };
  }

  async #open(host: Host, place: Place): Promise<Session> {
    const context = testContext({ ...host.context });
    const { backend, management } = await this.#engine.openManagedDisk(
      host.storeOn(place.bucket),
      this.#options(host, null),
      context,
    );
    const facts = await management?.describe?.();
    assert.ok(management !== undefined && facts !== undefined);
    const epoch = Number(facts["epoch"]);
    const { before } = this.#reign(place, epoch);
    assert.equal(backend.geometry.size, before.blocks * BLOCK_BYTES, "the size is another one");
    const session = {
      ...{ host, place, backend, management, epoch, before },
      ...{ operations: [], acknowledged: 0, image: before.image.slice(), blocks: before.blocks },
    };
    this.#sessions.push(session);
    return session;
  }

  #reign({ bucket, base }: Place, epoch: number): Reign {
    const reign = reigns(bucket.created, base).find((each) => each.epoch === epoch);
    assert.ok(reign !== undefined, "a disk was opened without a claim in its log");
    return reign;
  }

  /** One thing that happens, drawn by chance. */
  act(): void {
    const { random } = this.world;
    const awake = this.#sessions.filter(({ host }) => !host.isDead && !host.isPaused);
    const living = this.#hosts.filter((host) => !host.isDead);
    const draw = random.below(100);
    if (this.#opening < 2 && (awake.length === 0 || draw < 3)) this.#newHost(living);
    else if (draw < 7 && living.length > 0) {
      const host = random.pick(living);
      if (host.isPaused) this.#wake(host);
      else host.pause();
    } else if (draw < 9 && living.length > 1) {
      random.pick(living).kill();
      this.#count("killed");
    } else if (awake.length > 0) {
      // Mostly the newest of some volume: older ones are those that were taken over from.
      const { place } = random.pick(awake);
      const newest = awake.findLast((each) => each.place === place);
      this.#client(random.oneIn(5) || newest === undefined ? random.pick(awake) : newest);
    }
  }

  /** Somebody who was held up may not know yet that he was taken over from. */
  #wake(host: Host): void {
    host.goOn();
    const session = this.#sessions.findLast((each) => each.host === host);
    if (session === undefined || this.world.random.oneIn(2)) return;
    this.#background("snapshot", () => this.#snapshot(session));
  }

  #newHost(living: readonly Host[]): void {
    const { hostsMax, faults } = this.#scenario, { random } = this.world;
    if (living.length >= hostsMax) living[0]?.kill();
    const host = new Host(this.world, `host${this.#hosts.length}`, faults);
    const place = random.pick(this.#places);
    this.#hosts.push(host);
    this.#opening += 1;
    this.#background("open", async () => {
      try {
        await this.#open(host, place);
      } finally {
        this.#opening -= 1;
      }
    });
  }

  #client(session: Session): void {
    const { random } = this.world, { backend, management, place } = session;
    const draw = random.below(100);
    if (draw < 40) return this.#change(session);
    if (draw < 50) return this.#acknowledged(session, "flush", () => backend.flush());
    if (draw < 62) return this.#background("read", () => this.#read(session));
    if (draw < 70) {
      return this.#background("collect", async () => {
        const report = await management.collect?.();
        if (Number(report?.["deletedObjects"]) > 0) this.#count("objects deleted");
      });
    }
    if (draw < 75) return this.#resize(session);
    if (draw < 84) return this.#background("snapshot", () => this.#snapshot(session));
    const kept = this.#kept.filter((each) => each.place === place && !each.isDeleting);
    if (kept.length === 0) return;
    const one = random.pick(kept);
    if (draw >= 93 && draw < 97) {
      return this.#background("read snapshot", () => this.#look(session.host, one));
    }
    if (draw >= 97) return this.#cloneAfter(session, one, 0);
    this.#background("delete snapshot", () => this.#delete(session, one));
    // Others clone it at the same time, now and then.
    if (random.oneIn(2)) return;
    for (let others = 0; others < CLONERS; others += 1) {
      this.#cloneAfter(session, one, random.below(DELETE_MS));
    }
  }

  #cloneAfter({ host }: Session, kept: Kept, ms: number): void {
    this.world.after(ms, () => {
      if (this.#places.length >= VOLUMES_MAX || host.isDead) return;
      this.#background("clone", () => this.#clone(host, kept));
    });
  }

  /** All that was done before counts as durable once this is done. */
  #acknowledged(session: Session, what: string, work: () => unknown): void {
    const { length } = session.operations;
    this.#background(what, async () => {
      await work();
      session.acknowledged = Math.max(session.acknowledged, length);
    });
  }

  #did(session: Session, operation: Operation): void {
    this.#operations += 1;
    session.operations.push(operation);
    applyOperation(session.image, operation);
  }

  #change(session: Session): void {
    const { random } = this.world, { backend, blocks } = session;
    const block = random.below(blocks), count = 1 + random.below(Math.min(6, blocks - block));
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
      assert.match(String(error), ALLOWED, `a change failed: ${String(error)}`);
      return this.#count("change refused");
    }
    assert.equal(done, undefined, "a small change waits for nothing");
    this.#did(session, operation);
  }

  #resize(session: Session): void {
    const { backend, blocks } = session;
    const size = BLOCKS_MIN + this.world.random.below(BLOCKS + 1 - BLOCKS_MIN);
    if (size === blocks) return;
    const done = Promise.resolve(backend.resize?.(size * BLOCK_BYTES));
    if (backend.geometry.size === size * BLOCK_BYTES) {
      this.#did(session, { id: this.#operations + 1, kind: "resize", block: size, count: 0 });
      session.blocks = size;
    }
    this.#acknowledged(session, "resize", () => done);
  }

  async #read({ backend, image, blocks }: Session): Promise<void> {
    const { random } = this.world;
    const block = random.below(blocks), count = 1 + random.below(blocks - block);
    const into = new Uint8Array(count * BLOCK_BYTES), before = image.slice();
    await backend.read(into, block * BLOCK_BYTES);
    for (let index = 0; index < count; index += 1) {
      const at = index * BLOCK_BYTES, each = block + index;
      // What was changed meanwhile may have come before or after.
      if (before[each] !== image[each]) continue;
      const found = operationOf(into.subarray(at, at + BLOCK_BYTES), each);
      assert.equal(found, before[each], `block ${each} reads as what it was not`);
    }
  }

  async #snapshot(session: Session): Promise<void> {
    const { place, management, operations } = session;
    this.#names += 1;
    const name = `s${this.#names}`, from = operations.length;
    const last = reigns(place.bucket.created, place.base).at(-1);
    await management.createSnapshot?.(name);
    assert.equal(last?.epoch, session.epoch, `${name} is of a writer who was taken over from`);
    const [, bytes] = place.bucket.created.entries()
      .find(([key]) => parseSnapshotKey(key)?.name === name) ?? [];
    assert.ok(bytes !== undefined, "a snapshot was acknowledged that was never there");
    const { seq, diskBytes } = decodeSnapshot(bytes, name);
    const moment = history(place.bucket.created, place.base).find((each) => each.seq === seq);
    assert.ok(moment !== undefined, `snapshot ${name} ends with an object that does not count`);
    const { state } = moment;
    assert.equal(diskBytes, state.blocks * BLOCK_BYTES, `snapshot ${name} is of another size`);
    const isOne = statesOf(session).drop(from).some((each) => isSame(each, state));
    assert.ok(isOne, `snapshot ${name} is none of what the disk was while it was taken`);
    const flags = { isDeleting: false, isDeleted: false, clones: 0 };
    this.#kept.push({ place, name, state, ...flags });
  }

  async #delete({ management }: Session, kept: Kept): Promise<void> {
    kept.isDeleting = true;
    try {
      await management.deleteSnapshot?.(kept.name);
    } catch (error) {
      // Because of a clone it was not even begun.
      if (/ clones? .*needs? it/.test(String(error))) kept.isDeleting = false;
      throw error;
    }
    assert.equal(kept.clones, 0, `snapshot ${kept.name} was deleted under a clone`);
    kept.isDeleted = true;
  }

  /** Reads a snapshot from its beginning to its end. */
  async #look(host: Host, { place, name, state }: Kept): Promise<void> {
    const context = testContext({ ...host.context, readOnly: true });
    const store = host.storeOn(place.bucket);
    const { backend } = await this.#engine.openManagedDisk(
      store,
      this.#options(host, name),
      context,
    );
    try {
      await this.#compare(backend, state, `snapshot ${name}`);
    } finally {
      await backend[Symbol.asyncDispose]();
    }
  }

  async #compare(backend: Backend, { image, blocks }: State, what: string): Promise<void> {
    assert.equal(backend.geometry.size, blocks * BLOCK_BYTES, `${what} has another size`);
    const into = new Uint8Array(blocks * BLOCK_BYTES);
    await backend.read(into, 0);
    for (let block = 0; block < blocks; block += 1) {
      const at = block * BLOCK_BYTES;
      const found = operationOf(into.subarray(at, at + BLOCK_BYTES), block);
      assert.equal(found, image[block], `block ${block} of ${what} is not what it was`);
    }
  }

  async #clone(host: Host, kept: Kept): Promise<void> {
    const bucket = new RecordingBucket(), address = `memory:${this.#names += 1}`;
    await this.#engine.cloneVolume(host.storeOn(bucket), {
      parent: host.storeOn(kept.place.bucket),
      address: kept.place.address,
      snapshot: kept.name,
    }, host.context);
    assert.ok(!kept.isDeleted, `a clone was made of snapshot ${kept.name}, which is deleted`);
    kept.clones += 1;
    this.#places.push({ address, bucket, base: kept.state });
  }

  /** Ends all hosts, lets all that is on its way arrive, and looks at what is left. */
  async finish(): Promise<void> {
    for (const host of this.#hosts) host.kill();
    await this.world.drain();
    this.throwFailure();
    for (const session of this.#sessions) this.#checkReign(session);
    await this.#inTheEnd(() => this.#lookAtAll("in the end"));
    // Collecting garbage once more, by somebody who knows only what is stored, changes nothing.
    await this.#inTheEnd(async () => {
      for (const place of [...this.#places]) {
        const { backend, management } = await this.#open(this.#lastHost(), place);
        await management.collect?.();
        await backend[Symbol.asyncDispose]();
      }
    });
    await this.#inTheEnd(() => this.#lookAtAll("after garbage was collected"));
    this.throwFailure();
  }

  #lastHost(): Host {
    return new Host(this.world, "last", NO_FAULTS);
  }

  async #inTheEnd(work: () => Promise<void>): Promise<void> {
    await this.world.until(work()).catch((error: unknown) => {
      if (error instanceof assert.AssertionError) throw error;
      assert.fail(`in the end: ${String(error)}`);
    });
    await this.world.drain();
  }

  async #lookAtAll(when: string): Promise<void> {
    for (const kept of this.#kept) if (!kept.isDeleting) await this.#look(this.#lastHost(), kept);
    for (const place of [...this.#places]) {
      const last = reigns(place.bucket.created, place.base).at(-1)?.after ?? place.base;
      const { backend } = await this.#open(this.#lastHost(), place);
      await this.#compare(backend, last, `${place.address} ${when}`);
      await backend[Symbol.asyncDispose]();
    }
  }

  /** What is in the log of a writer is a prefix of what was done, and all that was acknowledged. */
  #checkReign(session: Session): void {
    const { host, place, epoch, acknowledged } = session;
    const { after } = this.#reign(place, epoch);
    let prefix = -1, index = 0;
    for (const state of statesOf(session)) {
      if (isSame(state, after)) prefix = index;
      index += 1;
    }
    assert.ok(prefix >= 0, `${host.name} left something that is no prefix of what was done`);
    assert.ok(
      prefix >= acknowledged,
      `${host.name} acknowledged ${acknowledged} operations and left ${prefix}`,
    );
  }
}

/** What may go wrong besides, when others take over, delete and clone. */
const ALLOWED = new RegExp(
  `${EXPECTED.source}|there is none$|has no snapshot|somebody is deleting it|is not complete| clones? .*needs? it` +
    "|its checkpoint is gone|does not exist, and a snapshot needs it|it comes and goes",
);

/** Runs a scenario to its end. Throws if something does not hold. */
export async function simulateFamily(
  engine: FamilyEngine,
  scenario: FamilyScenario,
): Promise<FamilyOutcome> {
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
export function familyScenarioOf(seed: number): FamilyScenario {
  const { random } = new World(seed ^ 0x2545f491);
  const rare = (): number => random.oneIn(2) ? 0 : 8 + random.below(60);
  return {
    seed,
    steps: 80 + random.below(120),
    hostsMax: 1 + random.below(3),
    faults: random.oneIn(2)
      ? NO_FAULTS
      : { fail: rare(), unclear: rare(), lostReply: rare(), late: rare() },
    cacheBytes: 0,
  };
}
