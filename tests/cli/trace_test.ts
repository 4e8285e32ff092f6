/** `dmu trace`: looks at traces, converts, cuts and merges them. @module */
import assert from "node:assert/strict";
import { join } from "node:path";
import {
  complete,
  nativeBytes,
  readNative,
  submit,
  traceOf,
  writeNative,
} from "../support/traces.ts";
import { withTempDir } from "../support/tools.ts";
import { CapturedIo, dmu, type Run } from "./captured_io.ts";

const DATA = new Uint8Array(4096).fill(7);

const EVENTS = [
  submit(1, 1_000, "write", 0, { data: DATA }),
  complete(1, 1_200),
  submit(2, 500_000, "read", 4096),
  submit(3, 600_000, "read", 8192, { connection: 2 }),
  complete(3, 600_400, { errno: "EIO" }),
  complete(2, 600_500, { data: DATA }),
  submit(4, 2_000_000, "flush"),
];

interface Bench {
  readonly trace: string;
  path(name: string): string;
}

async function withTrace(test: (bench: Bench) => Promise<void>): Promise<void> {
  await withTempDir(async (folder) => {
    const path = (name: string): string => join(folder, name);
    await writeNative(path("a.dmutrace"), traceOf(EVENTS));
    await test({ trace: path("a.dmutrace"), path });
  });
}

const OK = { code: 0, stdout: "", stderr: "" };

Deno.test("dmu trace info shows what a trace is", () =>
  withTrace(async ({ trace }) => {
    const { code, stdout, stderr } = await dmu(["trace", "info", trace]);
    assert.deepEqual([code, stderr], [0, ""]);
    const [title, ...lines] = stdout.split("\n");
    assert.equal(title, trace);
    assert.deepEqual(lines.slice(0, 11), [
      "  format          native",
      "  target          disk",
      "  size            1 MiB (1048576 bytes)",
      "  begun           2026-01-02T03:04:05.000Z",
      "  time            2 s, from 1 ms",
      "  events          7, of 4 requests",
      "  connections     2",
      "  touches         bytes 0 to 12288 (12 KiB)",
      "  in flight       at most 2",
      "  data            kept, for 1 event",
      "  without an end  1 request",
    ]);
    assert.deepEqual(lines.slice(12, 16), [
      "OPERATION  COUNT  ERRORS  BYTES  LENGTH  SEQ     P50     P99     MAX",
      "read           2       1  8 KiB   4 KiB  50%  415 µs  101 ms  101 ms",
      "write          1       0  4 KiB   4 KiB   0%  200 µs  200 µs  200 µs",
      "flush          1       0    0 B       -    -       -       -       -",
    ]);
    assert.match(stdout, /^ {2}requests {6}.{40} {2}up to .*\/s$/m);
    assert.ok(lines.every((line) => [...line].length <= 80), stdout);
  }));

Deno.test("dmu trace info --json gives the figures", () =>
  withTrace(async ({ trace }) => {
    const { code, stdout } = await dmu(["trace", "info", trace, "--json"]);
    assert.equal(code, 0);
    const facts = JSON.parse(stdout);
    assert.deepEqual(
      [facts.format, facts.events, facts.requests, facts.lost, facts.problemCount, facts.target],
      ["native", 7, 4, 0, 0, "disk"],
    );
    assert.equal(facts.operations.read.errors, 1);
  }));

Deno.test("dmu trace info tells of a torn end", () =>
  withTrace(async ({ trace, path }) => {
    const bytes = await Deno.readFile(trace);
    await Deno.writeFile(path("torn"), bytes.subarray(0, bytes.length - 5));
    const { code, stdout } = await dmu(["trace", "info", path("torn")]);
    assert.equal(code, 0);
    assert.match(stdout, /^ {2}events +0, of 0 requests$/m);
    assert.match(
      stdout.replace(/\n {10,}/g, " "),
      /note +the trace is torn at byte \d+: \d+ bytes/,
    );
  }));

Deno.test("dmu trace convert writes other formats, which are read back", () =>
  withTrace(async ({ trace, path }) => {
    assert.deepEqual(await dmu(["trace", "convert", trace, path("x"), "--to", "fio"]), {
      code: 0,
      stdout: `${path("x")}: 7 events, fio\n`,
      stderr: `dmu: ${path("x")}: 1 requests lost their data or digest\n`,
    });
    assert.match(await Deno.readTextFile(path("x")), /^fio version 3 iolog\n/);
    const { stdout } = await dmu(["trace", "info", path("x"), "--json"]);
    assert.deepEqual([JSON.parse(stdout).format, JSON.parse(stdout).requests], ["fio", 4]);
  }));

