/**
 * A dm-user device of a simulated kernel in this process, with a Device behind it: requests go through
 * every part of dm-user on their way.
 *
 * @module
 */
import type { Clock, Random } from "../block/context.ts";
import type { Device } from "../block/device.ts";
import type { Backend } from "../block/types.ts";
import { SECTOR_BYTES } from "../dm_user/constants.ts";
import { serveChannel } from "../dm_user/serve.ts";
import { simulatedBackend } from "../dm_user/simulator/backend.ts";
import { SimulatedKernel } from "../dm_user/simulator/kernel.ts";
import { channelPair } from "../dm_user/simulator/streams.ts";

/** What a simulation is made with. */
export interface SimulatedDmUserOptions {
  /** Times of the kernel. */
  readonly clock: Clock;
  /** Chance of the kernel. */
  readonly random: Random;
  /** Channels that the device is served over; 1 if left out. */
  readonly channels?: number;
}

/** The name of the only device. */
const NAME = "disk";

/**
 * The simulated device that is served from `device`, which it then owns. Whole sectors of `device`; what
 * is behind the last one cannot be reached. Disposing it removes the device and ends its daemon.
 */
export function simulatedDmUser(device: Device, options: SimulatedDmUserOptions): Backend {
  const { clock, random, channels = 1 } = options;
  const kernel = new SimulatedKernel({ clock, random });
  const sectors = Math.floor(device.geometry.size / SECTOR_BYTES);
  const simulated = kernel.createSimple(NAME, sectors, { discard: true, writeZeroes: true });
  const daemons = Array.from(
    { length: channels },
    () => serveChannel(channelPair(kernel.open(NAME)), device),
  );
  const front = simulatedBackend(simulated);
  async function dispose(): Promise<void> {
    await front[Symbol.asyncDispose]();
    kernel.remove(NAME);
    await Promise.all(daemons);
    await device[Symbol.asyncDispose]();
  }
  let disposed: Promise<void> | null = null;
  return { ...front, [Symbol.asyncDispose]: () => disposed ??= dispose() };
}
