/**
 * Tests of dirty bitmaps on a Device: what they say is compared with a model, region by region.
 *
 * @module
 */
import assert from "node:assert/strict";
import { EXTENTS_PER_CALL_MAX } from "../../lib/block/limits.ts";
import { FLAG_FAST_ONLY, makeRequest } from "../../lib/block/request.ts";
import type { BitmapCommand } from "../../lib/dirty_log/target_bitmaps.ts";
import { BITMAPS_MAX } from "../../lib/dirty_log/limits.ts";
import { RegionBitmap } from "../../lib/dirty_log/region_bitmap.ts";
import { makeAsync } from "../support/async_backend.ts";
import { MemoryLog, SeededRandom } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import {
  bitmapDisk,
  dirtyRanges,
  IDENTITY,
  memoryDisk,
  MemoryFolder,
  type RandomChange,
  randomChange,
  rangesOf,
  submitChange,
  touched,
} from "./bitmap_fixtures.ts";

const KIB = 1024, MIB = 1024 * KIB;

function add(name: string, rest: Partial<BitmapCommand> = {}): BitmapCommand {
  return { action: "add", name, persistent: false, ...rest };
}

for (const granularity of [512, 4096, 64 * KIB, MIB]) {
  Deno.test(`a bitmap has exactly the regions of ${granularity} bytes that changed since it began`, async () => {
    const random = new SeededRandom(granularity);
    const size = 3 * MIB + 12_345;
    const { device, bitmaps } = bitmapDisk(makeAsync(await memoryDisk(size), 5));
    await using _ = device;
    for (let at = 0; at < 20; at += 1) {
      await submitChange(device, randomChange(random, size), random);
    }
    await bitmaps.run(add("b", { granularity }));
    assert.deepEqual(await dirtyRanges(device, "b"), []);
    const changes: RandomChange[] = [];
    for (let round = 0; round < 30; round += 1) {
      const some = Array.from({ length: 4 }, () => randomChange(random, size))
        .filter(({ length }) => length < size / 2);
      await Promise.all(some.map((each) => submitChange(device, each, random)));
      await device.submit(makeRequest("read", 0, 4096, { data: new Uint8Array(4096) }));
      await device.submit(makeRequest("flush"));
      changes.push(...some);
      const expected = rangesOf(touched(changes, granularity), granularity, size);
      assert.deepEqual(await dirtyRanges(device, "b"), expected);
      if (round === 20) {
        await bitmaps.run({ action: "clear", name: "b" });
        changes.length = 0;
      }
    }
    assert.ok(changes.length > 0);
  });
}

Deno.test("a bitmap has nothing of requests that are refused before storage hears of them", async () => {
  const backend = await memoryDisk(MIB);
  const { trim: _trim, zero: _zero, ...rest } = backend;
  const without = Object.create(backend, {
    trim: { value: undefined },
    zero: { value: undefined },
  });
  assert.ok("read" in rest);
  const { device, bitmaps } = bitmapDisk(without);
  await using _ = device;
  await bitmaps.run(add("b"));
  const refused = [
    makeRequest("write", MIB, 512, { data: new Uint8Array(512) }),
    makeRequest("trim", 0, 512),
    makeRequest("zero", 0, 512, { flags: FLAG_FAST_ONLY }),
  ];
  for (const request of refused) {
    await assert.rejects(async () => await device.submit(request), { name: "BlockError" });
  }
  assert.deepEqual(await dirtyRanges(device, "b"), []);
  await device.submit(makeRequest("zero", 0, 512));
  assert.deepEqual(await dirtyRanges(device, "b"), [[0, 64 * KIB]]);
});

Deno.test("several bitmaps of a disk go their own ways", async () => {
  const { device, bitmaps } = bitmapDisk(await memoryDisk(MIB));
  await using _ = device;
  const write = (offset: number): void =>
    void device.submit(makeRequest("write", offset, 1, { data: new Uint8Array(1) }));
  await bitmaps.run(add("one"));
  write(0);
  await bitmaps.run(add("two", { granularity: 512 }));
  write(512 * KIB);
  await bitmaps.run({ action: "clear", name: "one" });
  write(1024);
  assert.deepEqual(await dirtyRanges(device, "one"), [[0, 64 * KIB]]);
  assert.deepEqual(await dirtyRanges(device, "two"), [[1024, 1536], [512 * KIB, 512 * KIB + 512]]);
  assert.deepEqual(device.features.bitmaps, ["one", "two"]);
  await bitmaps.run({ action: "remove", name: "one" });
  await assert.rejects(dirtyRanges(device, "one"), { errno: "EINVAL" });
});

