/**
 * Copying and comparing devices: content, sparseness, edges, limits, failures, abort. The storage is a
 * model that counts what is asked of it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { compareDevices } from "../../lib/block/compare.ts";
import { copyDevice, type CopyOptions, type CopyReport } from "../../lib/block/copy.ts";
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { COPY_DEPTH_MAX } from "../../lib/block/limits.ts";
import { BufferPool } from "../../lib/block/pool.ts";
import type { Backend, Extent, Geometry, Maybe } from "../../lib/block/types.ts";
import { testClock } from "../../lib/testing/mod.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";

const KIB = 1024, MIB = 1024 * KIB;
const clock = testClock;

/** Storage in one array; a page of a block is allocated when it was written. */
interface Model {
  readonly device: Device;
  readonly bytes: Uint8Array;
  /** By block: it was written, or zeroed without mayTrim. */
  readonly allocated: Uint8Array;
  readonly calls: string[];
  /** Calls in flight at the same time, at most. */
  peak(): number;
}

interface ModelOptions {
  readonly geometry?: Partial<Geometry>;
  /** Every call is done later. */
  readonly later?: boolean;
  /** Verbs instead of the model's own. */
  readonly parts?: Partial<Backend>;
  readonly lacks?: readonly ("extents" | "zero")[];
  readonly name?: string;
}

function model(size: number, options: ModelOptions = {}): Model {
  const { later = false, lacks = [] } = options;
  const geometry: Geometry = {
    size,
    minimum: 1,
    preferred: 4096,
    maximum: 64 * MIB,
    readOnly: false,
    ...options.geometry,
  };
  const block = Math.max(512, geometry.minimum);
  const bytes = new Uint8Array(size);
  const allocated = new Uint8Array(Math.ceil(size / block));
  const calls: string[] = [];
  let running = 0, peak = 0;
  const done = (call: string): Maybe<void> => {
    calls.push(call);
    if (!later) return;
    running += 1;
    peak = Math.max(peak, running);
    return setImmediate().then(() => void (running -= 1));
  };
  const mark = (offset: number, length: number, value: number): void => {
    allocated.fill(value, Math.floor(offset / block), Math.ceil((offset + length) / block));
  };
  const extents = (offset: number, length: number): Extent[] => {
    const found: Extent[] = [];
    const end = Math.min(offset + length, size);
    for (let at = offset; at < end && found.length < 7;) {
      const stop = Math.min(end, (Math.floor(at / block) + 1) * block);
      const data = allocated[Math.floor(at / block)] === 1;
      found.push({ length: stop - at, allocated: data, zero: !data });
      at = stop;
    }
    return found;
  };
  const backend: Backend = {
    geometry,
    capabilities: { synchronous: !later, fua: true },
    read(into, offset): Maybe<void> {
      into.set(bytes.subarray(offset, offset + into.length));
      return done(`read ${offset}+${into.length}`);
    },
    write(from, offset): Maybe<void> {
      bytes.set(from, offset);
      mark(offset, from.length, 1);
      return done(`write ${offset}+${from.length}`);
    },
    flush: () => done("flush"),
    ...(lacks.includes("zero") ? {} : {
      zero(offset, length, { mayTrim }): Maybe<void> {
        bytes.fill(0, offset, offset + length);
        mark(offset, length, mayTrim ? 0 : 1);
        return done(`zero ${offset}+${length}${mayTrim ? "" : " allocated"}`);
      },
    }),
    ...(lacks.includes("extents") ? {} : { extents }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
    ...options.parts,
  };
  const device = new Device(backend, {
    name: options.name ?? "model",
    clock,
    log: new MemoryLog(),
    pool: new BufferPool({ poison: true }),
  });
  return { device, bytes, allocated, calls, peak: () => peak };
}

/** Puts data somewhere and says so to the model. */
function put(target: Model, offset: number, data: Uint8Array): void {
  target.bytes.set(data, offset);
  target.allocated.fill(1, Math.floor(offset / 512), Math.ceil((offset + data.length) / 512));
}

function noise(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => ((index * 31 + seed) % 255) + 1);
}

