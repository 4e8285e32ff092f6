/** `dmu replay`: replays traces on targets of all kinds, and looks at crash points. @module */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { complete, nativeBytes, submit, traceOf, writeNative } from "../support/traces.ts";
import { sampleBytes, withTempDir } from "../support/tools.ts";
import { CapturedIo, dmu } from "./captured_io.ts";

const FIRST = sampleBytes(4096, 1), SECOND = sampleBytes(8192, 2);

/** Writes, a flush, and reads that find what was written. */
const EVENTS: readonly TraceEvent[] = [
  submit(1, 0, "write", 0, { data: FIRST }),
  complete(1, 100),
  submit(2, 200, "write", 65_536, { data: SECOND }),
  submit(3, 250, "read", 0),
  complete(3, 300, { data: FIRST }),
  complete(2, 400),
  submit(4, 500, "flush"),
  complete(4, 900),
  submit(5, 1_000, "read", 65_536, { length: 8192 }),
  complete(5, 1_100, { data: SECOND }),
];

interface Bench {
  readonly trace: string;
  path(name: string): string;
}

async function withTrace(
  test: (bench: Bench) => Promise<void>,
  events: readonly TraceEvent[] = EVENTS,
): Promise<void> {
  await withTempDir(async (folder) => {
    const path = (name: string): string => join(folder, name);
    await writeNative(path("trace"), traceOf(events));
    await test({ trace: path("trace"), path });
  });
}

Deno.test("dmu replay prints a report, and leaves what the trace has written", () =>
  withTrace(async ({ trace, path }) => {
    const { code, stdout, stderr } = await dmu(
      ["replay", trace, `file:${path("image")}`, "--verify", "--speed", "max"],
    );
    assert.deepEqual([code, stderr], [0, ""]);
    const lines = stdout.split("\n");
    assert.equal(lines[0], "replayed 5 requests");
    assert.match(stdout, /^ {2}target +file:/m);
    assert.match(stdout, /^ {2}verified +2 reads compared, 0 mismatches$/m);
    assert.match(stdout, /^write +achieved +2 +12 KiB /m);
    assert.match(stdout, /^ +recorded +2 +103 µs +200 µs +200 µs +200 µs$/m);
    assert.ok(lines.every((line) => [...line].length <= 80 || line.includes("file:")), stdout);
    const image = await Deno.readFile(path("image"));
    assert.equal(image.length, 1 << 20, "a new file has the size of the trace");
    assert.deepEqual(image.slice(0, 4096), FIRST);
    assert.deepEqual(image.slice(65_536, 65_536 + 8192), SECOND);
  }));

Deno.test("dmu replay at 1x takes the time of the recording and tells the lag", () =>
  withTrace(async ({ trace }) => {
    const { code, stdout } = await dmu(["replay", trace, "memory:", "--json"]);
    assert.equal(code, 0);
    const { requests, lag, durationUs, plannedUs } = JSON.parse(stdout);
    assert.deepEqual([requests, lag.count, plannedUs], [5, 5, 1_100]);
    assert.ok(durationUs >= 1_000, stdout);
    const tenth = await dmu(["replay", trace, "memory:", "--speed", "0.1x", "--json"]);
    assert.equal(JSON.parse(tenth.stdout).plannedUs, 11_000);
  }));

Deno.test("dmu replay goes through a simulated dm-user device", () =>
  withTrace(async ({ trace, path }) => {
    const target = `simulated-dm-user:file:${path("image")}`;
    const { code, stdout, stderr } = await dmu(["replay", trace, target, "--verify"]);
    assert.equal(code, 0, stderr);
    assert.match(stdout.replace(/\s+/g, " "), /a simulated dm-user device on file:/);
    assert.deepEqual((await Deno.readFile(path("image"))).slice(0, 4096), FIRST);
  }));

