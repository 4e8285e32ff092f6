/**
 * The mirror backend: the contract, what its options do, and what it copies, counted at the legs.
 *
 * @module
 */
import assert from "node:assert/strict";
import { memory } from "../../backends/memory.ts";
import type { LegSource } from "../../backends/mirror/leg.ts";
import { CLEAN_TICK_MS, READ_ERRORS_MAX } from "../../backends/mirror/limits.ts";
import { mirror } from "../../backends/mirror/mod.ts";
import { type MirrorSettings, openMirror } from "../../backends/mirror/open.ts";
import { decodeRecord, encodeRecord, identitiesOf } from "../../backends/mirror/record.ts";
import { defaultRegistry } from "../../backends/mod.ts";
import type { OpenContext } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import type { Backend, MirrorStatus, Opened } from "../../lib/block/types.ts";
import { readLog } from "../../lib/dirty_log/disk_layout.ts";
import { contractTests, testContext as contractContext } from "../../lib/testing/mod.ts";
import { HastyClock } from "../crash/mirror_world.ts";
import { makeAsync } from "../support/async_backend.ts";
import { ManualClock, MemoryLog, testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";

const MIB = 2 ** 20;
const REGION = 65_536;
const PLAIN = { fua: false };
const DEFAULTS: MirrorSettings = {
  regionBytes: REGION,
  rate: 0,
  source: 1,
  nosync: false,
  volatile: false,
};

/** A leg in memory that outlives the mirror, counts what is done to it, and fails if told. */
class MemoryLeg implements LegSource {
  readonly name: string;
  readonly identity: string;
  readonly size: number;
  /** Calls that throw EIO, once a call at a time if `once`. */
  fails: ("open" | "read" | "write" | "flush")[] = [];
  /** Ranges that were read, and those that were written or zeroed. */
  reads: [offset: number, length: number][] = [];
  writes: [offset: number, length: number][] = [];
  flushes = 0;
  readonly #memory: Promise<Opened>;
  readonly #asynchronous: boolean;

  constructor(name: string, size = MIB, asynchronous = false) {
    this.name = this.identity = name;
    this.size = size;
    this.#asynchronous = asynchronous;
    this.#memory = memory.open({ size, limit: 2 ** 40 }, testContext());
  }

  async content(): Promise<Uint8Array> {
    const bytes = new Uint8Array(this.size);
    await (await this.#memory).backend.read(bytes, 0);
    return bytes;
  }

  async fill(byte: number): Promise<void> {
    await (await this.#memory).backend.write(new Uint8Array(this.size).fill(byte), 0, PLAIN);
  }

  forget(): void {
    this.reads = [];
    this.writes = [];
  }

  get writtenBytes(): number {
    return this.writes.reduce((sum, [, length]) => sum + length, 0);
  }

  #check(what: "open" | "read" | "write" | "flush"): void {
    if (this.fails.includes(what)) throw new BlockError("EIO", `Cannot ${what} ${this.name}`);
  }

  async open(): Promise<Opened> {
    this.#check("open");
    const { backend: inner } = await this.#memory;
    const backend: Backend = {
      geometry: inner.geometry,
      capabilities: { synchronous: true, fua: false },
      read: (into, offset) => {
        this.#check("read");
        this.reads.push([offset, into.length]);
        return inner.read(into, offset);
      },
      write: (from, offset, options) => {
        this.#check("write");
        this.writes.push([offset, from.length]);
        return inner.write(from, offset, options);
      },
      flush: () => {
        this.#check("flush");
        this.flushes += 1;
      },
      zero: (offset, length, options) => {
        this.#check("write");
        this.writes.push([offset, length]);
        return inner.zero?.(offset, length, options);
      },
      trim: (offset, length, options) => inner.trim?.(offset, length, options),
      extents: (offset, length) => inner.extents?.(offset, length) ?? [],
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
    return { backend: this.#asynchronous ? makeAsync(backend) : backend };
  }
}

function hasty(rest: Partial<OpenContext> = {}): OpenContext {
  return testContext({ clock: new HastyClock(1), files: new CrashFiles({ seed: 1 }), ...rest });
}

function statusOf({ management }: Opened): MirrorStatus {
  const status = management?.mirror?.();
  assert.ok(status !== undefined);
  return status;
}

function states(opened: Opened): string {
  return statusOf(opened).legs.map(({ state }) => state).join();
}

async function until(condition: () => boolean): Promise<void> {
  for (let turns = 0; !condition(); turns += 1) {
    assert.ok(turns < 200_000, "waited too long");
    await Promise.resolve();
  }
}

async function write(opened: Opened, byte: number, offset: number, length = 4096): Promise<void> {
  await opened.backend.write(new Uint8Array(length).fill(byte), offset, PLAIN);
}

async function firstByte(opened: Opened, offset: number): Promise<number | undefined> {
  const into = new Uint8Array(1);
  await opened.backend.read(into, offset);
  return into[0];
}

async function close({ backend }: Opened): Promise<void> {
  await backend[Symbol.asyncDispose]();
}

const CONTRACT = { steps: 150, largestBytes: 2 * MIB };

for (
  const { name, run } of contractTests("mirror of memory", async () => {
    const spec = parseSpec("mirror:memory:2M,memory:2M,memory:2M?volatile");
    return (await defaultRegistry().open(spec, contractContext())).opened;
  }, CONTRACT)
) Deno.test(name, run);

for (
  const { name, run } of contractTests("mirror with a log, of asynchronous legs", () => {
    const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`, 2 * MIB, true));
    return openMirror(
      legs,
      { ...DEFAULTS, log: "/log" },
      contractContext({ files: new CrashFiles({ seed: 2 }) }),
    );
  }, CONTRACT)
) Deno.test(name, run);

Deno.test("mirror takes its legs as text and as a list, with options of their own", async () => {
  const registry = defaultRegistry();
  const text = parseSpec("mirror:memory:1M%3Flimit=2M,memory:1M?volatile=yes");
  const { opened } = await registry.open(text, hasty());
  assert.deepEqual(statusOf(opened).legs.map(({ spec }) => spec), [
    "memory:1M?limit=2M",
    "memory:1M",
  ]);
  await close(opened);
  const place = text.argumentPlace;
  const listed = {
    ...parseSpec("mirror:"),
    options: new Map([["legs", {
      value: ["memory:1M", "memory:1M"],
      namePlace: place,
      valuePlace: place,
    }]]),
  };
  const second = await registry.open(listed, hasty());
  assert.equal(second.opened.backend.geometry.size, MIB);
  await close(second.opened);
});

Deno.test("mirror refuses what cannot be a mirror", async () => {
  const registry = defaultRegistry();
  const refused = (text: string, reason: RegExp): Promise<void> =>
    assert.rejects(async () => {
      await registry.open(parseSpec(text), hasty());
    }, reason);
  await refused("mirror:memory:1M", /2 to 8 specs/);
  await refused("mirror:memory:1M,memory:2M", /different sizes.*has 1048576.*has 2097152/);
  await refused("mirror:memory:1M,memory:1M?source=3", /source is leg 3, and there are 2/);
  await refused(
    "mirror:memory:1M,memory:1M?region-size=5000",
    /region size 5000 is no power of two/,
  );
  await refused("mirror:memory:1M,nonsense:x", /no kind "nonsense"/);
  await refused("mirror:memory:1M,file:/none?nosync", /leg 2 is needed/);
  await assert.rejects(
    () => mirror.open({ ...DEFAULTS, legs: ["null:", "null:"], "resync-rate": 0 }, testContext()),
    /there is no registry/,
  );
});

Deno.test("openMirror() copies from the source at first sync, and from nobody with nosync", async () => {
  const legs = [1, 2, 3].map((at) => new MemoryLeg(`leg${at}`));
  await Promise.all(legs.map((leg, at) => leg.fill(at + 1)));
  const opened = await openMirror(legs, { ...DEFAULTS, log: "/log", source: 2 }, hasty());
  assert.equal(await firstByte(opened, 100_000), 2);
  await until(() => states(opened) === "in-sync,in-sync,in-sync");
  for (const leg of legs) assert.ok((await leg.content()).every((byte) => byte === 2));
  await close(opened);
  const equal = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const trusting = await openMirror(equal, { ...DEFAULTS, log: "/log", nosync: true }, hasty());
  assert.equal(states(trusting), "in-sync,in-sync");
  await close(trusting);
  assert.deepEqual(equal.flatMap(({ writes }) => writes), []);
});

Deno.test("openMirror() reads from the leg with the shortest queue", async () => {
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`, MIB, true));
  const opened = await openMirror(legs, { ...DEFAULTS, nosync: true }, hasty());
  const into = new Uint8Array(512);
  await Promise.all(Array.from({ length: 64 }, (_, at) => opened.backend.read(into, at * 512)));
  assert.deepEqual(legs.map(({ reads }) => reads.length), [32, 32]);
  await close(opened);
});

Deno.test("openMirror() mends a leg that cannot be read, and drops one that cannot be mended", async () => {
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const [first] = legs;
  assert.ok(first !== undefined);
  const opened = await openMirror(legs, { ...DEFAULTS, nosync: true, volatile: true }, hasty());
  await write(opened, 7, 0);
  first.fails = ["read"];
  first.forget();
  for (let count = 0; count < 4; count += 1) assert.equal(await firstByte(opened, 0), 7);
  assert.ok(first.writes.length > 0, "nothing was mended");
  assert.equal(states(opened), "in-sync,in-sync");
  first.fails = ["read", "write"];
  for (let count = 0; count < 4; count += 1) assert.equal(await firstByte(opened, 0), 7);
  assert.equal(states(opened), "failed,in-sync");
  await close(opened);
});

Deno.test("openMirror() drops a leg whose reads fail too often", async () => {
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const opened = await openMirror(legs, { ...DEFAULTS, nosync: true, volatile: true }, hasty());
  for (const leg of legs.slice(0, 1)) leg.fails = ["read"];
  for (let count = 0; count <= 2 * READ_ERRORS_MAX + 2; count += 1) {
    assert.equal(await firstByte(opened, 0), 0);
  }
  assert.equal(states(opened), "failed,in-sync");
  await close(opened);
});

Deno.test("openMirror() drops a leg that fails durably before it answers", async () => {
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const files = new CrashFiles({ seed: 1, survival: 0 });
  const context = hasty({ files });
  const settings = { ...DEFAULTS, log: "/log", nosync: true };
  const opened = await openMirror(legs, settings, context);
  for (const leg of legs.slice(0, 1)) leg.fails = ["write"];
  await write(opened, 9, 0);
  for (const leg of legs) leg.fails = [];
  files.crash();
  await Promise.allSettled([close(opened)]);
  for (const leg of legs) leg.forget();
  const next = await openMirror(legs, settings, context);
  assert.equal(states(next), "resync,in-sync");
  for (let count = 0; count < 4; count += 1) assert.equal(await firstByte(next, 0), 9);
  await until(() => states(next) === "in-sync,in-sync");
  assert.deepEqual(legs[1]?.writes, []);
  assert.equal(legs[0]?.writtenBytes, REGION, "more than the marked region was copied");
  await close(next);
});

Deno.test("openMirror() without a log lets no leg go that the next start would believe", async () => {
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const opened = await openMirror(legs, DEFAULTS, hasty());
  await until(() => states(opened) === "in-sync,in-sync");
  const [first, second] = legs;
  assert.ok(first !== undefined && second !== undefined);
  second.fails = ["write"];
  await write(opened, 1, 0);
  assert.equal(states(opened), "in-sync,failed");
  second.fails = [];
  await opened.management?.addLeg?.(2, false);
  await until(() => states(opened) === "in-sync,in-sync");
  first.fails = ["write"];
  await assert.rejects(() => write(opened, 2, 0), /leg 1 .* is not in sync, and without a log/);
  first.fails = [];
  await assert.rejects(() => write(opened, 2, 0), /leg 1 .* is not in sync, and without a log/);
  await opened.management?.addLeg?.(1, false);
  await until(() => states(opened) === "in-sync,in-sync");
  await write(opened, 3, 0);
  await assert.rejects(() => opened.management?.dropLeg?.(1) ?? Promise.resolve(), /without a log/);
  await close(opened);
  assert.deepEqual(await first.content(), await second.content());
});

Deno.test("openMirror() answers a write that fails on all legs with the error, and makes them equal", async () => {
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const opened = await openMirror(legs, { ...DEFAULTS, log: "/log", nosync: true }, hasty());
  for (const leg of legs) leg.fails = ["write"];
  await assert.rejects(() => write(opened, 2, 0), /Cannot write leg/);
  assert.match(states(opened), /in-sync,/);
  for (const leg of legs) leg.fails = [];
  await until(() =>
    states(opened) === "in-sync,in-sync" ||
    statusOf(opened).legs.some(({ state }) => state === "failed")
  );
  await write(opened, 3, 0);
  assert.equal(await firstByte(opened, 0), 3);
  await close(opened);
});

Deno.test("openMirror() takes a leg back: what it missed is copied, or everything", async () => {
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const opened = await openMirror(legs, { ...DEFAULTS, log: "/log", nosync: true }, hasty());
  const { management } = opened, [, second] = legs;
  assert.ok(
    management?.addLeg !== undefined && management.dropLeg !== undefined && second !== undefined,
  );
  await assert.rejects(() => management.addLeg?.(2, false) ?? Promise.resolve(), /it is in use/);
  await assert.rejects(
    () => management.addLeg?.(3, false) ?? Promise.resolve(),
    /there are 1 to 2/,
  );
  await management.dropLeg(2);
  await assert.rejects(
    () => management.dropLeg?.(1) ?? Promise.resolve(),
    /no other leg is in sync/,
  );
  await write(opened, 5, 3 * REGION);
  second.fails = ["open"];
  await assert.rejects(
    () => management.addLeg?.(2, false) ?? Promise.resolve(),
    /Cannot open leg2/,
  );
  second.fails = [];
  second.forget();
  await management.addLeg(2, false);
  await until(() => states(opened) === "in-sync,in-sync");
  assert.equal(second.writtenBytes, REGION);
  await management.dropLeg(2);
  second.forget();
  await management.addLeg(2, true);
  await until(() => states(opened) === "in-sync,in-sync");
  assert.equal(second.writtenBytes, MIB);
  await close(opened);
  assert.deepEqual(await second.content(), await legs[0]?.content());
});

Deno.test("openMirror() copies no more than the marked regions after a crash, at any depth", async () => {
  const files = new CrashFiles({ seed: 5 }), settings = { ...DEFAULTS, log: "/log", nosync: true };
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const opened = await openMirror(legs, settings, hasty({ files }));
  for (const region of [2, 3, 9]) await write(opened, region, region * REGION + 4096);
  files.crash();
  await Promise.allSettled([close(opened)]);
  for (const leg of legs) leg.forget();
  const file = files.open("/log", { readOnly: true, direct: false, lock: false });
  const { bits } = readLog(file, 16, 512);
  file.close();
  const dirty = [...Array(16).keys()].filter((region) =>
    ((bits[region >> 3] ?? 0) >> (region & 7) & 1) === 0
  );
  assert.deepEqual(dirty, [2, 3, 9]);
  const next = await openMirror(legs, settings, hasty({ files }));
  await until(() => states(next) === "in-sync,in-sync");
  const [first, second] = legs;
  assert.deepEqual(first?.writes, []);
  assert.deepEqual(
    [...new Set(second?.writes.map(([offset]) => Math.floor(offset / REGION)))],
    dirty,
  );
  assert.equal(second?.writtenBytes, dirty.length * REGION);
  assert.ok(first?.reads.every(([offset]) => dirty.includes(Math.floor(offset / REGION))));
  await close(next);
});

Deno.test("openMirror() copies a hundredth of a mirror of 1 TiB of which a hundredth is dirty", async () => {
  const size = 2 ** 40, regionBytes = 2 ** 26, regions = size / regionBytes;
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`, size));
  const settings = { ...DEFAULTS, log: "/log", nosync: true, regionBytes };
  const opened = await openMirror(legs, settings, hasty());
  await opened.management?.dropLeg?.(2);
  const dirty = Math.floor(regions / 100);
  for (let at = 0; at < dirty; at += 1) {
    await write(opened, 1 + at % 200, at * 100 * regionBytes + 8192);
  }
  const [first, second] = legs;
  assert.ok(first !== undefined && second !== undefined);
  first.forget();
  second.forget();
  await opened.management?.addLeg?.(2, false);
  await until(() => states(opened) === "in-sync,in-sync");
  assert.equal(second.writtenBytes, dirty * regionBytes);
  assert.ok(second.writtenBytes <= size / 100);
  // Of a region that is a hole but for a page that page alone is read.
  assert.ok(first.reads.reduce((sum, [, length]) => sum + length, 0) <= dirty * 65_536);
  assert.equal(statusOf(opened).regions, regions);
  await close(opened);
});

Deno.test("openMirror() clears regions some time after the last write, having flushed the legs", async () => {
  const clock = new ManualClock();
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const opened = await openMirror(
    legs,
    { ...DEFAULTS, log: "/log", nosync: true },
    hasty({ clock }),
  );
  const tick = async (): Promise<void> => {
    clock.advance(CLEAN_TICK_MS * 1000);
    for (let turns = 0; turns < 100; turns += 1) await Promise.resolve();
  };
  await write(opened, 1, 0);
  assert.equal(statusOf(opened).dirty, 1);
  await tick();
  await write(opened, 2, 0);
  await tick();
  assert.equal(
    statusOf(opened).dirty,
    1,
    "a region that is written to again and again stays marked",
  );
  assert.equal(legs[0]?.flushes, 0);
  await tick();
  assert.equal(statusOf(opened).dirty, 0);
  assert.equal(legs[0]?.flushes, 1);
  await close(opened);
});

Deno.test("openMirror() keeps to its rate, and tells how far it is", async () => {
  const clock = new ManualClock();
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`, 4 * MIB));
  for (const leg of legs.slice(0, 1)) await leg.fill(1);
  const opened = await openMirror(legs, { ...DEFAULTS, rate: MIB }, hasty({ clock }));
  for (let half = 1; half <= 4; half += 1) {
    for (let turns = 0; turns < 5_000; turns += 1) await Promise.resolve();
    const resync = statusOf(opened).resync;
    assert.ok(resync !== null && resync.total === 4 * MIB);
    assert.ok(resync.done <= half * MIB / 2 + REGION, `${resync.done} bytes in ${half} halves`);
    for (let step = 0; step < 50; step += 1) {
      clock.advance(10_000);
      for (let turns = 0; turns < 100; turns += 1) await Promise.resolve();
    }
  }
  const { resync } = statusOf(opened);
  assert.ok(resync !== null && resync.eta_s !== null);
  assert.ok(resync.done > MIB && Math.abs(resync.rate - MIB) < MIB / 4, JSON.stringify(resync));
  assert.ok(resync.eta_s >= 1 && resync.eta_s <= 4, JSON.stringify(resync));
  await close(opened);
});

Deno.test("openMirror() refuses logs that it cannot believe", async () => {
  const files = new CrashFiles({ seed: 6 });
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const log = new MemoryLog(), settings = { ...DEFAULTS, log: "/log", nosync: true };
  const open = (more: Partial<MirrorSettings> = {}, some = legs): Promise<Opened> =>
    openMirror(some, { ...settings, ...more }, hasty({ files, log }));
  const change = (offset: number, bytes: readonly number[]): void => {
    const file = files.open("/log", { readOnly: false, direct: false, lock: false });
    file.write(Uint8Array.from(bytes), offset);
    file.close();
  };
  await close(await open());
  // A header that is damaged: the record still says who is right, and all is copied.
  change(0, [1, 2, 3]);
  const damaged = await open();
  assert.equal(states(damaged), "in-sync,in-sync");
  assert.equal(statusOf(damaged).dirty, 16);
  await close(damaged);
  // Other regions: all is copied as well.
  const finer = await open({ regionBytes: REGION / 2 });
  assert.equal(statusOf(finer).regions, 32);
  await close(finer);
  assert.ok(log.lines.some((line) => /regions of the log .* are others now/.test(line)));
  // A leg that the log does not know is copied to as a whole.
  const [first] = legs, stranger = new MemoryLeg("another");
  assert.ok(first !== undefined);
  const grown = await open({ regionBytes: undefined }, [first, stranger]);
  assert.equal(states(grown), "in-sync,resync");
  await until(() => states(grown) === "in-sync,in-sync");
  assert.equal(stranger.writtenBytes, MIB);
  await close(grown);
  await assert.rejects(
    () => open({}, [new MemoryLeg("x"), new MemoryLeg("y")]),
    /no leg that can be opened/,
  );
  change(600, [0xff, 0xff]);
  await assert.rejects(() => open(), /what it says of the legs is damaged, its checksum is wrong/);
  const image = files.open("/image", {
    readOnly: false,
    direct: false,
    lock: false,
    createSize: 8192,
  });
  image.write(Uint8Array.of(0x53, 0xef), 1080);
  image.close();
  await assert.rejects(() => open({ log: "/image" }), /is not empty, and no log/);
});

Deno.test("openMirror() starts without a leg that is away, and does not believe it later", async () => {
  const files = new CrashFiles({ seed: 7 }), settings = { ...DEFAULTS, log: "/log", nosync: true };
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const [first, second] = legs;
  assert.ok(first !== undefined && second !== undefined);
  await close(await openMirror(legs, settings, hasty({ files })));
  first.fails = ["open"];
  const alone = await openMirror(legs, settings, hasty({ files }));
  assert.equal(states(alone), "failed,in-sync");
  await write(alone, 4, 0);
  await close(alone);
  first.fails = [];
  second.fails = ["open"];
  await assert.rejects(
    () => openMirror(legs, settings, hasty({ files })),
    /no leg that can be opened/,
  );
  second.fails = [];
  const both = await openMirror(legs, settings, hasty({ files }));
  assert.equal(await firstByte(both, 0), 4);
  await until(() => states(both) === "in-sync,in-sync");
  assert.deepEqual(await first.content(), await second.content());
  await close(both);
});

Deno.test("openMirror() changes nothing when it is read-only, and reads legs in sync alone", async () => {
  const files = new CrashFiles({ seed: 8 }), settings = { ...DEFAULTS, log: "/log", nosync: true };
  const legs = [1, 2].map((at) => new MemoryLeg(`leg${at}`));
  const opened = await openMirror(legs, settings, hasty({ files }));
  await opened.management?.dropLeg?.(1);
  await write(opened, 6, 0);
  await close(opened);
  for (const leg of legs) leg.forget();
  const reading = await openMirror(legs, settings, hasty({ files, readOnly: true }));
  assert.equal(reading.management?.addLeg, undefined);
  for (let count = 0; count < 4; count += 1) assert.equal(await firstByte(reading, 0), 6);
  await close(reading);
  assert.deepEqual(legs.flatMap(({ writes }) => writes), []);
  assert.deepEqual(legs[0]?.reads, []);
});

Deno.test("decodeRecord() gives what encodeRecord() took, and finds damage at any byte", () => {
  const [one = "", two = "", three = ""] = identitiesOf(["memory:1M", "memory:1M", "file:/a"]);
  assert.notEqual(one, two);
  const record = {
    id: "00112233445566778899aabbccddeeff",
    events: 2 ** 40,
    size: 2 ** 50,
    regionBytes: REGION,
    closed: true,
    legs: [
      { identity: one, events: 2 ** 40, candidate: false },
      { identity: two, events: 3, candidate: true },
      { identity: three, events: 0, candidate: false },
    ],
  };
  const note = encodeRecord(record);
  assert.deepEqual(decodeRecord(note), { kind: "record", record });
  assert.deepEqual(decodeRecord(new Uint8Array(512)), { kind: "none" });
  for (let at = 0; at < note.length; at += 1) {
    const broken = note.slice();
    broken[at] = (broken[at] ?? 0) ^ 0x10;
    assert.equal(decodeRecord(broken).kind, "damaged", `byte ${at}`);
  }
});