async function copy(
  source: Model,
  destination: Model,
  options: Partial<CopyOptions> = {},
): Promise<CopyReport> {
  const report = await copyDevice(source.device, destination.device, {
    clock,
    chunkBytes: 64 * KIB,
    ...options,
  });
  const { bytesWritten, bytesZeroed, bytesSkipped, bytesTotal } = report;
  assert.equal(bytesWritten + bytesZeroed + bytesSkipped, bytesTotal);
  for (const { device } of [source, destination]) {
    assert.equal(device.pool.takenCount, 0, "a buffer was not given back");
    assert.equal(device.inFlight, 0);
  }
  return report;
}

for (const later of [false, true]) {
  const when = later ? "storage that waits" : "storage that does not wait";

  Deno.test(`copyDevice() copies data, zeroes the rest and flushes, on ${when}`, async () => {
    const source = model(MIB, { later }), destination = model(MIB, { later });
    put(source, 100 * KIB, noise(300 * KIB));
    destination.bytes.fill(9);
    const report = await copy(source, destination);
    assert.deepEqual(destination.bytes, source.bytes);
    assert.deepEqual(report, {
      ...report,
      bytesTotal: MIB,
      bytesRead: 300 * KIB,
      bytesWritten: 300 * KIB,
      bytesZeroed: 724 * KIB,
      bytesSkipped: 0,
      bytesBeyond: 0,
      verified: null,
    });
    assert.equal(destination.calls.at(-1), "flush");
    assert.equal(destination.calls.filter((call) => call === "flush").length, 1);
  });
}

Deno.test("copyDevice() leaves zeroes alone when the destination is zero", async () => {
  const source = model(MIB), destination = model(MIB);
  put(source, 0, noise(4096));
  put(source, 512 * KIB, new Uint8Array(64 * KIB));
  const report = await copy(source, destination, { destinationIsZero: true });
  assert.deepEqual(destination.calls, ["write 0+4096", "flush"]);
  assert.equal(report.bytesRead, 68 * KIB);
  assert.equal(report.bytesSkipped, MIB - 4096);
  assert.deepEqual(destination.bytes, source.bytes);
});

Deno.test("copyDevice() finds zeroes in data, in blocks of the size asked for", async () => {
  const table: readonly (readonly [number, string[]])[] = [
    [4096, ["write 0+4096", "zero 4096+8192", "write 12288+53248"]],
    [
      8192,
      ["write 0+8192", "zero 8192+0", "write 8192+57344"].filter((call) => !/\+0$/.test(call)),
    ],
    [0, ["write 0+65536"]],
  ];
  for (const [zeroBlockBytes, calls] of table) {
    const source = model(64 * KIB), destination = model(64 * KIB);
    put(source, 0, noise(64 * KIB));
    source.bytes.fill(0, 4096, 12_288);
    const { bytesWritten } = await copy(source, destination, { zeroBlockBytes });
    assert.deepEqual(destination.bytes, source.bytes);
    if (zeroBlockBytes === 8192) assert.equal(bytesWritten, 64 * KIB, "no block is all zero");
    else assert.deepEqual(destination.calls.slice(0, -1), calls);
  }
});

Deno.test("copyDevice() writes and allocates everything when it is not to be sparse", async () => {
  const source = model(MIB), destination = model(MIB);
  put(source, 0, noise(4096));
  put(source, 64 * KIB, new Uint8Array(64 * KIB));
  const report = await copy(source, destination, { sparse: false, destinationIsZero: true });
  assert.ok(destination.allocated.every((block) => block === 1));
  assert.equal(report.bytesWritten, 68 * KIB);
  assert.equal(report.bytesSkipped, 0);
  assert.deepEqual(destination.bytes, source.bytes);
});

