/**
 * The figures of a daemon: the text format, what is in it after known work, health in every phase, the
 * limits of the HTTP server, and what a collector of OpenTelemetry is sent.
 *
 * @module
 */
import assert from "node:assert/strict";
import http from "node:http";
import net from "node:net";
import { defaultRegistry } from "../../backends/mod.ts";
import { memory } from "../../backends/memory.ts";
import { Device } from "../../lib/block/device.ts";
import type { TargetDevice } from "../../lib/daemon/target.ts";
import { BufferPool } from "../../lib/block/pool.ts";
import { makeRequest } from "../../lib/block/request.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import { Histogram } from "../../lib/block/statistics.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { finishConfig, parseConfig } from "../../lib/daemon/config.ts";
import { type Daemon, startDaemon } from "../../lib/daemon/daemon.ts";
import { parseEndpoint, parseMetricsEndpoint } from "../../lib/daemon/endpoint.ts";
import {
  HEALTH_STALL_MS,
  METRICS_CONNECTIONS_MAX,
  METRICS_REQUEST_BYTES_MAX,
} from "../../lib/daemon/limits.ts";
import {
  type DaemonPhase,
  Health,
  type MeasuredTarget,
  secondsOf,
} from "../../lib/daemon/metrics.ts";
import { familyHead, formatLabels, formatValue, sample } from "../../lib/daemon/metrics_text.ts";
import { telemetryIsOn } from "../../lib/daemon/telemetry.ts";
import { seededRandom } from "../../lib/testing/mod.ts";
import { MemoryLog, testContext } from "../support/context.ts";
import { interopTest, run, startDmu, withTempDir } from "../support/tools.ts";

const MEMORY = { size: 1 << 20, limit: 1 << 20 };

interface Reply {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly text: string;
}

interface Ask {
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string;
}

/** A request over a unix socket, on a connection of its own. */
function ask(socketPath: string, path: string, rest: Ask = {}): Promise<Reply> {
  const { method = "GET", headers = {}, body } = rest;
  return new Promise((resolve, reject) => {
    const options = { socketPath, path, method, headers, agent: false };
    const request = http.request(options, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => text += chunk);
      response.on(
        "end",
        () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }),
      );
    });
    request.on("error", reject);
    request.end(body);
  });
}

interface Family {
  readonly type: string;
  readonly samples: Map<string, number>;
}

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (\S+)$/;

/** Reads the text format strictly: every sample belongs to the family above it, none comes twice. */
function parseMetrics(text: string): Map<string, Family> {
  const families = new Map<string, Family>();
  let current = "";
  let helped = "";
  assert.ok(text.endsWith("\n"));
  for (const line of text.slice(0, -1).split("\n")) {
    const [, what, name = "", rest = ""] = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line) ?? [];
    if (what === "HELP") helped = name;
    else if (what === "TYPE") {
      assert.equal(helped, name, line);
      assert.ok(!families.has(name), line);
      families.set(current = name, { type: rest, samples: new Map() });
    } else {
      const [, full = "", labels = "", value = ""] = SAMPLE.exec(line) ?? [];
      const family = families.get(current);
      const base = family?.type === "histogram" ? full.replace(/_(bucket|sum|count)$/, "") : full;
      assert.equal(base, current, line);
      assert.ok(family !== undefined && !family.samples.has(`${full}{${labels}}`), line);
      family.samples.set(`${full}{${labels}}`, value === "+Inf" ? Infinity : Number(value));
      assert.ok(!Number.isNaN(Number(value.replace("+Inf", "0"))), line);
    }
  }
  return families;
}

