/**
 * Reading lines of log objects: what is fetched how often, what is found in memory and on disk, what
 * happens to damage, to an abort, and to memory.
 *
 * @module
 */
import assert from "node:assert/strict";
import { DiskCache } from "../../lib/log_disk/read/disk_cache.ts";
import { ObjectGone, type Piece } from "../../lib/log_disk/line_reader.ts";
import { CachedReader, type CachedReaderOptions } from "../../lib/log_disk/read/cached_reader.ts";
import { IN_FLIGHT_GETS_MAX, RAM_CACHE_BYTES_MIN } from "../../lib/log_disk/read/limits.ts";
import { LINE_BYTES } from "../../lib/log_disk/limits.ts";
import { CHECK_BYTES } from "../../lib/log_disk/log_object.ts";
import { logKey } from "../../lib/log_disk/names.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { MemoryLog } from "../support/context.ts";
import { MemoryBucket, MemoryStore, PLAIN_PLAN, type StorePlan } from "../support/memory_store.ts";
import { addObject, type MadeObject, VOLUME } from "./objects.ts";

const MIB = 2 ** 20;

interface Bed {
  readonly reader: CachedReader;
  readonly store: MemoryStore;
  readonly bucket: MemoryBucket;
  readonly log: MemoryLog;
  readonly stop: AbortController;
  readonly objects: readonly MadeObject[];
}

/** A reader of objects 1, 2 … of these sizes. */
function bed(sizes: readonly number[], rest: Partial<CachedReaderOptions> = {}): Bed {
  const bucket = new MemoryBucket(), store = new MemoryStore(bucket), log = new MemoryLog();
  const objects = sizes.map((size, index) => addObject(bucket, index + 1, size));
  const stop = new AbortController();
  const reader = new CachedReader({
    origins: [{ volume: VOLUME, store }],
    ramBytes: 16 * MIB,
    disk: null,
    log,
    signal: stop.signal,
    ...rest,
  });
  return { reader, store, bucket, log, stop, objects };
}

/** A piece of an object. */
function piece({ objects }: Bed, seq: number, at: number, into: Uint8Array): Piece {
  const { headerBytes = 100, dataBytes = 2 ** 20 } = objects[seq - 1] ?? {};
  return { origin: 0, seq, headerBytes, dataBytes, at, into };
}

function prefetch(test: Bed, seq: number, at: number, length: number): void {
  test.reader.prefetch([{ ...piece(test, seq, at, new Uint8Array()), length }]);
}

/** Reads a range of an object and checks what came. */
async function readRange(
  test: Bed,
  seq: number,
  at: number,
  length: number,
): Promise<void> {
  const into = new Uint8Array(length);
  await test.reader.read([piece(test, seq, at, into)]);
  assert.deepEqual(into, test.objects[seq - 1]?.data.slice(at, at + length));
}

/** A plan whose GETs wait until they are let go. */
function held(): { plan: StorePlan; go: () => void; waiting: () => number } {
  let waiting = 0;
  const { promise, resolve } = Promise.withResolvers<void>();
  return {
    plan: {
      ...PLAIN_PLAN,
      pass: (_, point) => {
        if (point === "before") waiting += 1;
        return promise;
      },
    },
    go: resolve,
    waiting: () => waiting,
  };
}

Deno.test("CachedReader gives what is in memory at once, and reads a line once", async () => {
  const test = bed([3 * LINE_BYTES + 100]);
  await readRange(test, 1, LINE_BYTES - 10, 20);
  assert.equal(test.store.counts.gets, 1);
  const into = new Uint8Array(50);
  assert.equal(test.reader.read([piece(test, 1, LINE_BYTES - 30, into)]), undefined);
  assert.deepEqual(into, test.objects[0]?.data.slice(LINE_BYTES - 30, LINE_BYTES + 20));
  await readRange(test, 1, 3 * LINE_BYTES, 100);
  assert.equal(test.store.counts.gets, 2);
  assert.equal(test.reader.counts.misses, 3);
});

