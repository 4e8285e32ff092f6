/**
 * Loads on devices of this process: how they end, what they count, that a rate is held, and that planted
 * faults of the storage are found. Time is a clock of the test: it goes on by a µs whenever it is read.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Clock } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { Request } from "../../lib/block/request.ts";
import type { Maybe } from "../../lib/block/types.ts";
import { type LoadTarget, runOnDevice } from "../../lib/bench/device_load.ts";
import { Load, type LoadSettings, replaySequence } from "../../lib/bench/load.ts";
import { Stamps } from "../../lib/bench/stamps.ts";
import { LoadTally } from "../../lib/bench/tally.ts";
import { seededRandom } from "../../lib/testing/mod.ts";

const BLOCK = 4096, SIZE = 64 * BLOCK;

/** Moves on by a µs when it is read, and by what is slept. */
class ReadClock implements Clock {
  us = 0;
  /** How long was slept, in ms, each time. */
  readonly sleeps: number[] = [];

  now(): number {
    return this.us += 1;
  }

  wall(): number {
    return this.us / 1000;
  }

  sleep(ms: number): Promise<void> {
    this.sleeps.push(ms);
    this.us += ms * 1000;
    return Promise.resolve();
  }
}

function settings(different: Partial<LoadSettings> = {}): LoadSettings {
  return {
    size: SIZE,
    blockSizes: [{ min: BLOCK, max: BLOCK, weight: 1 }],
    pattern: { kind: "random" },
    readShare: 0.5,
    seed: 3,
    end: { requests: 1000 },
    ...different,
  };
}

/** A disk in memory; `serve` may do otherwise for the request of that number, from 1. */
class Disk implements LoadTarget {
  readonly bytes = new Uint8Array(SIZE);
  readonly log: string[] = [];
  inFlight = 0;
  inFlightMax = 0;
  readonly #other: (request: Request, number: number) => Maybe<void> | "usual";
  readonly #later: boolean;
  readonly #random = seededRandom(11);
  #waiting: (() => void)[] = [];

  constructor(
    other: (request: Request, number: number) => Maybe<void> | "usual" = () => "usual",
    later = false,
  ) {
    this.#other = other;
    this.#later = later;
  }

  submit(request: Request): Maybe<void> {
    this.log.push(`${request.operation} ${request.offset} ${request.length}`);
    const special = this.#other(request, this.log.length);
    if (special !== "usual") return special;
    if (!this.#later) return this.serve(request);
    this.inFlight += 1;
    this.inFlightMax = Math.max(this.inFlight, this.inFlightMax);
    return new Promise((resolve) => {
      this.#waiting.push(() => {
        this.serve(request);
        this.inFlight -= 1;
        resolve();
      });
      queueMicrotask(() => this.#oneOfThem());
    });
  }

  serve({ operation, offset, length, data }: Request): void {
    if (operation === "write") this.bytes.set(data, offset);
    else data.set(this.bytes.subarray(offset, offset + length));
  }

  /** Requests end in any order. */
  #oneOfThem(): void {
    const index = this.#random.below(this.#waiting.length);
    const [done] = this.#waiting.splice(index, 1);
    done?.();
  }
}

function stamps(knows = true): Stamps {
  return new Stamps({ size: SIZE, blockBytes: BLOCK, seed: 3 }, knows, 8);
}

async function run(
  target: LoadTarget,
  wanted: LoadSettings,
  { depth = 4, clock = new ReadClock(), signal }: {
    readonly depth?: number;
    readonly clock?: ReadClock;
    readonly signal?: AbortSignal;
  } = {},
): Promise<ReturnType<Load["report"]>> {
  const load = new Load(wanted);
  await runOnDevice(target, load, depth, { clock, signal });
  return load.report(clock.now(), null);
}

Deno.test("runOnDevice() ends after as many requests as told, whatever the depth", async () => {
  for (const later of [false, true]) {
    for (const depth of [1, 7]) {
      const disk = new Disk(undefined, later);
      const report = await run(disk, settings(), { depth });
      assert.equal(report.total.count, 1000);
      assert.equal(report.read.count + report.write.count, 1000);
      assert.equal(report.total.bytes, 1000 * BLOCK);
      assert.equal(report.interrupted, false);
      assert.equal(disk.log.length, 1000);
      assert.equal(disk.inFlightMax, later ? depth : 0);
    }
  }
});

