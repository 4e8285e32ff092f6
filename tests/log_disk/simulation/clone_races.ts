/**
 * Scenarios in which a snapshot is cloned while others delete it, take it, collect garbage or remove its volume,
 * for all schedules of their calls. What has to hold at the end of each:
 *
 * 1. A clone that was reported as made stands: its snapshot is there, is complete, cannot be deleted, and after garbage
 *    was collected the clone reads what the snapshot held.
 * 2. A deletion that was reported as done has deleted: no clone stands on it, and garbage collection takes
 *    the objects that only it needed.
 * 3. Nothing is stuck. If nobody was killed and no call failed, nothing is left of those who gave up. Otherwise
 *    at most the marker of a clone that was never made stays, as documented: without it the snapshot can be
 *    cloned, or at least deleted, and then garbage collection takes its objects.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Opened } from "../../../lib/block/types.ts";
import { createVolume } from "../../../lib/log_disk/create_volume.ts";
import { decodeVolume } from "../../../lib/log_disk/description.ts";
import type { openManagedDisk } from "../../../lib/log_disk/managed_disk.ts";
import {
  CLONE_PREFIX,
  isCloneKey,
  LOG_PREFIX,
  SNAPSHOT_PREFIX,
  VOLUME_KEY,
} from "../../../lib/log_disk/names.ts";
import type * as snapshots from "../../../lib/log_disk/snapshots.ts";
import type * as clone from "../../../lib/log_disk/tools/clone.ts";
import type { ObjectStore } from "../../../lib/object_store/types.ts";
import { seededRandom } from "../../../lib/testing/random.ts";
import { testContext } from "../../support/context.ts";
import { MemoryBucket, MemoryStore } from "../../support/memory_store.ts";
import {
  type Buckets,
  explore,
  type Explored,
  type Outcome,
  type Party,
  type Scenario,
  type Verb,
} from "./schedules.ts";

/** The code under test: as it is, or with a bug planted. */
export interface CloneEngine {
  readonly openManagedDisk: typeof openManagedDisk;
  readonly cloneVolume: typeof clone.cloneVolume;
  readonly removeVolume: typeof clone.removeVolume;
  readonly deleteSnapshot: typeof snapshots.deleteSnapshot;
  readonly dropSnapshot: typeof snapshots.dropSnapshot;
  readonly findSnapshot: typeof snapshots.findSnapshot;
  readonly putSnapshot: typeof snapshots.putSnapshot;
  readonly completeSnapshot: typeof snapshots.completeSnapshot;
}

/** What can take part. */
export type Role =
  | "cloner"
  | "second cloner"
  | "remover of its clone"
  | "deleter"
  | "second deleter"
  | "renewer"
  | "taker in vain"
  | "collector"
  | "remover";

/** A race. */
export interface Race extends Omit<Scenario, "buckets" | "parties"> {
  readonly roles: readonly Role[];
}

const PARENT = "parent", CLONES = ["clone1", "clone2"] as const, NAME = "s";
const DISK_BYTES = 8192, THEN = 7, NOW = 9;

type StoreAt = (address: string) => ObjectStore;

function contextOf(seed: number): ReturnType<typeof testContext> {
  return testContext({ random: seededRandom(seed) });
}

function storeIn(buckets: Buckets): StoreAt {
  return (address) => {
    const bucket = buckets.get(address);
    assert.ok(bucket !== undefined, `there is no ${address}`);
    return new MemoryStore(bucket, undefined, address);
  };
}

/** False for a call that tells nobody more than a text for a message: what a clone's marker says. */
function matters(verb: Verb, _: string, key: string): boolean {
  return verb !== "get" || !isCloneKey(key);
}

/** Runs a scenario's roles with an engine. */
class Races {
  readonly #engine: CloneEngine;
  /** Ends that were looked at already. */
  readonly #known = new Set<string>();

  constructor(engine: CloneEngine) {
    this.#engine = engine;
  }

