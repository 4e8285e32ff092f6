/**
 * Tests of targets in threads of their own: a daemon in this process, our own client, and threads that are
 * asked for things while they block.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { defaultRegistry } from "../../backends/mod.ts";
import { Device } from "../../lib/block/device.ts";
import { makeRequest } from "../../lib/block/request.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import { type ConfigParts, finishConfig, parseFilter } from "../../lib/daemon/config.ts";
import { systemContext } from "../../lib/daemon/context.ts";
import { type Daemon, startDaemon } from "../../lib/daemon/daemon.ts";
import { parseEndpoint } from "../../lib/daemon/endpoint.ts";
import { registerModule } from "../../lib/daemon/external_backend.ts";
import { MemoryLog } from "../support/context.ts";
import { fatal } from "../support/fatal_backend.ts";

const BLOCK = 4096, MIB = 1 << 20;
const UNTIL_MS_MAX = 10_000;
const FATAL = fileURLToPath(new URL("../support/fatal_backend.ts", import.meta.url));

interface Running {
  readonly daemon: Daemon;
  readonly log: MemoryLog;
  readonly dir: string;
  connect(target: string): Promise<Device>;
}

interface Settings {
  readonly specs: Readonly<Record<string, string>>;
  readonly filters?: readonly string[];
  readonly rest?: ConfigParts;
  /** Tell the daemon of the file that the fatal backend comes from. */
  readonly plugin?: boolean;
}