Deno.test("runOnDevice() ends after as many bytes, and as much time, as told", async () => {
  const bytes = await run(new Disk(), settings({ end: { bytes: 10 * BLOCK + 1 } }));
  assert.equal(bytes.total.count, 11);
  const clock = new ReadClock();
  const time = await run(new Disk(), settings({ end: { timeUs: 5_000 } }), { clock });
  assert.ok(time.durationUs >= 5_000 && time.durationUs < 5_020, String(time.durationUs));
  assert.ok(time.total.count > 1_000 && time.total.count < 5_000, "the clock was read for each");
});

Deno.test("runOnDevice() makes the requests of a warm-up and does not count them", async () => {
  const disk = new Disk();
  let warm = 0;
  const report = await run(
    disk,
    settings({ end: { timeUs: 5_000 }, warmUpUs: 3_000, onWarm: () => warm = disk.log.length }),
  );
  assert.ok(warm > 500, String(warm));
  assert.equal(report.total.count, disk.log.length - warm);
  assert.ok(report.durationUs >= 5_000 && report.durationUs < 5_020, String(report.durationUs));
});

Deno.test("runOnDevice() submits the same requests for the same seed, done at once or later", async () => {
  const now = new Disk(), later = new Disk(undefined, true);
  await run(now, settings());
  await run(later, settings(), { depth: 16 });
  assert.deepEqual(later.log, now.log);
});

Deno.test("runOnDevice() holds a rate, and counts latencies from when a request was due", async () => {
  for (const later of [false, true]) {
    const clock = new ReadClock();
    const report = await run(
      new Disk(undefined, later),
      settings({ rate: 100, end: { timeUs: 1e6 } }),
      { clock },
    );
    assert.equal(report.total.count, 100);
    assert.ok(report.durationUs >= 1e6 - 10_000 && report.durationUs < 1e6 + 1_000);
    assert.ok(clock.sleeps.length >= 99, "it sleeps in between");
  }
  // A disk that takes 20 ms where 10 ms are allowed is later each time.
  const clock = new ReadClock();
  const slow = new Disk((request) => {
    slow.serve(request);
    clock.us += 20_000;
  });
  const { total } = await run(slow, settings({ rate: 100, end: { requests: 50 } }), {
    depth: 1,
    clock,
  });
  assert.ok(total.latency.maxUs > 500_000, `${total.latency.maxUs} µs`);
});

Deno.test("runOnDevice() counts what fails, by its errno, and goes on", async () => {
  for (const rejects of [false, true]) {
    const disk = new Disk((_request, number) => {
      if (number % 10 !== 0) return "usual";
      const error = new BlockError(number % 20 === 0 ? "ENOSPC" : "EIO", "Cannot: planted");
      if (rejects) return Promise.reject(error);
      throw error;
    });
    const report = await run(disk, settings());
    assert.deepEqual(report.errors, { EIO: 50, ENOSPC: 50 });
    assert.equal(report.total.errors, 100);
    assert.equal(report.total.count, 1000);
    assert.equal(report.total.bytes, 900 * BLOCK);
    assert.equal(report.failures.length, 8);
    assert.equal(report.failures[0]?.what, "Cannot: planted");
  }
});

Deno.test("runOnDevice() ends early when it is told to, with what was done", async () => {
  const stop = new AbortController();
  const disk = new Disk((request, number) => {
    if (number === 200) stop.abort();
    disk.serve(request);
    return Promise.resolve();
  });
  const report = await run(disk, settings(), { signal: stop.signal });
  assert.equal(report.interrupted, true);
  assert.ok(report.total.count >= 200 && report.total.count < 300, String(report.total.count));
});

Deno.test("a verified load finds nothing wrong with a disk that is right", async () => {
  for (const later of [false, true]) {
    const blockSizes = [{ min: BLOCK, max: 4 * BLOCK, weight: 1 }];
    const report = await run(
      new Disk(undefined, later),
      settings({ stamps: stamps(), blockSizes }),
      { depth: 8 },
    );
    assert.equal(report.total.count, 1000);
    assert.ok((report.verify?.checked ?? 0) > 500);
    assert.deepEqual(report.verify?.faults, []);
  }
});