Deno.test("dmu replay --verify fails if other data are read", () =>
  withTrace(async ({ trace }) => {
    const { code, stdout } = await dmu(["replay", trace, "memory:", "--verify", "--loop", "2"]);
    assert.equal(code, 0, "the second round reads what the first one has written, too");
    assert.match(stdout, /^replayed 10 requests$/m);
    const { code: failed, stdout: report } = await dmu(["replay", trace, "null:1M", "--verify"]);
    assert.equal(failed, 1);
    assert.match(report, /2 reads compared, 2 mismatches/);
    assert.match(report, /^ {2}request 3, read of 4096 bytes at 0: it read other data/m);
    const unchecked = await dmu(["replay", trace, "null:1M"]);
    assert.equal(unchecked.code, 0, unchecked.stdout);
  }));

Deno.test("dmu replay fails for errors that the recording does not have", () =>
  withTrace(async ({ trace }) => {
    const { code, stdout } = await dmu(["replay", trace, "memory:1M?limit=4096"]);
    assert.equal(code, 1);
    assert.match(stdout, /^ {2}errors +1 that the recording does not have$/m);
    assert.match(stdout, /^ {2}request 2, write of 8192 bytes at 65536: no space left/m);
  }));

Deno.test("dmu replay takes errors that the recording has as they are", () =>
  withTrace(async ({ trace }) => {
    const { code, stdout } = await dmu(["replay", trace, "memory:1M?limit=4096"]);
    assert.equal(code, 0, stdout);
    const again = await dmu(["replay", trace, "memory:1M", "--verify"]);
    assert.equal(again.code, 1);
    assert.match(again.stdout, /it ended in success, recorded is ENOSPC/);
  }, [
    submit(1, 0, "write", 0, { data: FIRST }),
    complete(1, 1),
    submit(2, 2, "write", 65_536, { data: SECOND }),
    complete(2, 3, { errno: "ENOSPC" }),
  ]));

Deno.test("dmu replay --scale moves requests, and leaves out what does not fit", () =>
  withTrace(async ({ trace, path }) => {
    const image = `file:${path("image")}`;
    assert.equal((await dmu(["replay", trace, image, "--scale", "2"])).code, 0);
    const bytes = await Deno.readFile(path("image"));
    assert.equal(bytes.length, 2 << 20);
    assert.deepEqual(bytes.slice(131_072, 131_072 + 8192), SECOND);
    const small = await dmu(["replay", trace, "memory:8192"]);
    assert.equal(small.code, 0);
    assert.match(small.stdout, /^ {2}left out +2 requests beyond the end of the target$/m);
  }));

Deno.test("dmu replay reads standard input, once", async () => {
  const input = await nativeBytes(traceOf(EVENTS));
  const { code, stdout } = await dmu(
    ["replay", "-", "memory:", "--verify", "--json"],
    new CapturedIo({ input }),
  );
  assert.equal(code, 0);
  assert.equal(JSON.parse(stdout).verified, 2);
  const twice = await dmu(["replay", "-", "memory:", "--loop", "2"], new CapturedIo({ input }));
  assert.equal(twice.code, 2);
  assert.match(twice.stderr, /give a file/);
});

Deno.test("dmu replay shows how far it is by the time of the trace", () =>
  withTrace(async ({ trace }) => {
    const io = new CapturedIo({ errIsTerminal: true });
    const { code, stderr } = await dmu(["replay", trace, "memory:", "--speed", "0.1x"], io);
    assert.equal(code, 0);
    assert.match(stderr, /\rreplay [█░]{20} +\d+% of 1 ms/);
    assert.ok(stderr.endsWith("\r\x1b[K"), "the line is removed at the end");
  }));

Deno.test("dmu replay that is interrupted says so", () =>
  withTrace(async ({ trace }) => {
    const io = new CapturedIo();
    const running = dmu(["replay", trace, "memory:", "--speed", "0.00001x"], io);
    await io.listening;
    io.signal();
    const { code, stdout, stderr } = await running;
    assert.deepEqual([code, stdout], [1, ""]);
    assert.match(stderr, /Cannot finish the replay: it was interrupted/);
  }));

Deno.test("dmu replay --crash-points builds images and runs the check on them", () =>
  withTrace(async ({ trace, path }) => {
    const log = path("log");
    const check = `cksum <{} >>${log}`;
    const { code, stdout, stderr } = await dmu(
      ["replay", trace, "--crash-points", "flush", "--check", check],
    );
    assert.deepEqual([code, stderr], [0, ""]);
    assert.equal(stdout, "checked 2 crash points in 10 events: all are sound\n");
    const [one, two] = (await Deno.readTextFile(log)).split("\n");
    assert.equal(one, two, "nothing was written after the flush");
  }));

