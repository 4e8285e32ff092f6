/**
 * Garbage collection, snapshots and clones while hosts are killed at any call of the store: the disk is
 * what it was, and so are all snapshots and clones.
 *
 * The model. Hosts follow one another; each works for a while, then is killed at some call: from there on
 * none of its calls ends. What it had written is known, and how much of it was flushed. A killed
 * garbage collection, snapshot or deletion may have happened or not, but never in part.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Opened } from "../../lib/block/types.ts";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { openManagedDisk } from "../../lib/log_disk/managed_disk.ts";
import { SNAPSHOT_PREFIX } from "../../lib/log_disk/names.ts";
import { openVolume } from "../../lib/log_disk/load.ts";
import { checkVolume } from "../../lib/log_disk/tools/check.ts";
import { cloneVolume, removeVolume } from "../../lib/log_disk/tools/clone.ts";
import { type SeededRandom, seededRandom } from "../../lib/testing/random.ts";
import { testContext } from "../support/context.ts";
import { MemoryBucket, MemoryStore, PLAIN_PLAN, type StorePlan } from "../support/memory_store.ts";

const BLOCK = 4096, BLOCKS = 48;

/** Content of the disk: the tag of each block. */
type Image = readonly number[];

/** Buckets by their address. */
type World = Map<string, MemoryBucket>;

/** Kills a host: none of its calls ends once `calls` of them were begun. */
function killedAfter(
  calls: number,
): { plan: StorePlan; isDead: () => boolean; died: Promise<void> } {
  const { promise: died, resolve } = Promise.withResolvers<void>();
  const never = new Promise<void>(() => {});
  let left = calls;
  return {
    isDead: () => left < 0,
    died,
    plan: {
      fate: () => "done",
      pass: () => {
        left -= 1;
        if (left >= 0) return Promise.resolve();
        resolve();
        return never;
      },
    },
  };
}

function storeOf(world: World, address: string, plan = PLAIN_PLAN): MemoryStore {
  const bucket = world.get(address);
  assert.ok(bucket !== undefined, address);
  return new MemoryStore(bucket, plan, address);
}

function contextOf(random: SeededRandom): ReturnType<typeof testContext> {
  return testContext({ random });
}

function attach(
  world: World,
  address: string,
  random: SeededRandom,
  plan = PLAIN_PLAN,
  snapshot: string | null = null,
): Promise<Opened> {
  return openManagedDisk(storeOf(world, address, plan), {
    snapshot,
    cacheBytes: 0,
    diskCache: null,
    wal: null,
    readAheadBytes: 65_536,
    dirtyBytes: 0,
    sealAfterMs: 1000,
    puts: 4,
    collects: false,
    resolve: (parent) => Promise.resolve(storeOf(world, parent, plan)),
  }, contextOf(random));
}

async function imageOf({ backend }: Opened): Promise<Image> {
  const bytes = new Uint8Array(BLOCK * BLOCKS);
  await backend.read(bytes, 0);
  const words = new Uint32Array(bytes.buffer);
  return Array.from({ length: BLOCKS }, (_, block) => {
    const tag = words[block * BLOCK / 4] ?? 0;
    assert.equal(words[(block + 1) * BLOCK / 4 - 1], tag, "a torn block");
    return tag;
  });
}

/** Attaches for reading, and looks. */
async function look(
  world: World,
  address: string,
  random: SeededRandom,
  snapshot: string | null = null,
): Promise<Image> {
  const opened = await attach(world, address, random, PLAIN_PLAN, snapshot);
  try {
    return await imageOf(opened);
  } finally {
    await opened.backend[Symbol.asyncDispose]();
  }
}

/** What a volume should be. */
interface Model {
  readonly address: string;
  /** States that it may be in: the last flushed one and all that followed. */
  states: Image[];
  /** Snapshots that surely are there, and those that may be. */
  readonly snapshots: Map<string, Image>;
  readonly maybe: Map<string, Image>;
  /** Snapshots that have clones. */
  readonly cloned: Set<string>;
}

let tags = 0;

function tagged(tag: number, count: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(count * BLOCK);
  new Uint32Array(bytes.buffer).fill(tag);
  return bytes;
}

async function change(model: Model, { backend }: Opened, random: SeededRandom): Promise<void> {
  const first = random.below(BLOCKS), count = 1 + random.below(Math.min(6, BLOCKS - first));
  const isTrim = random.oneIn(6);
  tags += isTrim ? 0 : 1;
  const image = (model.states.at(-1) ?? []).slice();
  image.fill(isTrim ? 0 : tags, first, first + count);
  model.states.push(image);
  const bytes = tagged(tags, count);
  if (isTrim) await backend.trim?.(first * BLOCK, count * BLOCK, { fua: false });
  else await backend.write(bytes, first * BLOCK, { fua: false });
}

async function flush(model: Model, { backend }: Opened): Promise<void> {
  const count = model.states.length;
  await backend.flush();
  model.states = model.states.slice(count - 1);
}