  #open(storeAt: StoreAt, address: string, seed: number): Promise<Opened> {
    return this.#engine.openManagedDisk(storeAt(address), {
      snapshot: null,
      cacheBytes: 0,
      diskCache: null,
      wal: null,
      readAheadBytes: 0,
      dirtyBytes: 0,
      sealAfterMs: 1000,
      puts: 4,
      collects: false,
      resolve: (parent) => Promise.resolve(storeAt(parent)),
    }, contextOf(seed));
  }

  /** A volume with a snapshot, which needs an object that nobody else does. */
  async prepare(withSnapshot: boolean): Promise<Buckets> {
    const buckets = new Map([PARENT, ...CLONES].map((address) => [address, new MemoryBucket()]));
    const storeAt = storeIn(buckets);
    await createVolume(storeAt(PARENT), { diskBytes: DISK_BYTES }, contextOf(1));
    const { backend, management } = await this.#open(storeAt, PARENT, 2);
    await backend.write(new Uint8Array(DISK_BYTES).fill(THEN), 0, { fua: true });
    if (withSnapshot) await management?.createSnapshot?.(NAME);
    await backend.write(new Uint8Array(DISK_BYTES).fill(NOW), 0, { fua: true });
    await backend[Symbol.asyncDispose]();
    return buckets;
  }

  async #clone(storeAt: StoreAt, address: string, seed: number): Promise<void> {
    await this.#engine.cloneVolume(
      storeAt(address),
      { parent: storeAt(PARENT), address: PARENT, snapshot: NAME },
      contextOf(seed),
    );
  }

  async #remove(storeAt: StoreAt, address: string, seed: number): Promise<void> {
    const context = { ...contextOf(seed), progress: () => {} };
    const resolve = (parent: string): Promise<ObjectStore> => Promise.resolve(storeAt(parent));
    await this.#engine.removeVolume(storeAt(address), resolve, context);
  }

  async #collect(storeAt: StoreAt): Promise<void> {
    const { backend, management } = await this.#open(storeAt, PARENT, 3);
    await management?.collect?.();
    await backend[Symbol.asyncDispose]();
  }

  /** Deletes the snapshot, and takes another one of that name, as a writer does. */
  async #renew(storeAt: StoreAt): Promise<void> {
    const store = storeAt(PARENT), context = contextOf(4), engine = this.#engine;
    const before = await engine.findSnapshot(store, NAME);
    assert.ok(before !== null);
    await engine.deleteSnapshot(store, NAME, context);
    const snapshot = { ...before, id: "f".repeat(32) };
    await engine.putSnapshot(store, snapshot);
    await engine.completeSnapshot(store, snapshot);
  }

  /** Takes a snapshot, and takes it back because it does not hold. */
  async #takeInVain(storeAt: StoreAt): Promise<void> {
    const store = storeAt(PARENT), context = contextOf(5), engine = this.#engine;
    const { id: volume } = decodeVolume(await store.get(VOLUME_KEY) ?? new Uint8Array(), PARENT);
    const facts = { checkpoint: null, seq: 0, diskBytes: DISK_BYTES, createdMs: 0 };
    const snapshot = { volume, name: NAME, id: "e".repeat(32), ...facts };
    await engine.putSnapshot(store, snapshot);
    await engine.dropSnapshot(store, snapshot, context);
  }

  #party(role: Role): Party {
    const [first, second] = CLONES, engine = this.#engine, all = { name: role, stopsAt: matters };
    switch (role) {
      case "cloner":
        return { ...all, run: (at) => this.#clone(at, first, 11) };
      case "second cloner":
        return { ...all, run: (at) => this.#clone(at, second, 12) };
      case "remover of its clone":
        return {
          ...all,
          run: async (at) => {
            await this.#clone(at, first, 13);
            await this.#remove(at, first, 14);
          },
        };
      case "deleter":
        return { ...all, run: (at) => engine.deleteSnapshot(at(PARENT), NAME, contextOf(15)) };
      case "second deleter":
        return { ...all, run: (at) => engine.deleteSnapshot(at(PARENT), NAME, contextOf(16)) };
      case "renewer":
        return { ...all, run: (at) => this.#renew(at) };
      case "taker in vain":
        return { ...all, run: (at) => this.#takeInVain(at) };
      case "remover":
        return { ...all, run: (at) => this.#remove(at, PARENT, 17) };
      case "collector":
        // Its writing is its own: others meet it where it looks at snapshots and where it deletes.
        return {
          name: role,
          run: (at) => this.#collect(at),
          stopsAt: (verb, _, key) => verb === "delete" || key.startsWith(SNAPSHOT_PREFIX),
        };
    }
  }

  /** All schedules of a race. Throws what does not hold, with the schedule that shows it. */
  async run({ roles, ...bounds }: Race): Promise<Explored> {
    const buckets = await this.prepare(!roles.includes("taker in vain"));
    const parties = roles.map((role) => this.#party(role));
    return await explore({ ...bounds, buckets, parties }, async (outcome) => {
      await this.#check(outcome).catch((error: unknown) => {
        if (error instanceof assert.AssertionError) throw error;
        assert.fail(`in the end: ${String(error)}`);
      });
    });
  }

  async #check(outcome: Outcome): Promise<void> {
    const { buckets, endings, hasFaults } = outcome;
    const end = [...endings].map(([name, { kind }]) => `${name} ${kind}`);
    for (const [address, { keys }] of buckets) for (const key of keys) end.push(address + key);
    const isQuiet = !hasFaults && ![...endings.values()].some(({ kind }) => kind === "killed");
    end.push(String(isQuiet));
    const isKnown = this.#known.has(end.join("\n"));
    this.#known.add(end.join("\n"));
    if (isKnown) return;
    for (const [name, ending] of endings) {
      if (ending.kind !== "failed") continue;
      assert.match(String(ending.error), hasFaults ? MAY_FAIL_WITH_FAULTS : MAY_FAIL, name);
    }
    const isMade = (role: Role): boolean => endings.get(role)?.kind === "done";
    const made = CLONES.filter((_, index) => isMade(index === 0 ? "cloner" : "second cloner"));
    const isDeleted = isMade("deleter") || isMade("second deleter") || isMade("remover");
    if (isDeleted && !endings.has("renewer")) {
      assert.deepEqual(made, [], "a clone stands on nothing");
    }
    assert.ok(made.length === 0 || !endings.has("taker in vain"), "what nobody took was cloned");
    for (const address of made) await this.#stands(buckets, address);
    if (made.length > 0) return;
    this.#releaseByHand(buckets, isQuiet);
    if (endings.has("remover")) return await this.#removed(buckets, isMade("remover"));
    await this.#goesOn(buckets, isQuiet && !endings.has("taker in vain"));
  }

  /**
   * A removal that is done leaves nothing but what somebody who clones has said meanwhile; that, and what one
   * that was stopped leaves, can be removed.
   */
  async #removed(buckets: Buckets, isDone: boolean): Promise<void> {
    const storeAt = storeIn(buckets), parent = buckets.get(PARENT);
    await this.#removeClones(buckets);
    if (isDone) { for (const key of parent?.keys ?? []) assert.match(key, /^clone\//); }
    if (parent?.keys.length !== 0) await this.#remove(storeAt, PARENT, 18);
    assert.deepEqual(parent?.keys, []);
  }

  /** A clone whose maker was killed as it was made is one. */
  async #removeClones(buckets: Buckets): Promise<void> {
    for (const address of CLONES) {
      const isThere = (buckets.get(address)?.keys.length ?? 0) > 0;
      if (isThere) await this.#remove(storeIn(buckets), address, 31);
    }
  }

  async #reads(storeAt: StoreAt, address: string): Promise<void> {
    const { backend } = await this.#open(storeAt, address, 21);
    const into = new Uint8Array(DISK_BYTES);
    await backend.read(into, 0);
    assert.ok(into.every((byte) => byte === THEN), `${address} is not what the snapshot held`);
    await backend[Symbol.asyncDispose]();
  }

  /** A clone that was made is sound, and stays so. */
  async #stands(buckets: Buckets, address: string): Promise<void> {
    const storeAt = storeIn(buckets), { deleteSnapshot } = this.#engine;
    const keys = buckets.get(PARENT)?.keys ?? [];
    const description = decodeVolume(
      await storeAt(address).get(VOLUME_KEY) ?? new Uint8Array(),
      address,
    );
    const id = description.parent?.snapshotId ?? "";
    assert.ok(keys.some((key) => key.endsWith(`.${id}`)), `the snapshot of ${address} is gone`);
    const isMarked = keys.includes(`${CLONE_PREFIX}${id}/${description.id}`);
    assert.ok(isMarked, `nothing says that ${address} needs its snapshot`);
    const refused = deleteSnapshot(storeAt(PARENT), NAME, contextOf(22));
    await assert.rejects(refused, / clones? .*needs? it/, `what ${address} needs was deleted`);
    await this.#collect(storeAt);
    await this.#reads(storeAt, address);
  }

  /** Takes away markers of clones that were never made, as the documentation tells. */
  #releaseByHand(buckets: Buckets, isQuiet: boolean): void {
    const parent = buckets.get(PARENT), made = new Set<string>();
    for (const address of CLONES) {
      const bytes = buckets.get(address)?.peek(VOLUME_KEY) ?? null;
      if (bytes !== null) made.add(decodeVolume(bytes, address).id);
    }
    for (const key of parent?.keys ?? []) {
      const [, id = ""] = /^clone\/[^/]+\/([0-9a-f]{32})$/.exec(key) ?? [];
      if (id === "" || made.has(id)) continue;
      assert.ok(!isQuiet, `${key} is left of a clone that was given up`);
      parent?.remove(key);
    }
  }

  /** No clone was reported: the snapshot can be cloned or is on its way out, and can be deleted. */
  async #goesOn(buckets: Buckets, isQuiet: boolean): Promise<void> {
    const storeAt = storeIn(buckets),
      parent = buckets.get(PARENT),
      { deleteSnapshot } = this.#engine;
    await this.#removeClones(buckets);
    const isThere = (): boolean =>
      parent?.keys.some((key) => key.startsWith(SNAPSHOT_PREFIX)) === true;
    if (isThere()) {
      const [address] = CLONES;
      const cloned = await this.#clone(storeAt, address, 32).then(() => true, (error: unknown) => {
        assert.match(String(error), /if (that|whoever took it) was stopped, delete it/);
        assert.ok(!isQuiet, "a snapshot that nobody deletes cannot be cloned");
        return false;
      });
      if (cloned) {
        await this.#collect(storeAt);
        await this.#reads(storeAt, address);
        await this.#remove(storeAt, address, 33);
      }
      await deleteSnapshot(storeAt(PARENT), NAME, contextOf(34));
    }
    assert.ok(!isThere(), "the snapshot cannot be deleted");
    await this.#collect(storeAt);
    const left = parent?.keys.filter((key) => key.startsWith(CLONE_PREFIX)) ?? [];
    assert.deepEqual(left, [], "something is left of a snapshot that is deleted");
    await this.#onlyNow(storeAt, parent);
  }

  /** What the disk held once is not in the store any more. */
  async #onlyNow(storeAt: StoreAt, parent: MemoryBucket | undefined): Promise<void> {
    for (const key of parent?.keys ?? []) {
      const bytes = parent?.peek(key) ?? new Uint8Array();
      if (!key.startsWith(LOG_PREFIX) || bytes.length < DISK_BYTES) continue;
      assert.ok(bytes.subarray(-DISK_BYTES / 2).includes(NOW), `${key} is garbage, and stays`);
    }
    const { backend } = await this.#open(storeAt, PARENT, 41);
    const into = new Uint8Array(DISK_BYTES);
    await backend.read(into, 0);
    assert.ok(into.every((byte) => byte === NOW), "the disk is not what was written");
    await backend[Symbol.asyncDispose]();
  }
}

