/** Tests of the Device: gate, validation, emulation, order, counting, closing. @module */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { BlockError, type Errno } from "../../lib/block/errors.ts";
import {
  FLAG_FAST_ONLY,
  FLAG_FUA,
  FLAG_MAY_TRIM,
  type Gate,
  makeRequest,
  type Request,
} from "../../lib/block/request.ts";
import type { Backend, Geometry } from "../../lib/block/types.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";

const GEOMETRY: Geometry = {
  size: 1 << 20,
  minimum: 1,
  preferred: 4096,
  maximum: 64 * 1024,
  readOnly: false,
};

interface Made {
  readonly device: Device;
  readonly calls: string[];
  readonly log: MemoryLog;
  readonly clock: ManualClock;
}

/** A device over a backend that notes its calls; `parts` replaces verbs. */
function makeDevice(parts: Partial<Backend> = {}, readOnly = false): Made {
  const calls: string[] = [];
  const note = (text: string): undefined => void calls.push(text);
  const backend: Backend = {
    geometry: GEOMETRY,
    capabilities: { synchronous: true, fua: false },
    read: (into, offset) => (into.fill(1), note(`read ${offset}+${into.length}`)),
    write: (from, offset, { fua }) => note(`write ${offset}+${from.length}${fua ? " fua" : ""}`),
    flush: () => note("flush"),
    [Symbol.asyncDispose]: () => (note("dispose"), Promise.resolve()),
  };
  Object.defineProperties(backend, Object.getOwnPropertyDescriptors(parts));
  const log = new MemoryLog(), clock = new ManualClock();
  return { device: new Device(backend, { name: "disk", clock, log, readOnly }), calls, log, clock };
}

async function errnoOf(device: Device, request: Request): Promise<Errno | null> {
  try {
    await device.submit(request);
    return null;
  } catch (error) {
    assert.ok(error instanceof BlockError, String(error));
    return error.errno;
  }
}

const data = (length: number): Uint8Array => new Uint8Array(length);

Deno.test("Device.submit() refuses a bad request with the errno of the NBD document", async (t) => {
  const size = GEOMETRY.size;
  const rows: [string, Request, Errno][] = [
    ["read past the end", makeRequest("read", size - 1, 2, { data: data(2) }), "EINVAL"],
    ["write past the end", makeRequest("write", size - 1, 2, { data: data(2) }), "ENOSPC"],
    ["zero past the end", makeRequest("zero", size, 1), "ENOSPC"],
    ["trim past the end", makeRequest("trim", 0, size + 1), "EINVAL"],
    ["extents past the end", makeRequest("extents", size, 1), "EINVAL"],
    ["no length", makeRequest("read", 0, 0), "EINVAL"],
    ["negative offset", makeRequest("trim", -1, 2), "EINVAL"],
    ["offset 2^53", makeRequest("trim", 2 ** 53, 2), "EINVAL"],
    ["length near 2^64", makeRequest("zero", 0, 2 ** 64), "EINVAL"],
    ["fraction", makeRequest("trim", 0.5, 2), "EINVAL"],
    ["buffer too short", makeRequest("read", 0, 8, { data: data(7) }), "EINVAL"],
    [
      "flag of another verb",
      makeRequest("read", 0, 1, { flags: FLAG_FUA, data: data(1) }),
      "EINVAL",
    ],
    ["flush with a range", makeRequest("flush", 0, 1), "EINVAL"],
    ["trim that is not there", makeRequest("trim", 0, 1), "EOPNOTSUPP"],
    ["cache that is not there", makeRequest("cache", 0, 1), "EOPNOTSUPP"],
    [
      "fast zero that is not there",
      makeRequest("zero", 0, 1, { flags: FLAG_FAST_ONLY }),
      "EOPNOTSUPP",
    ],
  ];
  for (const [name, request, errno] of rows) {
    await t.step(name, async () => {
      const { device, calls } = makeDevice();
      assert.equal(await errnoOf(device, request), errno);
      assert.deepEqual(calls, []);
      assert.equal(device.inFlight, 0);
      assert.equal(device.statistics[request.operation].errors, 1);
    });
  }
});

Deno.test("Device.submit() refuses changes when the device is read-only, and flushes nothing", async () => {
  const { device, calls } = makeDevice({ geometry: { ...GEOMETRY, readOnly: true } });
  assert.equal(await errnoOf(device, makeRequest("write", 0, 1, { data: data(1) })), "EROFS");
  assert.equal(await errnoOf(device, makeRequest("zero", 0, 1)), "EROFS");
  assert.equal(await errnoOf(device, makeRequest("trim", 0, 1)), "EROFS");
  assert.equal(await errnoOf(device, makeRequest("flush")), null);
  assert.deepEqual(calls, []);
});