Deno.test("CachedReader fetches neighbours with one GET, and a short gap with them", async () => {
  const test = bed([20 * LINE_BYTES]);
  const pieces = [0, 2, 3, 6].map((line) =>
    piece(test, 1, line * LINE_BYTES + 5, new Uint8Array(100))
  );
  await test.reader.read(pieces);
  // Lines 0 to 3, and line 6.
  assert.equal(test.store.counts.gets, 2);
  for (const { at, into } of pieces) {
    assert.deepEqual(into, test.objects[0]?.data.slice(at, at + 100));
  }
  await readRange(test, 1, 0, 20 * LINE_BYTES);
  assert.equal(test.store.counts.gets, 3); // lines 4 to 19 are as much as one GET takes
});

Deno.test("CachedReader fetches a line once however many want it at a time", async () => {
  const test = bed([8 * LINE_BYTES]);
  const gate = held();
  test.store.plan = gate.plan;
  const reads = Array.from({ length: 50 }, (_, index) => readRange(test, 1, index * 100, 100));
  gate.go();
  await Promise.all(reads);
  assert.equal(test.store.counts.gets, 1);
});

Deno.test("CachedReader reads damaged bytes again, and fails if they stay damaged", async () => {
  const test = bed([4 * LINE_BYTES]);
  const object = test.bucket.peek(logKey(1));
  assert.ok(object !== null);
  const at = object.length - 100, good = object[at] ?? 0;
  object[at] = good ^ 1;
  await assert.rejects(readRange(test, 1, 3 * LINE_BYTES, 10), /from byte 196608 on is damaged/);
  assert.equal(test.store.counts.gets, 2);
  // The lines beside it are sound, and an error is not kept.
  await readRange(test, 1, LINE_BYTES, LINE_BYTES);
  let gets = 0;
  test.store.plan = {
    ...PLAIN_PLAN,
    pass: (_, point) => {
      if (point !== "before") return undefined;
      gets += 1;
      if (gets === 2) object[at] = good;
      return undefined;
    },
  };
  await readRange(test, 1, 3 * LINE_BYTES, 10);
  assert.equal(test.reader.counts.damaged, 3);
  assert.match(test.log.lines.join("\n"), /came damaged, reading it again/);
});

Deno.test("CachedReader tells which object is not there, and of reads past its data", async () => {
  const test = bed([100, 100]);
  test.bucket.remove(logKey(2));
  await assert.rejects(readRange(test, 2, 0, 10), (error: unknown) => {
    return error instanceof ObjectGone && error.seq === 2 && error.errno === "EIO";
  });
  await assert.rejects(readRange(test, 3, 0, 10), ObjectGone);
  await assert.rejects(readRange(test, 1, 95, 10), /past its data of 100 bytes/);
});

Deno.test("CachedReader writes to no buffer of a read that has failed", async () => {
  const test = bed([LINE_BYTES, LINE_BYTES]);
  const gate = held();
  test.store.plan = {
    fate: ({ key }) => key === logKey(1) ? { fail: "unavailable" } : "done",
    pass: (call, point) => call.key === logKey(2) ? gate.plan.pass(call, point) : undefined,
  };
  const into = new Uint8Array(10);
  let ended = false;
  const read = Promise.resolve(test.reader.read([
    piece(test, 1, 0, new Uint8Array(10)),
    piece(test, 2, 0, into),
  ])).finally(() => ended = true);
  read.catch(() => {});
  for (let turns = 0; turns < 50; turns += 1) await Promise.resolve();
  assert.equal(ended, false);
  gate.go();
  await assert.rejects(read, { errno: "EHOSTUNREACH" });
});

Deno.test("CachedReader holds no more memory than it was given, however much is read at a time", async () => {
  const sizes = Array.from({ length: 6 }, () => 8 * MIB);
  const test = bed(sizes, { ramBytes: 0, inFlightBytes: 4 * MIB });
  let most = 0, inFlight = 0, inFlightMost = 0;
  test.store.plan = {
    ...PLAIN_PLAN,
    pass: (_, point) => {
      inFlight += point === "before" ? 1 : -1;
      inFlightMost = Math.max(inFlightMost, inFlight);
      most = Math.max(most, test.reader.memoryBytes);
      return Promise.resolve();
    },
  };
  const into = sizes.map((size) => new Uint8Array(size));
  await test.reader.read(
    into.map((each, index) => piece(test, index + 1, 0, each)),
  );
  for (const [index, each] of into.entries()) assert.deepEqual(each, test.objects[index]?.data);
  assert.ok(most <= RAM_CACHE_BYTES_MIN + 4 * MIB, `${most} bytes`);
  assert.ok(inFlightMost > 1 && inFlightMost <= IN_FLIGHT_GETS_MAX, `${inFlightMost} GETs`);
});