/** What those who race may be told; and if calls fail besides. */
const MAY_FAIL =
  /there is none$|somebody is deleting it| needs? (it|its snapshot )|is not complete|there is a volume|there is one of that name/;
const MAY_FAIL_WITH_FAULTS = new RegExp(`${MAY_FAIL.source}|\\(planned\\)|comes and goes`);

/** What a race is called. */
export function raceName({ roles, kills, faults, preemptions }: Race): string {
  const bounds = [`${kills} killed`, `${faults} faults`];
  if (preemptions < Infinity) bounds.push(`${preemptions} preemptions`);
  return `${roles.join(", ")} (${bounds.join(", ")})`;
}

/** All schedules of a race. Throws what does not hold, with the schedule that shows it. */
export function runRace(engine: CloneEngine, race: Race): Promise<Explored> {
  return new Races(engine).run(race);
}

/** The races of the test suite. */
export const RACES: readonly Race[] = [
  { roles: ["cloner", "deleter"], kills: 1, faults: 0, preemptions: Infinity },
  { roles: ["cloner", "deleter"], kills: 0, faults: 1, preemptions: Infinity },
  { roles: ["remover of its clone", "deleter"], kills: 1, faults: 0, preemptions: Infinity },
  { roles: ["cloner", "taker in vain"], kills: 1, faults: 0, preemptions: Infinity },
  { roles: ["cloner", "remover"], kills: 1, faults: 0, preemptions: Infinity },
  { roles: ["cloner", "deleter", "collector"], kills: 0, faults: 0, preemptions: Infinity },
  { roles: ["cloner", "deleter", "second deleter"], kills: 0, faults: 0, preemptions: 3 },
  { roles: ["cloner", "second cloner", "deleter"], kills: 0, faults: 0, preemptions: 2 },
  { roles: ["cloner", "deleter", "renewer"], kills: 0, faults: 0, preemptions: 2 },
];

/** What takes longer: for the soak task. */
export const LONG_RACES: readonly Race[] = [
  { roles: ["cloner", "deleter"], kills: 2, faults: 2, preemptions: Infinity },
  { roles: ["remover of its clone", "deleter"], kills: 1, faults: 1, preemptions: Infinity },
  { roles: ["cloner", "taker in vain"], kills: 1, faults: 1, preemptions: Infinity },
  { roles: ["cloner", "remover"], kills: 1, faults: 1, preemptions: Infinity },
  { roles: ["cloner", "deleter", "collector"], kills: 1, faults: 0, preemptions: Infinity },
  { roles: ["cloner", "deleter", "second deleter"], kills: 1, faults: 0, preemptions: Infinity },
  { roles: ["cloner", "deleter", "second deleter"], kills: 1, faults: 1, preemptions: 2 },
  { roles: ["cloner", "second cloner", "deleter"], kills: 1, faults: 0, preemptions: Infinity },
  { roles: ["cloner", "deleter", "renewer"], kills: 1, faults: 0, preemptions: 3 },
];
