/**
 * The filters that are about time and failure: delay, throttle, retry, error, log. The clock moves
 * when told, chance is seeded.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import type { Backend } from "../../lib/block/types.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import {
  filled,
  filtered,
  memoryDisk,
  NO_FUA,
  readFrom,
  turns,
  watched,
} from "../support/filters.ts";

const MIB = 2 ** 20;
const SECTOR: Uint8Array = filled(512, 7);
const OPEN = { readOnly: false, createSize: 0, direct: false, lock: false } as const;

/** A disk whose calls fail as told: `failures` of them, with EIO if not told. */
async function failing(failures: number, error: unknown = new BlockError("EIO")): Promise<Backend> {
  const disk = await memoryDisk(MIB);
  let left = failures;
  const fail = (): void => {
    left -= 1;
    if (left >= 0) throw error;
  };
  return {
    ...disk,
    geometry: disk.geometry,
    read: (into, offset) => {
      fail();
      return disk.read(into, offset);
    },
    flush: fail,
  };
}

/** Whether a call is done; it is watched, not waited for. */
function watch(outcome: void | Promise<void>): { done: boolean; failed: unknown } {
  const state = { done: !(outcome instanceof Promise), failed: null as unknown };
  if (outcome instanceof Promise) {
    outcome.then(() => state.done = true, (error) => state.failed = error);
  }
  return state;
}

Deno.test("delay makes each operation wait for its own time", async () => {
  const clock = new ManualClock();
  const { backend, calls } = watched(await memoryDisk(MIB));
  const { backend: slow } = await filtered(backend, "delay:?read=10ms&write=500us&time=2ms", {
    clock,
  });
  const read = watch(slow.read(new Uint8Array(512), 0));
  const write = watch(slow.write(SECTOR, 512, NO_FUA));
  const flush = watch(slow.flush());
  const extents = slow.extents?.(0, 512);
  assert.ok(!(extents instanceof Promise), "block status has no delay unless it is given one");
  for (
    const [us, expected] of [[400, ""], [200, "write"], [1500, "flush"], [7900, "read"]] as const
  ) {
    clock.advance(us);
    await turns();
    assert.equal(calls.at(-1)?.split(" ", 1)[0] ?? "", expected);
  }
  assert.ok(read.done && write.done && flush.done);
});

Deno.test("delay draws from its distribution, the same for the same seed", async () => {
  const delays = async (spec: string): Promise<number[]> => {
    const drawn: number[] = [];
    const clock = new ManualClock();
    clock.sleep = (ms) => {
      drawn.push(ms);
      return Promise.resolve();
    };
    const { backend } = await filtered(await memoryDisk(MIB), spec, { clock });
    for (let count = 0; count < 2000; count += 1) await backend.read(new Uint8Array(1), 0);
    return drawn;
  };
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / 2000;
  const uniform = await delays("delay:?read=10ms&distribution=uniform&spread=4ms&seed=1");
  assert.ok(Math.min(...uniform) >= 6 && Math.max(...uniform) <= 14);
  assert.ok(Math.max(...uniform) - Math.min(...uniform) > 7);
  assert.ok(Math.abs(mean(uniform) - 10) < 0.3, `${mean(uniform)}`);
  const normal = await delays("delay:?read=10ms&distribution=normal&spread=2ms&seed=1");
  assert.ok(Math.abs(mean(normal) - 10) < 0.3, `${mean(normal)}`);
  const within = normal.filter((ms) => Math.abs(ms - 10) < 2).length / normal.length;
  assert.ok(within > 0.64 && within < 0.72, `${within} of all are within one deviation`);
  const exponential = await delays("delay:?read=10ms&distribution=exponential&seed=1");
  assert.ok(Math.abs(mean(exponential) - 10) < 1 && Math.max(...exponential) > 40);
  assert.deepEqual(await delays("delay:?read=10ms&distribution=exponential&seed=1"), exponential);
  assert.notDeepEqual(
    await delays("delay:?read=10ms&distribution=exponential&seed=2"),
    exponential,
  );
});

Deno.test("delay stops waiting when the target is torn down", async () => {
  const teardown = new AbortController();
  const { backend } = await filtered(await memoryDisk(MIB), "delay:?write=1h", {
    signal: teardown.signal,
  });
  const write = backend.write(SECTOR, 0, NO_FUA);
  teardown.abort();
  await write;
  await backend.write(SECTOR, 512, NO_FUA);
});