Deno.test("CachedReader goes on reading while much is read ahead, and ends when it is closed", async () => {
  const test = bed([64 * LINE_BYTES, 64 * LINE_BYTES, LINE_BYTES]);
  const gate = held();
  test.store.plan = {
    ...PLAIN_PLAN,
    pass: (call, point) => call.key === logKey(3) ? undefined : gate.plan.pass(call, point),
  };
  for (const seq of [1, 2]) {
    prefetch(test, seq, 0, 64 * LINE_BYTES);
  }
  await readRange(test, 3, 0, 10);
  const closed = test.reader[Symbol.asyncDispose]();
  gate.go();
  await closed;
  await assert.rejects(readRange(test, 1, 0, 10), { errno: "ESHUTDOWN" });
});

Deno.test("CachedReader has lines that were offered, and forgets objects that are deleted", async () => {
  const test = bed([LINE_BYTES + 10]);
  const object = test.bucket.peek(logKey(1))?.subarray(test.objects[0]?.headerBytes);
  const cut = LINE_BYTES + CHECK_BYTES;
  const lines = [object?.subarray(0, cut), object?.subarray(cut)].filter((line) =>
    line !== undefined
  );
  test.reader.offer(1, lines);
  await readRange(test, 1, LINE_BYTES - 5, 10);
  assert.equal(test.store.counts.gets, 0);
  test.reader.forget(0, 1);
  assert.equal(test.reader.memoryBytes, 0);
  await readRange(test, 1, LINE_BYTES - 5, 10);
  assert.equal(test.store.counts.gets, 1);
});

Deno.test("CachedReader has what was read ahead, and an abort gives up a read", async () => {
  const test = bed([4 * LINE_BYTES]);
  prefetch(test, 1, 100, 3 * LINE_BYTES);
  const into = new Uint8Array(10);
  await test.reader.read([piece(test, 1, 2 * LINE_BYTES, into)]);
  assert.equal(test.store.counts.gets, 1);
  assert.ok(test.reader.counts.aheadBytes > 4 * LINE_BYTES);
  const gate = held(), other = bed([100]);
  other.store.plan = gate.plan;
  const read = readRange(other, 1, 0, 10);
  other.stop.abort(new Error("given up"));
  gate.go();
  await assert.rejects(read, /given up/);
});

Deno.test("CachedReader never gives wrong bytes, whatever is read when and what fails", async () => {
  for (let seed = 1; seed <= 30; seed += 1) {
    const random = seededRandom(seed);
    const sizes = Array.from({ length: 4 }, () => 1 + random.below(6 * LINE_BYTES));
    const files = new CrashFiles({ seed });
    const disk = DiskCache.open({ path: "/cache", bytes: 2 * MIB }, files, new MemoryLog());
    const test = bed(sizes, { ramBytes: 0, disk, inFlightBytes: 200_000 });
    test.store.plan = {
      fate: () => random.oneIn(5) ? { fail: "unavailable" } : "done",
      pass: () => random.oneIn(2) ? Promise.resolve() : undefined,
    };
    const reads = Array.from({ length: 60 }, async () => {
      for (let turns = random.below(20); turns > 0; turns -= 1) await Promise.resolve();
      const seq = 1 + random.below(sizes.length), size = sizes[seq - 1] ?? 0;
      const at = random.below(size), length = 1 + random.below(size - at);
      if (random.oneIn(4)) return prefetch(test, seq, at, length);
      await readRange(test, seq, at, length).catch((error: unknown) => {
        assert.match(String(error), /unavailable \(planned\)/);
      });
    });
    await Promise.all(reads);
    await test.reader[Symbol.asyncDispose]();
  }
});
