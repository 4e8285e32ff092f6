/**
 * Group commit: how many objects the flushes of several clients cost, and that nobody waits who is alone.
 *
 * @module
 */
import assert from "node:assert/strict";
import { FlushGroup } from "../../lib/log_disk/flush_group.ts";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { GATHER_MS_MAX, GATHERS_LEFT_OUT_MAX } from "../../lib/log_disk/limits.ts";
import { LogDisk } from "../../lib/log_disk/log_disk.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { MemoryStore } from "../support/memory_store.ts";
import { World } from "./simulation/world.ts";

/** How long the store takes for an object, ms. */
const OBJECT_MS = 30;

/** A disk on a store that answers late, in a world of its own. */
interface Setting {
  readonly world: World;
  readonly disk: LogDisk;
  /** Objects created so far. */
  puts(): number;
}

async function attached(seed: number): Promise<Setting> {
  const world = new World(seed), silent = (): void => {};
  const clock = {
    now: () => world.nowUs,
    wall: () => 0,
    sleep: (ms: number, signal?: AbortSignal) =>
      new Promise<void>((resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
        world.after(ms, resolve);
      }),
  };
  const context = {
    clock,
    random: seededRandom(seed),
    log: { error: silent, warn: silent, info: silent, debug: silent },
    signal: new AbortController().signal,
  };
  const store = new MemoryStore(world.bucket, {
    fate: () => "done",
    pass: ({ verb }, point) =>
      verb === "create" && point === "before" ? clock.sleep(OBJECT_MS) : undefined,
  });
  await world.until(createVolume(store, { diskBytes: 2 ** 20 }, context));
  const disk = await world.until(LogDisk.attach(store, context, { sealAfterMs: 1e9 }));
  return { world, disk, puts: () => store.counts.puts };
}

/** A client that writes and flushes so many times, with a pause before each; gives how long flushes took, ms. */
async function client(
  { world, disk }: Setting,
  offset: number,
  rounds: number,
  pauseMs: () => number,
): Promise<number[]> {
  const times: number[] = [], block = new Uint8Array(4096);
  for (let round = 0; round < rounds; round += 1) {
    await new Promise<void>((resolve) => world.after(pauseMs(), resolve));
    block.fill(round + 1);
    await disk.write(block, offset, { fua: false });
    const beganUs = world.nowUs;
    await disk.flush();
    times.push((world.nowUs - beganUs) / 1000);
  }
  return times;
}

/** So many clients at a time. */
async function clients(
  setting: Setting,
  count: number,
  rounds: number,
  pauseMs: () => number,
): Promise<{ readonly puts: number; readonly meanMs: number; readonly worstMs: number }> {
  const before = setting.puts();
  const all = Array.from(
    { length: count },
    (_, index) => client(setting, index * 8192, rounds, pauseMs),
  );
  const times = (await setting.world.until(Promise.all(all))).flat();
  const puts = setting.puts() - before;
  await setting.world.until(setting.disk[Symbol.asyncDispose]());
  await setting.world.drain();
  const meanMs = times.reduce((sum, each) => sum + each, 0) / times.length;
  return { puts, meanMs, worstMs: Math.max(...times) };
}

Deno.test("LogDisk.flush() of many clients costs one object a round, though each comes at its own time", async () => {
  const setting = await attached(1), { random } = setting.world;
  const { puts, meanMs, worstMs } = await clients(setting, 16, 50, () => random.below(4));
  // One a round, and what the beginning takes until all go together.
  assert.ok(puts <= 54, `${puts} objects for 16 clients with 50 flushes each`);
  assert.ok(meanMs < OBJECT_MS + 5, `a flush took ${meanMs} ms in the mean`);
  assert.ok(worstMs <= 2 * OBJECT_MS + GATHER_MS_MAX, `a flush took ${worstMs} ms`);
});

Deno.test("LogDisk.flush() of a lone client waits for nobody", async () => {
  for (const pauseMs of [0, 1, 100]) {
    const setting = await attached(2);
    const { puts, worstMs } = await clients(setting, 1, 20, () => pauseMs);
    assert.equal(puts, 20);
    assert.equal(worstMs, OBJECT_MS);
  }
});