Deno.test("throttle lets so many operations through a second, the first ones first", async () => {
  const clock = new ManualClock();
  const { backend, calls } = watched(await memoryDisk(MIB));
  const { backend: slow } = await filtered(backend, "throttle:?iops=10&burst=300ms", { clock });
  clock.advance(5e6);
  const reads = Array.from({ length: 20 }, (_, at) => watch(slow.read(new Uint8Array(1), at)));
  await turns();
  // The allowance of 300 ms is 3 operations; the fourth is due at once.
  assert.equal(calls.length, 4);
  for (let count = 5; count <= 20; count += 1) {
    clock.advance(99_000);
    await turns();
    assert.equal(calls.length, count - 1, "not before its time");
    clock.advance(1000);
    await turns();
    assert.equal(calls.length, count);
  }
  assert.deepEqual(calls, reads.map((_, at) => `read ${at}+1`));
  assert.ok(reads.every(({ done }) => done));
});

Deno.test("throttle counts bytes, and reads apart from writes", async () => {
  const clock = new ManualClock();
  const { backend, calls } = watched(await memoryDisk(MIB));
  const { backend: slow } = await filtered(
    backend,
    "throttle:?bandwidth=1M&write-bandwidth=64k&burst=0",
    { clock },
  );
  const chunk = new Uint8Array(64 * 1024);
  const begun: number[] = [];
  const step = async (outcome: void | Promise<void>): Promise<void> => {
    const before = calls.length - (outcome instanceof Promise ? 0 : 1);
    const state = watch(outcome);
    while (calls.length === before) {
      clock.advance(500);
      await turns();
    }
    begun.push(clock.now() / 1000);
    await turns();
    assert.ok(state.done);
  };
  await step(slow.write(chunk, 0, NO_FUA));
  await step(slow.write(chunk, 0, NO_FUA));
  await step(slow.read(chunk, 0));
  await step(slow.read(chunk, 0));
  assert.deepEqual(begun.map((ms) => Math.round(ms / 62.5)), [0, 16, 16, 17]);
  await slow.flush();
  await slow.trim?.(0, MIB, NO_FUA);
});

Deno.test("throttle counts an operation that waits for one limit for the other as well", async () => {
  const clock = new ManualClock();
  const { backend, calls } = watched(await memoryDisk(MIB));
  const { backend: slow } = await filtered(backend, "throttle:?read-iops=1&iops=2&burst=0", {
    clock,
  });
  for (let at = 0; at < 3; at += 1) watch(slow.read(new Uint8Array(1), at));
  watch(slow.write(SECTOR, 0, NO_FUA));
  await turns();
  assert.deepEqual(calls, ["read 0+1"]);
  clock.advance(1_500_000);
  await turns();
  assert.deepEqual(calls, ["read 0+1", "read 1+1", "write 0+512"]);
});

Deno.test("retry tries again, with pauses that double up to the longest", async () => {
  const clock = new ManualClock();
  const pauses: number[] = [];
  clock.sleep = (ms) => {
    pauses.push(ms);
    return Promise.resolve();
  };
  const { backend, management } = await filtered(
    await failing(5),
    "retry:?count=5&delay=10ms&longest=50ms",
    { clock },
  );
  await backend.read(new Uint8Array(512), 0);
  assert.deepEqual(pauses, [10, 20, 40, 50, 50]);
  assert.deepEqual(management?.describe?.(), { retries: 5 });
});

Deno.test("retry gives up after its count, and gives the last error", async () => {
  const { backend } = await filtered(await failing(3), "retry:?count=2&delay=0");
  assert.throws(() => backend.read(new Uint8Array(512), 0), { errno: "EIO" });
  assert.equal(backend.read(new Uint8Array(512), 0), undefined);
});

Deno.test("retry leaves other errors, bugs and flushes alone", async () => {
  const spec = "retry:?delay=0&errnos=EIO";
  const full = await filtered(await failing(1, new BlockError("ENOSPC")), spec);
  assert.throws(() => full.backend.read(new Uint8Array(512), 0), { errno: "ENOSPC" });
  const bug = await filtered(await failing(1, new TypeError("a bug")), spec);
  assert.throws(() => bug.backend.read(new Uint8Array(512), 0), TypeError);
  const flush = await filtered(await failing(1), spec);
  assert.throws(() => flush.backend.flush(), { errno: "EIO" });
  const told = await filtered(await failing(1), `${spec}&operations=flush`);
  told.backend.flush();
});

Deno.test("error fails at its rate, the same operations for the same seed", async () => {
  const run = async (seed: number): Promise<string> => {
    const { backend } = await filtered(await memoryDisk(MIB), `error:?rate=0.25&seed=${seed}`);
    return Array.from({ length: 1000 }, () => {
      try {
        backend.read(new Uint8Array(1), 0);
        return ".";
      } catch (error) {
        assert.ok(error instanceof BlockError && error.errno === "EIO");
        return "x";
      }
    }).join("");
  };
  const first = await run(1);
  const failures = first.split("x").length - 1;
  assert.ok(failures > 200 && failures < 300, `${failures} of 1000`);
  assert.equal(await run(1), first);
  assert.notEqual(await run(2), first);
});

