/**
 * Traces with the programs whose formats they are: fio writes iologs and runs ours, blkparse reads our
 * blktrace, nbd-server writes transaction logs and its tools read ours, blkreplay replays our load.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { convertTrace, formatNamed, openTrace } from "../../lib/trace/convert.ts";
import type { SubmitEvent, TraceEvent } from "../../lib/trace/event.ts";
import { eventsOf, TraceNotes } from "../../lib/trace/source.ts";
import { makeImage, startNbdServer } from "../support/nbd_servers.ts";
import { interopTest, run, runOk, sampleBytes, withTempDir } from "../support/tools.ts";
import { complete, submit, told, writeAll } from "../trace/format_support.ts";

const INFO = { started_ms: 1_700_000_000_500, target: "disk", size: null, completes: true };

/** Writes, reads, flushes and trims of a disk of 4 MiB, 100 µs apart. */
const EVENTS: readonly TraceEvent[] = Array.from({ length: 200 }, (_, at): TraceEvent[] => {
  const id = at + 1, timeUs = at * 100, offset = at * 8192 % (4 << 20);
  const operation = (["write", "read", "write", "flush", "trim"] as const)[at % 5] ?? "read";
  const length = operation === "flush" ? 0 : 4096;
  const payload = operation === "write" ? sampleBytes(length, id) : null;
  const place = operation === "flush" ? {} : { offset };
  const flags = operation === "write" && at % 2 === 0 ? 1 : 0;
  return [
    submit(timeUs, id, { operation, length, payload, flags, ...place }),
    complete(timeUs + 50, id),
  ];
}).flat();

function count(operation: SubmitEvent["operation"]): number {
  return EVENTS.filter((each) => each.kind === "submit" && each.operation === operation).length;
}

async function export_(folder: string, format: string, name: string): Promise<string> {
  const native = join(folder, "in.dmutrace"), path = join(folder, name);
  await Deno.writeFile(native, (await writeAll(formatNamed("native"), INFO, EVENTS)).bytes);
  const { source } = await openTrace(native);
  await convertTrace(source, formatNamed(format), path, new TraceNotes());
  return path;
}

async function eventsIn(path: string): Promise<TraceEvent[]> {
  const { source } = await openTrace(path);
  const events = await Array.fromAsync(eventsOf(source));
  assert.equal(source.notes.problemCount, 0, JSON.stringify(source.notes.problems));
  return events;
}

for (const format of ["fio", "fio2"]) {
  interopTest(`fio runs an iolog that was written as ${format}`, ["fio"], async () => {
    await withTempDir(async (folder) => {
      const log = await export_(folder, format, "out.iolog");
      const disk = await makeImage(folder, 4 << 20);
      const { stdout, stderr } = await run("fio", [
        ...["--name=replay", `--read_iolog=${log}`, `--replay_redirect=${disk}`],
        ...["--ioengine=psync", "--output-format=json"],
      ], { cwd: folder });
      const { jobs: [job] } = JSON.parse(stdout.slice(stdout.indexOf("{")));
      assert.equal(job.error, 0, stdout + stderr);
      assert.deepEqual(
        [job.read.total_ios, job.write.total_ios, job.sync.total_ios],
        [count("read"), count("write"), count("flush")],
      );
      // fio 3.33 leaves out every trim of an iolog and says "bad ddir: 2".
      const left = stderr.split("bad ddir: 2").length - 1;
      assert.equal(job.trim.total_ios + left, count("trim"), stderr);
      assert.equal(job.write.io_bytes, count("write") * 4096);
      // Version 3 has times: 199 requests are 100 µs apart.
      if (format === "fio") assert.ok(job.job_runtime >= 19, `it took ${job.job_runtime} ms`);
    });
  });
}

interopTest("openTrace() reads the iolog that fio writes of two files", ["fio"], async () => {
  await withTempDir(async (folder) => {
    const files = [await makeImage(folder, 1 << 20), await makeImage(folder, 1 << 20)];
    const log = join(folder, "own.iolog");
    const { stdout } = await run("fio", [
      ...["--name=w", `--filename=${files.join(":")}`, "--rw=randrw", "--bs=4k", "--size=2m"],
      ...["--number_ios=100", "--fsync=10", "--ioengine=psync", `--write_iolog=${log}`],
      ...["--randseed=3", "--output-format=json"],
    ], { cwd: folder });
    const { jobs: [job] } = JSON.parse(stdout.slice(stdout.indexOf("{")));
    const events = await eventsIn(log);
    const submits = events.flatMap((event) => event.kind === "submit" ? [event] : []);
    const counted = (["read", "write"] as const).map((each) =>
      submits.filter(({ operation }) => operation === each).length
    );
    assert.deepEqual(counted, [job.read.total_ios, job.write.total_ios]);
    assert.ok(submits.some(({ operation }) => operation === "flush"));
    assert.deepEqual([...new Set(submits.map(({ connection }) => connection))].sort(), [1, 2]);
    assert.ok(submits.every(({ timeUs }, at) => timeUs >= (submits[at - 1]?.timeUs ?? 0)));
    assert.match(await Deno.readTextFile(log), /^fio version 3 iolog\n/);
  });
});

