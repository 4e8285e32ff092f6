/**
 * The filters that keep data or what they know of it in memory: cache, readahead, verify.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import type { Backend } from "../../lib/block/types.ts";
import { makeAsync } from "../support/async_backend.ts";
import { MemoryLog, SeededRandom } from "../support/context.ts";
import {
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

Deno.test("cache keeps writes until a flush, which writes neighbours together and then flushes", async () => {
  const { backend, calls } = watched(await memoryDisk(MIB));
  const top = await stacked(backend, ["cache:?size=64k"]);
  for (const block of [3, 1, 2, 7]) await top.write(filled(4096, block), block * 4096, NO_FUA);
  assert.deepEqual(
    await readFrom(top, 4096, 8192),
    Uint8Array.from([
      ...filled(4096, 1),
      ...filled(4096, 2),
    ]),
  );
  assert.deepEqual(calls, []);
  await top.flush();
  assert.deepEqual(calls.splice(0), ["write 4096+12288", "write 28672+4096", "flush"]);
  await top.flush();
  assert.deepEqual(calls.splice(0), ["flush"]);
  assert.deepEqual(await readFrom(backend, 12288, 4096), filled(4096, 3));
});

Deno.test("cache in write-through mode writes at once, and reads from memory", async () => {
  const { backend, calls } = watched(await memoryDisk(MIB));
  const { backend: top, management } = await filtered(backend, "cache:?mode=write-through");
  await readFrom(top, 0, 8192);
  await top.write(filled(100, 7), 4000, NO_FUA);
  assert.deepEqual(calls.splice(0), ["read 0+8192", "write 4000+100"]);
  const bytes = await readFrom(top, 3999, 102);
  assert.deepEqual([bytes[0], bytes[1], bytes[100], bytes[101]], [0, 7, 7, 0]);
  await top.flush();
  assert.deepEqual(calls, ["flush"]);
  assert.deepEqual(management?.describe?.(), {
    mode: "write-through",
    memory: 8192,
    dirty: 0,
    hits: 2,
    misses: 2,
  });
});

Deno.test("cache makes writes with FUA durable at once, also where there is no FUA below", async () => {
  const disk = await memoryDisk(MIB);
  for (const fua of [true, false]) {
    const { backend, calls } = watched({ ...disk, capabilities: { synchronous: true, fua } });
    const top = await stacked(backend, ["cache:"]);
    await top.write(filled(4096, 1), 0, NO_FUA);
    await top.write(filled(512, 2), 0, { fua: true });
    assert.deepEqual(calls.splice(0), fua ? ["write 0+512 fua"] : ["write 0+512", "flush"]);
    await top.flush();
    assert.deepEqual(calls, ["write 0+4096", "flush"]);
    assert.equal((await readFrom(backend, 0, 1))[0], 2, "the older content did not come back");
  }
});

Deno.test("cache holds no more than its size, and writes the oldest back", async () => {
  const { backend, calls } = watched(await memoryDisk(MIB));
  const { backend: top, management } = await filtered(backend, "cache:?size=64k");
  const random = new SeededRandom(1);
  const expected = new Uint8Array(MIB);
  for (let count = 0; count < 500; count += 1) {
    const at = random.below(256) * 4096;
    const bytes = filled(4096, 1 + random.below(255));
    expected.set(bytes, at);
    await top.write(bytes, at, NO_FUA);
    const { memory } = management?.describe?.() ?? {};
    assert.ok(Number(memory) <= 64 * KIB, `${memory} bytes`);
  }
  assert.ok(calls.length > 0);
  await expectContent(top, expected);
  await top.flush();
  await expectContent(backend, expected);
});

Deno.test("cache drops what was used least", async () => {
  const { backend, calls } = watched(await memoryDisk(MIB));
  const top = await stacked(backend, ["cache:?size=64k"]);
  for (let block = 0; block < 16; block += 1) await readFrom(top, block * 4096, 4096);
  await readFrom(top, 0, 1);
  await readFrom(top, 16 * 4096, 1);
  calls.length = 0;
  await readFrom(top, 0, 1);
  assert.deepEqual(calls, []);
  await readFrom(top, 4096, 1);
  assert.deepEqual(calls, ["read 4096+4096"]);
});

/** A disk whose writes fail while told so. */
function failingWrites(disk: Backend): { backend: Backend; failing: boolean } {
  const state = {
    failing: false,
    backend: {
      ...disk,
      geometry: disk.geometry,
      write: (from: Uint8Array, offset: number) => {
        if (state.failing) throw new BlockError("ENOSPC", "Cannot write: full");
        return disk.write(from, offset, NO_FUA);
      },
    },
  };
  return state;
}

