/**
 * Chains of incremental backups: random changes, a point, a copy of what the bitmap says, and again. Each
 * backup has to be the disk as it was at its time, also if some backups fail and if the disk is written to
 * meanwhile. Bugs are planted to see that the test finds them.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { copyDevice } from "../../lib/block/copy.ts";
import type { DeviceBitmaps } from "../../lib/block/bitmaps.ts";
import type { Device } from "../../lib/block/device.ts";
import { makeRequest } from "../../lib/block/request.ts";
import type { TargetBitmaps } from "../../lib/dirty_log/target_bitmaps.ts";
import { testClock } from "../../lib/testing/mod.ts";
import { makeAsync } from "../support/async_backend.ts";
import { SeededRandom } from "../support/context.ts";
import {
  bitmapDisk,
  dirtyRanges,
  memoryDisk,
  randomChange,
  submitChange,
} from "./bitmap_fixtures.ts";

type Bug =
  | "none"
  | "trims and zeroes are not marked"
  | "cleared after the copy, without a point"
  | "dropped though the copy failed";

const SIZE = 1024 * 1024 + 700, BACKUPS = 6;

async function contentOf(device: Device): Promise<Uint8Array> {
  const data = new Uint8Array(device.geometry.size);
  await device.submit(makeRequest("read", 0, data.length, { data }));
  return data;
}

/** A disk for a backup that begins as `content`. */
async function diskOf(content: Uint8Array): Promise<Device> {
  const { device } = bitmapDisk(await memoryDisk(content.length));
  await device.submit(makeRequest("write", 0, content.length, { data: content }));
  return device;
}

