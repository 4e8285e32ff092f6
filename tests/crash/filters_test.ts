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
import { testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { deviceOn, memoryDisk, stacked } from "../support/filters.ts";
import { DISK_BYTES, type Outcome, runSectors } from "./sector_runs.ts";

const MIB = 2 ** 20;
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
      await stacked(await fileDisk(files, size, mayBlock), ["cache:?size=8k&block=512"], {
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

function run({ open }: Way, seed: number, flushDoesNothing = false): Promise<Outcome> {
  return runSectors({
    seed,
    flushDoesNothing,
    open: async (files) => deviceOn(await open(files, DISK_BYTES)),
  });
}

for (const way of WAYS) {
  Deno.test(`${way.name}: what was flushed is there after a crash`, async () => {
    let newer = 0, lost = 0;
    for (const seed of SEEDS) {
      const outcome = await run(way, seed);
      newer += outcome.newer;
      lost += outcome.lost;
    }
    // The runs are worth something only if crashes took writes that nobody had flushed.
    assert.ok(newer > 10 && lost > 100, `${newer} ${lost}`);
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
