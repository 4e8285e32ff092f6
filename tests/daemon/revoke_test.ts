/** Tests of the open files of a daemon: real NBD clients, access taken away while they work. @module */
import assert from "node:assert/strict";
import { defaultRegistry } from "../../backends/mod.ts";
import { memory, type MemoryOptions } from "../../backends/memory.ts";
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { makeRequest } from "../../lib/block/request.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import type { BackendType, Opened } from "../../lib/block/types.ts";
import { finishConfig } from "../../lib/daemon/config.ts";
import { systemContext } from "../../lib/daemon/context.ts";
import { type Daemon, startDaemon } from "../../lib/daemon/daemon.ts";
import { parseEndpoint } from "../../lib/daemon/endpoint.ts";
import type { OpenFile } from "../../lib/handle/open_file.ts";
import { MemoryLog } from "../support/context.ts";

const BLOCK = 4096;
const DEPTH = 16;
const UNTIL_MS_MAX = 20_000;

/** Memory whose reads of the first block end when the test opens the barrier. */
class Barrier {
  /** Reads that wait. */
  waiting = 0;
  readonly type: BackendType<MemoryOptions>;
  #open = Promise.withResolvers<void>();

  constructor() {
    this.type = { ...memory, name: "barrier", open: (...args) => this.#openBackend(...args) };
  }

  /** Lets all go that wait; later ones wait again. */
  lift(): void {
    this.#open.resolve();
    this.#open = Promise.withResolvers<void>();
  }

  async #openBackend(...args: Parameters<typeof memory.open>): Promise<Opened> {
    const { backend } = await memory.open(...args);
    return {
      backend: {
        geometry: backend.geometry,
        capabilities: { synchronous: false, fua: true },
        read: async (into, offset): Promise<void> => {
          if (offset === 0) {
            this.waiting += 1;
            await this.#open.promise;
            this.waiting -= 1;
          }
          await backend.read(into, offset);
        },
        write: (from, offset, options) => backend.write(from, offset, options),
        flush: () => backend.flush(),
        [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
      },
    };
  }
}

interface Running {
  readonly daemon: Daemon;
  readonly barrier: Barrier;
  readonly connect: (target?: string) => Promise<Device>;
}

async function withDaemon(run: (running: Running) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "dmu-test-" });
  try {
    const registry = defaultRegistry();
    const barrier = new Barrier();
    registry.register(barrier.type);
    const targets = ["t", "u"].map((name) => ({
      name,
      spec: parseSpec("barrier:1M"),
      description: "",
      readOnly: false,
    }));
    const config = finishConfig({ targets, endpoints: [parseEndpoint(`unix:${dir}/s`)] });
    const daemon = await startDaemon(config, { registry, log: new MemoryLog() });
    const connect = async (target = "t"): Promise<Device> => {
      const context = systemContext({ log: new MemoryLog() });
      const uri = daemon.endpoints[0]?.uri(target) ?? "";
      const { opened } = await registry.open(parseSpec(uri), context);
      return new Device(opened.backend, { name: "c", clock: context.clock, log: context.log });
    };
    try {
      await run({ daemon, barrier, connect });
    } finally {
      barrier.lift();
      await daemon.stop();
    }
    assert.equal(daemon.files.size, 0);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** Resolves when something is so; fails if it does not become so for long. */
async function until(condition: () => boolean): Promise<void> {
  const end_ms = performance.now() + UNTIL_MS_MAX;
  while (!condition()) {
    assert.ok(performance.now() < end_ms, `not within ${UNTIL_MS_MAX} ms: ${condition}`);
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
  }
}

async function read(client: Device, block: number): Promise<void> {
  const data = new Uint8Array(BLOCK);
  await client.submit(makeRequest("read", block * BLOCK, BLOCK, { data }));
}

/** Reads and writes until told to stop or something fails; gives how much was done and how much failed. */
async function work(
  client: Device,
  goOn: () => boolean,
): Promise<{ done: number; failed: number }> {
  let done = 0, failed = 0;
  const one = async (lane: number): Promise<void> => {
    const data = new Uint8Array(BLOCK).fill(lane);
    for (let turn = 0; goOn() && failed === 0; turn += 1) {
      const operation = turn % 2 === 0 ? "write" : "read";
      try {
        await client.submit(makeRequest(operation, (1 + lane) * BLOCK, BLOCK, { data }));
        done += 1;
        assert.ok(data.every((byte) => byte === lane));
      } catch (error) {
        assert.ok(error instanceof BlockError, String(error));
        failed += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: DEPTH }, (_, lane) => one(lane)));
  return { done, failed };
}

function filesOf(daemon: Daemon): OpenFile[] {
  return [...daemon.files];
}

/** A file among those of a daemon. */
function nth(daemon: Daemon, index: number): OpenFile {
  const file = filesOf(daemon)[index];
  assert.ok(file !== undefined);
  return file;
}

Deno.test("Daemon.files lists each NBD connection until it ends", async () => {
  await withDaemon(async ({ daemon, connect }) => {
    const one = await connect(), two = await connect("u");
    await until(() => daemon.files.size === 2);
    const facts = filesOf(daemon).map(({ minor, kind, target, state }) => [
      minor,
      kind,
      target,
      state,
    ]);
    assert.deepEqual(facts, [[1, "nbd", "t", "active"], [2, "nbd", "u", "active"]]);
    assert.match(nth(daemon, 0).peer, new RegExp(`^process ${Deno.pid} of user`));
    const ran: number[] = [];
    for (const file of daemon.files) {
      file.onexit.add({ name: "note", run: ({ minor }) => void ran.push(minor) });
    }
    await one[Symbol.asyncDispose]();
    await until(() => daemon.files.size === 1);
    assert.deepEqual(ran, [1]);
    assert.throws(() => daemon.files.get(1), { errno: "EBADF" });
    await daemon.stop();
    assert.deepEqual(ran, [1, 2]);
    await two[Symbol.asyncDispose]().catch(() => {});
  });
});

Deno.test("OpenFile.revoke() lets an NBD client's requests in flight finish and ends its connection", async () => {
  await withDaemon(async ({ daemon, barrier, connect }) => {
    const client = await connect();
    await until(() => daemon.files.size === 1);
    const file = nth(daemon, 0);
    const reading = [read(client, 0), read(client, 0), read(client, 0)];
    await until(() => barrier.waiting === 3);
    assert.equal(file.active, 3);
    let released = 0;
    file.onexit.add({ name: "count", run: () => void (released += 1) });
    file.revoke();
    const drained = file.drain();
    assert.deepEqual([file.state, file.enter()], ["draining", false]);
    await assert.rejects(file.drain({ limit_ms: 0 }), { errno: "ETIMEDOUT" });
    assert.equal(released, 0);
    barrier.lift();
    await Promise.all(reading);
    await drained;
    await file.released;
    await until(() => daemon.connectionCount === 0);
    await assert.rejects(read(client, 1), BlockError);
    assert.deepEqual([released, daemon.files.size], [1, 0]);
    await client[Symbol.asyncDispose]().catch(() => {});
  });
});

Deno.test("OpenFile.revoke() of one NBD client under load leaves the other unharmed", async () => {
  await withDaemon(async ({ daemon, barrier, connect }) => {
    const victim = await connect();
    await until(() => daemon.files.size === 1);
    const other = await connect();
    await until(() => daemon.files.size === 2);
    const file = nth(daemon, 0);
    let goOn = true;
    const working = work(other, () => goOn);
    const losing = work(victim, () => true);
    const { statistics } = daemon.targets.get("t")?.device ?? assert.fail();
    const count = (): number => statistics.read.snapshot().count;
    const inside = [read(victim, 0), read(victim, 0)];
    await until(() => count() > 20 && barrier.waiting === 2);
    file.revoke();
    const drained = file.drain();
    const during = count();
    await until(() => count() > during + 20);
    assert.equal(file.active, 2);
    barrier.lift();
    await Promise.all(inside);
    await drained;
    assert.equal(file.active, 0);
    await file.released;
    const lost = await losing;
    assert.ok(lost.done > 0 && lost.failed > 0);
    await until(() => daemon.connectionCount === 1);
    const before = count();
    await until(() => count() > before + 100);
    goOn = false;
    const { done, failed } = await working;
    assert.ok(done > 100);
    assert.equal(failed, 0);
    assert.equal(nth(daemon, 0).state, "active");
    await other[Symbol.asyncDispose]();
    await victim[Symbol.asyncDispose]().catch(() => {});
  });
});

Deno.test("OpenFileTable.revokeTarget() ends the NBD clients of one target, and refuses new ones if told", async () => {
  await withDaemon(async ({ daemon, connect }) => {
    const clients = [await connect(), await connect()];
    const other = await connect("u");
    await until(() => daemon.files.size === 3);
    const files = daemon.files.revokeTarget("t", { refuse: true });
    assert.equal(files.length, 2);
    await daemon.files.drain(files);
    await until(() => daemon.connectionCount === 1);
    await read(other, 1);
    const late = await connect();
    await assert.rejects(read(late, 1), BlockError);
    daemon.files.admit("t");
    const again = await connect();
    await read(again, 1);
    for (const client of [other, again]) await client[Symbol.asyncDispose]();
    for (const client of [...clients, late]) await client[Symbol.asyncDispose]().catch(() => {});
  });
});