Deno.test("cache reports a write that failed below in the flush, keeps it, and tries again", async () => {
  for (const slow of [false, true]) {
    const below = failingWrites(await memoryDisk(MIB));
    const top = await stacked(slow ? makeAsync(below.backend) : below.backend, ["cache:"]);
    await top.write(filled(8192, 3), 0, NO_FUA);
    below.failing = true;
    await assert.rejects(async () => await top.flush(), { errno: "ENOSPC" });
    await assert.rejects(async () => await top.flush(), { errno: "ENOSPC" });
    assert.deepEqual(await readFrom(top, 0, 8192), filled(8192, 3));
    below.failing = false;
    await top.flush();
    assert.deepEqual(await readFrom(below.backend, 0, 8192), filled(8192, 3));
  }
});

Deno.test("cache flushes nothing below before all writes of before are there", async () => {
  for (let seed = 1; seed <= 20; seed += 1) {
    const random = new SeededRandom(seed);
    const disk = await memoryDisk(MIB);
    const durable = new Uint8Array(64);
    const noting: Backend = {
      ...disk,
      geometry: disk.geometry,
      flush: () => {
        for (let block = 0; block < 64; block += 1) {
          const byte = new Uint8Array(1);
          void disk.read(byte, block * 4096);
          durable[block] = byte[0] ?? 0;
        }
      },
    };
    const top = await stacked(makeAsync(noting, seed), ["cache:?size=64k"]);
    const done = new Uint8Array(64), busy = new Set<number>();
    const pending: Promise<void>[] = [];
    for (let step = 1; step < 200; step += 1) {
      const block = random.below(64);
      if (random.below(8) === 0) {
        const before = done.slice();
        pending.push((async () => {
          await top.flush();
          before.forEach((value, at) => assert.ok((durable[at] ?? 0) >= value, `block ${at}`));
        })());
      } else if (!busy.has(block)) {
        busy.add(block);
        const length = random.below(2) === 0 ? 4096 : 100;
        pending.push((async () => {
          await top.write(filled(length, step), block * 4096, { fua: random.below(5) === 0 });
          done[block] = step;
          busy.delete(block);
        })());
      }
      if (random.below(3) === 0) await Promise.resolve();
    }
    await Promise.all(pending);
    await top[Symbol.asyncDispose]();
  }
});

Deno.test("cache says of extents what is true of what it has not written yet", async () => {
  const top = await stacked(await memoryDisk(MIB), ["cache:"]);
  await top.write(filled(100, 1), 500 * KIB, NO_FUA);
  const extents = await top.extents?.(500 * KIB, 100);
  assert.deepEqual(extents?.map(({ zero }) => zero), [false]);
});

Deno.test("readahead reads long pieces for who reads forward, and none for who does not", async () => {
  const { backend, calls } = watched(await memoryDisk(4 * MIB));
  const top = await stacked(backend, ["readahead:"]);
  for (let at = 0; at < MIB; at += 4096) await readFrom(top, at, 4096);
  assert.ok(calls.length < 8, calls.join());
  assert.deepEqual(calls.slice(0, 3), ["read 0+4096", "read 4096+65536", "read 69632+131072"]);
  calls.length = 0;
  const random = new SeededRandom(1);
  for (let count = 0; count < 100; count += 1) {
    await readFrom(top, 2 * MIB + random.below(200) * 8192, 4096);
  }
  const bytes = calls.reduce((sum, call) => sum + Number(call.split("+")[1]), 0);
  assert.ok(bytes < 4 * 100 * 4096, `${bytes} bytes read`);
});

Deno.test("readahead reads the next piece meanwhile where that takes time", async () => {
  const { backend, calls } = watched(await memoryDisk(4 * MIB));
  const top = await stacked(makeAsync(backend), ["readahead:?window=64k"]);
  await readFrom(top, 0, 4096);
  for (let at = 4096; at < 4096 + 32 * KIB; at += 4096) await readFrom(top, at, 4096);
  await turns();
  assert.deepEqual(calls, ["read 0+4096", "read 4096+65536", "read 69632+65536"]);
  await top[Symbol.asyncDispose]();
});

Deno.test("readahead never shows what was there before a write that is done", async () => {
  for (let seed = 1; seed <= 30; seed += 1) {
    const random = new SeededRandom(seed);
    const top = await stacked(makeAsync(await memoryDisk(MIB), seed), ["readahead:?window=64k"]);
    const versions = new Uint8Array(32), busy = new Set<number>();
    const pending: Promise<void>[] = [];
    const reader = async (): Promise<void> => {
      for (let block = 0; block < 32; block += 1) {
        const least = versions[block] ?? 0;
        const [found] = await readFrom(top, block * 4096, 4096);
        assert.ok((found ?? 0) >= least, `block ${block}: ${found} instead of ${least}`);
      }
    };
    for (let round = 1; round < 40; round += 1) {
      const block = random.below(32);
      if (round % 10 === 1) pending.push(reader());
      if (!busy.has(block)) {
        busy.add(block);
        pending.push((async () => {
          await top.write(filled(4096, round), block * 4096, NO_FUA);
          versions[block] = round;
          busy.delete(block);
        })());
      }
      await Promise.resolve();
    }
    await Promise.all(pending);
    await top[Symbol.asyncDispose]();
  }
});