Deno.test("a frozen point stands still, and drop and merge end it", async () => {
  const { device, bitmaps } = bitmapDisk(await memoryDisk(MIB));
  await using _ = device;
  const write = (offset: number): void =>
    void device.submit(makeRequest("write", offset, 1, { data: new Uint8Array(1) }));
  const region = (at: number): [number, number] => [at * 64 * KIB, (at + 1) * 64 * KIB];
  await bitmaps.run(add("b"));
  write(0);
  await bitmaps.run({ action: "freeze", name: "b" });
  write(128 * KIB);
  assert.deepEqual(await dirtyRanges(device, "b"), [region(0)]);
  const [facts] = bitmaps.facts;
  assert.deepEqual([facts?.frozen, facts?.dirtyBytes, facts?.newBytes], [true, 65536, 65536]);
  for (const action of ["freeze", "clear", "remove"] as const) {
    await assert.rejects(bitmaps.run({ action, name: "b" }), { errno: "EBUSY" });
  }
  await bitmaps.run({ action: "merge", name: "b" });
  assert.deepEqual(await dirtyRanges(device, "b"), [region(0), region(2)]);
  await bitmaps.run({ action: "freeze", name: "b" });
  write(256 * KIB);
  await bitmaps.run({ action: "drop", name: "b" });
  assert.deepEqual(await dirtyRanges(device, "b"), [region(4)]);
  for (const action of ["drop", "merge"] as const) {
    await assert.rejects(bitmaps.run({ action, name: "b" }), { errno: "EINVAL" });
  }
});

/** In which order a write that was under way and a point are done. */
async function orderOfPoint(waits: boolean): Promise<string[]> {
  const order: string[] = [];
  const backend = await memoryDisk(MIB);
  const held = Promise.withResolvers<void>();
  const slow = Object.create(backend, {
    capabilities: { value: { ...backend.capabilities, synchronous: false } },
    write: {
      value: async (from: Uint8Array, offset: number): Promise<void> => {
        await held.promise;
        await backend.write(from, offset, { fua: false });
        order.push("written");
      },
    },
  });
  const { device, bitmaps } = bitmapDisk(slow, { waits });
  await using _ = device;
  await bitmaps.run(add("b"));
  const writing = device.submit(makeRequest("write", 0, 1, { data: new Uint8Array(1) }));
  const freezing = bitmaps.run({ action: "freeze", name: "b" }).then(() => order.push("frozen"));
  // Enough for a point that does not wait.
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
  held.resolve();
  await Promise.all([writing, freezing]);
  assert.deepEqual(await dirtyRanges(device, "b"), [[0, 64 * KIB]]);
  return order;
}

Deno.test("a point waits for writes that are marked and not in storage yet", async () => {
  assert.deepEqual(await orderOfPoint(true), ["written", "frozen"]);
  // A planted bug shows that the order is seen.
  assert.deepEqual(await orderOfPoint(false), ["frozen", "written"]);
});

Deno.test("a disk that grows has new regions marked, and one that shrinks forgets them", async () => {
  const { device, bitmaps } = bitmapDisk(await memoryDisk(MIB + 100));
  await using _ = device;
  await bitmaps.run(add("b"));
  await device.resize(2 * MIB);
  assert.deepEqual(await dirtyRanges(device, "b"), [[MIB, 2 * MIB]]);
  await device.resize(MIB);
  assert.deepEqual(await dirtyRanges(device, "b"), []);
  await device.resize(MIB + 1);
  assert.deepEqual(await dirtyRanges(device, "b"), [[MIB, MIB + 1]]);
});

Deno.test("a bitmap that a size has too many regions for is refused, and so is the size", async () => {
  const { device, bitmaps } = bitmapDisk(await memoryDisk(2 ** 37));
  await using _ = device;
  await bitmaps.run(add("fine", { granularity: 512 }));
  await assert.rejects(device.resize(2 ** 38), { errno: "EINVAL", message: /granularity of 512/ });
  assert.equal(device.geometry.size, 2 ** 37);
  await bitmaps.run({ action: "remove", name: "fine" });
  await device.resize(2 ** 45);
  await assert.rejects(bitmaps.run(add("b", { granularity: 64 * KIB })), { errno: "EINVAL" });
  await bitmaps.run(add("b"));
  assert.equal(bitmaps.facts[0]?.granularity, 128 * KIB);
});

