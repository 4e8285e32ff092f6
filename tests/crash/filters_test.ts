/**
 * Crash runs of the filters that keep writes back: cow with an overlay in a file, and cache over a
 * file. The file layer forgets at a crash what was not flushed; what the filter has promised has to be
 * there, and a layer whose flush does nothing has to be found out.
 *
 * @module
 */
import assert from "node:assert/strict";
import { file } from "../../backends/file.ts";
import type { Backend } from "../../lib/block/types.ts";
import { contractTests, runContract } from "../../lib/testing/mod.ts";
import { SeededRandom, testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { deviceOn, memoryDisk, stacked } from "../support/filters.ts";
import { BLOCK_BYTES, Promises } from "./promises.ts";
import { makeRequest } from "../../lib/block/request.ts";

const MIB = 2 ** 20;
const BLOCKS = 64;
const DISK_BYTES: number = BLOCKS * BLOCK_BYTES;
const SEEDS: readonly number[] = Array.from({ length: 12 }, (_, index) => index + 1);

interface Way {
  readonly name: string;
  readonly mayBlock: boolean;
  /** Opens the disk, new or again. */
  readonly open: (files: CrashFiles, size: number) => Promise<Backend>;
}

async function fileDisk(files: CrashFiles, size: number, mayBlock: boolean): Promise<Backend> {
  const options = { path: "disk", size, direct: false, discard: true, lock: true };
  return (await file.open(options, testContext({ files, mayBlock }))).backend;
}

const WAYS: readonly Way[] = [true, false].flatMap((mayBlock) => [
  {
    name: `cow with a file, flushed ${mayBlock ? "on the spot" : "later"}`,
    mayBlock,
    open: async (files, size) =>
      await stacked(await memoryDisk(size), ["cow:?file=overlay&block=8k"], { files, mayBlock }),
  },
  {
    name: `cache over a file, flushed ${mayBlock ? "on the spot" : "later"}`,
    mayBlock,
    open: async (files, size) =>
      await stacked(await fileDisk(files, size, mayBlock), ["cache:?size=64k"], {
        files,
        mayBlock,
      }),
  },
]);

for (const { name, open } of WAYS) {
  let files = new CrashFiles({ seed: 1 }), seed = 1;
  const options = {
    steps: 60,
    largestBytes: MIB / 4,
    windowBytes: MIB / 4,
    reopen: () => open(files, MIB + 512),
    crash: () => {
      files.crash();
      return open(files, MIB + 512);
    },
  };
  const fresh = (): Promise<Backend> => {
    files = new CrashFiles({ seed: seed++ });
    return open(files, MIB + 512);
  };
  const durable = contractTests(name, fresh, options)
    .filter((each) => /power|opened again|in flight|fua$|flushes/.test(each.name));
  for (const each of durable) Deno.test(each.name, each.run);
}

/** Random writes, FUA writes and flushes, some at a time, with crashes; fails if a promise is broken. */
async function run({ open }: Way, seed: number, flushDoesNothing = false): Promise<Promises> {
  const random = new SeededRandom(seed);
  const files = new CrashFiles({ seed: random.uint32(), flushDoesNothing });
  const promises = new Promises(BLOCKS, random);
  for (let crash = 0; crash < 4; crash += 1) {
    const device = deviceOn(await open(files, DISK_BYTES));
    const steps: Promise<void>[] = [];
    for (let count = 5 + random.below(40); count > 0; count -= 1) {
      steps.push(promises.step(device));
      if (random.below(4) === 0) await Promise.allSettled(steps);
    }
    files.crash();
    await Promise.allSettled(steps);
    await device[Symbol.asyncDispose]().catch(() => {});
    const after = deviceOn(await open(files, DISK_BYTES));
    const data = new Uint8Array(DISK_BYTES);
    await after.submit(makeRequest("read", 0, data.length, { data }));
    promises.check(data);
    files.crash();
    await after[Symbol.asyncDispose]().catch(() => {});
  }
  return promises;
}

for (const way of WAYS) {
  Deno.test(`${way.name}: what was flushed is there after a crash`, async () => {
    let syncs = 0;
    for (const seed of SEEDS) syncs += (await run(way, seed)).syncs;
    assert.ok(syncs > 100, `${syncs} promises`);
  });

  Deno.test(`${way.name}: a flush that does nothing is found out`, async () => {
    let found = 0;
    for (const seed of SEEDS) {
      await run(way, seed, true).catch((error) => {
        assert.match(String(error), /was durable/);
        found += 1;
      });
    }
    assert.ok(found > SEEDS.length / 2, `${found} of ${SEEDS.length}`);
  });
}

Deno.test("the kit finds out an overlay whose flush does nothing", async () => {
  const [way] = WAYS;
  assert.ok(way !== undefined);
  let files = new CrashFiles({ seed: 1 });
  const results = await runContract("cow", () => {
    files = new CrashFiles({ seed: 5, survival: 0, flushDoesNothing: true });
    return way.open(files, MIB);
  }, {
    steps: 1,
    largestBytes: 4096,
    crash: () => {
      files.crash();
      return way.open(files, MIB);
    },
  });
  const lost = results.filter(({ name }) => /loss of power/.test(name));
  assert.ok(lost.length > 0 && lost.every(({ error }) => error !== null));
});
