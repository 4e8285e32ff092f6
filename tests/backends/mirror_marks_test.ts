/**
 * Marks of a mirror on their way to its log: that none of them comes too late, and how few flushes they
 * take.
 *
 * @module
 */
import assert from "node:assert/strict";
import { AHEAD_REGIONS, CLEAN_TICK_MS } from "../../backends/mirror/limits.ts";
import { type MirrorSettings, openMirror } from "../../backends/mirror/open.ts";
import { usualRegion } from "../../backends/mirror/plan.ts";
import type { LegSource } from "../../backends/mirror/leg.ts";
import { memory } from "../../backends/memory.ts";
import type { Backend, MirrorStatus, Opened } from "../../lib/block/types.ts";
import { DISK_LOG_BITMAP_OFFSET } from "../../lib/dirty_log/constants.ts";
import type { FileAccess, RawFile } from "../../lib/sys/file_access.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { HastyClock } from "../crash/mirror_world.ts";
import { ManualClock, testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";

const REGION = 65_536, REGIONS = 512, SIZE = REGION * REGIONS;
const PLAIN = { fua: false };
const SETTINGS: MirrorSettings = {
  log: "/log",
  regionBytes: REGION,
  rate: 0,
  source: 1,
  nosync: true,
  volatile: false,
};

/** The log of a mirror: what of it is durable, how often it was flushed, and whether that fails. */
class WatchedLog implements FileAccess {
  readonly #inner = new CrashFiles({ seed: 3 });
  durable: Uint8Array = new Uint8Array(0);
  flushes = 0;
  writes = 0;
  fails: () => boolean = () => false;

  open(...args: Parameters<FileAccess["open"]>): RawFile {
    const inner = this.#inner.open(...args);
    const content = (): Uint8Array => {
      const bytes = new Uint8Array(inner.size());
      inner.read(bytes, 0);
      return bytes;
    };
    const flush = (): void => {
      inner.flush();
      this.durable = content();
    };
    const flushAsync = async (): Promise<void> => {
      this.flushes += 1;
      const covered = content();
      await inner.flushAsync();
      if (this.fails()) throw new SystemError("EIO", "flush", "/log", "it is told to fail");
      this.durable = covered;
    };
    const write = (from: Uint8Array, offset: number): void => {
      this.writes += 1;
      inner.write(from, offset);
    };
    return new Proxy(inner, {
      get(target, name): unknown {
        if (name === "flush") return flush;
        if (name === "flushAsync") return flushAsync;
        if (name === "write") return write;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  /** Regions that are marked, durably. */
  get marked(): number[] {
    return [...Array(REGIONS).keys()].filter((region) => this.isMarked(region));
  }

  isMarked(region: number): boolean {
    const byte = this.durable[DISK_LOG_BITMAP_OFFSET + (region >> 3)] ?? 0;
    return (byte >> (region & 7) & 1) === 0;
  }
}

interface Watched {
  readonly opened: Opened;
  readonly log: WatchedLog;
  /** Where legs were written to before that was marked. */
  readonly early: readonly number[];
  /** Flushes of the legs. */
  readonly legFlushes: () => number;
  /** Writes of the legs so far. */
  readonly written: () => number;
}

/** A mirror whose legs note what is written to them and not marked, durably. */
async function watched(clock: HastyClock | ManualClock = new HastyClock(1)): Promise<Watched> {
  const log = new WatchedLog();
  let flushes = 0, written = 0;
  const early: number[] = [];
  const leg = (name: string): LegSource => ({
    name,
    identity: name,
    open: async () => {
      const { backend: inner } = await memory.open({ size: SIZE, limit: SIZE }, testContext());
      const backend: Backend = {
        geometry: inner.geometry,
        capabilities: { synchronous: false, fua: false },
        read: (into, offset) => inner.read(into, offset),
        write: async (from, offset, options) => {
          for (let at = offset; at < offset + from.length; at += 4096) {
            if (!log.isMarked(Math.floor(at / REGION))) early.push(at);
          }
          written += 1;
          await Promise.resolve();
          await inner.write(from, offset, options);
        },
        flush: () => void (flushes += 1),
        [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
      };
      return { backend };
    },
  });
  const context = testContext({ clock, files: log });
  const opened = await openMirror([leg("a"), leg("b")], SETTINGS, context);
  log.flushes = log.writes = 0;
  return { opened, log, early, legFlushes: () => flushes, written: () => written };
}

async function close({ opened: { backend }, early }: Watched): Promise<void> {
  await backend[Symbol.asyncDispose]();
  assert.deepEqual(early, [], "written before they were marked");
}

function write({ opened }: Watched, region: number, length = 4096): Promise<void> {
  return Promise.try(() =>
    opened.backend.write(new Uint8Array(length).fill(1), region * REGION, PLAIN)
  );
}

function statusOf({ opened: { management } }: Watched): MirrorStatus {
  const status = management?.mirror?.();
  assert.ok(status !== undefined);
  return status;
}

async function tick(clock: ManualClock): Promise<void> {
  clock.advance(CLEAN_TICK_MS * 1000);
  for (let turns = 0; turns < 200; turns += 1) await Promise.resolve();
}

Deno.test("openMirror() writes to no leg before the mark is durable, at any depth", async () => {
  for (const depth of [1, 7, 64, 200]) {
    const mirror = await watched(), random = seededRandom(depth);
    let left = 1_500;
    const lane = async (): Promise<void> => {
      while (left > 0) {
        left -= 1;
        const regions = random.oneIn(8) ? 1 + random.below(40) : 1;
        await write(
          mirror,
          random.below(REGIONS - regions),
          regions * REGION - 4096 * random.below(2),
        );
      }
    };
    await Promise.all(Array.from({ length: depth }, lane));
    assert.ok(mirror.written() >= 3_000, `${mirror.written()} writes`);
    await close(mirror);
  }
});

Deno.test("openMirror() fails the writes whose marks are not durable, and those alone", async () => {
  const mirror = await watched(new ManualClock()), { log } = mirror, random = seededRandom(9);
  log.fails = () => random.oneIn(3);
  const outcomes = { fulfilled: 0, rejected: 0 };
  for (let round = 0; round < 60; round += 1) {
    // What has failed is tried again, by chance, and must not get to the legs unmarked then.
    const all = Array.from({ length: 50 }, () => write(mirror, random.below(REGIONS)));
    for (const { status } of await Promise.allSettled(all)) outcomes[status] += 1;
  }
  assert.ok(outcomes.fulfilled > 1_000 && outcomes.rejected > 50, JSON.stringify(outcomes));
  log.fails = () => false;
  for (let region = 0; region < REGIONS; region += 1) await write(mirror, region);
  await close(mirror);
});

Deno.test("openMirror() shares one write and one flush of the log among writes that come together", async () => {
  const mirror = await watched(new ManualClock()), { log } = mirror;
  await Promise.all(Array.from({ length: 64 }, (_, at) => write(mirror, at * 7 % REGIONS)));
  assert.equal(log.flushes, 1);
  assert.equal(log.writes, 1);
  await Promise.all(Array.from({ length: 64 }, (_, at) => write(mirror, at * 7 % REGIONS)));
  assert.equal(log.flushes, 1, "what is marked costs nothing");
  // What comes during a flush shares the next one; a second write to a region does not wait for that.
  const order: string[] = [];
  const note = (name: string) => (): void => void order.push(name);
  const first = write(mirror, 5).then(note("first"));
  for (let turns = 0; turns < 4; turns += 1) await Promise.resolve();
  const more = [write(mirror, 500).then(note("next")), write(mirror, 502).then(note("next"))];
  const second = Promise.try(() =>
    mirror.opened.backend.write(new Uint8Array(4096), 5 * REGION + 8192, PLAIN)
  ).then(note("second"));
  await Promise.all([first, second, ...more]);
  assert.equal(log.flushes, 3);
  assert.deepEqual(order.toSorted(), ["first", "next", "next", "second"]);
  assert.ok(order.indexOf("second") < order.indexOf("next"), order.join());
  await close(mirror);
});

Deno.test("openMirror() marks ahead where writes follow each other, and nowhere else", async () => {
  const mirror = await watched(new ManualClock()), { log } = mirror;
  for (const region of [100, 101, 300, 302, 303]) await write(mirror, region);
  assert.deepEqual(log.marked, [100, 101, 300, 302, 303]);
  log.flushes = 0;
  for (let region = 0; region < 4 * AHEAD_REGIONS; region += 1) await write(mirror, region);
  // Two regions tell that it goes on, the third one marks the rest of its run.
  assert.equal(log.flushes, 3 + 3);
  await close(mirror);
});

Deno.test("openMirror() clears what it has marked ahead in vain, without a flush of the legs", async () => {
  const clock = new ManualClock(), mirror = await watched(clock);
  for (const region of [32, 33, 34]) await write(mirror, region);
  assert.equal(statusOf(mirror).dirty, AHEAD_REGIONS);
  await mirror.opened.management?.dropLeg?.(2);
  const before = mirror.legFlushes();
  for (let ticks = 0; ticks < 3; ticks += 1) await tick(clock);
  assert.equal(statusOf(mirror).dirty, 3, "the leg that is missing lacks what was written");
  assert.equal(mirror.legFlushes() - before, 1);
  await close(mirror);
});

Deno.test("usualRegion() keeps to 32768 regions", () => {
  const MIB = 2 ** 20;
  const sizes: readonly [size: number, region: number][] = [
    [1, MIB],
    [2 ** 35, MIB],
    [2 ** 35 + 512, 2 * MIB],
    [2 ** 40, 32 * MIB],
  ];
  for (const [size, region] of sizes) assert.equal(usualRegion(size), region);
});
