/**
 * The filters that stand between writes and the layer below: cow with commit and reset, torn, and how
 * filters work on one another.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import { makeRequest } from "../../lib/block/request.ts";
import type { Backend } from "../../lib/block/types.ts";
import { makeAsync } from "../support/async_backend.ts";
import { MemoryLog, SeededRandom } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import {
  bare,
  deviceOn,
  expectContent,
  filled,
  filtered,
  memoryDisk,
  NO_FUA,
  readFrom,
  stacked,
  turns,
  watched,
} from "../support/filters.ts";

const KIB = 1024, MIB = 2 ** 20;
const MAY_TRIM = { fua: false, mayTrim: true, fastOnly: false } as const;

/** A disk of bytes that follow from their place. */
async function patterned(): Promise<Backend> {
  const disk = await memoryDisk(MIB);
  await disk.write(pattern(), 0, NO_FUA);
  return disk;
}

function pattern(): Uint8Array {
  return Uint8Array.from({ length: MIB }, (_, at) => 1 + (at >>> 9) % 250);
}

/** The verbs of a filter for an administrator. */
async function manage(
  opened: Awaited<ReturnType<typeof filtered>>,
  verb: "commit" | "reset" | "crash",
): Promise<void> {
  const run = opened.management?.[verb];
  assert.ok(run !== undefined, `there is no ${verb}`);
  await run();
}

for (const slow of [false, true]) {
  for (const spec of ["cow:?block=4k", "cow:?file=overlay&block=4k", "cow:"]) {
    Deno.test(`${spec} over a ${slow ? "slow" : "fast"} disk keeps it as it is until a commit`, async () => {
      const disk = await patterned();
      const files = new CrashFiles({ seed: 1 });
      const opened = await filtered(slow ? makeAsync(disk) : disk, spec, {
        files,
        mayBlock: !slow,
      });
      const { backend } = opened;
      const expected = pattern();
      const random = new SeededRandom(7);
      for (let count = 0; count < 60; count += 1) {
        const at = random.below(MIB - 20_000), length = 1 + random.below(20_000);
        const zero = random.below(4) === 0;
        expected.fill(zero ? 0 : count, at, at + length);
        if (zero) await backend.zero?.(at, length, MAY_TRIM);
        else await backend.write(filled(length, count), at, NO_FUA);
      }
      await expectContent(backend, expected);
      await expectContent(disk, pattern());
      await manage(opened, "commit");
      await expectContent(disk, expected);
      await expectContent(backend, expected);
      assert.equal(opened.management?.describe?.().changed, 0);
      await backend.write(filled(5000, 0xab), 100, NO_FUA);
      await manage(opened, "reset");
      await expectContent(backend, expected);
      await backend[Symbol.asyncDispose]();
    });
  }
}

Deno.test("cow writes over a disk that is read-only, and refuses to commit to it", async () => {
  const opened = await filtered(await stacked(await patterned(), ["readonly:"]), "cow:");
  const device = deviceOn(opened.backend);
  assert.equal(device.features.readOnly, false);
  await device.submit(makeRequest("write", 5, 3, { data: Uint8Array.of(1, 2, 3) }));
  const data = new Uint8Array(5);
  await device.submit(makeRequest("read", 4, 5, { data }));
  assert.deepEqual([...data], [1, 1, 2, 3, 1]);
  await assert.rejects(manage(opened, "commit"), { errno: "EROFS" });
  await device.submit(makeRequest("read", 4, 5, { data }));
  assert.deepEqual([...data], [1, 1, 2, 3, 1], "nothing is lost");
  await device[Symbol.asyncDispose]();
});