/** Takes or deletes a snapshot. */
async function changeSnapshots(
  model: Model,
  { management }: Opened,
  random: SeededRandom,
): Promise<void> {
  const names = [...model.snapshots.keys()].filter((name) => !model.cloned.has(name));
  if (names.length < 3 || random.oneIn(2)) {
    const name = `snap ${tags} ${random.uint32()}`, image = model.states.at(-1) ?? [];
    model.maybe.set(name, image);
    await management?.createSnapshot?.(name);
    model.maybe.delete(name);
    model.snapshots.set(name, image);
    return;
  }
  const name = random.pick(names), image = model.snapshots.get(name) ?? [];
  model.snapshots.delete(name);
  model.maybe.set(name, image);
  await management?.deleteSnapshot?.(name);
  model.maybe.delete(name);
}

async function step(
  model: Model,
  opened: Opened,
  random: SeededRandom,
  collecting: Promise<unknown>[],
): Promise<void> {
  const what = random.below(16);
  if (what < 9) return await change(model, opened, random);
  if (what < 13) return await flush(model, opened);
  if (what < 14) return await changeSnapshots(model, opened, random);
  const collected = Promise.resolve(opened.management?.collect?.());
  collecting.push(collected);
  // Mostly others go on writing meanwhile.
  if (random.oneIn(3)) await collected;
}

/** The life of a host that works on a volume until it is killed, or ends well. */
async function live(world: World, model: Model, random: SeededRandom): Promise<void> {
  const kill = random.oneIn(4) ? null : killedAfter(random.below(300));
  const work = async (): Promise<void> => {
    const opened = await attach(world, model.address, random, kill?.plan);
    const collecting: Promise<unknown>[] = [];
    for (let turns = 20 + random.below(80); turns > 0; turns -= 1) {
      await step(model, opened, random, collecting);
    }
    await Promise.all(collecting);
    await opened.backend[Symbol.asyncDispose]();
    model.states = model.states.slice(-1);
  };
  if (kill === null) await work();
  else await Promise.race([work(), kill.died]);
}

function isOneOf(image: Image, states: readonly Image[]): boolean {
  return states.some((state) => state.every((tag, block) => tag === image[block]));
}

/** Looks at a volume and all its snapshots; what may be is then known. */
async function verify(world: World, model: Model, random: SeededRandom): Promise<void> {
  const opened = await attach(world, model.address, random);
  const image = await imageOf(opened);
  assert.ok(isOneOf(image, model.states), `${model.address} is in no state that it was in`);
  model.states = [image];
  const there = new Set((await opened.management?.snapshots?.())?.map(({ name }) => name));
  for (const [name, state] of model.maybe) if (there.has(name)) model.snapshots.set(name, state);
  model.maybe.clear();
  assert.deepEqual([...there].sort(), [...model.snapshots.keys()].sort());
  await opened.backend[Symbol.asyncDispose]();
  for (const [name, state] of model.snapshots) {
    assert.deepEqual(await look(world, model.address, random, name), state, name);
  }
}

function newModel(address: string, image: Image): Model {
  return {
    address,
    states: [image],
    snapshots: new Map(),
    maybe: new Map(),
    cloned: new Set(),
  };
}

async function cloneSome(world: World, models: Model[], random: SeededRandom): Promise<void> {
  const parent = random.pick(models), [name] = parent.snapshots.keys();
  const image = parent.snapshots.get(name ?? "");
  if (name === undefined || image === undefined) return;
  const address = `clone${models.length}`;
  world.set(address, new MemoryBucket());
  await cloneVolume(storeOf(world, address), {
    parent: storeOf(world, parent.address),
    address: parent.address,
    snapshot: name,
  }, contextOf(random));
  parent.cloned.add(name);
  models.push(newModel(address, image));
}

async function run(seed: number): Promise<{ deleted: number; objects: number }> {
  const random = seededRandom(seed);
  const world: World = new Map([["base", new MemoryBucket()]]);
  await createVolume(
    storeOf(world, "base"),
    { diskBytes: BLOCK * BLOCKS },
    contextOf(random),
  );
  const models = [newModel("base", new Array<number>(BLOCKS).fill(0))];
  for (let life = 0; life < 5; life += 1) {
    for (const model of models) await live(world, model, random);
    for (const model of models) await verify(world, model, random);
    if (models.length < 3) await cloneSome(world, models, random);
  }
  return await finish(world, models, random);
}

/** In the end all is at rest: checks find nothing, and what is collected leaves all as it was. */
async function finish(
  world: World,
  models: readonly Model[],
  random: SeededRandom,
): Promise<{ deleted: number; objects: number }> {
  let deleted = 0, objects = 0;
  for (const { address } of models) {
    const opened = await attach(world, address, random);
    deleted += (await opened.management?.collect?.())?.deletedObjects ?? 0;
    await opened.backend[Symbol.asyncDispose]();
    objects += world.get(address)?.keys.length ?? 0;
    const store = storeOf(world, address), context = contextOf(random);
    const resolve = (parent: string): Promise<MemoryStore> =>
      Promise.resolve(storeOf(world, parent));
    const volume = await openVolume(store, resolve, context);
    const options = { repair: "none", deep: true, progress: () => {} } as const;
    const report = await checkVolume(volume, options, context);
    assert.deepEqual(report.messages.filter((each) => !/is needed by nothing/.test(each)), []);
    assert.equal(report.corruptions, 0);
  }
  for (const model of models) await verify(world, model, random);
  for (const { address } of models.toReversed()) {
    const context = { ...contextOf(random), progress: () => {} };
    const resolve = (parent: string): Promise<MemoryStore> =>
      Promise.resolve(storeOf(world, parent));
    await removeVolume(storeOf(world, address), resolve, context);
    assert.deepEqual(world.get(address)?.keys, []);
  }
  return { deleted, objects };
}