Deno.test("copyDevice() copies between devices that tell no extents and cannot zero", async () => {
  const source = model(MIB, { lacks: ["extents"] });
  const destination = model(MIB, { lacks: ["zero"], later: true });
  put(source, 300, noise(70_000));
  destination.bytes.fill(1);
  await copy(source, destination);
  assert.deepEqual(destination.bytes, source.bytes);
});

Deno.test("copyDevice() reads where the source fails to tell extents", async () => {
  const parts: Partial<Backend> = {
    extents(): never {
      throw new BlockError("EIO", "Cannot tell");
    },
  };
  const source = model(3 * MIB, { parts }), destination = model(3 * MIB);
  put(source, 2 * MIB + 5, noise(70_000));
  const report = await copy(source, destination);
  assert.equal(report.bytesRead, 3 * MIB);
  assert.deepEqual(destination.bytes, source.bytes);
});

const SMALL = [
  ["smaller", model(MIB - 512), "ENOSPC"],
  ["read-only", model(MIB, { geometry: { readOnly: true } }), "EROFS"],
] as const;

for (const [what, destination, errno] of SMALL) {
  Deno.test(`copyDevice() refuses a ${what} destination before it touches it`, async () => {
    const source = model(MIB);
    await assert.rejects(copy(source, destination), (error) => {
      assert.ok(error instanceof BlockError);
      assert.equal(error.errno, errno);
      assert.match(error.message, /Cannot copy model to model: the destination/);
      return true;
    });
    assert.deepEqual([...source.calls, ...destination.calls], []);
  });
}

Deno.test("copyDevice() leaves what is behind the copy, up to the destination's block", async () => {
  const source = model(100_000),
    destination = model(MIB, {
      geometry: { minimum: 4096, preferred: 4096 },
    });
  put(source, 0, noise(100_000));
  destination.bytes.fill(9);
  const report = await copy(source, destination, { verify: true });
  const padded = 25 * 4096;
  assert.deepEqual(destination.bytes.subarray(0, 100_000), source.bytes);
  assert.ok(destination.bytes.subarray(100_000, padded).every((byte) => byte === 0));
  assert.ok(destination.bytes.subarray(padded).every((byte) => byte === 9));
  assert.equal(report.bytesBeyond, MIB - 100_000);
  assert.equal(report.verified?.bytesCompared, 100_000);
});

Deno.test("copyDevice() copies nothing of an empty device", async () => {
  const report = await copy(model(0), model(4096), { verify: true });
  assert.equal(report.bytesTotal, 0);
});