Deno.test("cow opens its file again, and refuses one that is not its own", async () => {
  const files = new CrashFiles({ seed: 1 });
  const first = await stacked(await patterned(), ["cow:?file=overlay&block=4k"], { files });
  await first.write(filled(100, 9), 50_000, NO_FUA);
  await first.flush();
  await first[Symbol.asyncDispose]();
  const again = await filtered(await patterned(), "cow:?file=overlay", { files });
  assert.deepEqual(await readFrom(again.backend, 50_000, 100), filled(100, 9));
  assert.equal(again.management?.describe?.().block, 4096);
  await assert.rejects(filtered(await patterned(), "cow:?file=overlay", { files }), /in use/);
  await again.backend[Symbol.asyncDispose]();
  const looked = await filtered(await patterned(), "cow:?file=overlay", { files, readOnly: true });
  assert.equal(looked.backend.geometry.readOnly, true);
  assert.equal(looked.management?.commit, undefined);
  await looked.backend[Symbol.asyncDispose]();
  const refused = async (message: RegExp, spec: string, size = MIB): Promise<void> => {
    const error = { errno: "EINVAL", message };
    await assert.rejects(filtered(await memoryDisk(size), spec, { files }), error);
  };
  await refused(/belongs to a device of 1048576 bytes/, "cow:?file=overlay", 2 * MIB);
  await refused(/it has blocks of 4096/, "cow:?file=overlay&block=8k");
  const options = { readOnly: false, createSize: 5000, direct: false, lock: false } as const;
  files.open("zeroes", options).close();
  await refused(/it is none/, "cow:?file=zeroes");
  const damaged = files.open("overlay", options);
  damaged.write(Uint8Array.of(7), 4096);
  await refused(/its table is damaged/, "cow:?file=overlay");
  damaged.write(Uint8Array.of(7), 20);
  await refused(/its header is damaged/, "cow:?file=overlay");
  damaged.write(Uint8Array.of(0), 0);
  await refused(/it is none/, "cow:?file=overlay");
});

Deno.test("cow fails with ENOSPC past the limit of its memory, and keeps what it has", async () => {
  const top = await stacked(await patterned(), ["cow:?block=32k&limit=64k"]);
  await top.write(filled(10, 1), 0, NO_FUA);
  await top.write(filled(10, 2), 100_000, NO_FUA);
  assert.throws(() => top.write(filled(10, 3), 300_000, NO_FUA), { errno: "ENOSPC" });
  assert.deepEqual(await readFrom(top, 100_000, 10), filled(10, 2));
  assert.deepEqual(await readFrom(top, 300_000, 10), pattern().slice(300_000, 300_010));
});

Deno.test("cow loses nothing when a commit fails half-way", async () => {
  const disk = await patterned();
  let writes = 0;
  const full: Backend = {
    ...disk,
    geometry: disk.geometry,
    write: (from, offset) => {
      writes += 1;
      if (writes === 3) throw new BlockError("ENOSPC", "Cannot write: full");
      return disk.write(from, offset, NO_FUA);
    },
  };
  const opened = await filtered(full, "cow:?block=4k");
  for (let block = 0; block < 10; block += 2) {
    await opened.backend.write(filled(4096, 3), block * 4096, NO_FUA);
  }
  const before = await readFrom(opened.backend, 0, MIB);
  await assert.rejects(manage(opened, "commit"), { errno: "ENOSPC" });
  await expectContent(opened.backend, before);
  await manage(opened, "commit");
  await expectContent(disk, before);
});

Deno.test("cow loses no write that meets a commit or another one in a block", async () => {
  for (let seed = 1; seed <= 5; seed += 1) {
    const random = new SeededRandom(seed);
    const disk = await patterned();
    const opened = await filtered(makeAsync(disk, seed), "cow:?block=16k");
    const expected = pattern();
    const pending: (void | Promise<void>)[] = [];
    for (let at = 0; at < 200 * KIB;) {
      const length = 1 + random.below(6000);
      expected.fill(seed, at, at + length);
      pending.push(opened.backend.write(filled(length, seed), at, NO_FUA));
      if (random.below(10) === 0) pending.push(manage(opened, "commit"));
      if (random.below(3) === 0) await turns();
      at += length;
    }
    await Promise.all(pending);
    await expectContent(opened.backend, expected);
    await manage(opened, "commit");
    await expectContent(disk, expected);
  }
});

