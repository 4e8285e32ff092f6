/**
 * A Device with dirty bitmaps against the contract kit: what it does for whoever writes is what it did
 * without them.
 *
 * @module
 */
import { FLAG_FAST_ONLY, FLAG_FUA, FLAG_MAY_TRIM, makeRequest } from "../../lib/block/request.ts";
import type { Device } from "../../lib/block/device.ts";
import type { Backend } from "../../lib/block/types.ts";
import { contractTests } from "../../lib/testing/mod.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { bitmapDisk, memoryDisk, MemoryFolder } from "./bitmap_fixtures.ts";

const MIB = 2 ** 20;
const EFFORT = { steps: 100, largestBytes: MIB / 2, windowBytes: MIB / 4 };

/** A Device as storage of another one. */
function storageOf(device: Device, close: () => void): Backend {
  const fuaOf = (fua: boolean): number => fua ? FLAG_FUA : 0;
  return {
    get geometry() {
      return device.geometry;
    },
    capabilities: { synchronous: false, fua: true },
    read: (data, offset) => device.submit(makeRequest("read", offset, data.length, { data })),
    write: (data, offset, { fua }) =>
      device.submit(makeRequest("write", offset, data.length, { data, flags: fuaOf(fua) })),
    flush: () => device.submit(makeRequest("flush")),
    trim: (offset, length, { fua }) =>
      device.submit(makeRequest("trim", offset, length, { flags: fuaOf(fua) })),
    zero: (offset, length, { fua, mayTrim, fastOnly }) => {
      const flags = fuaOf(fua) | (mayTrim ? FLAG_MAY_TRIM : 0) | (fastOnly ? FLAG_FAST_ONLY : 0);
      return device.submit(makeRequest("zero", offset, length, { flags }));
    },
    cache: (offset, length) => device.submit(makeRequest("cache", offset, length)),
    extents: (offset, length) => {
      const request = makeRequest("extents", offset, length);
      const done = device.submit(request);
      const found = (): NonNullable<typeof request.extents> => request.extents ?? [];
      return done === undefined ? found() : done.then(found);
    },
    resize: (size) => device.resize(size),
    [Symbol.asyncDispose]: async () => {
      await device[Symbol.asyncDispose]();
      close();
    },
  };
}

async function open(mayBlock: boolean): Promise<Backend> {
  const folder = new MemoryFolder(new CrashFiles({ seed: 1 }), new Set());
  const { device, bitmaps } = bitmapDisk(await memoryDisk(3 * MIB + 1234), { folder, mayBlock });
  await bitmaps.run({ action: "add", name: "kept", persistent: true, granularity: 4096 });
  await bitmaps.run({ action: "add", name: "passing", persistent: false, granularity: 512 });
  return storageOf(device, () => bitmaps.close());
}

for (const mayBlock of [true, false]) {
  const title = `a Device with bitmaps, ${mayBlock ? "blocking" : "waiting"}`;
  for (const each of contractTests(title, () => open(mayBlock), EFFORT)) {
    Deno.test(each.name, each.run);
  }
}
