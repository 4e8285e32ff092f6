/**
 * Every filter against the contract kit: over memory, which is done at once, over a disk that takes
 * its time, and over one that has no verb but those that all have, and blocks of 512 bytes.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Backend } from "../../lib/block/types.ts";
import { filters } from "../../lib/filters/mod.ts";
import { type ContractOptions, contractTests } from "../../lib/testing/mod.ts";
import { makeAsync } from "../support/async_backend.ts";
import { testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { bare, filled, memoryDisk, NO_FUA, stacked } from "../support/filters.ts";

const MIB = 2 ** 20;
const EFFORT: ContractOptions = { steps: 100, largestBytes: MIB / 2, windowBytes: MIB / 4 };
/** Not round, so that the last block of anything is cut. */
const SIZE: number = 3 * MIB + 5 * 512;

/** Filters as the kit sees them; several for one that has several ways. */
const SPECS: readonly string[] = [
  "readonly:",
  "slice:?offset=64k&size=2560k",
  "delay:",
  "error:?rate=0",
  "retry:?delay=0",
  "retry:",
  "throttle:?iops=1000000000&bandwidth=1P&burst=1h",
  "log:",
  "log:?file=log.txt",
  "verify:",
  "verify:?block=2k&limit=64k",
  "blocksize:?block=4k",
  "blocksize:?block=16k&maximum=64k",
  "readahead:?window=64k",
  "readahead:",
  "cache:?size=128k",
  "cache:?size=256k&block=16k",
  "cache:?size=4M&mode=write-through",
  "cow:",
  "cow:?block=4k",
  "cow:?file=overlay&block=8k",
  "torn:",
  "torn:?limit=8k&seed=3",
  "partition:?number=1",
];

async function writeMbr(disk: Backend): Promise<void> {
  const sector = filled(512, 0);
  const view = new DataView(sector.buffer);
  sector.set([0x55, 0xaa], 510);
  view.setUint8(450, 0x83);
  view.setUint32(454, 8, true);
  view.setUint32(458, SIZE / 512 - 8, true);
  await disk.write(sector, 0, NO_FUA);
}

async function open(spec: string, below: (disk: Backend) => Backend): Promise<Backend> {
  const minimum = spec.startsWith("blocksize") ? { minimum: 512 } : {};
  const disk = below(await memoryDisk(SIZE, minimum));
  if (spec.startsWith("partition")) await writeMbr(disk);
  return await stacked(disk, [spec], { files: new CrashFiles({ seed: 1 }) });
}

/** The ways of a filter after its first are put to the slow disk alone: the kit is thorough, and takes its time. */
const MORE: ReadonlySet<string> = new Set(
  SPECS.filter((spec, index) =>
    SPECS.findIndex((other) => other.split(":", 1)[0] === spec.split(":", 1)[0]) < index
  ),
);
/** Filters that call other verbs below than the one that they were called with. */
const MIXED = /^(verify:$|blocksize:.*4k|cache:.size=128k|cow:$|torn:$)/;

interface Below {
  readonly name: string;
  readonly make: (disk: Backend) => Backend;
  readonly fits?: RegExp;
}

const BELOW: readonly Below[] = [
  { name: "memory", make: (disk) => disk },
  { name: "slow memory", make: (disk) => makeAsync(disk) },
  { name: "bare slow memory", make: (disk) => makeAsync(bare(disk)), fits: MIXED },
];

for (const spec of SPECS) {
  for (const { name, make, fits } of BELOW) {
    if (fits?.test(spec) === false || (name === "memory" && MORE.has(spec))) continue;
    const title = `${spec} over ${name}`;
    for (const each of contractTests(title, () => open(spec, make), EFFORT)) {
      Deno.test(each.name, each.run);
    }
  }
}

Deno.test("every filter is put to the kit", () => {
  const tested = new Set(SPECS.map((spec) => spec.split(":", 1)[0]));
  assert.deepEqual([...tested].sort(), filters.map(({ name }) => name).sort());
});

Deno.test("filters bring along no verb that the layer below lacks, unless they are made for it", async () => {
  const own: Record<string, readonly string[]> = { cow: ["trim", "zero", "extents"] };
  for (const spec of SPECS) {
    const top = await open(spec, bare);
    const verbs = (["trim", "zero", "cache", "extents", "resize"] as const)
      .filter((verb) => top[verb] !== undefined);
    assert.deepEqual(verbs, own[spec.split(":", 1)[0] ?? ""] ?? [], spec);
    await top[Symbol.asyncDispose]();
  }
});

Deno.test("filters that wait for nothing are synchronous where the layer below is", async () => {
  for (const spec of SPECS) {
    const top = await open(spec, (disk) => disk);
    const waits = /^(delay:|throttle:|retry:$)/.test(spec);
    assert.equal(top.capabilities.synchronous, !waits, spec);
    await top[Symbol.asyncDispose]();
    const slow = await open(spec, (disk) => makeAsync(disk));
    assert.equal(slow.capabilities.synchronous, false, spec);
    await slow[Symbol.asyncDispose]();
  }
});

Deno.test("filters dispose the layer below once, and are closed before it", async () => {
  for (const spec of SPECS) {
    let disposed = 0;
    const top = await open(spec, (disk) => ({
      ...disk,
      [Symbol.asyncDispose]: () => {
        disposed += 1;
        return Promise.resolve();
      },
    }));
    await top[Symbol.asyncDispose]();
    await top[Symbol.asyncDispose]();
    assert.equal(disposed, 1, spec);
  }
});

Deno.test("filters that fail to open say why, and leave the layer below alone", async () => {
  const wrong: readonly (readonly [string, RegExp])[] = [
    ["slice:?offset=1P", /ends at/],
    ["slice:?offset=1M&size=3M", /ends at/],
    ["verify:?block=100", /at least 512/],
    ["cache:?block=3000", /power of two/],
    ["blocksize:?block=3000", /power of two/],
    ["blocksize:?block=4k&minimum=8k", /power of two up to 4096/],
    ["blocksize:?block=4k&maximum=5000", /multiple of 4096/],
    ["cow:?block=1k", /at least 4096/],
    ["cow:?file=missing/or/not", /no files/],
    ["throttle:", /no limit is given/],
    ["throttle:?bandwidth=0", /bandwidth is 0/],
    ["readahead:?window=1k", /power of two from 65536/],
    ["partition:?number=1", /there is no MBR/],
    ["delay:?read=5", /time such as/],
    ["delay:?read=2h", /at most 60min/],
    ["error:?rate=2", /chance from 0 to 1/],
    ["error:?operations=read,fly", /some of read,write/],
    ["error:?operations=read,read", /twice/],
    ["retry:?count=0", /whole number from 1/],
  ];
  for (const [spec, message] of wrong) {
    const disk = await memoryDisk(SIZE);
    const noFiles = {
      open: () => {
        throw new Error("there are no files");
      },
    };
    await assert.rejects(stacked(disk, [spec], testContext({ files: noFiles })), { message }, spec);
    assert.equal(await disk.read(filled(512, 1), 0), undefined);
    await disk[Symbol.asyncDispose]();
  }
});
