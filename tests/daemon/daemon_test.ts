/** Tests of the daemon in this process: real sockets, the real acceptor thread, our own client. @module */
import assert from "node:assert/strict";
import { defaultRegistry } from "../../backends/mod.ts";
import { patternFill } from "../../backends/pattern.ts";
import { Device } from "../../lib/block/device.ts";
import { FLAG_FUA, makeRequest } from "../../lib/block/request.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import { type ConfigParts, finishConfig, type TargetConfig } from "../../lib/daemon/config.ts";
import { systemContext } from "../../lib/daemon/context.ts";
import { type Daemon, startDaemon } from "../../lib/daemon/daemon.ts";
import { parseEndpoint } from "../../lib/daemon/endpoint.ts";
import { MemoryLog } from "../support/context.ts";

interface Running {
  readonly daemon: Daemon;
  readonly log: MemoryLog;
  readonly dir: string;
}

async function withDaemon(
  specs: Record<string, string>,
  rest: ConfigParts,
  run: (running: Running) => Promise<void>,
): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "dmu-test-" });
  const log = new MemoryLog();
  try {
    const targets = Object.entries(specs).map(([name, spec]) => ({
      name,
      spec: parseSpec(spec.replaceAll("DIR", dir)),
      description: `the disk ${name}`,
      readOnly: name.startsWith("ro"),
    }));
    const endpoints = [parseEndpoint(`unix:${dir}/s`)];
    const config = finishConfig({ targets, endpoints, ...rest });
    const daemon = await startDaemon(config, { registry: defaultRegistry(), log });
    try {
      await run({ daemon, log, dir });
    } finally {
      await daemon.stop();
    }
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function uriOf(daemon: Daemon, target?: string): string {
  const [endpoint] = daemon.endpoints;
  assert.ok(endpoint !== undefined);
  return endpoint.uri(target);
}

async function openClient(uri: string): Promise<Device> {
  const context = systemContext({ log: new MemoryLog() });
  const { opened } = await defaultRegistry().open(parseSpec(uri), context);
  return new Device(opened.backend, { name: "client", clock: context.clock, log: context.log });
}

Deno.test("startDaemon() serves a target that keeps what is written across connections", async () => {
  await withDaemon({ m: "memory:8M", f: "file:DIR/disk?size=8M" }, {}, async ({ daemon }) => {
    for (const target of ["m", "f"]) {
      const data = new Uint8Array(70_000);
      patternFill(data, 0);
      {
        await using writer = await openClient(uriOf(daemon, target));
        await writer.submit(makeRequest("write", 12_345, data.length, { data, flags: FLAG_FUA }));
      }
      await using reader = await openClient(uriOf(daemon, target));
      const into = new Uint8Array(data.length);
      await reader.submit(makeRequest("read", 12_345, into.length, { data: into }));
      assert.deepEqual(into, data);
      assert.equal(daemon.targets.get(target)?.device.statistics.write.snapshot().count, 1);
    }
  });
});

Deno.test("startDaemon() serves several connections of one target at once", async () => {
  await withDaemon({ m: "memory:8M" }, {}, async ({ daemon }) => {
    const clients = await Promise.all(
      Array.from({ length: 8 }, () => openClient(uriOf(daemon, "m"))),
    );
    const data = new Uint8Array(4096).fill(9);
    await Promise.all(
      clients.map((client, i) => client.submit(makeRequest("write", i * 4096, 4096, { data }))),
    );
    const into = new Uint8Array(8 * 4096);
    await clients[0]?.submit(makeRequest("read", 0, into.length, { data: into }));
    assert.ok(into.every((byte) => byte === 9));
    await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()));
  });
});

Deno.test("startDaemon() gives the only target to clients that name none", async () => {
  await withDaemon({ only: "null:1M" }, {}, async ({ daemon }) => {
    await using client = await openClient(uriOf(daemon));
    assert.equal(client.geometry.size, 1 << 20);
  });
});

Deno.test("startDaemon() refuses writes to a read-only target whatever its storage says", async () => {
  await withDaemon({ ro: "memory:1M" }, {}, async ({ daemon }) => {
    await using client = await openClient(uriOf(daemon, "ro"));
    assert.equal(client.features.readOnly, true);
    const target = daemon.targets.get("ro");
    assert.ok(target !== undefined);
    const write = makeRequest("write", 0, 1, { data: new Uint8Array(1) });
    await assert.rejects(async () => await target.device.submit(write), { errno: "EROFS" });
  });
});

Deno.test("startDaemon() opens nothing when one part of it cannot be opened", async () => {
  const dir = await Deno.makeTempDir({ prefix: "dmu-test-" });
  try {
    const target = (name: string, spec: string): TargetConfig[] => [
      { name, spec: parseSpec(spec), description: "", readOnly: false },
    ];
    const options = { registry: defaultRegistry(), log: new MemoryLog() };
    const missing = finishConfig({
      targets: target("f", `file:${dir}/none.img`),
      endpoints: [parseEndpoint(`unix:${dir}/s`)],
    });
    await assert.rejects(startDaemon(missing, options), { errno: "ENOENT" });
    await assert.rejects(Deno.stat(`${dir}/s`), Deno.errors.NotFound);
    const unreachable = finishConfig({
      targets: target("m", "memory:1M"),
      endpoints: [parseEndpoint(`unix:${dir}/s`), parseEndpoint(`unix:${dir}/no/such/folder/s`)],
    });
    await assert.rejects(startDaemon(unreachable, options), { errno: "ENOENT" });
    await assert.rejects(Deno.stat(`${dir}/s`), Deno.errors.NotFound);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("Daemon.stop() answers what is in flight, ends connections, and removes the socket", async () => {
  await withDaemon({ m: "memory:64M" }, {}, async ({ daemon, dir }) => {
    const client = await openClient(uriOf(daemon, "m"));
    const data = new Uint8Array(8 << 20).fill(1);
    const writing = client.submit(makeRequest("write", 0, data.length, { data }));
    const settled = Promise.resolve(writing).then(() => "done", () => "refused");
    await daemon.stop();
    assert.ok(["done", "refused"].includes(await settled));
    await assert.rejects(Deno.stat(`${dir}/s`), Deno.errors.NotFound);
    assert.equal(daemon.connectionCount, 0);
    await client[Symbol.asyncDispose]().catch(() => {});
  });
});

Deno.test("startDaemon() turns clients away above the limit of connections", async () => {
  await withDaemon({ m: "memory:1M" }, { connectionsMax: 1 }, async ({ daemon, log }) => {
    const first = await openClient(uriOf(daemon, "m"));
    const data = new Uint8Array(1);
    // In the handshake: a disk that opens and then fails would be worse than none.
    await assert.rejects(
      openClient(uriOf(daemon, "m")),
      /its policy forbids it: Cannot do GO: there are 1 connections already/,
    );
    assert.equal(await first.submit(makeRequest("read", 0, 1, { data })), undefined);
    assert.ok(log.lines.some((line) => line.includes("There are 1 connections")));
    // A connection that has ended gives its place back.
    await first[Symbol.asyncDispose]();
    while (daemon.connectionCount > 0) await new Promise<void>((resolve) => setTimeout(resolve, 0));
    await using next = await openClient(uriOf(daemon, "m"));
    assert.equal(await next.submit(makeRequest("read", 0, 1, { data })), undefined);
  });
});