Deno.test("openManagedDisk() keeps disk, snapshots and clones through kills at any call", async () => {
  for (let seed = 1; seed <= 6; seed += 1) {
    try {
      await run(seed);
    } catch (error) {
      throw new Error(`seed ${seed} fails`, { cause: error });
    }
  }
});

Deno.test("collect() deletes what nobody needs: a disk that is written over and over stays small", async () => {
  const random = seededRandom(7), world: World = new Map([["base", new MemoryBucket()]]);
  await createVolume(storeOf(world, "base"), { diskBytes: BLOCK * BLOCKS }, contextOf(random));
  const model = newModel("base", new Array<number>(BLOCKS).fill(0));
  const opened = await attach(world, "base", random);
  for (let round = 0; round < 20; round += 1) {
    for (let turns = 0; turns < 40; turns += 1) {
      await change(model, opened, random);
      await flush(model, opened);
    }
    await opened.management?.collect?.();
    const bucket = world.get("base");
    // What is live is at least half of what is there, but for objects, claims and checkpoints.
    assert.ok((bucket?.bytes ?? 0) < 2 * BLOCK * BLOCKS + 60_000, `${bucket?.bytes} bytes`);
  }
  assert.deepEqual(await imageOf(opened), model.states.at(-1));
  await opened.backend[Symbol.asyncDispose]();
});

Deno.test("collect() keeps what was overwritten after its checkpoint, since a crash may bring it back", async () => {
  const random = seededRandom(8), world: World = new Map([["base", new MemoryBucket()]]);
  await createVolume(storeOf(world, "base"), { diskBytes: BLOCK * BLOCKS }, contextOf(random));
  let writeMeanwhile = (): void => {};
  const opened = await attach(world, "base", random, {
    fate: () => "done",
    pass: ({ verb, key }, point) => {
      if (verb === "list" && key.startsWith("ckpt") && point === "before") writeMeanwhile();
      return undefined;
    },
  });
  const { backend } = opened;
  for (const block of [0, 1, 0]) {
    tags += 1;
    await backend.write(tagged(tags, 1), block * BLOCK, { fua: true });
  }
  const before = await imageOf(opened);
  writeMeanwhile = () => void backend.write(tagged(99, 1), BLOCK, { fua: false });
  // What was overwritten before, and the claim, which follows nobody.
  assert.equal((await opened.management?.collect?.())?.deletedObjects, 2);
  assert.equal((await imageOf(opened))[1], 99);
  // The host is lost before that write is durable.
  const bucket = world.get("base")?.copy();
  assert.ok(bucket !== undefined);
  assert.deepEqual(await look(new Map([["base", bucket]]), "base", random), before);
  await backend[Symbol.asyncDispose]();
});

Deno.test("deleteSnapshot() is refused while there is a clone, and a name can be used again", async () => {
  const random = seededRandom(9), world: World = new Map([["base", new MemoryBucket()]]);
  await createVolume(storeOf(world, "base"), { diskBytes: BLOCK * BLOCKS }, contextOf(random));
  const model = newModel("base", new Array<number>(BLOCKS).fill(0));
  const opened = await attach(world, "base", random);
  await change(model, opened, random);
  await opened.management?.createSnapshot?.("Größe 1");
  await assert.rejects(
    Promise.resolve(opened.management?.createSnapshot?.("Größe 1")),
    { errno: "EEXIST" },
  );
  model.snapshots.set("Größe 1", model.states.at(-1) ?? []);
  const models = [model];
  await cloneSome(world, models, random);
  await assert.rejects(
    Promise.resolve(opened.management?.deleteSnapshot?.("Größe 1")),
    { errno: "EBUSY" },
  );
  const context = { ...contextOf(random), progress: () => {} };
  const resolve = (parent: string): Promise<MemoryStore> => Promise.resolve(storeOf(world, parent));
  await assert.rejects(removeVolume(storeOf(world, "base"), resolve, context), { errno: "EBUSY" });
  await removeVolume(storeOf(world, "clone1"), resolve, context);
  await opened.management?.deleteSnapshot?.("Größe 1");
  assert.deepEqual(world.get("base")?.keys.filter((key) => key.startsWith(SNAPSHOT_PREFIX)), []);
  await opened.management?.createSnapshot?.("Größe 1");
  await assert.rejects(
    Promise.resolve(opened.management?.deleteSnapshot?.("other")),
    { errno: "ENOENT" },
  );
  await opened.backend[Symbol.asyncDispose]();
});
