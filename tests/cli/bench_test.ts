/** `dmu bench`: loads on targets of all kinds, what they report, and what is refused. @module */
import assert from "node:assert/strict";
import { join } from "node:path";
import { startDmu, withTempDir } from "../support/tools.ts";
import { CapturedIo, dmu } from "./captured_io.ts";

interface Figures {
  readonly count: number;
  readonly bytes: number;
  readonly errors: number;
  readonly requestsPerSecond: number;
  readonly bytesPerSecond: number;
  readonly latency: Readonly<Record<string, number>>;
}

interface Report {
  readonly target: string;
  readonly how: string;
  readonly size: number;
  readonly load: Readonly<Record<string, unknown>>;
  readonly durationUs: number;
  readonly interrupted: boolean;
  readonly total: Figures;
  readonly read: Figures;
  readonly write: Figures;
  readonly histogram: readonly { readonly upperUs: number; readonly count: number }[];
  readonly errors: Readonly<Record<string, number>>;
  readonly failures: readonly unknown[];
  readonly connections: readonly number[];
  readonly cpuUsPerRequest: number;
  readonly verify: { readonly checked: number; readonly faultCount: number } | null;
}

/** Runs `dmu bench ARGS --json`, which has to end with `code`. */
async function bench(args: readonly string[], code = 0): Promise<Report> {
  const run = await dmu(["bench", ...args, "--json"]);
  assert.equal(run.code, code, run.stdout + run.stderr);
  const report: Report = JSON.parse(run.stdout);
  return report;
}

const FIGURES = ["bytes", "bytesPerSecond", "count", "errors", "latency", "requestsPerSecond"];
const LATENCIES = ["count", "maxUs", "p50Us", "p90Us", "p999Us", "p99Us"];

Deno.test("dmu bench prints a report of at most 80 columns", async () => {
  const { code, stdout, stderr } = await dmu(
    ["bench", "memory:8M", "--rw", "70/30", "--ops", "3000", "--block-size", "4k:3,64k:1"],
  );
  assert.deepEqual([code, stderr], [0, ""]);
  assert.match(stdout, /^3000 requests, \d+(\.\d+)? [MG]iB$/m);
  assert.match(stdout, /^ {2}load +random 70\/30 of 4k:3,64k:1, depth 16, seed 1$/m);
  assert.match(stdout, /^ {2}CPU +\d+\.\d\d µs a request, of this process$/m);
  assert.match(stdout, /^OP +COUNT +IOPS +RATE +P50 +P90 +P99 +P99.9 +MAX$/m);
  assert.match(stdout, /^read +2\d{3} /m);
  assert.match(stdout, /^write +\d{3} /m);
  assert.match(stdout, /^both +3000 /m);
  assert.match(stdout, /^ {2}up to +\d.* [µnm]?s +\d+ +\d+\.\d\d % █{44}$/m);
  for (const line of stdout.split("\n")) assert.ok([...line].length <= 80, line);
});

Deno.test("dmu bench --json has the figures of reads, writes and both", async () => {
  const report = await bench(["memory:4M", "--rw", "50/50", "--ops", "2000", "--pattern", "hot"]);
  assert.deepEqual(
    Object.keys(report).toSorted(),
    [
      ...["connections", "cpuUsPerRequest", "durationUs", "errors", "failures", "histogram"],
      ...["how", "interrupted", "load", "read", "size", "target", "total", "verify", "write"],
    ],
  );
  for (const figures of [report.total, report.read, report.write]) {
    assert.deepEqual(Object.keys(figures).toSorted(), FIGURES);
    assert.deepEqual(Object.keys(figures.latency).toSorted(), LATENCIES);
  }
  assert.deepEqual(report.load, {
    ...{ rw: "50/50", pattern: "hot:90/10", blockSize: "4k", depth: 16, connections: 1 },
    ...{ rate: null, seed: 1 },
  });
  assert.equal(report.total.count, 2000);
  assert.equal(report.read.count + report.write.count, 2000);
  assert.equal(report.histogram.reduce((sum, { count }) => sum + count, 0), 2000);
  assert.equal(report.total.bytes, 2000 * 4096);
  assert.deepEqual([report.how, report.size], ["in this process", 4 << 20]);
  assert.deepEqual([report.connections, report.verify, report.failures], [[2000], null, []]);
});

