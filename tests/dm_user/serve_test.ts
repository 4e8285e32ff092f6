/**
 * Our daemon on the simulated device: removal, death in mid-write, restart, several channels, the same
 * run for the same seed.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { BufferPool } from "../../lib/block/pool.ts";
import type { Backend, Maybe } from "../../lib/block/types.ts";
import { HEADER_BYTES } from "../../lib/dm_user/constants.ts";
import { serveChannel } from "../../lib/dm_user/serve.ts";
import { simulatedBackend } from "../../lib/dm_user/simulator/backend.ts";
import { STATUS_EIO } from "../../lib/dm_user/simulator/bio.ts";
import { channelPair } from "../../lib/dm_user/simulator/streams.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { type ManualClock, MemoryLog, SeededRandom } from "../support/context.ts";
import {
  isSettled,
  messageBytes,
  pattern,
  readBio,
  readMessage,
  settled,
  simulate,
  type Simulation,
  writeBio,
} from "./fixtures.ts";

const SIZE = 2048 * 512;

/** Storage in one array; `wait` delays each call. */
function storage(bytes: Uint8Array, wait: () => Maybe<void> = () => undefined): Backend {
  const later = (action: () => void): Maybe<void> => wait()?.then(action) ?? action();
  return {
    geometry: {
      size: bytes.length,
      minimum: 1,
      preferred: 4096,
      maximum: bytes.length,
      readOnly: false,
    },
    capabilities: { synchronous: false, fua: false },
    read: (into, offset) => later(() => into.set(bytes.subarray(offset, offset + into.length))),
    write: (from, offset) => later(() => bytes.set(from, offset)),
    flush: () => later(() => {}),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

function deviceOver(backend: Backend, { clock }: Simulation): Device {
  const pool = new BufferPool({ poison: true });
  return new Device(backend, { name: "disk", clock, log: new MemoryLog(), pool });
}

/** A daemon on one channel; `stop` ends it as a signal does. */
function daemon({ kernel }: Simulation, device: Device): { done: Promise<void>; stop: () => void } {
  const stopper = new AbortController();
  const done = serveChannel(channelPair(kernel.open("disk")), device, { signal: stopper.signal });
  done.catch(() => {});
  return { done, stop: () => stopper.abort(new Error("stopped")) };
}

Deno.test("serveChannel() resolves when the target is removed, and answers what it has taken", async () => {
  const simulation = simulate();
  const bytes = new Uint8Array(SIZE);
  const gate = Promise.withResolvers<void>();
  const device = deviceOver(storage(bytes, () => gate.promise), simulation);
  const { done } = daemon(simulation, device);
  const status = simulation.device.submit(writeBio(4096, 8));
  await settled();
  simulation.kernel.remove("disk");
  assert.equal(await isSettled(done), false);
  gate.resolve();
  assert.equal(await status, 0);
  await done;
  assert.deepEqual(bytes.subarray(4096, 8192), pattern(4096));
  assert.equal(simulation.target.freed, true);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("serveChannel() resolves on an idle target that is removed", async () => {
  const simulation = simulate();
  const device = deviceOver(storage(new Uint8Array(SIZE)), simulation);
  const daemons = [1, 2, 3].map(() => daemon(simulation, device).done);
  await settled();
  simulation.kernel.remove("disk");
  await Promise.all(daemons);
  assert.equal(simulation.target.freed, true);
});

Deno.test("a daemon that is killed in mid-write: the outstanding I/O fails, the rest continues with a new daemon", async () => {
  const simulation = simulate();
  const { target } = simulation;
  const bytes = new Uint8Array(SIZE);
  const gate = Promise.withResolvers<void>();
  const stuck = deviceOver(storage(bytes, () => gate.promise), simulation);
  const first = daemon(simulation, stuck);
  const outstanding = Array.from(
    { length: 3 },
    (_, index) => simulation.device.submit(writeBio(4096, index * 8)),
  );
  await settled();
  assert.equal(target.queued, 0);
  first.stop();
  // What is submitted now is not swallowed by the daemon that is going.
  const queued = Array.from(
    { length: 5 },
    (_, index) => simulation.device.submit(writeBio(4096, 64 + index * 8)),
  );
  assert.deepEqual(await Promise.all(outstanding), [STATUS_EIO, STATUS_EIO, STATUS_EIO]);
  gate.resolve();
  await assert.rejects(first.done, /stopped/);
  assert.equal(target.channelCount, 0);
  assert.equal(target.queued, 5);
  assert.equal(stuck.pool.takenCount, 0);

  const second = daemon(simulation, deviceOver(storage(bytes), simulation));
  assert.deepEqual(await Promise.all(queued), [0, 0, 0, 0, 0]);
  const bio = readBio(4096, 64);
  assert.equal(await simulation.device.submit(bio), 0);
  assert.deepEqual(bio.data, pattern(4096));
  simulation.kernel.remove("disk");
  await second.done;
});

Deno.test("a daemon whose process dies between two pieces of a message leaves the rest to another", async () => {
  const simulation = simulate();
  const channel = simulation.kernel.open("disk");
  const torn = simulation.device.submit(writeBio(4096)),
    whole = simulation.device.submit(writeBio(512));
  assert.equal(await channel.read(new Uint8Array(HEADER_BYTES)), HEADER_BYTES);
  assert.equal(await channel.read(new Uint8Array(1000)), 1000);
  channel.kill();
  assert.equal(await torn, STATUS_EIO);
  const { done } = daemon(simulation, deviceOver(storage(new Uint8Array(SIZE)), simulation));
  assert.equal(await whole, 0);
  simulation.kernel.remove("disk");
  await done;
});

Deno.test("a channel that a foreign daemon poisons harms only its own messages", async () => {
  const simulation = simulate();
  const foreign = simulation.kernel.open("disk");
  const lost = simulation.device.submit(readBio(512));
  readMessage(foreign);
  foreign.write(new Uint8Array(HEADER_BYTES).fill(0xff));
  const { done } = daemon(simulation, deviceOver(storage(new Uint8Array(SIZE)), simulation));
  for (let count = 0; count < 10; count += 1) {
    assert.equal(await simulation.device.submit(writeBio(512, count)), 0);
  }
  assert.equal(await isSettled(lost), false);
  foreign.close();
  assert.equal(await lost, STATUS_EIO);
  simulation.kernel.remove("disk");
  await done;
});

Deno.test("serveChannel() rejects with the reason of its signal, and with what is no message", async () => {
  const simulation = simulate();
  const device = deviceOver(storage(new Uint8Array(SIZE)), simulation);
  const { done, stop } = daemon(simulation, device);
  await settled();
  stop();
  await assert.rejects(done, /stopped/);
  assert.equal(simulation.target.channelCount, 0);
  const readable = new ReadableStream<Uint8Array>({
    start(controller): void {
      controller.enqueue(messageBytes({ type: 1n, length: 1n << 40n }));
    },
  });
  await assert.rejects(
    serveChannel({ readable, writable: new WritableStream() }, device),
    ProtocolError,
  );
});

/** Moves time on until `promise` is settled. */
async function runClock(clock: ManualClock, promise: Promise<unknown>): Promise<void> {
  for (let turn = 0; turn < 100_000; turn += 1) {
    if (await isSettled(promise)) return;
    clock.advance(100);
  }
  assert.fail("It is never done");
}

/** Random I/O through three channels over storage that takes a random time; gives the log. */
async function randomRun(seed: number): Promise<string[]> {
  const simulation = simulate({}, seed);
  const { clock } = simulation;
  const random = new SeededRandom(seed ^ 0x5eed);
  const slow = storage(new Uint8Array(SIZE), () => clock.sleep(random.below(20) / 10));
  const device = deviceOver(slow, simulation);
  const daemons = [1, 2, 3].map(() => daemon(simulation, device));
  const backend = simulatedBackend(simulation.device);
  const expected = new Uint8Array(SIZE);
  async function work(part: number): Promise<void> {
    for (let step = 0; step < 30; step += 1) {
      const offset = part * 131_072 + 512 * random.below(200);
      const length = 512 * (1 + random.below(16));
      if (random.below(2) === 0) {
        const bytes = pattern(length, random.below(256));
        await backend.write(bytes, offset, { fua: random.below(4) === 0 });
        expected.set(bytes, offset);
      } else {
        const into = new Uint8Array(length);
        await backend.read(into, offset);
        assert.deepEqual(into, expected.slice(offset, offset + length));
      }
      if (random.below(10) === 0) await backend.flush();
    }
  }
  await runClock(clock, Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(work)));
  await backend[Symbol.asyncDispose]();
  simulation.kernel.remove("disk");
  await runClock(clock, Promise.all(daemons.map(({ done }) => done)));
  assert.equal(device.pool.takenCount, 0);
  return simulation.log;
}

Deno.test("the same seed gives the same interleaving and log; another seed another one", async () => {
  const [first, again, other] = [await randomRun(1), await randomRun(1), await randomRun(2)];
  assert.ok(first.length > 1000, `${first.length} events`);
  assert.deepEqual(first, again);
  assert.notDeepEqual(first, other);
  const takers = new Set(
    first.filter((line) => line.includes(" take ")).map((line) => line.split(" ")[3]),
  );
  assert.equal(takers.size, 3, "all channels had work");
});
