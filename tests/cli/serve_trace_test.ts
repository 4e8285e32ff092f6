/** `dmu serve --trace`: what is recorded, what is refused, and what happens if a trace breaks. @module */
import assert from "node:assert/strict";
import { join } from "node:path";
import { finishConfig, parseConfig } from "../../lib/daemon/config.ts";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { canMount, withMount } from "../support/mounts.ts";
import { complete, readNative, submit, traceOf, writeNative } from "../support/traces.ts";
import { sampleBytes, withTempDir } from "../support/tools.ts";
import { CapturedIo, dmu, serve } from "./captured_io.ts";

const DATA = sampleBytes(4096, 5);

const EVENTS: readonly TraceEvent[] = [
  submit(1, 0, "write", 8192, { data: DATA }),
  complete(1, 1),
  submit(2, 2, "read", 8192),
  complete(2, 3, { data: DATA }),
];

interface Bench {
  path(name: string): string;
  /** Replays a trace on what is served there. */
  replay(target: string, ...args: string[]): ReturnType<typeof dmu>;
}

async function withFolder(test: (bench: Bench) => Promise<void>): Promise<void> {
  await withTempDir(async (folder) => {
    const path = (name: string): string => join(folder, name);
    await writeNative(path("in"), traceOf(EVENTS, { size: 1 << 20 }));
    await test({
      path,
      replay: (target, ...args) => dmu(["replay", path("in"), target, "--verify", ...args]),
    });
  });
}

const KEPT = [
  { options: [], digest: false, payload: false },
  { options: ["--trace-digest"], digest: true, payload: false },
  { options: ["--trace-payload"], digest: true, payload: true },
];

for (const { options, digest, payload } of KEPT) {
  Deno.test(`dmu serve --trace ${options.join()} records a target`, () =>
    withFolder(async ({ path, replay }) => {
      const args = ["--nbd", `unix:${path("s")}`, "--trace", path("out"), ...options];
      const { stop } = await serve(["memory:1M", ...args]);
      assert.equal((await replay(`nbd+unix:///?socket=${path("s")}`)).code, 0);
      const { code, stderr } = await stop();
      assert.equal(code, 0);
      assert.ok(stderr.endsWith(`dmu: The trace ${path("out")} has 4 events\n`), stderr);
      const { source, events } = await readNative(path("out"));
      const { target, size, completes, started_ms } = source.info;
      assert.deepEqual([target, size, completes], ["default", 1 << 20, true]);
      assert.ok(Math.abs((started_ms ?? 0) - Date.now()) < 60_000);
      assert.deepEqual(
        events.map((event) => [event.kind, event.id, event.digest !== null]),
        [
          ...[["submit", 1, digest], ["complete", 1, false]],
          ...[["submit", 2, false], ["complete", 2, digest]],
        ],
      );
      assert.deepEqual(events[0]?.payload ?? null, payload ? DATA : null);
      assert.deepEqual(events[3]?.payload ?? null, payload ? DATA : null);
      assert.equal(((await Deno.stat(path("out"))).mode ?? 0) & 0o777, 0o600);
    }));
}

Deno.test("dmu serve --trace NAME=FILE records the targets that are named", () =>
  withFolder(async ({ path, replay }) => {
    const io = new CapturedIo({ environment: { DMU_CONTROL: `unix:${path("c")}` } });
    const { stop } = await serve([
      ...["a=memory:1M", "b=memory:1M", "c=memory:1M", "--nbd", `unix:${path("s")}`],
      ...["--trace", `a=${path("a")}`, "--trace", `c=${path("c.trace")}`],
    ], io);
    // By name: through the control socket to its address.
    const control = ["--control", `unix:${path("c")}`];
    for (const name of ["a", "b", "a"]) assert.equal((await replay(name, ...control)).code, 0);
    const absent = await replay("d", ...control);
    assert.equal(absent.code, 1);
    assert.match(absent.stderr, /Cannot find target "d": there is none of that name/);
    assert.equal((await stop()).code, 0);
    const { events } = await readNative(path("a"));
    assert.equal(events.length, 8);
    const connections = events.flatMap((each) => each.kind === "submit" ? [each.connection] : []);
    assert.equal(new Set(connections).size, 2, "two replays, two connections");
    assert.equal((await readNative(path("c.trace"))).events.length, 0);
  }));