interopTest("blkparse reads a trace that was written as blktrace", ["blkparse"], async () => {
  await withTempDir(async (folder) => {
    await export_(folder, "blktrace", "disk.blktrace.0");
    const text = await runOk("blkparse", ["-q", "-i", "disk", "-f", "L %T.%t %a %d %S %N %C\n"], {
      cwd: folder,
    });
    const lines = text.split("\n").filter((line) => line.startsWith("L "));
    const rows = lines.map((line) => line.split(/\s+/).slice(1));
    for (const action of ["Q", "D", "C"]) {
      assert.equal(rows.filter((row) => row[1] === action).length, EVENTS.length / 2, action);
    }
    const byKind = (kind: string): number =>
      rows.filter((row) => row[1] === "D" && row[2]?.startsWith(kind) === true).length;
    assert.deepEqual(
      [byKind("R"), byKind("W"), byKind("F"), byKind("D")],
      [count("read"), count("write"), count("flush"), count("trim")],
    );
    assert.equal(
      rows.filter((row) => row[1] === "Q" && row[2] === "WF").length,
      EVENTS.filter((each) => each.kind === "submit" && each.flags === 1).length,
    );
    assert.deepEqual(rows.find((row) => row[0] === "0.000100000"), [
      ...["0.000100000", "Q", "R", "16", "4096", "dmu"].slice(0, 5),
      "disk",
    ]);
  });
});

for (const data of [true, false]) {
  const what = `that nbd-server writes ${data ? "with" : "without"} data`;
  interopTest(`openTrace() reads the log ${what}`, ["nbd-server", "qemu-io"], async () => {
    await withTempDir(async (folder) => {
      const disk = await makeImage(folder, 4 << 20), log = join(folder, "log");
      {
        await using server = await startNbdServer(folder, disk, [
          `transactionlog = ${log}`,
          `datalog = ${data}`,
        ]);
        await runOk("qemu-io", [
          ...["-f", "raw", "-t", "none", "-c", "write -P 7 0 4096", "-c", "write -f -P 9 8192 512"],
          ...["-c", "read 0 8192", "-c", "flush", "-c", "discard 65536 131072", server.uri],
        ]);
      }
      const events = await eventsIn(log);
      const told_ = events.map(told).map((line) => line.replace(/^\d+ /, ""));
      const expected = [
        ...["S1 c0 write 0+4096 f0 data 4096:7", "C1 ok", "S2 c0 write 8192+512 f1 data 512:9"],
        ...["C2 ok", "S3 c0 read 0+8192 f0", "C3 ok", "S4 c0 flush 0+0 f0", "C4 ok"],
        ...["S5 c0 trim 65536+131072 f0", "C5 ok"],
      ].map((line) => data ? line : line.replace(/ data .*/, ""));
      assert.deepEqual(told_.slice(0, expected.length), expected);
    });
  });
}

interopTest(
  "the tools of nbd-server read and replay a log that was written as nbd-log",
  ["nbd-trdump", "nbd-trplay"],
  async () => {
    await withTempDir(async (folder) => {
      const log = await export_(folder, "nbd-log", "out.nbdlog");
      const stdin = await Deno.readFile(log);
      const lines = (await runOk("nbd-trdump", [], { stdin })).split("\n");
      assert.equal(lines.filter((line) => line.startsWith("> ")).length, EVENTS.length / 2);
      assert.equal(lines.filter((line) => line.startsWith("< ")).length, EVENTS.length / 2);
      assert.ok(!lines.some((line) => line.startsWith("?")), "records that it does not know");
      const image = await makeImage(folder, 4 << 20), expected = new Uint8Array(4 << 20);
      for (const event of EVENTS) {
        if (event.kind !== "submit") continue;
        const { operation, offset, length, payload } = event;
        if (payload !== null) expected.set(payload, offset);
        if (operation === "trim") expected.fill(0, offset, offset + length);
      }
      await runOk("nbd-trplay", ["-i", image, "-l", log, "-b", "512"]);
      assert.ok(
        Uint8Array.from(await Deno.readFile(image)).every((byte, at) => byte === expected[at]),
      );
    });
  },
);

interopTest(
  "blkreplay replays a load that was written, and its results are read",
  ["blkreplay"],
  async () => {
    await withTempDir(async (folder) => {
      const load = await export_(folder, "blkreplay", "out.load");
      const disk = await makeImage(folder, 4 << 20);
      const results = await runOk("blkreplay", [
        "--no-o-direct",
        "--threads=4",
        "--start-grace=0",
        disk,
      ], {
        stdin: await Deno.readFile(load),
        cwd: folder,
      });
      assert.match(
        results,
        new RegExp(`completed requests +: +${count("read") + count("write")}\n`),
      );
      const path = join(folder, "results");
      await Deno.writeTextFile(path, results);
      const events = await eventsIn(path);
      const submits = events.filter(({ kind }) => kind === "submit");
      assert.equal(submits.length, count("read") + count("write"));
      assert.equal(events.length, 2 * submits.length);
    });
  },
);