Deno.test("readahead serves what can be read of a piece that cannot be read whole", async () => {
  const disk = await memoryDisk(MIB);
  const bad: Backend = {
    ...disk,
    geometry: disk.geometry,
    read: (into, offset) => {
      if (offset + into.length > 40_000) throw new BlockError("EIO", "Cannot read: a bad sector");
      return disk.read(into, offset);
    },
  };
  for (const below of [bad, makeAsync(bad)]) {
    const top = await stacked(below, ["readahead:"]);
    for (let at = 0; at + 4096 <= 40_000; at += 4096) await readFrom(top, at, 4096);
    await assert.rejects(readFrom(top, 36_864, 4096), { errno: "EIO" });
    await top[Symbol.asyncDispose]();
  }
});

Deno.test("verify finds out a flipped bit, a lost write and a write to the wrong place", async () => {
  const disk = await memoryDisk(MIB);
  const faults: Record<string, (from: Uint8Array, offset: number) => void | Promise<void>> = {
    flipped: (from, offset) => {
      const bytes = from.slice();
      bytes[100] = (bytes[100] ?? 0) ^ 4;
      return disk.write(bytes, offset, NO_FUA);
    },
    lost: () => {},
    astray: (from, offset) => disk.write(from, offset + 4096, NO_FUA),
  };
  for (const [name, write] of Object.entries(faults)) {
    const { backend, management } = await filtered(
      { ...disk, geometry: disk.geometry, write },
      "verify:",
    );
    await backend.write(filled(4096, name.length), 8192, NO_FUA);
    assert.throws(() => backend.read(new Uint8Array(512), 9000), {
      errno: "EIO",
      message: /Cannot read the block of 4096 bytes at 8192: it is not what was written/,
    });
    assert.equal(management?.describe?.().mismatches, 1, name);
  }
});

Deno.test("verify knows parts of blocks, zeroes and trims", async () => {
  const disk = await memoryDisk(MIB);
  const { backend: top } = await filtered(disk, "verify:");
  const spoil = (offset: number): void | Promise<void> => disk.write(filled(1, 99), offset, NO_FUA);
  await top.write(filled(10, 1), 100, NO_FUA);
  await top.zero?.(8192, 4096, { fua: false, mayTrim: true, fastOnly: false });
  await top.write(filled(4096, 1), 16384, NO_FUA);
  await top.trim?.(16384, 4096, NO_FUA);
  await spoil(3000);
  await spoil(8200);
  await spoil(16400);
  await assert.rejects(readFrom(top, 0, 1), { errno: "EIO" });
  await assert.rejects(readFrom(top, 8192, 4096), { errno: "EIO" });
  await assert.rejects(async () => await top.write(filled(10, 1), 0, NO_FUA), { errno: "EIO" });
  await readFrom(top, 16384, 4096);
  await top.write(filled(4096, 5), 0, NO_FUA);
  assert.deepEqual(await readFrom(top, 0, 4096), filled(4096, 5));
});

Deno.test("verify keeps to its memory, and says so once", async () => {
  const log = new MemoryLog();
  const { backend, management } = await filtered(
    await memoryDisk(64 * MIB),
    "verify:?block=512&limit=16k",
    { log },
  );
  for (let at = 0; at < 64 * MIB; at += MIB) await backend.write(filled(512, 1), at, NO_FUA);
  assert.deepEqual(management?.describe?.(), { mismatches: 0, memory: 16_384, unremembered: 62 });
  assert.deepEqual(log.lines, [
    "warn: The filter verify has used its limit of 16384 bytes: new blocks go unchecked",
  ]);
});

Deno.test("verify is right about reads and writes at the same time", async () => {
  for (let seed = 1; seed <= 10; seed += 1) {
    const random = new SeededRandom(seed);
    const top = await stacked(makeAsync(await memoryDisk(MIB), seed), ["verify:?block=4k"]);
    await Promise.all(Array.from({ length: 300 }, async () => {
      const at = random.below(64 * KIB), length = 1 + random.below(9000);
      if (random.below(2) === 0) await top.write(filled(length, random.below(255)), at, NO_FUA);
      else await readFrom(top, at, length);
    }));
  }
});