Deno.test("dmu bench reads unless told otherwise, and ends after the time told", async () => {
  const report = await bench(["memory:1M", "--time", "0.05"]);
  assert.equal(report.write.count, 0);
  assert.ok(report.durationUs >= 50_000, String(report.durationUs));
});

Deno.test("dmu bench goes through a simulated dm-user device with several channels", async () => {
  const target = "simulated-dm-user:memory:1M";
  const args = [target, "--rw", "50/50", "--ops", "400", "--connections", "3", "--verify"];
  const { total, verify } = await bench(args);
  assert.deepEqual([total.count, total.errors, verify?.faultCount], [400, 0, 0]);
});

Deno.test("dmu bench runs over NBD, on several connections, and verifies", () =>
  withTempDir(async (folder) => {
    const control = `unix:${join(folder, "control")}`;
    await using server = await startDmu(
      [`disk=memory:4M`, "--nbd", `unix:${join(folder, "s")}`, "--control", control],
    );
    const args = ["--ops", "900", "--block-size", "4k-64k", "--connections", "3", "--verify"];
    const written = await bench([server.uri, ...args, "--rw", "40/60", "--depth", "5"]);
    assert.equal(written.how, "over NBD");
    assert.equal(written.total.count, 900);
    assert.equal(written.connections.length, 3);
    assert.equal(written.connections.reduce((sum, count) => sum + count, 0), 900);
    assert.ok((written.verify?.checked ?? 0) > 1024);
    assert.equal(written.verify?.faultCount, 0);
    const only = ["--rw", "40/60", "--ops", "900", "--block-size", "4k-64k", "--verify-only"];
    const again = await bench(["disk", ...only, "--control", control]);
    assert.equal(again.verify?.faultCount, 0);
    assert.ok((again.verify?.checked ?? 0) > 500);
    const refused = await dmu(["bench", "disk", "--rw", "write", "--control", control]);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /it holds data; --overwrite says that they are not needed/);
    await server.stop();
  }));

Deno.test("dmu bench over NBD ends when the server dies, and tells what failed", () =>
  withTempDir(async (folder) => {
    await using server = await startDmu(["memory:4M", "--nbd", `unix:${join(folder, "s")}`]);
    const io = new CapturedIo({ errIsTerminal: true });
    const begun = Promise.withResolvers<void>();
    const err = io.err.bind(io);
    io.err = (text) => {
      err(text);
      if (text.includes("bench")) begun.resolve();
    };
    const running = dmu(["bench", server.uri, "--time", "600", "--connections", "2", "--json"], io);
    await Promise.race([begun.promise, running]);
    await server.kill();
    const { code, stdout } = await running;
    assert.equal(code, 1);
    const report: Report = JSON.parse(stdout);
    assert.equal(report.interrupted, true);
    assert.ok(report.total.count > 0 && report.total.errors > 0);
    assert.ok(report.failures.length > 0);
  }));

Deno.test("dmu bench that is interrupted reports what was done", async () => {
  const io = new CapturedIo();
  const running = dmu(["bench", "memory:1M", "--time", "600"], io);
  await io.listening;
  io.signal();
  const { code, stdout, stderr } = await running;
  assert.deepEqual([code, stderr], [0, ""]);
  assert.match(stdout, /^ {2}time .*, ended early$/m);
});

Deno.test("dmu bench shows how far it is", async () => {
  for (
    const [args, line] of [
      [["--time", "0.5"], /\rbench [█░]{20} +\d+% of 500 ms/],
      [["--ops", "400000"], /\rbench [█░]{20} +\d+% of 400 k requests/],
      [["--bytes", "1G"], /\rbench [█░]{20} +\d+% of 1 GiB/],
    ] as const
  ) {
    const io = new CapturedIo({ errIsTerminal: true });
    const { code, stderr } = await dmu(["bench", "memory:1M", ...args], io);
    assert.equal(code, 0);
    assert.match(stderr, line);
    assert.ok(stderr.endsWith("\r\x1b[K"), "the line is removed at the end");
  }
});