const WRONG: readonly (readonly [args: readonly string[], message: RegExp])[] = [
  [["a=memory:1M", "b=memory:1M", "--trace", "x"], /write NAME=FILE, NAME of a, b/],
  [["a=memory:1M", "--trace", "b=x"], /no such target; there are a/],
  [["a=memory:1M", "--trace", "a="], /no file is named/],
  [["a=memory:1M", "--trace", "x", "--trace", "y"], /it has a trace already/],
  [["a=memory:1M", "b=memory:1M", "--trace", "a=x", "--trace", "b=x"], /the trace of a is there/],
  [["memory:1M", "--trace-payload"], /add --trace FILE/],
  [["memory:1M", "--trace-digest"], /add --trace FILE/],
];

for (const [args, message] of WRONG) {
  Deno.test(`dmu serve ${args.join(" ")} is wrong usage`, () =>
    withFolder(async ({ path }) => {
      const real = args.map((each) => each.replace(/(^|=)([xy])$/, `$1${path("$2")}`));
      const { code, stdout, stderr } = await dmu(["serve", "--nbd", `unix:${path("s")}`, ...real]);
      assert.deepEqual([code, stdout], [2, ""], stderr);
      assert.match(stderr, message);
    }));
}

Deno.test("dmu serve does not start with a trace that cannot begin", () =>
  withFolder(async ({ path }) => {
    const start = (trace: string): ReturnType<typeof dmu> =>
      dmu(["serve", "memory:1M", "--nbd", `unix:${path("s")}`, "--trace", trace]);
    const before = await Deno.readFile(path("in"));
    const there = await start(path("in"));
    assert.equal(there.code, 1);
    assert.match(there.stderr, /^dmu: Cannot write the trace .*: .*no trace is overwritten\n$/);
    assert.deepEqual(await Deno.readFile(path("in")), before);
    const nowhere = await start(path("no/trace"));
    assert.equal(nowhere.code, 1);
    assert.match(nowhere.stderr, /^dmu: Cannot write the trace .*: no such file or directory\n$/);
  }));

Deno.test({
  name: "dmu serve goes on serving when a trace breaks" +
    (await canMount() ? "" : " (skipped: needs root and mount)"),
  ignore: !await canMount(),
  fn: () =>
    withFolder(async ({ path, replay }) => {
      await Deno.mkdir(path("small"));
      await withMount(path("small"), "tmpfs", ["-o", "size=64k"], async () => {
        const { io, stop } = await serve([
          ...["memory:1M", "--nbd", `unix:${path("s")}`, "--trace-payload"],
          ...["--trace", path("small/trace")],
        ]);
        const target = `nbd+unix:///?socket=${path("s")}`;
        for (let round = 0; round < 3; round += 1) {
          const { code, stdout } = await replay(target, "--loop", "20");
          assert.equal(code, 0, stdout);
        }
        const { code } = await stop();
        assert.equal(code, 0);
        assert.match(io.stderr, /Cannot write the trace .*: no space left.*; the rest is not/);
        // What was written before can be read.
        const { source } = await readNative(path("small/trace"));
        assert.equal(source.info.target, "default");
      });
    }),
});

Deno.test("parseConfig() reads the traces of targets", () => {
  const text = `
nbd = ["tcp:0"]
[[target]]
name = "a"
spec = "memory:1M"
trace = "/var/tmp/a.dmutrace"
trace-data = "digest"
[[target]]
name = "b"
spec = "memory:1M"
trace = "/var/tmp/b.dmutrace"
`;
  const traces = parseConfig(text, { path: "dmu.toml" }).targets?.map(({ trace }) => trace);
  assert.deepEqual(traces, [
    { path: "/var/tmp/a.dmutrace", data: "digest" },
    { path: "/var/tmp/b.dmutrace", data: "none" },
  ]);
  const parse = (from: string, to: string) => (): unknown =>
    finishConfig(parseConfig(text.replace(from, to), { path: "dmu.toml" }));
  assert.throws(parse('"digest"', '"some"'), /must be one of none, digest, payload/);
  assert.throws(parse('trace = "/var/tmp/a.dmutrace"\n', ""), /it has trace-data, but no trace/);
  assert.throws(parse("b.dmutrace", "a.dmutrace"), /the trace of a is there/);
});
