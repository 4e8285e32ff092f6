/**
 * How much of a device holds data: a sum over its extents, within a time.
 *
 * @module
 */
import type { Clock } from "./context.ts";
import type { Device } from "./device.ts";
import { makeRequest } from "./request.ts";

/** What of a device is data, zeroes and holes. All figures but `extents` are bytes. */
export interface Allocation {
  /** What was looked at, from the start: all of the device unless time ran out. */
  readonly examined: number;
  /** Not known to read as zeroes. */
  readonly data: number;
  /** Reads as zeroes, storage is reserved. */
  readonly zero: number;
  /** Reads as zeroes, no storage is reserved. */
  readonly hole: number;
  /** Extents that were seen. */
  readonly extents: number;
}

/** Sums up the extents of `device` until its end, or until about `timeMs` ms are over. Throws BlockError. */
export async function measureAllocation(
  device: Device,
  clock: Clock,
  timeMs: number,
): Promise<Allocation> {
  const { size } = device.geometry;
  const sum = { examined: 0, data: 0, zero: 0, hole: 0, extents: 0 };
  const endUs = clock.now() + timeMs * 1000;
  while (sum.examined < size && clock.now() < endUs) {
    const request = makeRequest("extents", sum.examined, size - sum.examined);
    await device.submit(request);
    for (const extent of request.extents ?? []) {
      const length = Math.min(extent.length, size - sum.examined);
      if (!extent.zero) sum.data += length;
      else if (extent.allocated) sum.zero += length;
      else sum.hole += length;
      sum.examined += length;
      sum.extents += 1;
    }
  }
  return sum;
}