async function withDaemon(
  { specs, filters = [], rest = {}, plugin = true }: Settings,
  run: (running: Running) => Promise<void>,
): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "dmu-test-" });
  const log = new MemoryLog();
  try {
    const registry = defaultRegistry();
    await registerModule(registry, FATAL);
    const targets = Object.entries(specs).map(([name, spec]) => ({
      name,
      spec: parseSpec(spec.replaceAll("DIR", dir)),
      filters: filters.map((text) => parseFilter(text)),
      description: "",
      readOnly: false,
    }));
    const endpoints = [parseEndpoint(`unix:${dir}/s`)];
    const config = finishConfig({ targets, endpoints, driver: "auto", ...rest });
    const plugins = plugin ? [FATAL] : [];
    const daemon = await startDaemon(config, { registry, log, plugins });
    const connect = async (target: string): Promise<Device> => {
      const context = systemContext({ log: new MemoryLog() });
      const uri = daemon.endpoints[0]?.uri(target) ?? "";
      const { opened } = await registry.open(parseSpec(uri), context);
      return new Device(opened.backend, { name: "c", clock: context.clock, log: context.log });
    };
    try {
      await run({ daemon, log, dir, connect });
    } finally {
      await daemon.stop();
    }
    assert.equal(daemon.files.size, 0);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function openDescriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

/** Resolves when something is so; fails if it does not become so for long. */
async function until(condition: () => boolean): Promise<void> {
  const end_ms = performance.now() + UNTIL_MS_MAX;
  while (!condition()) {
    assert.ok(performance.now() < end_ms, `not within ${UNTIL_MS_MAX} ms: ${condition}`);
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
  }
}

async function write(device: Pick<Device, "submit">, offset: number, fill: number): Promise<void> {
  const data = new Uint8Array(BLOCK).fill(fill);
  await device.submit(makeRequest("write", offset, BLOCK, { data }));
}

async function read(device: Pick<Device, "submit">, offset: number): Promise<Uint8Array> {
  const data = new Uint8Array(BLOCK);
  await device.submit(makeRequest("read", offset, BLOCK, { data }));
  return data;
}

Deno.test("a target gets a thread of its own where its storage never waits, and only there", async () => {
  const specs = { m: "memory:1M", f: "file:DIR/f?size=1M", p: "pattern:1M", n: "null:1M" };
  await withDaemon({ specs }, ({ daemon }) => {
    const drivers = [...daemon.targets.values()].map(({ driver }) => driver);
    assert.deepEqual(drivers, Array.from({ length: 4 }, () => "blocking"));
    return Promise.resolve();
  });
  const delay = { specs: { m: "memory:1M" }, filters: ["delay:?read=1ms"] };
  await withDaemon(delay, ({ daemon }) => {
    assert.equal(daemon.targets.get("m")?.driver, "streams");
    return Promise.resolve();
  });
  const unknown = { specs: { m: "fatal:1M" }, plugin: false };
  await withDaemon(unknown, ({ daemon }) => {
    assert.equal(daemon.targets.get("m")?.driver, "streams");
    return Promise.resolve();
  });
  const streams = { specs: { m: "memory:1M" }, rest: { driver: "streams" } } as const;
  await withDaemon(streams, ({ daemon }) => {
    assert.equal(daemon.targets.get("m")?.driver, "streams");
    return Promise.resolve();
  });
});

Deno.test("storage that turns out to wait only when it is open is served on the main thread", async () => {
  const settings = { specs: { f: "file:DIR/f?size=1M" }, filters: ["retry"] };
  await withDaemon(settings, async ({ daemon, connect }) => {
    assert.equal(daemon.targets.get("f")?.driver, "streams");
    await using client = await connect("f");
    await write(client, 0, 3);
  });
});

Deno.test("the blocking driver is refused where it cannot be, with the reason", async () => {
  const rest = { driver: "blocking" } as const;
  const forced = (settings: Settings): Promise<void> =>
    withDaemon({ ...settings, rest }, () => Promise.resolve());
  await assert.rejects(forced({ specs: { m: "memory:1M" }, filters: ["delay:?read=1ms"] }), {
    errno: "EOPNOTSUPP",
    message: /target m with the blocking driver: delay waits/,
  });
  await assert.rejects(forced({ specs: { m: "memory:1M" }, filters: ["retry"] }), {
    errno: "EOPNOTSUPP",
    message: /its storage waits/,
  });
  await assert.rejects(forced({ specs: { m: "fatal:1M" }, plugin: false }), {
    errno: "EOPNOTSUPP",
    message: /another thread cannot load/,
  });
  await assert.rejects(forced({ specs: { f: "file:DIR/missing" } }), { errno: "ENOENT" });
  await assert.rejects(forced({ specs: { f: "file:" } }), { name: "UsageError" });
});

Deno.test("a target in a thread serves the main thread, and shows it what was counted", async () => {
  await withDaemon({ specs: { f: "file:DIR/f?size=1M" } }, async ({ daemon, connect }) => {
    const { device } = daemon.targets.get("f") ?? assert.fail();
    await using client = await connect("f");
    await write(client, 8192, 7);
    assert.deepEqual(await read(device, 8192), new Uint8Array(BLOCK).fill(7));
    await write(device, 4096, 9);
    assert.deepEqual(await read(client, 4096), new Uint8Array(BLOCK).fill(9));
    await device.submit(makeRequest("flush"));
    const query = makeRequest("extents", 0, MIB);
    await device.submit(query);
    assert.ok((query.extents ?? []).length > 0);
    const { read: reads, write: writes, flush } = device.statistics.snapshot();
    assert.deepEqual([reads.count, writes.count, flush.count], [2, 2, 1]);
    assert.equal(writes.bytes, 2 * BLOCK);
    assert.equal(device.inFlight, 0);
    await assert.rejects(async () => await read(device, MIB), { errno: "EINVAL" });
    assert.equal(device.statistics.read.errors, 1);
  });
});

Deno.test("a target in a thread is resized while clients use it, and new ones see the size", async () => {
  await withDaemon({ specs: { f: "file:DIR/f?size=1M" } }, async ({ daemon, connect, dir }) => {
    await using client = await connect("f");
    await write(client, 0, 1);
    const { device } = daemon.targets.get("f") ?? assert.fail();
    await device.resize(2 * MIB);
    assert.equal(device.geometry.size, 2 * MIB);
    assert.equal((await Deno.stat(`${dir}/f`)).size, 2 * MIB);
    await write(device, MIB, 2);
    await write(client, 0, 3);
    await assert.rejects(device.resize(-1), { errno: "EINVAL" });
  });
});

Deno.test("access is taken away from a connection in a thread that blocks, and from no other", async () => {
  await withDaemon({ specs: { m: "memory:1M" } }, async ({ daemon, connect }) => {
    const one = await connect("m");
    await write(one, 0, 1);
    const [file] = daemon.files;
    assert.ok(file !== undefined);
    await using two = await connect("m");
    await write(two, 0, 2);
    assert.equal(file.revoke(), true);
    await file.drain({ limit_ms: 5_000 });
    await assert.rejects(write(one, 0, 3));
    await file.released;
    await write(two, 0, 4);
    assert.equal((await read(two, 0))[0], 4);
    await until(() => daemon.connectionCount === 1);
    await one[Symbol.asyncDispose]().catch(() => {});
  });
});

Deno.test("a daemon stops while threads block and clients are connected", async () => {
  const clients: Device[] = [];
  await withDaemon({ specs: { m: "memory:1M", n: "memory:1M" } }, async ({ daemon, connect }) => {
    for (const name of ["m", "n", "m", "n"]) clients.push(await connect(name));
    await Promise.all(clients.map((client) => write(client, 0, 1)));
    assert.equal(daemon.connectionCount, 4);
  });
  for (const client of clients) await assert.rejects(write(client, 0, 1));
  for (const client of clients) await client[Symbol.asyncDispose]().catch(() => {});
});

Deno.test("a thread that dies takes its target and connections with it, and nothing else", async () => {
  const specs = { bad: "fatal:1M", good: "memory:1M" };
  assert.equal(fatal.name, "fatal");
  await withDaemon({ specs }, async ({ daemon, log, connect }) => {
    await using good = await connect("good");
    const descriptors = openDescriptors();
    const victims = [await connect("bad"), await connect("bad")];
    await Promise.all(victims.map((client) => write(client, 0, 1)));
    assert.equal(daemon.targets.get("bad")?.driver, "blocking");
    const [first] = victims;
    assert.ok(first !== undefined);
    const long = new Uint8Array(128 * 1024);
    await first.submit(makeRequest("read", 0, long.length, { data: long }));
    assert.equal(long[0], 1);
    assert.ok(openDescriptors() >= descriptors + 2 * victims.length);
    const { device } = daemon.targets.get("bad") ?? assert.fail();
    await assert.rejects(read(first, MIB - BLOCK));
    await until(() => daemon.targets.get("bad") === undefined);
    await until(() => daemon.connectionCount === 1);
    assert.ok(log.lines.some((line) => /thread of target bad has died: .*on purpose/.test(line)));
    for (const client of victims) await assert.rejects(write(client, 0, 1));
    await assert.rejects(async () => await write(device, 0, 1), { errno: "EIO" });
    await assert.rejects(connect("bad"));
    await write(good, 0, 5);
    assert.equal((await read(good, 0))[0], 5);
    assert.equal([...daemon.files].length, 1);
    for (const client of victims) await client[Symbol.asyncDispose]().catch(() => {});
    await until(() => openDescriptors() <= descriptors);
  });
});