/** Bitmaps that do not hear of all. */
function buggy(bitmaps: TargetBitmaps, deaf: () => boolean): DeviceBitmaps {
  return new Proxy<DeviceBitmaps>(bitmaps, {
    get(target, name): unknown {
      if (name === "changing" && deaf()) return () => undefined;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

class Chain {
  readonly #random: SeededRandom;
  readonly #bug: Bug;
  readonly #device: Device;
  readonly #bitmaps: TargetBitmaps;
  #deaf = false;
  #backup: Uint8Array = new Uint8Array(0);

  static async begin(seed: number, bug: Bug): Promise<Chain> {
    const disk = bitmapDisk(makeAsync(await memoryDisk(SIZE), seed));
    return new Chain(seed, bug, disk);
  }

  private constructor(
    seed: number,
    bug: Bug,
    { device, bitmaps }: { readonly device: Device; readonly bitmaps: TargetBitmaps },
  ) {
    this.#random = new SeededRandom(seed);
    this.#bug = bug;
    this.#device = device;
    this.#bitmaps = bitmaps;
    if (bug !== "none") device.bitmaps = buggy(bitmaps, () => this.#deaf);
  }

  /** One change, or several at once. */
  async change(count: number): Promise<void> {
    for (let at = 0; at < count; at += 1) {
      const change = randomChange(this.#random, SIZE);
      this.#deaf = this.#bug === "trims and zeroes are not marked" && change.operation !== "write";
      const done = submitChange(this.#device, change, this.#random);
      this.#deaf = false;
      if (this.#random.below(3) > 0) await done;
      else this.#under.push(done);
    }
  }

  readonly #under: Promise<void>[] = [];

  /** The first backup is a whole one. */
  async whole(): Promise<void> {
    await this.change(10);
    await this.#bitmaps.run({ action: "add", name: "b", granularity: 4096, persistent: false });
    await Promise.all(this.#under.splice(0));
    this.#backup = await contentOf(this.#device);
  }

  /** A backup while `busy` changes the disk; without that it has to be the disk as it is. */
  async increment(fails: boolean, busy: number): Promise<void> {
    await this.change(8);
    const point = this.#bug !== "cleared after the copy, without a point";
    if (point) await this.#freeze();
    const copying = this.#copy(fails);
    if (busy > 0) await this.change(busy);
    await copying;
    await Promise.all(this.#under.splice(0));
    if (!point) await this.#bitmaps.run({ action: "clear", name: "b" });
    else {
      const action = fails && this.#bug !== "dropped though the copy failed" ? "merge" : "drop";
      await this.#bitmaps.run({ action, name: "b" });
    }
    if (fails || busy > 0) return;
    const same = Buffer.compare(this.#backup, await contentOf(this.#device)) === 0;
    assert.ok(same, "the backup is not the disk as it was");
  }

  async #freeze(): Promise<void> {
    await this.#bitmaps.run({ action: "freeze", name: "b" });
    await Promise.all(this.#under.splice(0));
  }

  async #copy(fails: boolean): Promise<void> {
    await using destination = await diskOf(this.#backup);
    const device = this.#device;
    const changes = {
      runs: async (offset: number, length: number) => {
        const request = makeRequest("extents", offset, length, { bitmap: "b" });
        await device.submit(request);
        return request.runs ?? [];
      },
    };
    // A copy that fails may have copied anything.
    if (fails) return;
    await copyDevice(device, destination, { clock: testClock, changes, depth: 4 });
    this.#backup = await contentOf(destination);
  }

  async end(): Promise<void> {
    await this.#device[Symbol.asyncDispose]();
  }
}

async function chains(bug: Bug, seeds: number): Promise<void> {
  for (let seed = 1; seed <= seeds; seed += 1) {
    const chain = await Chain.begin(seed, bug);
    const random = new SeededRandom(seed + 1000);
    await chain.whole();
    for (let at = 0; at < BACKUPS; at += 1) {
      await chain.increment(random.below(3) === 0, random.below(2) * 6);
      await chain.increment(false, 0);
    }
    await chain.end();
  }
}

Deno.test("each backup of a chain is the disk as it was at its time", async () => {
  await chains("none", 12);
});

for (
  const bug of [
    "trims and zeroes are not marked",
    "cleared after the copy, without a point",
    "dropped though the copy failed",
  ] as const
) {
  Deno.test(`a planted bug spoils a chain of backups: ${bug}`, async () => {
    await assert.rejects(chains(bug, 12), /not the disk as it was/);
  });
}

Deno.test("copyDevice() with changes reads and writes what has changed and nothing else", async () => {
  const random = new SeededRandom(9);
  for (const granularity of [512, 4096, 65536]) {
    const { device, bitmaps } = bitmapDisk(await memoryDisk(SIZE));
    await using source = device;
    const full = new Uint8Array(SIZE);
    random.fill(full);
    await source.submit(makeRequest("write", 0, SIZE, { data: full }));
    await bitmaps.run({ action: "add", name: "b", granularity, persistent: false });
    const { device: destination, bitmaps: written } = bitmapDisk(await memoryDisk(SIZE));
    await using _ = destination;
    await destination.submit(makeRequest("write", 0, SIZE, { data: full }));
    await written.run({ action: "add", name: "w", granularity: 512, persistent: false });
    for (let at = 0; at < 12; at += 1) {
      const change = randomChange(random, SIZE);
      if (change.length < SIZE / 4) await submitChange(source, change, random);
    }
    const ranges = await dirtyRanges(source, "b");
    const changed = ranges.reduce((sum, [start, end]) => sum + end - start, 0);
    assert.ok(changed > 0 && changed < SIZE);
    const changes = {
      runs: (offset: number, length: number) => Promise.resolve(bitmaps.runs("b", offset, length)),
    };
    const seen: number[] = [];
    const report = await copyDevice(source, destination, {
      clock: testClock,
      changes,
      verify: true,
      onProgress: ({ phase, bytesTotal }) => phase === "copy" && seen.push(bytesTotal),
    });
    assert.deepEqual(await dirtyRanges(destination, "w"), ranges);
    assert.equal(report.bytesUnchanged, SIZE - changed);
    assert.equal(report.bytesWritten + report.bytesZeroed, changed);
    assert.deepEqual([...new Set(seen)], [changed]);
  }
});