Deno.test("error fails in its range alone, with its errno, and changes nothing", async () => {
  const spec = "error:?offset=4k&length=4k&errno=ENOSPC";
  const { backend } = await filtered(await memoryDisk(MIB), spec);
  const full = { errno: "ENOSPC" };
  backend.write(filled(4096, 1), 0, NO_FUA);
  backend.write(filled(4096, 1), 8192, NO_FUA);
  assert.throws(() => backend.write(filled(2, 1), 4095, NO_FUA), full);
  assert.throws(() => backend.write(filled(1, 1), 8191, NO_FUA), full);
  assert.throws(() => backend.zero?.(0, MIB, { fua: false, mayTrim: true, fastOnly: false }), full);
  backend.flush();
  backend.extents?.(0, MIB);
  assert.deepEqual(await readFrom(backend, 0, 4096), filled(4096, 1));
});

Deno.test("error fails while its file exists, and so often at most", async () => {
  const files = new CrashFiles({ seed: 1 });
  const { backend, management } = await filtered(
    await memoryDisk(MIB),
    "error:?file=trigger&operations=flush&count=2",
    { files },
  );
  backend.flush();
  files.open("trigger", OPEN).close();
  await readFrom(backend, 0, 1);
  assert.throws(() => backend.flush(), { message: /Cannot flush: the filter error says EIO/ });
  assert.throws(() => backend.flush(), { errno: "EIO" });
  backend.flush();
  assert.deepEqual(management?.describe?.(), { failures: 2 });
});

/** The text of a file. */
function textOf(files: CrashFiles, path: string): string {
  const file = files.open(path, { ...OPEN, readOnly: true });
  const bytes = new Uint8Array(file.size());
  file.read(bytes, 0);
  return new TextDecoder().decode(bytes);
}

Deno.test("log writes a line for each operation, after what is in its file", async () => {
  const files = new CrashFiles({ seed: 1 });
  const clock = new ManualClock();
  const before = files.open("log.txt", OPEN);
  before.write(new TextEncoder().encode("earlier\n"), 0);
  before.close();
  const { backend, management } = await filtered(
    await failing(1),
    "log:?file=log.txt",
    { files, clock },
  );
  clock.advance(1_000_000);
  backend.write(SECTOR, 4096, { fua: true });
  assert.throws(() => backend.read(new Uint8Array(512), 0), { errno: "EIO" });
  backend.zero?.(0, 8192, { fua: false, mayTrim: true, fastOnly: true });
  backend.flush();
  await backend[Symbol.asyncDispose]();
  assert.equal(
    textOf(files, "log.txt"),
    "earlier\n" +
      "1970-01-01T00:00:01.000Z write offset=4096 length=512 fua 0us ok\n" +
      "1970-01-01T00:00:01.000Z read offset=0 length=512 0us EIO\n" +
      "1970-01-01T00:00:01.000Z zero offset=0 length=8192 may-trim fast-only 0us ok\n" +
      "1970-01-01T00:00:01.000Z flush 0us ok\n",
  );
  assert.deepEqual(management?.describe?.(), { lines: 4, unlogged: 0 });
});

Deno.test("log measures what takes time", async () => {
  const clock = new ManualClock(), log = new MemoryLog();
  const slow = await filtered(await memoryDisk(MIB), "delay:?read=3ms", { clock });
  const { backend } = await filtered(slow.backend, "log:?operations=read", { clock, log });
  const read = backend.read(new Uint8Array(512), 0);
  await backend.write(SECTOR, 0, NO_FUA);
  clock.advance(3000);
  await read;
  assert.deepEqual(log.lines, [
    "info: 1970-01-01T00:00:00.003Z read offset=0 length=512 3000us ok",
  ]);
});

Deno.test("log ends at its limit, or when its file fails, and fails no operation", async () => {
  const log = new MemoryLog();
  const { backend, management } = await filtered(await memoryDisk(MIB), "log:?limit=150", { log });
  for (let count = 0; count < 10; count += 1) backend.write(SECTOR, 0, NO_FUA);
  assert.deepEqual(log.lines.slice(-1), [
    "warn: The filter log writes no more lines: its limit of 150 bytes is reached",
  ]);
  assert.deepEqual(management?.describe?.(), { lines: 2, unlogged: 8 });
  const files = new CrashFiles({ seed: 1 });
  const broken = await filtered(await memoryDisk(MIB), "log:?file=log.txt", { files, log });
  files.crash();
  broken.backend.write(SECTOR, 0, NO_FUA);
  assert.match(log.lines.at(-1) ?? "", /writes no more lines: .*crashed/);
});