Deno.test("cow says of extents what is below, and what is not any more", async () => {
  const disk = await memoryDisk(MIB);
  await disk.write(filled(64 * KIB, 1), 512 * KIB, NO_FUA);
  const top = await stacked(disk, ["cow:"]);
  await top.write(filled(1, 1), 0, NO_FUA);
  await top.trim?.(512 * KIB, 64 * KIB, NO_FUA);
  const extents = await top.extents?.(0, 640 * KIB);
  assert.deepEqual(extents, [
    { length: 64 * KIB, allocated: true, zero: false },
    { length: 448 * KIB, allocated: false, zero: true },
    { length: 64 * KIB, allocated: false, zero: true },
    { length: 64 * KIB, allocated: false, zero: true },
  ]);
});

/** What each sector of the first 64 KiB holds: the byte that fills it, or -1 if it is mixed. */
async function sectorsOf(disk: Backend): Promise<number[]> {
  const bytes = await readFrom(disk, 0, 64 * KIB);
  return Array.from({ length: 128 }, (_, index) => {
    const sector = bytes.subarray(index * 512, (index + 1) * 512);
    return sector.every((byte) => byte === sector[0]) ? sector[0] ?? -1 : -1;
  });
}

/** Flushed ones, then unflushed twos, then a crash. */
async function crashed(disk: Backend, spec: string, slow = false): Promise<Backend> {
  const opened = await filtered(slow ? makeAsync(disk) : disk, spec);
  await opened.backend.write(filled(64 * KIB, 1), 0, NO_FUA);
  await opened.backend.flush();
  for (let at = 0; at < 64 * KIB; at += 8 * KIB) {
    await opened.backend.write(filled(8 * KIB, 2), at, NO_FUA);
  }
  assert.deepEqual(await readFrom(opened.backend, 0, 64 * KIB), filled(64 * KIB, 2));
  await manage(opened, "crash");
  await manage(opened, "crash");
  return opened.backend;
}

Deno.test("torn keeps what was flushed, and some sectors of what was not, the same for a seed", async () => {
  const outcomes = new Set<string>();
  for (let seed = 1; seed <= 20; seed += 1) {
    const runs: string[] = [];
    for (const slow of [false, true]) {
      const disk = await memoryDisk(MIB);
      await crashed(disk, `torn:?seed=${seed}`, slow);
      const sectors = await sectorsOf(disk);
      assert.ok(sectors.every((value) => value === 1 || value === 2), sectors.join());
      const survived = sectors.filter((value) => value === 2).length;
      assert.ok(survived > 30 && survived < 98, `${survived} of 128`);
      runs.push(sectors.join(""));
    }
    assert.equal(runs[0], runs[1]);
    outcomes.add(runs[0] ?? "");
  }
  assert.equal(outcomes.size, 20);
});

Deno.test("torn with a survival of 0 or 1 loses all or nothing of what was not flushed", async () => {
  for (const [survival, value] of [[0, 1], [1, 2]] as const) {
    const disk = await memoryDisk(MIB);
    await crashed(disk, `torn:?survival=${survival}`);
    assert.deepEqual(await sectorsOf(disk), Array.from({ length: 128 }, () => value));
  }
});

Deno.test("torn fails everything after the crash, until it is opened again", async () => {
  const disk = await memoryDisk(MIB);
  const top = await crashed(disk, "torn:");
  const before = await readFrom(disk, 0, MIB);
  const dead = { errno: "EIO", message: /the power has failed/ };
  assert.throws(() => top.read(new Uint8Array(1), 0), dead);
  assert.throws(() => top.write(filled(1, 1), 0, { fua: true }), dead);
  assert.throws(() => top.flush(), dead);
  assert.throws(() => top.trim?.(0, 512, NO_FUA), dead);
  assert.throws(() => top.resize?.(512), dead);
  await expectContent(disk, before);
  const again = await stacked(disk, ["torn:"]);
  await expectContent(again, before);
});