/** The value of a sample, with its labels. */
function valueOf(families: Map<string, Family>, name: string): number | undefined {
  const family = name.replace(/\{.*/, "").replace(/_(bucket|sum|count)$/, "");
  return (families.get(name.replace(/\{.*/, "")) ?? families.get(family))?.samples.get(name);
}

interface Running {
  readonly daemon: Daemon;
  readonly socket: string;
}

/** A daemon with a target `d` of memory and metrics on a unix socket. */
async function withDaemon(fn: (running: Running) => Promise<void>): Promise<void> {
  await withTempDir(async (folder) => {
    const socket = `${folder}/metrics`;
    const config = finishConfig({
      targets: [{ name: "d", spec: parseSpec("memory:1M"), description: "", readOnly: false }],
      endpoints: [parseEndpoint(`unix:${folder}/nbd`)],
      metrics: parseMetricsEndpoint(`unix:${socket}`),
    });
    const options = { registry: defaultRegistry(), log: new MemoryLog(), version: "1.2.3" };
    const daemon = await startDaemon(config, options);
    try {
      assert.equal(daemon.metrics, `unix:${socket}`);
      await fn({ daemon, socket });
    } finally {
      await daemon.stop();
    }
    assert.equal(daemon.metrics, null);
    assert.deepEqual([...Deno.readDirSync(folder)], [], "no file is left");
  });
}

function deviceOf(daemon: Daemon, name = "d"): TargetDevice {
  const device = daemon.targets.get(name)?.device;
  assert.ok(device !== undefined);
  return device;
}

Deno.test("sample() and familyHead() escape what the format gives a meaning", () => {
  const labels = formatLabels([["a", 'x"y\\z\n'], ["b", ""]]);
  assert.equal(sample("m", labels, 1), 'm{a="x\\"y\\\\z\\n",b=""} 1\n');
  assert.equal(sample("m", "", 0.5), "m 0.5\n");
  assert.equal(familyHead("m", "gauge", "a\\b\nc"), "# HELP m a\\\\b\\nc\n# TYPE m gauge\n");
  assert.deepEqual([Infinity, -Infinity, NaN, 1e-6].map(formatValue), [
    "+Inf",
    "-Inf",
    "NaN",
    "0.000001",
  ]);
});

Deno.test("secondsOf() counts each value up to the bounds that are not below it", () => {
  const random = seededRandom(11);
  const latency = new Histogram();
  const values = Array.from(
    { length: 5000 },
    () => random.below(2 ** (1 + random.below(26))) + 0.5,
  );
  for (const value of values) latency.record(value);
  const { buckets, count, sum } = secondsOf(latency);
  assert.equal(count, values.length);
  assert.ok(Math.abs(sum * 1e6 - values.reduce((all, each) => all + each, 0)) < 1);
  for (const [bound, cumulative] of buckets) {
    assert.equal(cumulative, values.filter((value) => value <= bound * 1e6).length, `${bound}`);
  }
  assert.deepEqual(secondsOf(new Histogram()).buckets.at(-1), [16.777216, 0]);
});

Deno.test("/metrics shows what was done", () =>
  withDaemon(async ({ daemon, socket }) => {
    const device = deviceOf(daemon);
    const data = new Uint8Array(4096);
    for (let at = 0; at < 3; at++) {
      await device.submit(makeRequest("write", 4096 * at, 4096, { data }));
    }
    await device.submit(makeRequest("read", 0, 4096, { data }));
    await assert.rejects(async () =>
      await device.submit(makeRequest("read", 2 ** 30, 4096, { data }))
    );
    const file = daemon.files.open({ kind: "test", peer: "a test", target: "d" });
    const { status, headers, text } = await ask(socket, "/metrics");
    await file.close();
    assert.equal(status, 200);
    assert.equal(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    const families = parseMetrics(text);
    const counts = { read: device.statistics.read, write: device.statistics.write };
    for (const [operation, { latency, errors, bytes }] of Object.entries(counts)) {
      const labels = `target="d",operation="${operation}"`;
      const value = (name: string, more = ""): number | undefined =>
        valueOf(families, `dmu_operation_${name}{${labels}${more}}`);
      assert.equal(value("duration_seconds_count"), latency.count);
      assert.equal(value("duration_seconds_bucket", ',le="+Inf"'), latency.count);
      assert.ok(Math.abs((value("duration_seconds_sum") ?? 0) * 1e6 - latency.totalUs) < 1);
      assert.equal(value("bytes_total"), bytes);
      assert.equal(value("errors_total"), errors);
    }
    assert.equal(device.statistics.write.bytes, 3 * 4096);
    assert.equal(families.get("dmu_operation_duration_seconds")?.type, "histogram");
    assert.equal(valueOf(families, 'dmu_target_size_bytes{target="d"}'), 1024 * 1024);
    assert.equal(valueOf(families, 'dmu_target_up{target="d"}'), 1);
    assert.equal(valueOf(families, 'dmu_target_in_flight{target="d"}'), 0);
    assert.equal(valueOf(families, 'dmu_open_files{kind="test",state="new"}'), 1);
    assert.equal(
      valueOf(families, `dmu_build_info{version="1.2.3",deno="${Deno.version.deno}"}`),
      1,
    );
    assert.ok((valueOf(families, "process_cpu_seconds_total{}") ?? 0) > 0);
    assert.ok((valueOf(families, "process_open_fds{}") ?? 0) > 2);
    assert.equal(valueOf(families, "dmu_connections{}"), 0);
  }));

interopTest(
  "promtool finds nothing wrong in /metrics",
  ["promtool"],
  () =>
    withDaemon(async ({ daemon, socket }) => {
      const data = new Uint8Array(512);
      await deviceOf(daemon).submit(makeRequest("write", 0, 512, { data }));
      const { text } = await ask(socket, "/metrics");
      const { code, stdout, stderr } = await run("promtool", ["check", "metrics"], { stdin: text });
      assert.equal(code, 0, stdout + stderr);
    }),
);

Deno.test("the pages of metrics answer as HTTP wants", () =>
  withDaemon(async ({ socket }) => {
    const status = async (path: string, rest: Ask = {}): Promise<number> =>
      (await ask(socket, path, rest)).status;
    assert.match((await ask(socket, "/")).text, /\/metrics.*\/healthz/);
    const head = await ask(socket, "/metrics", { method: "HEAD" });
    assert.equal(head.status, 200);
    assert.equal(head.text, "");
    assert.ok(Number(head.headers["content-length"]) > 1000);
    assert.equal(await status("/metrics?x=1"), 200);
    assert.equal(await status("/none"), 404);
    const post = await ask(socket, "/metrics", { method: "POST", body: "x" });
    assert.equal(post.status, 405);
    assert.equal(post.headers.allow, "GET, HEAD");
    assert.equal(await status("/metrics", { headers: { "content-length": "1" }, body: "x" }), 413);
    const long = { x: "x".repeat(METRICS_REQUEST_BYTES_MAX) };
    assert.equal(await status("/metrics", { headers: long }), 431);
    assert.equal(await status("/healthz"), 200);
  }));

Deno.test("metrics close connections past the limit and serve the others", () =>
  withDaemon(async ({ socket }) => {
    const open = (): Promise<net.Socket> =>
      new Promise((resolve, reject) => {
        const connection: net.Socket = net.connect(socket, () => resolve(connection));
        connection.once("error", reject);
      });
    const first = await Promise.all(Array.from({ length: METRICS_CONNECTIONS_MAX }, open));
    const late = await open();
    late.resume();
    late.on("error", () => {});
    await new Promise<void>((resolve) => late.once("close", () => resolve()));
    const answered = new Promise<string>((resolve) =>
      first[0]?.once("data", (data) => resolve(String(data)))
    );
    first[0]?.write("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    assert.match(await answered, /^HTTP\/1\.1 200 /);
    const closed = first.map((each) =>
      new Promise<void>((resolve) => each.once("close", () => resolve()))
    );
    for (const each of first) each.destroy();
    await Promise.all(closed);
  }));

Deno.test("/healthz says that the daemon is starting, then that it is well, then nothing any more", () =>
  withTempDir(async (folder) => {
    const opening = Promise.withResolvers<void>(), go = Promise.withResolvers<void>();
    const registry = defaultRegistry();
    registry.register({
      ...memory,
      name: "slow",
      schemes: [],
      open: async (_, context) => {
        opening.resolve();
        await go.promise;
        return await memory.open(MEMORY, context);
      },
    });
    const socket = `${folder}/metrics`;
    const config = finishConfig({
      targets: [{ name: "s", spec: parseSpec("slow:1M"), description: "", readOnly: false }],
      endpoints: [parseEndpoint(`unix:${folder}/nbd`)],
      metrics: parseMetricsEndpoint(`unix:${socket}`),
    });
    const starting = startDaemon(config, { registry, log: new MemoryLog() });
    await opening.promise;
    const { status, text } = await ask(socket, "/healthz");
    assert.equal(status, 503);
    assert.deepEqual(JSON.parse(text), {
      healthy: false,
      phase: "starting",
      reasons: ["it is starting"],
    });
    go.resolve();
    const daemon = await starting;
    const well = await ask(socket, "/healthz");
    assert.deepEqual([well.status, JSON.parse(well.text)], [
      200,
      { healthy: true, phase: "serving", reasons: [] },
    ]);
    await daemon.stop();
    await assert.rejects(ask(socket, "/healthz"));
  }));

Deno.test("Health tells what does not answer", async () => {
  const { backend } = await memory.open(MEMORY, testContext());
  const stuck = Promise.withResolvers<void>();
  const context = testContext();
  const { clock, log } = context;
  const device = new Device({
    ...backend,
    geometry: backend.geometry,
    capabilities: { synchronous: false, fua: true },
    read: () => stuck.promise,
    write: () => {},
    flush: () => {},
    [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
  }, { name: "d", clock, log });
  let phase: DaemonPhase = "serving";
  let target: MeasuredTarget = { name: "d", kind: "x", state: "connected", error: null, device };
  let now_ms = 0;
  using health = new Health({
    version: "",
    get phase(): DaemonPhase {
      return phase;
    },
    get targets(): MeasuredTarget[] {
      return [target];
    },
    files: [],
    connections: { count: 0, max: 1 },
    pool: new BufferPool(),
  }, () => now_ms);
  assert.deepEqual(health.reasons(), []);
  const data = new Uint8Array(512);
  const reading = device.submit(makeRequest("read", 0, 512, { data }));
  assert.deepEqual(health.reasons(), []);
  now_ms += HEALTH_STALL_MS - 1;
  assert.deepEqual(health.reasons(), []);
  await device.submit(makeRequest("write", 0, 512, { data }));
  now_ms += 1;
  assert.deepEqual(health.reasons(), [], "something has ended");
  now_ms += HEALTH_STALL_MS;
  assert.deepEqual(health.reasons(), ["target d has ended nothing for 30 s"]);
  stuck.resolve();
  await reading;
  assert.deepEqual(health.reasons(), []);
  target = { ...target, state: "init-wait", error: "Cannot open it" };
  assert.deepEqual(health.reasons(), ["target d does not answer: Cannot open it"]);
  phase = "failed";
  assert.deepEqual(health.reasons(), ["nobody can connect"]);
  await device[Symbol.asyncDispose]();
});

Deno.test("parseMetricsEndpoint() takes what can be served and refuses the rest", () => {
  assert.deepEqual(parseMetricsEndpoint("tcp:9464"), {
    kind: "tcp",
    host: "127.0.0.1",
    port: 9464,
  });
  assert.deepEqual(parseMetricsEndpoint("tcp:[::1]:0"), { kind: "tcp", host: "::1", port: 0 });
  for (const text of ["tcp:0.0.0.0", "tcp:[::1]", "tcp:host", "systemd:", "9464", ""]) {
    assert.throws(() => parseMetricsEndpoint(text), UsageError, text);
  }
  const { metrics } = parseConfig('metrics = "unix:/run/m"', { path: "dmu.toml" });
  assert.deepEqual(metrics, { kind: "unix", path: "/run/m", mode: 0o600 });
  assert.throws(() => parseConfig('metrics = "tcp:host"', { path: "dmu.toml" }), UsageError);
});

Deno.test("dmu serve --metrics names the real port, and an unusable one is an error", () =>
  withTempDir(async (folder) => {
    const nbd = ["memory:1M", "--nbd", `unix:${folder}/s`];
    await using server = await startDmu([...nbd, "--metrics", "tcp:127.0.0.1:0"]);
    const { metrics } = server.ready;
    assert.ok(typeof metrics === "string");
    assert.match(metrics, /^http:\/\/127\.0\.0\.1:[1-9]\d+$/);
    const response = await fetch(`${metrics}/healthz`);
    assert.deepEqual([response.status, (await response.json()).healthy], [200, true]);
    const taken = metrics.replace("http://", "tcp:");
    const args = ["memory:1M", "--nbd", `unix:${folder}/t`, "--metrics", taken];
    await assert.rejects(startDmu(args), /exit code 1[^]*EADDRINUSE|exit code 1[^]*in use/);
    await server.stop();
  }));

/** The attributes of the span of this name in an export of OTLP as JSON, null if it is not there. */
function spanIn(value: unknown, name: string): Record<string, string> | null {
  if (typeof value !== "object" || value === null) return null;
  if ("name" in value && value.name === name && "attributes" in value) {
    const list = Array.isArray(value.attributes) ? value.attributes : [];
    return Object.fromEntries(list.map((each) => [each.key, String(each.value.stringValue)]));
  }
  for (const each of Object.values(value)) {
    const found = spanIn(each, name);
    if (found !== null) return found;
  }
  return null;
}

Deno.test("with OTEL_DENO=true a collector is sent a span of each open file", () =>
  withTempDir(async (folder) => {
    const sent = Promise.withResolvers<Record<string, string>>();
    const take = async (request: Request): Promise<Response> => {
      const found = spanIn(await request.json(), "dmu.file nbd");
      if (found !== null) sent.resolve(found);
      return Response.json({});
    };
    const options = { hostname: "127.0.0.1", port: 0, onListen: (): void => {} };
    const collector = Deno.serve(options, take);
    await using server = await startDmu(["d=memory:1M", "--nbd", `unix:${folder}/s`], {
      env: {
        OTEL_DENO: "true",
        OTEL_DENO_CONSOLE: "ignore",
        OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${collector.addr.port}`,
        OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
        OTEL_BSP_SCHEDULE_DELAY: "50",
      },
    });
    const { opened } = await defaultRegistry().open(parseSpec(server.uri), testContext());
    await opened.backend[Symbol.asyncDispose]();
    // Deno sends what it has at the latest when the process ends.
    await server.stop();
    const attributes = await sent.promise;
    assert.equal(attributes["dmu.target"], "d");
    assert.match(attributes["dmu.peer"] ?? "", /^process \d+ of user \d+$/);
    await collector.shutdown();
  }));

Deno.test("telemetryIsOn() is false unless Deno was told to", () => {
  assert.equal(telemetryIsOn(() => undefined), false);
  assert.equal(telemetryIsOn((name) => name === "OTEL_DENO" ? "true" : undefined), true);
  assert.equal(telemetryIsOn((name) => name === "OTEL_DENO" ? "false" : undefined), false);
});
