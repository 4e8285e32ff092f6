/**
 * Memory behind dm-user: the simulated kernel in front, our daemon on some channels behind it. Loaded
 * with `--backend`, so that real NBD clients do their I/O through every part of dm-user.
 *
 * @module
 */
import { memory } from "../../backends/memory.ts";
import type { OpenContext } from "../../lib/block/context.ts";
import { Device } from "../../lib/block/device.ts";
import {
  countOption,
  type OptionSchema,
  optionSchema,
  sizeOption,
} from "../../lib/block/options.ts";
import type { BackendType, Opened } from "../../lib/block/types.ts";
import { simulatedDmUser } from "../../lib/daemon/simulated_dm_user.ts";

/** What it is told. */
export interface SimulatedOptions {
  readonly size: number;
  readonly channels: number;
}

const options: OptionSchema<SimulatedOptions> = optionSchema<SimulatedOptions>({
  size: sizeOption({ summary: "bytes of the device, a multiple of 512" }),
  channels: countOption({ summary: "channels that the daemon serves", default: 1, min: 1 }),
});

async function open(wish: SimulatedOptions, context: OpenContext): Promise<Opened> {
  const { size, channels } = wish;
  const { backend: storage } = await memory.open({ size, limit: 2 * size }, context);
  const device = new Device(storage, { name: "disk", clock: context.clock, log: context.log });
  const { clock, random } = context;
  return { backend: simulatedDmUser(device, { clock, random, channels }) };
}

/** The kind "dm-user-memory". */
export const dmUserMemory: BackendType<SimulatedOptions> = {
  name: "dm-user-memory",
  summary: "memory behind a simulated dm-user device",
  options,
  argument: "size",
  open,
};
