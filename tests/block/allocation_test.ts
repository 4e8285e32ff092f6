/** Sums over extents: complete, cut short by time, of devices without extents. @module */
import assert from "node:assert/strict";
import { measureAllocation } from "../../lib/block/allocation.ts";
import { Device } from "../../lib/block/device.ts";
import type { Backend, Extent } from "../../lib/block/types.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";

const SIZE = 1000;

function deviceOf(extents: Backend["extents"], clock: ManualClock): Device {
  const backend: Backend = {
    geometry: { size: SIZE, minimum: 1, preferred: 512, maximum: 512, readOnly: true },
    capabilities: { synchronous: true, fua: true },
    read: () => {},
    write: () => {},
    flush: () => {},
    ...(extents === undefined ? {} : { extents }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  return new Device(backend, { name: "test", clock, log: new MemoryLog() });
}

const DATA: Extent = { length: 100, allocated: true, zero: false };
const ZERO: Extent = { length: 50, allocated: true, zero: true };
const HOLE: Extent = { length: 250, allocated: false, zero: true };

Deno.test("measureAllocation() sums up data, zeroes and holes over several calls", async () => {
  const clock = new ManualClock();
  const list = [DATA, ZERO, HOLE, DATA];
  const device = deviceOf((offset) => offset === 0 ? list : [{ ...HOLE, length: 500 }], clock);
  assert.deepEqual(await measureAllocation(device, clock, 1000), {
    examined: SIZE,
    data: 200,
    zero: 50,
    hole: 750,
    extents: 5,
  });
});

Deno.test("measureAllocation() stops when the time is over, and says how far it came", async () => {
  const clock = new ManualClock();
  const device = deviceOf(() => {
    clock.advance(600);
    return [DATA];
  }, clock);
  const { examined, data } = await measureAllocation(device, clock, 1);
  assert.deepEqual([examined, data], [200, 200]);
});

Deno.test("measureAllocation() takes everything for data where extents are not told", async () => {
  const clock = new ManualClock();
  const { examined, data, extents } = await measureAllocation(deviceOf(undefined, clock), clock, 1);
  assert.deepEqual([examined, data, extents], [SIZE, SIZE, 1]);
});