Deno.test("torn crashes when its file appears, and keeps writes with FUA through it", async () => {
  const files = new CrashFiles({ seed: 1 }), log = new MemoryLog();
  for (const below of [await memoryDisk(MIB), bare(await memoryDisk(MIB))]) {
    const { backend, calls } = watched(below);
    const trigger = `trigger-${calls.length}-${below.trim === undefined}`;
    const top = await stacked(makeAsync(backend), [`torn:?file=${trigger}&survival=0`], {
      files,
      log,
    });
    await top.write(filled(512, 1), 0, { fua: true });
    await top.write(filled(512, 2), 512, NO_FUA);
    files.open(trigger, { readOnly: false, createSize: 0, direct: false, lock: false }).close();
    await assert.rejects(async () => await top.flush(), { errno: "EIO" });
    assert.deepEqual(
      await readFrom(backend, 0, 1024),
      Uint8Array.from([
        ...filled(512, 1),
        ...filled(512, 0),
      ]),
    );
    assert.match(log.lines[0] ?? "", /lets the power fail: there is trigger/);
  }
});

Deno.test("filters work on one another: verify over cache over retry over error", async () => {
  const disk = await memoryDisk(MIB);
  const top = await stacked(disk, [
    "error:?rate=0.2&operations=read,write&seed=1",
    "retry:?count=20&delay=0",
    "cache:?size=64k",
    "verify:",
    "blocksize:?block=4k",
  ]);
  assert.equal(top.capabilities.synchronous, true);
  const random = new SeededRandom(2);
  const expected = new Uint8Array(MIB);
  for (let count = 0; count < 300; count += 1) {
    const at = random.below(MIB - 9000), length = 1 + random.below(9000);
    expected.fill(count & 255, at, at + length);
    await top.write(filled(length, count & 255), at, NO_FUA);
  }
  await expectContent(top, expected);
  await top.flush();
  await expectContent(disk, expected);
  await top[Symbol.asyncDispose]();
});

Deno.test("filters work on one another: cache over a disk that fails now and then loses nothing", async () => {
  const disk = await memoryDisk(MIB);
  const top = await stacked(makeAsync(disk), ["error:?rate=0.3&operations=write&seed=4", "cache:"]);
  for (let block = 0; block < 100; block += 1) {
    await top.write(filled(4096, block + 1), block * 8192, NO_FUA);
  }
  let failures = 0;
  for (;;) {
    try {
      await top.flush();
      break;
    } catch (error) {
      assert.ok(error instanceof BlockError && error.errno === "EIO");
      failures += 1;
    }
  }
  assert.ok(failures > 0);
  for (let block = 0; block < 100; block += 1) {
    assert.deepEqual(await readFrom(disk, block * 8192, 4096), filled(4096, block + 1));
  }
  await top[Symbol.asyncDispose]();
});

Deno.test("filters work on one another: a partition of a slice, with an overlay", async () => {
  const disk = await memoryDisk(MIB);
  const sector = filled(512, 0);
  const view = new DataView(sector.buffer);
  sector.set([0x55, 0xaa], 510);
  view.setUint8(450, 0x83);
  view.setUint32(454, 1, true);
  view.setUint32(458, 100, true);
  await disk.write(sector, 64 * KIB, NO_FUA);
  await disk.write(filled(512, 7), 64 * KIB + 512, NO_FUA);
  const top = await stacked(disk, ["slice:?offset=64k", "partition:?number=1", "cow:?block=4k"]);
  assert.equal(top.geometry.size, 51_200);
  assert.deepEqual(await readFrom(top, 0, 512), filled(512, 7));
  await top.write(filled(512, 8), 0, NO_FUA);
  assert.deepEqual(await readFrom(disk, 64 * KIB + 512, 512), filled(512, 7));
});
