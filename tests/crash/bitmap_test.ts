/**
 * Ends of the machine at any call of a disk with a dirty bitmap, over files that forget what was not
 * synced. What has to hold after each: a region that is not marked is in the backup as it is on the disk.
 * The backup is made in points, some of which fail. Bugs are planted to see that the test finds them.
 *
 * @module
 */
import assert from "node:assert/strict";
import { file } from "../../backends/file.ts";
import type { DeviceBitmaps } from "../../lib/block/bitmaps.ts";
import type { Device } from "../../lib/block/device.ts";
import { makeRequest } from "../../lib/block/request.ts";
import type { Backend } from "../../lib/block/types.ts";
import { parseOptions } from "../../lib/block/options.ts";
import type { TargetBitmaps } from "../../lib/dirty_log/target_bitmaps.ts";
import type { FileAccess, FileOpenOptions, RawFile } from "../../lib/sys/file_access.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import {
  bitmapDisk,
  dirtyRanges,
  MemoryFolder,
  randomChange,
  submitChange,
} from "../dirty_log/bitmap_fixtures.ts";
import { MemoryLog, SeededRandom, testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";

type Bug =
  | "none"
  | "bitmaps are not flushed"
  | "marks come after writes"
  | "trims and zeroes are not marked"
  | "the second write to a region does not wait";

const SIZE = 160 * 1024 + 300, GRANULARITY = 512;
const CHANGES_PER_ROUND = 3, ROUNDS_MAX = 60, CALLS_MAX = 160;

/** Files that end after some calls, as with the machine. */
class EndingFiles implements FileAccess {
  callsLeft: number;
  readonly #files: CrashFiles;
  readonly #bug: Bug;

  constructor(files: CrashFiles, bug: Bug, calls: number) {
    this.#files = files;
    this.#bug = bug;
    this.callsLeft = calls;
  }

  open(path: string, options: FileOpenOptions): RawFile {
    const raw = this.#files.open(path, options);
    const step = (): void => {
      this.callsLeft -= 1;
      // At once: a flush that is under way does not end any more.
      if (this.callsLeft === -1) this.#files.crash();
      if (this.callsLeft < 0) throw new SystemError("EIO", "use", path, "the machine has ended");
    };
    const skips = this.#bug === "bitmaps are not flushed" && path !== "disk";
    const calls: Partial<RawFile> = {
      write: (from, offset) => (step(), raw.write(from, offset)),
      flush: () => (step(), skips ? undefined : raw.flush()),
      flushAsync: async () => {
        step();
        if (!skips) await raw.flushAsync();
      },
    };
    return new Proxy(raw, {
      get(target, name): unknown {
        const own: unknown = Reflect.get(calls, name);
        if (own !== undefined) return own;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }
}

/** Bitmaps that have a bug. */
function buggy(bitmaps: TargetBitmaps, bug: Bug): DeviceBitmaps {
  const seen = new Set<number>();
  return new Proxy<DeviceBitmaps>(bitmaps, {
    get(target, name): unknown {
      if (name === "changing" && bug === "marks come after writes") {
        return (offset: number, length: number): void => {
          const later = async (): Promise<void> => {
            await Promise.resolve();
            await target.changing(offset, length);
          };
          later().catch(() => {});
        };
      }
      if (name === "changing" && bug === "the second write to a region does not wait") {
        return (offset: number, length: number): unknown => {
          const region = Math.floor(offset / GRANULARITY);
          const marked = target.changing(offset, length);
          marked?.catch(() => {});
          if (seen.has(region) && length < GRANULARITY) return undefined;
          seen.add(region);
          return marked?.finally(() => seen.delete(region));
        };
      }
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

async function openDisk(files: FileAccess): Promise<Backend> {
  const values = new Map<string, unknown>([["path", "disk"], ["size", SIZE]]);
  const options = parseOptions(file.options, values, { action: "open the disk" });
  return (await file.open(options, testContext({ files }))).backend;
}

async function contentOf(device: Device): Promise<Uint8Array> {
  const data = new Uint8Array(SIZE);
  await device.submit(makeRequest("read", 0, SIZE, { data }));
  return data;
}

/** One run: several lives of a machine. */
class Run {
  readonly #random: SeededRandom;
  readonly #files: CrashFiles;
  readonly #names = new Set<string>();
  readonly #bug: Bug;
  readonly #mayBlock: boolean;
  /** What the backup has. */
  #backup = new Uint8Array(SIZE);
  /** The bitmap was begun, and that was answered. */
  #begun = false;
  /** Regions that had to be in a backup and were compared, over all lives. */
  compared = 0;

  constructor(seed: number, bug: Bug, survival: number) {
    this.#random = new SeededRandom(seed);
    this.#files = new CrashFiles({ seed: seed + 1, survival });
    this.#bug = bug;
    this.#mayBlock = seed % 2 === 0 && !bug.startsWith("the second");
  }

  async life(): Promise<void> {
    const files = new EndingFiles(this.#files, this.#bug, 4 + this.#random.below(CALLS_MAX));
    const folder = new MemoryFolder(files, this.#names);
    try {
      const disk = await openDisk(files);
      const { device, bitmaps } = bitmapDisk(disk, {
        folder,
        mayBlock: this.#mayBlock,
        log: new MemoryLog(),
      });
      device.bitmaps = this.#bug === "none" ? bitmaps : buggy(bitmaps, this.#bug);
      await this.#work(device, bitmaps, disk);
    } catch (error) {
      if (files.callsLeft >= 0) throw error;
    }
    if (files.callsLeft >= 0) this.#files.crash();
    await this.#check();
  }

  async #work(device: Device, bitmaps: TargetBitmaps, disk: Backend): Promise<void> {
    if (!this.#begun) {
      if (bitmaps.names.length > 0) await bitmaps.run({ action: "remove", name: "b" });
      const add = { action: "add", name: "b", persistent: true, granularity: GRANULARITY } as const;
      await bitmaps.run(add);
      this.#backup = new Uint8Array(await contentOf(device));
      this.#begun = true;
    }
    for (let round = 0; round < ROUNDS_MAX; round += 1) {
      await this.#change(device, disk);
      const dice = this.#random.below(10);
      if (dice === 0) await device.submit(makeRequest("flush"));
      else if (dice === 1) await this.#point(device, bitmaps, disk);
      else if (dice === 2) {
        await this.#copy(device);
        await bitmaps.run({ action: "clear", name: "b" });
      }
    }
  }

  async #change(device: Device, disk: Backend): Promise<void> {
    const random = this.#random;
    const changes = Array.from({ length: CHANGES_PER_ROUND }, () => randomChange(random, SIZE));
    const [first] = changes;
    // Two that meet in a region, and others behind them.
    if (first !== undefined) {
      changes.splice(1, 0, { ...first, length: Math.min(first.length, 100) });
    }
    if (random.below(2) === 0) {
      for (const { offset, length } of changes) device.willSubmit("write", offset, length);
    }
    const done = await Promise.allSettled(changes.map(async (change) => {
      const { operation, offset, length } = change;
      if (this.#bug === "trims and zeroes are not marked" && operation !== "write") {
        await disk.zero?.(offset, length, { fua: false, mayTrim: true, fastOnly: false });
      } else await submitChange(device, change, random);
    }));
    for (const each of done) if (each.status === "rejected") throw each.reason;
  }

  /** A backup, which fails now and then. */
  async #point(device: Device, bitmaps: TargetBitmaps, disk: Backend): Promise<void> {
    await bitmaps.run({ action: "freeze", name: "b" });
    await this.#change(device, disk);
    const fails = this.#random.below(3) === 0;
    if (!fails) await this.#copy(device);
    await bitmaps.run({ action: fails ? "merge" : "drop", name: "b" });
  }

  /** Copies what the bitmap says. */
  async #copy(device: Device): Promise<void> {
    const content = await contentOf(device);
    for (const [start, end] of await dirtyRanges(device, "b")) {
      this.#backup.set(content.subarray(start, end), start);
    }
  }

  /** What the next life finds. */
  async #check(): Promise<void> {
    if (!this.#begun) return;
    const folder = new MemoryFolder(this.#files, this.#names);
    const { device, bitmaps } = bitmapDisk(await openDisk(this.#files), { folder });
    const content = await contentOf(device);
    // A point that the machine's end has left: its backup may have failed.
    if (bitmaps.facts[0]?.frozen === true) await bitmaps.run({ action: "merge", name: "b" });
    const marked = new Uint8Array(SIZE);
    for (const [start, end] of await dirtyRanges(device, "b")) marked.fill(1, start, end);
    for (let at = 0; at < SIZE; at += GRANULARITY) {
      if (marked[at] === 1) continue;
      this.compared += 1;
      const end = Math.min(SIZE, at + GRANULARITY);
      const same = content.subarray(at, end).every((byte, index) =>
        byte === this.#backup[at + index]
      );
      assert.ok(same, `region at ${at} has changed and is not marked`);
    }
    await device[Symbol.asyncDispose]();
    bitmaps.close();
  }
}

const LIVES = 4;

/** Regions that were compared in the runs of some seeds; rejects with what is wrong. */
async function runs(bug: Bug, seeds: number, survival: number): Promise<number> {
  let compared = 0;
  for (let seed = 1; seed <= seeds; seed += 1) {
    const run = new Run(seed, bug, survival);
    for (let life = 0; life < LIVES; life += 1) await run.life();
    compared += run.compared;
  }
  return compared;
}

for (const survival of [0, 0.5, 1]) {
  Deno.test(`no change is lost to a backup when power goes and ${survival} of what is unsynced stays`, async () => {
    assert.ok(await runs("none", 25, survival) > 1000);
  });
}

for (
  const bug of [
    "bitmaps are not flushed",
    "marks come after writes",
    "trims and zeroes are not marked",
    "the second write to a region does not wait",
  ] as const
) {
  Deno.test(`a planted bug is found: ${bug}`, async () => {
    await assert.rejects(runs(bug, 120, 0.5), /has changed and is not marked/);
  });
}