Deno.test("dmu bench --verify-only finds what has changed since, and what was never written", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "image"), target = `file:${path}`;
    const load = ["--size", "1M", "--rw", "write", "--seed", "9"];
    const run = await dmu(["bench", target, ...load, "--ops", "500", "--verify"]);
    assert.equal(run.code, 0, run.stderr);
    assert.match(run.stdout, /^ {2}verified +\d+ blocks of 4 KiB compared, all as written$/m);
    assert.match(run.stdout, /^ {2}verify again +the same options and --verify-only --ops 500$/m);
    const only = [target, ...load, "--verify-only"];
    assert.equal((await bench([...only, "--ops", "500"])).verify?.faultCount, 0);
    assert.equal((await bench(only)).verify?.faultCount, 0);

    const later = await dmu(["bench", ...only, "--ops", "600"]);
    assert.equal(later.code, 1);
    assert.match(later.stdout, /^The first blocks with other data:$/m);
    assert.match(later.stdout, /it is as request \d+ wrote it, request [56]\d\d wrote last$/m);

    const bytes = await Deno.readFile(path);
    const at = bytes.findIndex((byte, index) => index % 4096 === 1000 && byte !== 0);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    await Deno.writeFile(path, bytes);
    const changed = await bench(only, 1);
    assert.equal(changed.verify?.faultCount, 1);
    bytes.fill(0);
    await Deno.writeFile(path, bytes);
    assert.equal((await bench(only)).verify?.checked, 0, "no stamps, nothing to compare");
    const lost = await bench([...only, "--ops", "500"], 1);
    assert.ok((lost.verify?.faultCount ?? 0) > 200);
  }));

Deno.test("dmu bench does not write to what holds data, unless told", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "image"), target = `file:${path}`;
    await Deno.writeFile(path, new Uint8Array(1 << 20).fill(1));
    const write = ["bench", target, "--rw", "write", "--ops", "300"];
    const refused = await dmu(write);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /^dmu: Cannot write to file:.*: it holds data; --overwrite says/);
    assert.ok((await Deno.readFile(path)).every((byte) => byte === 1));
    assert.equal((await dmu([...write, "--overwrite"])).code, 0);
    assert.ok((await Deno.readFile(path)).some((byte) => byte !== 1));
    assert.equal((await dmu(["bench", target, "--ops", "10"])).code, 0, "reading is no harm");
  }));

Deno.test("dmu bench fails if requests do", async () => {
  const args = ["bench", "memory:1M?limit=65536", "--rw", "write", "--ops", "100"];
  const { code, stdout } = await dmu(args);
  assert.equal(code, 1);
  assert.match(stdout, /^ {2}errors +\d+ ENOSPC$/m);
  assert.match(stdout, /^The first requests that failed:\n {2}write of 4096 bytes at \d+: /m);
});

Deno.test("dmu bench refuses what cannot be meant, with exit code 2", async () => {
  const cases: readonly (readonly [args: readonly string[], reason: RegExp])[] = [
    [["--rw", "both"], /Cannot use --rw: it must be read, write, or READS\/WRITES/],
    [["--rw", "70/40"], /Cannot use --rw/],
    [["--pattern", "zipf:0"], /Cannot use --pattern: it must be zipf with an exponent above 0/],
    [["--block-size", "4k,"], /Cannot use --block-size: it must be a size/],
    [["--block-size", "2G"], /Cannot use --block-size: it must be 1 byte to 64M/],
    [["--block-size", "100", "--verify"], /Cannot use --verify: it needs block sizes that are/],
    [["--block-size", "64M", "--depth", "256"], /Cannot have 256 requests of 67108864 bytes/],
    [["--bytes", "0"], /Cannot use --bytes: it must be above 0/],
    [["--time", "0"], /It must be a number of seconds from 0.001/],
    [["--depth", "257"], /It must be a whole number from 1 to 256/],
    [["--connections", "2"], /Cannot use --connections here/],
    [["--warm-up", "1", "--ops", "5"], /Cannot use --warm-up with --ops/],
    [["--verify-only", "--time", "1"], /Cannot use --time or --bytes with --verify-only/],
    [["--block-size", "2M"], /Cannot use this block size on memory:1M: 1 MiB hold no block of 2M/],
    [["--what"], /unknown option '--what'; see dmu bench --help/],
  ];
  for (const [args, reason] of cases) {
    const { code, stdout, stderr } = await dmu(["bench", "memory:1M", ...args]);
    assert.deepEqual([code, stdout], [2, ""], `${args.join(" ")}: ${stderr}`);
    assert.match(stderr, reason);
  }
  const larger = await dmu(["bench", "null:1M", "--size", "2M"]);
  assert.equal(larger.code, 2);
  assert.match(larger.stderr, /Cannot use 2 MiB of null:1M: it has 1 MiB/);
});