Deno.test("dmu replay --crash-points keeps the first image that is not sound", () =>
  withTrace(async ({ trace, path }) => {
    const args = ["replay", trace, "--crash-points", "every", "--keep", path("kept")];
    // The image with the second write, which the check spoils.
    const check = `n=$(od -An -tu1 -N1 -j65536 {}); echo "it is $n"; echo >{}; test $n = 0`;
    const { code, stdout } = await dmu([...args, "--check", check]);
    assert.equal(code, 1);
    assert.match(stdout, /^checked 2 crash points in 2 events: the last one is not sound$/m);
    assert.match(stdout, /^ {2}crash +after event 2, 0 ms from the beginning$/m);
    assert.match(stdout, /^ {2}kept +requests that no flush had covered, 2: 1, 2$/m);
    assert.match(stdout, /^ {2}it is +\d+\n {2}\(exit code 1\)$/m);
    const image = await Deno.readFile(path("kept/failed.img"));
    assert.deepEqual(image.slice(65_536, 65_536 + 8192), SECOND);
    assert.deepEqual([...Deno.readDirSync(path("kept"))].map(({ name }) => name), ["failed.img"]);
    const again = await dmu([...args, "--check", check]);
    assert.equal(again.code, 1);
    assert.match(again.stderr, /there is a failed.img already/);
  }));

Deno.test("dmu replay --crash-points begins with the base", () =>
  withTrace(async ({ trace, path }) => {
    await Deno.writeFile(path("base"), new Uint8Array(1 << 20).fill(9));
    const { code } = await dmu([
      ...["replay", trace, "--crash-points", "sample:5", "--seed", "3", "--base", path("base")],
      ...["--check", "test $(od -An -tu1 -N1 -j1000000 {}) = 9"],
    ]);
    assert.equal(code, 0);
  }));

const WRONG: readonly (readonly [args: readonly string[], message: RegExp])[] = [
  [["T"], /say on what/],
  [["T", "memory:", "--speed", "fast"], /like 1x, 10x or 0.5x, or max/],
  [["T", "memory:", "--speed", "0x"], /like 1x/],
  [["T", "memory:", "--depth", "0"], /whole number from 1/],
  [["T", "memory:", "--scale", "-1"], /number above 0/],
  [["T", "memory:", "--check", "true"], /--check: it belongs to --crash-points/],
  [["T", "memory:", "--from", "wav"], /no trace format "wav"/],
  [["T", "nowhere:x"], /nowhere/],
  [["T", "simulated-dm-user:nowhere:x"], /nowhere/],
  [["T", "--crash-points", "flush"], /without --check/],
  [["T", "--crash-points", "often", "--check", "true {}"], /flush, every, or sample:N/],
  [["T", "--crash-points", "sample:0", "--check", "true {}"], /sample:N with N from 1/],
  [["T", "--crash-points", "flush", "--check", "true"], /write \{\} for the image/],
  [["T", "memory:", "--crash-points", "flush", "--check", "true {}"], /Cannot use a target/],
  [["T", "--crash-points", "flush", "--check", "true {}", "--speed", "max"], /--speed with/],
  [["-", "--crash-points", "sample:2", "--check", "true {}"], /give a file/],
];

for (const [args, message] of WRONG) {
  Deno.test(`dmu replay ${args.join(" ")} is wrong usage`, () =>
    withTrace(async ({ trace }) => {
      const real = args.map((each) => each === "T" ? trace : each);
      const { code, stdout, stderr } = await dmu(["replay", ...real]);
      assert.deepEqual([code, stdout], [2, ""], stderr);
      assert.match(stderr, message);
    }));
}

Deno.test("dmu replay --crash-points refuses a trace without data", () =>
  withTrace(async ({ trace }) => {
    const { code, stderr } = await dmu(
      ["replay", trace, "--crash-points", "flush", "--check", "true {}"],
    );
    assert.equal(code, 1);
    assert.match(stderr, /has not kept the data of request 1: record with the payload$/m);
  }, [submit(1, 0, "write", 0)]));
