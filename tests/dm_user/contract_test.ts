/**
 * Our daemon over the simulated device keeps the contract of a backend, with one channel and with four,
 * also where the storage behind it forgets at a crash whatever was not flushed.
 *
 * @module
 */
import assert from "node:assert/strict";
import { memory } from "../../backends/memory.ts";
import { Device } from "../../lib/block/device.ts";
import type { Backend } from "../../lib/block/types.ts";
import { serveChannel } from "../../lib/dm_user/serve.ts";
import { simulatedBackend } from "../../lib/dm_user/simulator/backend.ts";
import { SimulatedKernel } from "../../lib/dm_user/simulator/kernel.ts";
import { channelPair } from "../../lib/dm_user/simulator/streams.ts";
import type { TargetOptions } from "../../lib/dm_user/simulator/target.ts";
import {
  collectedLog,
  contractTests,
  runContract,
  seededRandom,
  testClock,
  testContext,
} from "../../lib/testing/mod.ts";

/** A simulated device with our daemon over `storage` behind it; all end when it is disposed. */
function serve(storage: Backend, channels: number, options: TargetOptions): Backend {
  const kernel = new SimulatedKernel({ clock: testClock, random: seededRandom(7) });
  const simulated = kernel.createSimple("disk", storage.geometry.size / 512, options);
  const device = new Device(storage, { name: "disk", clock: testClock, log: collectedLog() });
  const daemons = Array.from(
    { length: channels },
    () => serveChannel(channelPair(kernel.open("disk")), device),
  );
  const backend = simulatedBackend(simulated);
  async function dispose(): Promise<void> {
    await backend[Symbol.asyncDispose]();
    kernel.remove("disk");
    await Promise.all(daemons);
    await device[Symbol.asyncDispose]();
    assert.equal(device.pool.takenCount, 0);
  }
  let disposed: Promise<void> | null = null;
  return { ...backend, [Symbol.asyncDispose]: () => disposed ??= dispose() };
}

async function overMemory(channels: number, options: TargetOptions): Promise<Backend> {
  const { backend } = await memory.open({ size: 2 ** 23, limit: 2 ** 30 }, testContext());
  return serve(backend, channels, options);
}

const ALL: TargetOptions = { discard: true, writeZeroes: true };

const KINDS: readonly (readonly [text: string, number, TargetOptions, steps: number])[] = [
  ["1 channel", 1, ALL, 400],
  ["4 channels", 4, ALL, 400],
  ["4 channels, at most 3 messages outstanding", 4, { ...ALL, outstandingMax: 3 }, 100],
  ["nothing declared", 2, {}, 100],
];

for (const [text, channels, options, steps] of KINDS) {
  const open = (): Promise<Backend> => overMemory(channels, options);
  const largestBytes = 2 ** 22;
  for (const { name, run } of contractTests(`dm-user (${text})`, open, { steps, largestBytes })) {
    Deno.test(name, run);
  }
}

/** Storage that can lose its power: `durable` is what was flushed. */
class Forgetful {
  durable = new Uint8Array(2 ** 20);

  open(options: TargetOptions): Backend {
    const bytes = this.durable.slice();
    const storage: Backend = {
      geometry: {
        size: bytes.length,
        minimum: 1,
        preferred: 4096,
        maximum: bytes.length,
        readOnly: false,
      },
      capabilities: { synchronous: true, fua: false },
      read: (into, offset) => into.set(bytes.subarray(offset, offset + into.length)),
      write: (from, offset) => bytes.set(from, offset),
      flush: () => void (this.durable = bytes.slice()),
      trim: (offset, length) => void bytes.fill(0xee, offset, offset + length),
      zero: (offset, length) => void bytes.fill(0, offset, offset + length),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
    return serve(storage, 2, options);
  }
}

/** The kit over storage that forgets; the devices that a crash left behind are disposed at the end. */
function forgetfulKit(options: TargetOptions): Parameters<typeof contractTests> {
  let storage = new Forgetful();
  let left: Backend[] = [];
  const open = (): Promise<Backend> => {
    const backend = storage.open(options);
    left.push(backend);
    return Promise.resolve(backend);
  };
  const fresh = (): Promise<Backend> => {
    storage = new Forgetful();
    return open();
  };
  const cleanUp = async (): Promise<void> => {
    for (const backend of left) await backend[Symbol.asyncDispose]();
    left = [];
  };
  const rest = { reopen: open, crash: open, cleanUp, steps: 100, largestBytes: 2 ** 20 };
  return ["dm-user (storage that forgets)", fresh, rest];
}

for (const { name, run } of contractTests(...forgetfulKit(ALL))) Deno.test(name, run);

Deno.test("the contract kit finds that a target without flushes loses data", async () => {
  const results = await runContract(...forgetfulKit({ ...ALL, flush: false }));
  const failed = results.filter(({ error }) => error !== null).map(({ name }) => name);
  assert.ok(failed.length > 0, "a daemon that gets no flush passed");
  assert.ok(failed.every((name) => /durab|power|flush|fua|crash|lost/i.test(name)), failed.join());
});
