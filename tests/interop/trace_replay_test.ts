/**
 * Round trips of traces: fio over NBD is recorded, replayed on an empty target that records as well, and
 * both the images and the traces are compared.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { CompleteEvent, SubmitEvent, TraceEvent } from "../../lib/trace/event.ts";
import { native } from "../../lib/trace/formats/native.ts";
import { eventsOf } from "../../lib/trace/source.ts";
import { CapturedIo, dmu } from "../cli/captured_io.ts";
import { fileHash, interopTest, runOk, startDmu, withTempDir } from "../support/tools.ts";

const SIZE = "16M";

async function eventsIn(path: string): Promise<TraceEvent[]> {
  const source = await native.read((await Deno.open(path)).readable);
  const events = await Array.fromAsync(eventsOf(source));
  assert.deepEqual([source.notes.problemCount, source.notes.lost, source.notes.remarks], [
    0,
    0,
    [],
  ]);
  return events;
}

/** A server of a new file that records, with what `args` add. */
function recording(
  folder: string,
  name: string,
  args: readonly string[],
): ReturnType<typeof startDmu> {
  return startDmu([
    ...["--nbd", `unix:${join(folder, name)}.sock`, "--trace-payload"],
    ...["--trace", join(folder, `${name}.trace`), ...args],
    `file:${join(folder, name)}.img?size=${SIZE}`,
  ]);
}

/** An event without what a replay cannot repeat: its time, and the number of the open file. */
function timeless(event: TraceEvent): unknown {
  if (event.kind === "complete") return { ...event, timeUs: 0 };
  return { ...event, timeUs: 0, connection: 0 };
}

const submits = (events: readonly TraceEvent[]): SubmitEvent[] =>
  events.filter((event) => event.kind === "submit");

const completions = (events: readonly TraceEvent[]): CompleteEvent[] =>
  events.filter((event) => event.kind === "complete").sort((a, b) => a.id - b.id);

/** Most requests in flight at once. */
function depthOf(events: readonly TraceEvent[]): number {
  let now = 0, most = 0;
  for (const { kind } of events) {
    now += kind === "submit" ? 1 : -1;
    most = Math.max(most, now);
  }
  return most;
}

/** Requests that were done when another one was submitted have to be done in the replay as well. */
function assertFollows(first: readonly TraceEvent[], second: readonly TraceEvent[]): void {
  const doneAt = new Map<number, number>();
  for (const [index, event] of second.entries()) {
    if (event.kind === "complete") doneAt.set(event.id, index);
  }
  const submittedAt = new Map<number, number>();
  for (const [index, event] of second.entries()) {
    if (event.kind === "submit") submittedAt.set(event.id, index);
  }
  let lastDone = -1;
  for (const event of first) {
    if (event.kind === "complete") lastDone = Math.max(lastDone, doneAt.get(event.id) ?? Infinity);
    else assert.ok((submittedAt.get(event.id) ?? -1) > lastDone, `request ${event.id} is early`);
  }
}

interface Case {
  readonly name: string;
  readonly depth: number;
  readonly filters: readonly string[];
  /** Requests are in flight together, and may end in another order. */
  readonly overlapping: boolean;
}

const CASES: readonly Case[] = [
  { name: "at depth 1", depth: 1, filters: [], overlapping: false },
  { name: "at depth 32", depth: 32, filters: [], overlapping: true },
  {
    name: "at depth 32 with latencies by chance",
    depth: 32,
    filters: ["--filter", "delay:?time=500us&distribution=exponential"],
    overlapping: true,
  },
];

for (const { name, depth, filters, overlapping } of CASES) {
  interopTest(
    `a replay of fio ${name} gives the same image and the same trace`,
    ["fio"],
    async () => {
      await withTempDir(async (folder) => {
        const path = (file: string): string => join(folder, file);
        await using first = await recording(folder, "first", filters);
        await runOk("fio", [
          ...["--name=x", "--ioengine=nbd", `--uri=${first.uri}`, `--size=${SIZE}`, "--rw=randrw"],
          ...["--bsrange=512-64k", "--blockalign=512", `--iodepth=${depth}`, "--fsync=40"],
          ...["--io_size=8M", "--randseed=11", "--serialize_overlap=1", "--minimal"],
        ], { cwd: folder });
        await first.stop();
        await using second = await recording(folder, "second", filters);
        const { code, stdout, stderr } = await dmu([
          ...["replay", path("first.trace"), second.uri, "--speed", "max", "--verify", "--json"],
        ], new CapturedIo());
        assert.equal(code, 0, stdout + stderr);
        const report = JSON.parse(stdout);
        assert.ok(report.verified > 50, stdout);
        assert.deepEqual([report.mismatchCount, report.failureCount, report.skipped], [0, 0, 0]);
        await second.stop();
        assert.equal(await fileHash(path("second.img")), await fileHash(path("first.img")));
        const one = await eventsIn(path("first.trace")), two = await eventsIn(path("second.trace"));
        assert.ok(one.length > 400, `${one.length} events`);
        assert.equal(depthOf(one) > 1, overlapping, `depth ${depthOf(one)}`);
        if (overlapping) {
          assert.deepEqual(submits(two).map(timeless), submits(one).map(timeless));
          assert.deepEqual(completions(two).map(timeless), completions(one).map(timeless));
          assertFollows(one, two);
        } else assert.deepEqual(two.map(timeless), one.map(timeless));
      });
    },
  );
}