Deno.test("Device.submit() refuses changes when the device is to be read-only but its storage is not", async () => {
  const { device, calls } = makeDevice({ trim: () => undefined }, true);
  assert.equal(device.geometry.readOnly, true);
  assert.deepEqual([device.features.readOnly, device.features.trim], [true, false]);
  assert.equal(await errnoOf(device, makeRequest("write", 0, 1, { data: data(1) })), "EROFS");
  await device[Symbol.asyncDispose]();
  assert.deepEqual(calls, ["dispose"]);
});

Deno.test("Device.submit() refuses what is not aligned to the minimum block", async () => {
  const { device } = makeDevice({ geometry: { ...GEOMETRY, minimum: 512 } });
  assert.equal(await errnoOf(device, makeRequest("read", 1, 512, { data: data(512) })), "EINVAL");
  assert.equal(await errnoOf(device, makeRequest("read", 512, 511, { data: data(511) })), "EINVAL");
  assert.equal(await errnoOf(device, makeRequest("read", 512, 512, { data: data(512) })), null);
});

Deno.test("Device.submit() returns no promise when the backend is done at once", () => {
  const { device } = makeDevice();
  assert.equal(device.submit(makeRequest("read", 0, 4096, { data: data(4096) })), undefined);
  assert.equal(
    device.submit(makeRequest("write", 0, 4096, { data: data(4096), flags: FLAG_FUA })),
    undefined,
  );
  assert.equal(device.submit(makeRequest("zero", 0, 4096)), undefined);
});

Deno.test("Device.submit() adds a flush to FUA when the backend has none of its own", () => {
  const { device, calls } = makeDevice();
  device.submit(makeRequest("write", 0, 10, { data: data(10), flags: FLAG_FUA }));
  assert.deepEqual(calls, ["write 0+10", "flush"]);
});

Deno.test("Device.submit() passes FUA on when the backend has it", () => {
  const { device, calls } = makeDevice({ capabilities: { synchronous: true, fua: true } });
  device.submit(makeRequest("write", 0, 10, { data: data(10), flags: FLAG_FUA }));
  assert.deepEqual(calls, ["write 0+10 fua"]);
});

Deno.test("Device.submit() flushes after the write is done when FUA is emulated asynchronously", async () => {
  const order: string[] = [];
  const { device } = makeDevice({
    capabilities: { synchronous: false, fua: false },
    write: async () => {
      await Promise.resolve();
      order.push("written");
    },
    flush: () => void order.push("flushed"),
  });
  await device.submit(makeRequest("write", 0, 1, { data: data(1), flags: FLAG_FUA }));
  assert.deepEqual(order, ["written", "flushed"]);
});

Deno.test("Device.submit() splits I/O that is longer than the backend takes", () => {
  const { device, calls } = makeDevice();
  device.submit(makeRequest("read", 100, 150_000, { data: data(150_000) }));
  assert.deepEqual(calls, ["read 100+65536", "read 65636+65536", "read 131172+18928"]);
});

Deno.test("Device.submit() zeroes by writing when zero is missing or says EOPNOTSUPP", () => {
  const plain = makeDevice();
  plain.device.submit(makeRequest("zero", 0, 100_000, { flags: FLAG_FUA | FLAG_MAY_TRIM }));
  assert.deepEqual(plain.calls, ["write 0+65536", "write 65536+34464", "flush"]);
  const refusing = makeDevice({
    zero: () => {
      throw new BlockError("EOPNOTSUPP", "no");
    },
  });
  refusing.device.submit(makeRequest("zero", 5, 7));
  assert.deepEqual(refusing.calls, ["write 5+7"]);
});

Deno.test("Device.submit() gives one allocated extent when the backend tells none", () => {
  const { device } = makeDevice();
  const request = makeRequest("extents", 10, 20);
  device.submit(request);
  assert.deepEqual(request.extents, [{ length: 20, allocated: true, zero: false }]);
});

Deno.test("Device.submit() answers EIO and logs when a backend's extents break the contract", async () => {
  for (
    const extents of [[], [{ length: 0, allocated: true, zero: false }], [{
      length: 2 ** 40,
      allocated: true,
      zero: false,
    }]]
  ) {
    const { device, log } = makeDevice({ extents: () => extents });
    assert.equal(await errnoOf(device, makeRequest("extents", 0, 10)), "EIO");
    assert.equal(log.lines.length, 1);
  }
});

Deno.test("Device.submit() answers EIO and logs when something without errno is thrown", async () => {
  const { device, log } = makeDevice({
    read: () => {
      throw new TypeError("x is undefined");
    },
  });
  assert.equal(await errnoOf(device, makeRequest("read", 0, 1, { data: data(1) })), "EIO");
  assert.match(log.lines.join(), /bug in its storage.*x is undefined/);
});