Deno.test("LogDisk.flush() is not slower for a client whose companions have gone", async () => {
  const setting = await attached(3);
  const together = Array.from(
    { length: 8 },
    (_, index) => client(setting, index * 8192, 5, () => 0),
  );
  await setting.world.until(Promise.all(together));
  const times = await setting.world.until(client(setting, 0, 20, () => 0));
  assert.ok((times[0] ?? 0) <= OBJECT_MS + GATHER_MS_MAX, "the first one may wait for them");
  assert.deepEqual(times.slice(1), Array(19).fill(OBJECT_MS));
  await setting.world.until(setting.disk[Symbol.asyncDispose]());
  await setting.world.drain();
});

Deno.test("LogDisk.flush() waits for at most one object before its own, and a pause", async () => {
  const setting = await attached(4), { random } = setting.world;
  const { worstMs, meanMs } = await clients(setting, 12, 40, () => 20 + random.below(200));
  assert.ok(worstMs <= 2 * OBJECT_MS + GATHER_MS_MAX, `a flush took ${worstMs} ms`);
  // Without any pause it would be one and a half: clients that come at any time meet an object half done.
  assert.ok(meanMs < OBJECT_MS * 1.6, `a flush took ${meanMs} ms in the mean`);
});

Deno.test("LogDisk.flush() lets all that comes while an object is on its way share the next one", async () => {
  const setting = await attached(5), before = setting.puts();
  const done: unknown[] = [];
  for (let index = 0; index < 20; index += 1) {
    done.push(setting.disk.write(new Uint8Array(4096), index * 8192, { fua: true }));
    await Promise.resolve();
    await Promise.resolve();
  }
  assert.equal(setting.puts() - before, 1, "one is on its way, the others wait");
  await setting.world.until(Promise.all(done));
  assert.equal(setting.puts() - before, 2);
  await setting.world.until(setting.disk[Symbol.asyncDispose]());
  await setting.world.drain();
});

/** One answered group of four, of whom `back` come again; gives for how long the last of them is held. */
function round(group: FlushGroup, nowUs: number, back: number): number {
  for (let index = 0; index < 4; index += 1) group.joined();
  group.answered(group.sealed(), 8_000, nowUs);
  for (let index = 0; index < back; index += 1) group.joined();
  const holdUs = group.holdUs(nowUs + 1_000);
  group.sealed();
  return holdUs;
}

Deno.test("FlushGroup holds flushes until all that were answered are back, or for half of an object's time", () => {
  const group = new FlushGroup();
  assert.equal(round(group, 0, 3), 3_000);
  assert.equal(round(group, 100_000, 4), 0, "all are there");
  group.joined();
  assert.equal(group.holdUs(200_000), 0, "the time is over");
});

Deno.test("FlushGroup leaves out more and more pauses as long as nobody comes", () => {
  const group = new FlushGroup(), held: number[] = [];
  for (let index = 0; index < 100; index += 1) {
    if (round(group, index * 100_000, 1) > 0) held.push(index);
  }
  const gaps = held.slice(1).map((each, index) => each - (held[index] ?? 0) - 1);
  assert.deepEqual(gaps.slice(0, 6), [1, 2, 4, 8, 16, 16]);
  assert.equal(Math.max(...gaps), GATHERS_LEFT_OUT_MAX);
  // Once they come again, all is as at first.
  for (let index = 0; index <= GATHERS_LEFT_OUT_MAX; index += 1) round(group, 1e9, 3);
  assert.ok(round(group, 2e9, 3) > 0);
});

Deno.test("FlushGroup waits for nobody after a failure", () => {
  const group = new FlushGroup();
  for (let index = 0; index < 4; index += 1) group.joined();
  group.answered(group.sealed(), 8_000, 0);
  group.joined();
  assert.ok(group.holdUs(1_000) > 0);
  group.failed();
  group.joined();
  assert.equal(group.holdUs(1_000), 0);
});