Deno.test("copyDevice() copies whatever is where, between whatever blocks", async () => {
  const runs = fc.array(
    fc.record({ at: fc.nat(250), length: fc.integer({ min: 1, max: 40 }), zero: fc.boolean() }),
    { maxLength: 12 },
  );
  const minimum = fc.constantFrom(1, 512, 4096, 65_536);
  const settings = fc.record({
    runs,
    from: minimum,
    to: minimum,
    later: fc.boolean(),
    depth: fc.integer({ min: 1, max: 20 }),
    zeroBlockBytes: fc.constantFrom(0, 1, 512, 4096, 16_384),
    sparse: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(settings, async ({ runs, from, to, later, depth, zeroBlockBytes, sparse }) => {
      const size = 256 * KIB;
      const source = model(size, { later, geometry: { minimum: from, preferred: 65_536 } });
      const destination = model(size, { later, geometry: { minimum: to, preferred: 65_536 } });
      destination.bytes.fill(0xaa);
      const block = Math.max(512, from);
      for (const { at, length, zero } of runs) {
        const start = at * KIB, data = noise(Math.min(length * KIB, size - start), at);
        if (zero) data.fill(0);
        source.bytes.set(data, start);
        const last = Math.ceil((start + data.length) / block);
        source.allocated.fill(1, Math.floor(start / block), last);
      }
      await copy(source, destination, { depth, zeroBlockBytes, sparse, verify: true });
      assert.deepEqual(destination.bytes, source.bytes);
    }),
    { seed: 3, numRuns: 150 },
  );
});

Deno.test("copyDevice() keeps as many pieces in flight as it is told", async () => {
  for (const depth of [1, 7]) {
    const source = model(2 * MIB, { later: true, lacks: ["extents"] });
    const destination = model(2 * MIB, { later: true });
    put(source, 0, noise(2 * MIB));
    await copy(source, destination, { depth });
    assert.equal(Math.max(source.peak(), destination.peak()), depth);
  }
});

Deno.test("copyDevice() tells its progress up to the end", async () => {
  const source = model(MIB), destination = model(MIB);
  put(source, 0, noise(300 * KIB));
  const seen: string[] = [];
  let last = 0;
  await copy(source, destination, {
    verify: true,
    onProgress: ({ phase, bytesDone, bytesTotal }) => {
      if (seen.at(-1) !== phase) {
        seen.push(phase);
        last = 0;
      }
      assert.ok(bytesDone >= last && bytesDone <= bytesTotal);
      last = bytesDone;
    },
  });
  assert.deepEqual(seen, ["copy", "verify"]);
  assert.equal(last, MIB);
});

Deno.test("copyDevice() ends with the first failure, names the device, and leaves nothing in flight", async () => {
  let writes = 0;
  const parts: Partial<Backend> = {
    write(): Promise<void> {
      writes += 1;
      return Promise.reject(new BlockError("ENOSPC", "Cannot write: full"));
    },
  };
  const source = model(4 * MIB, { later: true, name: "from" });
  const destination = model(4 * MIB, { later: true, parts, name: "to" });
  put(source, 0, noise(4 * MIB));
  await assert.rejects(copy(source, destination, { depth: 4 }), (error) => {
    assert.ok(error instanceof BlockError && error.errno === "ENOSPC");
    assert.match(error.message, /full \(to\)/);
    return true;
  });
  assert.ok(writes <= 8, `${writes} writes`);
  assert.equal(destination.device.inFlight + source.device.inFlight, 0);
  assert.equal(destination.device.pool.takenCount, 0);
});

Deno.test("copyDevice() ends when its signal aborts, also on storage that never waits", async () => {
  const controller = new AbortController();
  const source = model(8 * MIB), destination = model(8 * MIB);
  put(source, 0, noise(8 * MIB));
  const reason = new Error("enough");
  const work = copyDevice(source.device, destination.device, {
    clock,
    chunkBytes: 64 * KIB,
    signal: controller.signal,
    onProgress: ({ bytesDone }) => {
      if (bytesDone >= MIB) controller.abort(reason);
    },
  });
  await assert.rejects(work, (error) => error === reason);
  assert.ok(destination.calls.length < 64);
  assert.equal(destination.device.pool.takenCount, 0);
});

Deno.test("copyDevice() gives the event loop a turn while storage never waits", async () => {
  const manual = new ManualClock();
  let turns = 0;
  const ticking = {
    now: (): number => {
      manual.advance(10_000);
      return manual.now();
    },
    wall: () => 0,
    sleep: () => {
      turns += 1;
      return Promise.resolve();
    },
  };
  const source = model(4 * MIB), destination = model(4 * MIB);
  put(source, 0, noise(4 * MIB));
  await copy(source, destination, { clock: ticking });
  assert.ok(turns >= 5, `${turns} turns`);
});

Deno.test("copyDevice() fails when the comparison finds a difference", async () => {
  const parts: Partial<Backend> = { write: () => {} };
  const source = model(MIB, { name: "from" });
  const destination = model(MIB, { parts, name: "to" });
  put(source, 600_000, noise(10));
  await assert.rejects(copy(source, destination, { verify: true }), (error) => {
    assert.ok(error instanceof BlockError && error.errno === "EIO");
    assert.match(error.message, /to differs from from at byte 600000/);
    return true;
  });
});

Deno.test("copyDevice() refuses settings that make no sense", async () => {
  for (
    const options of [
      { depth: 0 },
      { depth: COPY_DEPTH_MAX + 1 },
      { depth: 1.5 },
      { chunkBytes: 65_535 },
      { chunkBytes: 128 * MIB },
      { zeroBlockBytes: 3 },
      { zeroBlockBytes: -1 },
    ]
  ) await assert.rejects(copy(model(4096), model(4096), options), RangeError);
});

Deno.test("compareDevices() reads only what is data on either side, and finds the first difference", async () => {
  for (const later of [false, true]) {
    const a = model(4 * MIB, { later }), b = model(4 * MIB, { later });
    put(a, MIB, noise(200_000));
    put(b, MIB, noise(200_000));
    put(b, 3 * MIB, new Uint8Array(4096));
    const options = { clock, chunkBytes: 64 * KIB };
    const equal = await compareDevices(a.device, b.device, options);
    assert.equal(equal.differenceAt, null);
    assert.equal(equal.bytesCompared + equal.bytesSkipped, 4 * MIB);
    assert.ok(equal.bytesCompared < 220_000, `${equal.bytesCompared} bytes were read`);
    for (const at of [3 * MIB + 100, MIB + 150_000, MIB + 149_999, MIB]) {
      b.bytes[at] = 255 ^ (b.bytes[at] ?? 0);
      const report = await compareDevices(a.device, b.device, options);
      assert.equal(report.differenceAt, at);
      assert.equal(a.device.pool.takenCount + b.device.pool.takenCount, 0);
    }
  }
});

Deno.test("compareDevices() compares the smaller device's length, or what it is told", async () => {
  const a = model(MIB), b = model(2 * MIB);
  put(b, 500_000, noise(1));
  assert.equal((await compareDevices(a.device, b.device, { clock })).differenceAt, 500_000);
  const start = await compareDevices(a.device, b.device, { clock, length: 500_000 });
  assert.deepEqual([start.differenceAt, start.bytesTotal], [null, 500_000]);
  await assert.rejects(compareDevices(a.device, b.device, { clock, length: MIB + 1 }), RangeError);
});

Deno.test("compareDevices() gives buffers back when a side cannot be read", async () => {
  const parts: Partial<Backend> = {
    read: () => Promise.reject(new BlockError("EIO", "Cannot read: broken")),
  };
  const a = model(MIB, { later: true }), b = model(MIB, { later: true, parts, name: "broken" });
  put(a, 0, noise(MIB));
  put(b, 0, noise(MIB));
  await assert.rejects(compareDevices(a.device, b.device, { clock }), /broken \(broken\)/);
  assert.equal(a.device.pool.takenCount + b.device.pool.takenCount, 0);
});

Deno.test("copyDevice() writes whole units, and looks for zeroes in whole ones only", async () => {
  const source = model(4 * 65_536, { lacks: ["extents"] });
  source.bytes.fill(1, 8192, 12_288); // a part of the first unit
  source.bytes.fill(2, 2 * 65_536, 3 * 65_536);
  const destination = model(4 * 65_536);
  const report = await copyDevice(source.device, destination.device, {
    clock,
    unitBytes: 65_536,
    destinationIsZero: true,
  });
  assert.deepEqual(destination.bytes, source.bytes);
  assert.deepEqual([report.bytesWritten, report.bytesSkipped], [2 * 65_536, 2 * 65_536]);
  const writes = destination.calls.filter((call) => call.startsWith("write"));
  assert.equal(writes.length, 2, destination.calls.join(", "));
  await assert.rejects(
    copyDevice(source.device, destination.device, { clock, unitBytes: 3000 }),
    /^RangeError: Cannot copy in units of 3000 bytes/,
  );
});