Deno.test("Device.submit() answers EIO when a synchronous backend returns a promise", async () => {
  const { device } = makeDevice({ read: () => Promise.resolve() });
  assert.equal(await errnoOf(device, makeRequest("read", 0, 1, { data: data(1) })), "EIO");
});

Deno.test("Device.submit() fails with ENODEV when the gate is shut, and leaves each gate it entered", async () => {
  let open = true, inside = 0;
  const gate: Gate = {
    id: 7,
    enter: () => open && (inside += 1) > 0,
    leave: () => void (inside -= 1),
  };
  const { device } = makeDevice();
  await device.submit(makeRequest("read", 0, 1, { data: data(1), gate }));
  await errnoOf(device, makeRequest("read", 0, 0, { gate }));
  assert.equal(inside, 0);
  open = false;
  assert.equal(await errnoOf(device, makeRequest("read", 0, 1, { data: data(1), gate })), "ENODEV");
  assert.equal(inside, 0);
});

Deno.test("Device.tap sees each request in and out with its errno", async () => {
  const { device, clock } = makeDevice({ read: () => clock.advance(25) });
  const seen: string[] = [];
  device.tap = {
    submitted: (request, timeUs) => seen.push(`${request.operation} in ${timeUs}`),
    completed: (token, _request, errno, timeUs) =>
      void seen.push(`${token} out ${errno} ${timeUs}`),
  };
  await device.submit(makeRequest("read", 0, 1, { data: data(1) }));
  await errnoOf(device, makeRequest("trim", 0, 1));
  assert.deepEqual(seen, ["read in 0", "1 out null 25", "trim in 25", "3 out EOPNOTSUPP 25"]);
  assert.equal(device.statistics.read.latency.maxUs, 25);
});

Deno.test("Device dispose waits for what is in flight, flushes, disposes, and refuses the rest", async () => {
  const gate = Promise.withResolvers<void>();
  const { device, calls } = makeDevice({
    capabilities: { synchronous: false, fua: false },
    read: () => gate.promise,
  });
  const reading = device.submit(makeRequest("read", 0, 1, { data: data(1) }));
  const closing = device[Symbol.asyncDispose]();
  assert.equal(await errnoOf(device, makeRequest("read", 0, 1, { data: data(1) })), "ESHUTDOWN");
  assert.deepEqual(calls, []);
  gate.resolve();
  await reading;
  await closing;
  await device[Symbol.asyncDispose]();
  assert.deepEqual(calls, ["flush", "dispose"]);
});

Deno.test("Device.resize() waits for what is in flight and holds what comes meanwhile", async () => {
  const gate = Promise.withResolvers<void>();
  const order: string[] = [];
  let size = GEOMETRY.size;
  const { device } = makeDevice({
    capabilities: { synchronous: false, fua: false },
    get geometry() {
      return { ...GEOMETRY, size };
    },
    read: (_into, offset) => {
      order.push(`read ${offset}`);
      return gate.promise;
    },
    resize: (wanted) => {
      order.push("resize");
      size = wanted;
    },
  });
  const first = device.submit(makeRequest("read", 0, 1, { data: data(1) }));
  const resizing = device.resize(2 << 20);
  const second = device.submit(makeRequest("read", 2_000_000, 1, { data: data(1) }));
  gate.resolve();
  await Promise.all([first, resizing, second]);
  assert.deepEqual(order, ["read 0", "resize", "read 2000000"]);
  assert.equal(device.geometry.size, 2 << 20);
});

Deno.test("Device.resize() refuses what cannot be done", async () => {
  await assert.rejects(makeDevice().device.resize(1), { errno: "EOPNOTSUPP" });
  const fixed = makeDevice({ resize: () => {} });
  await assert.rejects(fixed.device.resize(-1), { errno: "EINVAL" });
  await assert.rejects(fixed.device.resize(4096), { errno: "EIO" });
  assert.equal(fixed.device.inFlight, 0);
});

Deno.test("Device refuses an impossible geometry", () => {
  const wrong: Partial<Geometry>[] = [
    { size: -1 },
    { size: 2 ** 53 },
    { minimum: 3 },
    { minimum: 131_072 },
    { minimum: 4096, size: 4097 },
    { preferred: 100 },
    { preferred: 1024, minimum: 4096 },
    { maximum: 100 },
    { maximum: 4097 },
  ];
  for (const part of wrong) {
    assert.throws(() => makeDevice({ geometry: { ...GEOMETRY, ...part } }), { errno: "EINVAL" });
  }
});