Deno.test("bitmaps that cannot be are refused", async () => {
  const { device, bitmaps } = bitmapDisk(await memoryDisk(MIB));
  await using _ = device;
  const refusals: [BitmapCommand, string][] = [
    [add(""), "EINVAL"],
    [add(".b"), "EINVAL"],
    [add("a/b"), "EINVAL"],
    [add("b".repeat(65)), "EINVAL"],
    [add("b", { granularity: 513 }), "EINVAL"],
    [add("b", { granularity: 256 }), "EINVAL"],
    [add("b", { granularity: 2 ** 32 }), "EINVAL"],
    [add("b", { persistent: true }), "EOPNOTSUPP"],
    [{ action: "clear", name: "b" }, "EINVAL"],
  ];
  for (const [command, errno] of refusals) {
    await assert.rejects(bitmaps.run(command), { errno }, JSON.stringify(command));
  }
  for (let at = 0; at < BITMAPS_MAX; at += 1) await bitmaps.run(add(`b${at}`));
  await assert.rejects(bitmaps.run(add("more")), { errno: "ENOSPC" });
  await assert.rejects(bitmaps.run(add("b0")), { errno: "EEXIST" });
});

Deno.test("an answer about a bitmap is bounded, and goes on where it stopped", async () => {
  const { device, bitmaps } = bitmapDisk(await memoryDisk(2 ** 30));
  await using _ = device;
  await bitmaps.run(add("b", { granularity: 512 }));
  const data = new Uint8Array(1);
  for (let at = 0; at < 70_000; at += 1) {
    void device.submit(makeRequest("write", at * 1024, 1, { data }));
  }
  const request = makeRequest("extents", 100, 2 ** 30 - 100, { bitmap: "b" });
  void device.submit(request);
  assert.equal(request.runs?.length, EXTENTS_PER_CALL_MAX);
  assert.deepEqual(request.runs[0], { length: 412, dirty: true });
  assert.equal((await dirtyRanges(device, "b")).length, 70_000);
});

Deno.test("RegionBitmap finds and clears ranges as a plain array does", () => {
  const random = new SeededRandom(3);
  for (let round = 0; round < 300; round += 1) {
    const regions = 1 + random.below(200);
    const bitmap = new RegionBitmap(regions), other = new RegionBitmap(regions);
    const model: boolean[] = [];
    for (let at = 0; at < regions; at += 1) {
      model.push(random.below(3) > 0);
      if (model[at] === true) bitmap.add(at);
      if (random.below(2) === 0) other.add(at);
    }
    const start = random.below(regions), end = start + random.below(regions - start + 1);
    for (const value of [true, false]) {
      const at = model.slice(start, end).indexOf(value);
      assert.equal(bitmap.next(value, start, end), at < 0 ? end : start + at);
    }
    const cleared = model.slice(start, end).filter((each) => each).length;
    assert.equal(bitmap.deleteRange(start, end), cleared);
    model.fill(false, start, end);
    bitmap.intersect(other);
    const both = model.map((each, at) => each && other.has(at));
    assert.deepEqual(both, both.map((_, at) => bitmap.has(at)));
    assert.equal(bitmap.count, both.filter((each) => each).length);
  }
});

Deno.test("a bitmap of other storage, or a damaged one, counts as marked all over", async () => {
  const files = new CrashFiles({ seed: 1 }), names = new Set<string>();
  const folder = new MemoryFolder(files, names);
  const opened = async (identity: Uint8Array): Promise<[string[], [number, number][]]> => {
    const log = new MemoryLog();
    const { device, bitmaps } = bitmapDisk(await memoryDisk(MIB), { folder, identity, log });
    await using _ = device;
    if (names.size === 0) await bitmaps.run(add("b", { persistent: true }));
    const ranges = await dirtyRanges(device, "b");
    await bitmaps.run({ action: "clear", name: "b" });
    bitmaps.close();
    return [log.lines, ranges];
  };
  assert.deepEqual(await opened(IDENTITY), [[], []]);
  assert.deepEqual(await opened(IDENTITY), [[], []]);
  const other = new Uint8Array(32).fill(8);
  const all = [[0, MIB]];
  const [lines, ranges] = await opened(other);
  assert.match(lines.join(), /^warn: Bitmap b of disk: it was kept for other storage/);
  assert.deepEqual(ranges, all);
  for (const path of ["b.0", "b.1"]) {
    const file = files.open(path, { readOnly: false, direct: false, lock: false });
    file.write(new Uint8Array(16).fill(0xff), 16);
    file.close();
    const [lines, ranges] = await opened(other);
    assert.match(lines.join(), /its header is damaged: all of the disk is marked/);
    assert.deepEqual(ranges, all);
  }
});