Deno.test("a verified load finds a write that was lost", async () => {
  for (const later of [false, true]) {
    let lost = "";
    const disk: Disk = new Disk((request, number) => {
      if (number < 500 || request.operation !== "write" || lost !== "") return "usual";
      lost = String(request.offset);
      return undefined;
    }, later);
    const report = await run(disk, settings({ stamps: stamps(), end: { requests: 3000 } }));
    const [fault] = report.verify?.faults ?? [];
    assert.equal(fault?.kind, "lost");
    assert.equal(String(fault?.offset), lost);
  }
});

Deno.test("a verified load finds data of the wrong place, and a read that gave nothing", async () => {
  const wrong: Disk = new Disk((request, number) => {
    if (number !== 800 && number !== 801) return "usual";
    const offset = (request.offset + BLOCK) % SIZE;
    return wrong.serve({ ...request, offset });
  });
  const { verify } = await run(wrong, settings({ stamps: stamps() }));
  assert.ok((verify?.faultCount ?? 0) > 0);
  assert.ok(verify?.faults.some(({ kind }) => kind === "misplaced"));
  const lazy: Disk = new Disk((request, number) =>
    request.operation === "read" && number > 500 ? undefined : "usual"
  );
  const none = await run(lazy, settings({ stamps: stamps() }));
  assert.ok((none.verify?.faultCount ?? 0) > 100);
  const idle: Disk = new Disk((request) => request.operation === "read" ? undefined : "usual");
  const one = await run(idle, settings({ stamps: stamps(), size: BLOCK }), { depth: 1 });
  const { count } = one.read;
  assert.ok((one.verify?.faultCount ?? 0) > count * 0.9, "what was written is not taken for read");
});

Deno.test("a second run knows what the first one has written, and what of it is missing", async () => {
  const disk = new Disk(undefined, true);
  const first = settings({ stamps: stamps(), end: { requests: 700 } });
  await run(disk, first, { depth: 8 });
  const check = async (known: Stamps): Promise<number> => {
    const all = settings({
      ...{ stamps: known, readShare: 1, pattern: { kind: "sequential" }, end: { bytes: SIZE } },
    });
    const { verify } = await run(disk, all);
    return verify?.faultCount ?? -1;
  };
  const known = stamps();
  replaySequence(first, 700, known);
  assert.equal(await check(known), 0);
  assert.ok(known.checked > 60);
  const more = stamps();
  replaySequence(first, 760, more);
  assert.ok(await check(more) > 0, "the last 60 requests were never made");
  assert.equal(await check(stamps(false)), 0, "each block is right for itself");
});

Deno.test("the percentiles of a report are those of a sorted list, but for the width of a class", () => {
  const random = seededRandom(21);
  const tally = new LoadTally(1);
  const values: number[] = [];
  for (let at = 0; at < 20_000; at += 1) {
    const us = 2 ** (random.below(1 << 20) / (1 << 20) * 20 - 3);
    values.push(us);
    tally.done(at % 3 === 0, 1, us, 0);
  }
  values.sort((a, b) => a - b);
  const rest = { durationUs: 1, interrupted: false, cpuUsPerRequest: null, verify: null };
  const { total, histogram } = tally.report(rest);
  const { latency } = total;
  const shares = [[0.5, latency.p50Us], [0.9, latency.p90Us], [0.99, latency.p99Us], [
    0.999,
    latency.p999Us,
  ]] as const;
  for (const [share, found] of shares) {
    const exact = values[Math.ceil(values.length * share) - 1] ?? 0;
    // Steps of a sixteenth of a µs, and classes that are an eighth wide.
    assert.ok(found >= exact - 1 / 16 && found <= exact * 1.125 + 1 / 16, `${found} for ${exact}`);
  }
  assert.ok(Math.abs(latency.maxUs - (values.at(-1) ?? 0)) <= 1 / 16);
  assert.equal(histogram.reduce((sum, { count }) => sum + count, 0), 20_000);
});

Deno.test("the report tells how many requests each connection has done", () => {
  const tally = new LoadTally(3);
  for (const connection of [0, 2, 2, 1, 2]) tally.done(false, 1, 1, connection);
  const rest = { durationUs: 1e6, interrupted: false, cpuUsPerRequest: null, verify: null };
  assert.deepEqual(tally.report(rest).connections, [1, 1, 3]);
});
