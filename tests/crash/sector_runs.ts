/**
 * Crash runs at the size of sectors: random writes, zeroes, flushes and FUA writes through a Device,
 * over a file layer that forgets at a crash what was not flushed. Whatever was flushed, or written with
 * FUA, has to be there afterwards; what was not may be anything that was written since.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Device } from "../../lib/block/device.ts";
import { FLAG_FUA, FLAG_MAY_TRIM, makeRequest } from "../../lib/block/request.ts";
import type { Maybe } from "../../lib/block/types.ts";
import { SeededRandom } from "../support/context.ts";
import { CrashFiles, SECTOR_BYTES } from "../support/crash_files.ts";

const SECTORS = 64;
/** Bytes of the disk of a run. */
export const DISK_BYTES: number = SECTORS * SECTOR_BYTES;
const RUN_SECTORS_MAX = 12;
const CRASHES_PER_RUN = 4;
const STEPS_PER_CRASH = 60;

/** One run. */
export interface SectorRun {
  /** Decides everything. */
  readonly seed: number;
  /** Opens the disk of DISK_BYTES, new or again. */
  readonly open: (files: CrashFiles) => Promise<Device>;
  /** A planted bug of the file layer. */
  readonly flushDoesNothing?: boolean;
}

/** What a sector may hold after a crash: `versions[durable]` or any later one. */
interface Sector {
  versions: Uint8Array[];
  /** Index of the latest version whose write is done. */
  done: number;
  /** Index of the latest version that a finished flush covers. */
  durable: number;
}

/** What a run has seen. */
export interface Outcome {
  flushes: number;
  /** Sectors found newer than what was flushed: chance let them survive. */
  newer: number;
  /** Sectors that lost writes which nobody had flushed. */
  lost: number;
  digest: number;
}

/** Random requests against one device, and what they promise. */
class Actor {
  readonly sectors: Sector[];
  readonly #device: Device;
  readonly #random: SeededRandom;
  readonly #pending: Promise<void>[] = [];

  constructor(device: Device, random: SeededRandom, contents: readonly Uint8Array[]) {
    this.#device = device;
    this.#random = random;
    this.sectors = contents.map((bytes) => ({ versions: [bytes], done: 0, durable: 0 }));
  }

  async step(): Promise<void> {
    const choice = this.#random.below(10);
    if (choice < 6) this.#write(choice < 1);
    else if (choice < 7) this.#zero();
    else if (choice < 9) this.#flush();
    else await Promise.resolve();
  }

  /** Waits for what was in flight at the crash; it may fail. */
  async end(): Promise<void> {
    await Promise.allSettled(this.#pending);
  }

  /** Runs `then` when the request is done; the order of events is that which a client sees. */
  #when(outcome: Maybe<void>, then: () => void): void {
    if (outcome === undefined) then();
    else this.#pending.push(outcome.then(then, () => {}));
  }

  #range(): [start: number, count: number] {
    const count = 1 + this.#random.below(RUN_SECTORS_MAX);
    return [this.#random.below(SECTORS - count + 1), count];
  }

  #change(start: number, bytes: Uint8Array): { sector: Sector; version: number }[] {
    return this.sectors.slice(start, start + bytes.length / SECTOR_BYTES).map((sector, index) => {
      sector.versions.push(bytes.slice(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES));
      return { sector, version: sector.versions.length - 1 };
    });
  }

  #write(fua: boolean): void {
    const [start, count] = this.#range();
    const data = new Uint8Array(count * SECTOR_BYTES);
    this.#random.fill(data);
    const changed = this.#change(start, data);
    const flags = fua ? FLAG_FUA : 0;
    const request = makeRequest("write", start * SECTOR_BYTES, data.length, { flags, data });
    this.#when(this.#device.submit(request), () => {
      for (const { sector, version } of changed) {
        sector.done = Math.max(sector.done, version);
        if (fua) sector.durable = Math.max(sector.durable, version);
      }
    });
  }

  #zero(): void {
    const [start, count] = this.#range();
    const changed = this.#change(start, new Uint8Array(count * SECTOR_BYTES));
    const request = makeRequest("zero", start * SECTOR_BYTES, count * SECTOR_BYTES, {
      flags: FLAG_FUA | FLAG_MAY_TRIM,
    });
    this.#when(this.#device.submit(request), () => {
      for (const { sector, version } of changed) {
        sector.done = Math.max(sector.done, version);
        sector.durable = Math.max(sector.durable, version);
      }
    });
  }

  #flush(): void {
    const covered = this.sectors.map(({ done }) => done);
    this.#when(this.#device.submit(makeRequest("flush")), () => {
      this.sectors.forEach((sector, index) => {
        sector.durable = Math.max(sector.durable, covered[index] ?? 0);
      });
    });
  }
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.every((byte, index) => byte === b[index]);
}

/** Fails if a sector holds what it must not, and gives the contents to go on with. */
async function check(device: Device, sectors: Sector[], outcome: Outcome): Promise<Uint8Array[]> {
  const data = new Uint8Array(SECTORS * SECTOR_BYTES);
  await device.submit(makeRequest("read", 0, data.length, { data }));
  return sectors.map(({ versions, durable }, index) => {
    const found = data.slice(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES);
    const version = versions.findLastIndex((bytes) => same(bytes, found));
    assert.ok(
      version >= durable,
      `sector ${index}: version ${durable} was durable, found ${version}`,
    );
    if (version > durable) outcome.newer += 1;
    if (version < versions.length - 1) outcome.lost += 1;
    outcome.digest = (Math.imul(outcome.digest, 31) + (found[0] ?? 0) + version) >>> 0;
    return found;
  });
}

/** One seeded run of several crashes. Fails if what was durable is not there. */
export async function runSectors(
  { seed, open, flushDoesNothing = false }: SectorRun,
): Promise<Outcome> {
  const random = new SeededRandom(seed);
  const files = new CrashFiles({ seed: random.uint32(), flushDoesNothing });
  const outcome: Outcome = { flushes: 0, newer: 0, lost: 0, digest: 0 };
  let contents: Uint8Array[] = Array.from({ length: SECTORS }, () => new Uint8Array(SECTOR_BYTES));
  for (let crash = 0; crash < CRASHES_PER_RUN; crash += 1) {
    const device = await open(files);
    const actor = new Actor(device, random, contents);
    const steps = 1 + random.below(STEPS_PER_CRASH);
    for (let step = 0; step < steps; step += 1) await actor.step();
    files.crash();
    await actor.end();
    await assert.rejects(async () => await device[Symbol.asyncDispose](), { errno: "EIO" });
    const after = await open(files);
    contents = await check(after, actor.sectors, outcome);
    await after[Symbol.asyncDispose]();
    files.crash();
  }
  outcome.flushes = files.flushes;
  return outcome;
}