Deno.test("dmu trace convert replaces a file with --force alone", () =>
  withTrace(async ({ trace, path }) => {
    await Deno.writeTextFile(path("out"), "mine");
    const refused = await dmu(["trace", "convert", trace, path("out")]);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /it is there already; --force replaces it/);
    assert.equal(await Deno.readTextFile(path("out")), "mine");
    assert.deepEqual(await dmu(["trace", "convert", trace, path("out"), "--force"]), {
      ...OK,
      stdout: `${path("out")}: 7 events, native\n`,
    });
    assert.deepEqual((await readNative(path("out"))).events, EVENTS);
    assert.deepEqual(
      [...Deno.readDirSync(path("."))].map(({ name }) => name).sort(),
      ["a.dmutrace", "out"],
    );
  }));

Deno.test("dmu trace convert --force keeps what was there if it fails", () =>
  withTrace(async ({ path }) => {
    await Deno.writeTextFile(path("out"), "mine");
    await Deno.writeTextFile(path("in"), "no trace");
    const { code } = await dmu(["trace", "convert", path("in"), path("out"), "--force"]);
    assert.equal(code, 1);
    assert.equal(await Deno.readTextFile(path("out")), "mine");
  }));

Deno.test("dmu trace convert reads standard input and writes standard output", async () => {
  const input = await nativeBytes(traceOf(EVENTS));
  const io = new CapturedIo({ input });
  assert.deepEqual(await dmu(["trace", "convert", "-", "-"], io), OK);
  assert.deepEqual(io.output, input);
});

Deno.test("dmu trace cut takes a part", () =>
  withTrace(async ({ trace, path }) => {
    const cut = ["trace", "cut", trace, path("part"), "--from", "100ms", "--to", "1s"];
    const { code, stdout, stderr } = await dmu([...cut, "--operations", "read", "--json"]);
    assert.deepEqual([code, stderr], [0, ""]);
    const { format, events } = JSON.parse(stdout);
    assert.deepEqual([format, events], ["native", 4]);
    const part = await readNative(path("part"));
    assert.deepEqual(part.events.map(({ timeUs }) => timeUs), [400_000, 500_000, 500_400, 500_500]);
    assert.equal(part.source.info.started_ms, Date.UTC(2026, 0, 2, 3, 4, 5, 100));
    assert.equal((await dmu([...cut, "--connection", "2", "--force"])).code, 0);
    assert.deepEqual((await readNative(path("part"))).events.map(({ id }) => id), [3, 3]);
  }));

Deno.test("dmu trace merge puts traces together", () =>
  withTrace(async ({ trace, path }) => {
    assert.deepEqual(await dmu(["trace", "merge", trace, trace, path("both")]), {
      ...OK,
      stdout: `${path("both")}: 14 events, native\n`,
    });
    const { events } = await readNative(path("both"));
    assert.equal(events.length, 2 * EVENTS.length);
    assert.equal(new Set(events.map(({ id }) => id)).size, 8);
  }));

const WRONG: readonly (readonly [args: readonly string[], message: RegExp])[] = [
  [["convert", "T", "N", "--to", "wav"], /no trace format "wav"/],
  [["convert", "T", "N", "--from", "wav"], /no trace format "wav"/],
  [["convert", "T", "-", "--json"], /JSON and the trace/],
  [["cut", "T", "N", "--from", "soon"], /must be a time such as/],
  [["cut", "T", "N", "--from", "2s", "--to", "1s"], /nothing lies between/],
  [["cut", "T", "N", "--operations", "read,wrote"], /no operation "wrote"; did you mean "write"/],
  [["cut", "T", "N", "--connection", "x"], /whole number/],
  [["merge", "T", "N"], /Cannot merge 1 traces/],
  [["info"], /missing required argument/],
];

for (const [args, message] of WRONG) {
  Deno.test(`dmu trace ${args.join(" ")} is wrong usage`, () =>
    withTrace(async ({ trace, path }) => {
      const real = args.map((each) => each === "T" ? trace : each === "N" ? path("new") : each);
      const { code, stdout, stderr } = await dmu(["trace", ...real]);
      assert.deepEqual([code, stdout], [2, ""], stderr);
      assert.match(stderr, message);
      assert.equal([...Deno.readDirSync(path("."))].length, 1, "something was written");
    }));
}

const FAILING: readonly (readonly [args: readonly string[], message: RegExp])[] = [
  [["info", "absent"], /Cannot read .*absent: no such file or directory/],
  [["info", "text"], /its format is not known; known are native/],
  [["info", "."], /Cannot read .*: is a directory/],
  [["convert", "a.dmutrace", "no/out"], /Cannot write .*: no such file or directory/],
];

for (const [args, message] of FAILING) {
  Deno.test(`dmu trace ${args.join(" ")} fails`, () =>
    withTrace(async ({ path }) => {
      await Deno.writeTextFile(path("text"), "what is this?\n");
      const [verb = "", ...files] = args;
      const failed: Run = await dmu(["trace", verb, ...files.map(path)]);
      assert.deepEqual([failed.code, failed.stdout], [1, ""]);
      assert.match(failed.stderr, message);
      assert.doesNotMatch(failed.stderr, /should not happen/);
    }));
}
