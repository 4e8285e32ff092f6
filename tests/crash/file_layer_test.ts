/**
 * Crash runs of the file backend, over a file layer that forgets at a crash what was not flushed. A
 * layer whose flush does nothing has to be found out by the same check.
 *
 * @module
 */
import assert from "node:assert/strict";
import { file } from "../../backends/file.ts";
import { Device } from "../../lib/block/device.ts";
import { ManualClock, MemoryLog, testContext } from "../support/context.ts";
import { CrashFiles, SECTOR_BYTES } from "../support/crash_files.ts";
import { DISK_BYTES, type Outcome, runSectors } from "./sector_runs.ts";

const SEEDS: readonly number[] = Array.from({ length: 25 }, (_, index) => index + 1);

async function openDevice(files: CrashFiles, mayBlock: boolean): Promise<Device> {
  const context = testContext({ files, mayBlock });
  const options = {
    path: "disk",
    size: DISK_BYTES,
    direct: false,
    discard: true,
    lock: true,
  };
  const { backend } = await file.open(options, context);
  return new Device(backend, { name: "crash", clock: new ManualClock(), log: new MemoryLog() });
}

function run(seed: number, mayBlock: boolean, flushDoesNothing = false): Promise<Outcome> {
  return runSectors({ seed, flushDoesNothing, open: (files) => openDevice(files, mayBlock) });
}

for (const mayBlock of [true, false]) {
  const how = mayBlock ? "on the spot" : "later";

  Deno.test(`file backend keeps what was flushed when flushes are done ${how}`, async () => {
    let newer = 0, lost = 0, flushes = 0;
    for (const seed of SEEDS) {
      const outcome = await run(seed, mayBlock);
      newer += outcome.newer;
      lost += outcome.lost;
      flushes += outcome.flushes;
    }
    // The runs are worth something only if crashes took some writes and left others.
    assert.ok(newer > 100 && lost > 100 && flushes > 100, `${newer} ${lost} ${flushes}`);
  });

  Deno.test(`a flush that does nothing is found out when flushes are done ${how}`, async () => {
    for (const seed of SEEDS) {
      await assert.rejects(
        run(seed, mayBlock, true),
        (error) => error instanceof assert.AssertionError && /was durable/.test(error.message),
        `seed ${seed}`,
      );
    }
  });

  Deno.test(`the same seed gives the same run when flushes are done ${how}`, async () => {
    const first = await run(7, mayBlock);
    assert.deepEqual(await run(7, mayBlock), first);
    assert.notEqual((await run(8, mayBlock)).digest, first.digest);
  });
}

const OPEN = { readOnly: false, createSize: 8192, direct: false, lock: true } as const;

/** What is left of two writes, of which one covers two sectors, over many crashes. */
function survivors(seed: number, survival = 0.5): string {
  const files = new CrashFiles({ seed, survival });
  const disk = files.open("disk", OPEN);
  disk.write(new Uint8Array(SECTOR_BYTES * 2).fill(1), 0);
  disk.write(new Uint8Array(SECTOR_BYTES).fill(2), 4096);
  files.crash();
  const found = new Uint8Array(8192);
  files.open("disk", OPEN).read(found, 0);
  return [0, SECTOR_BYTES, 4096].map((at) => found[at]).join("");
}

Deno.test("CrashFiles loses, tears and reorders writes that were not flushed", () => {
  const seen = new Set(Array.from({ length: 200 }, (_, seed) => survivors(seed)));
  assert.deepEqual(
    [...seen].sort(),
    ["000", "002", "010", "012", "100", "102", "110", "112"],
  );
  assert.equal(survivors(1, 0), "000");
  assert.equal(survivors(1, 1), "112");
});

Deno.test("CrashFiles.flushAsync covers what was there at the call, once it is done", async () => {
  const files = new CrashFiles({ seed: 1, survival: 0 });
  const disk = files.open("disk", OPEN);
  disk.write(Uint8Array.of(1), 0);
  const flushed = disk.flushAsync();
  disk.write(Uint8Array.of(2), 1);
  await flushed;
  disk.write(Uint8Array.of(3), 2);
  const late = disk.flushAsync();
  files.crash();
  await assert.rejects(late, { code: "EIO" });
  const found = new Uint8Array(3);
  files.open("disk", OPEN).read(found, 0);
  assert.deepEqual([...found], [1, 0, 0]);
});

Deno.test("CrashFiles forgets a size that was not flushed", () => {
  const files = new CrashFiles({ seed: 1, survival: 0 });
  const disk = files.open("disk", OPEN);
  disk.truncate(100);
  disk.flush();
  disk.truncate(5000);
  files.crash();
  assert.equal(files.open("disk", OPEN).size(), 100);
});

Deno.test("CrashFiles reads zeroes where a file was cut off and grew again", () => {
  const files = new CrashFiles({ seed: 1, survival: 0 });
  const disk = files.open("disk", OPEN);
  const into = new Uint8Array(OPEN.createSize);
  disk.write(into.map(() => 7), 0);
  disk.flush();
  for (const size of [1000, 3000, 2000, 9000]) disk.truncate(size);
  disk.read(into, 0);
  assert.deepEqual(into, into.map((_, at) => at < 1000 ? 7 : 0));
  assert.equal(disk.size(), 9000);
  files.crash();
  const found = files.open("disk", OPEN);
  found.read(into, 0);
  assert.deepEqual([found.size(), into.every((byte) => byte === 7)], [into.length, true]);
});

Deno.test("CrashFiles locks files until they are closed or the machine crashes", () => {
  const files = new CrashFiles({ seed: 1 });
  const disk = files.open("disk", OPEN);
  assert.throws(() => files.open("disk", OPEN), { code: "EAGAIN" });
  disk.close();
  files.open("disk", OPEN);
  files.crash();
  files.open("disk", { ...OPEN, readOnly: true });
  files.open("disk", { ...OPEN, readOnly: true });
  assert.throws(() => files.open("disk", OPEN), { code: "EAGAIN" });
});
