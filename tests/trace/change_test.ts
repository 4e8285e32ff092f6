/**
 * Parts of traces, several traces as one, and where a trace ends.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type Cut, cutTrace } from "../../lib/trace/cut.ts";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { mergeTraces } from "../../lib/trace/merge.ts";
import { nativeEndUs } from "../../lib/trace/native_end.ts";
import { eventsOf } from "../../lib/trace/source.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { withTempDir } from "../support/tools.ts";
import { complete, INFO, submit, traceOf, writeNative } from "../support/traces.ts";

const EVENTS: readonly TraceEvent[] = [
  submit(1, 0, "write", 0),
  submit(2, 100, "read", 4096, { connection: 2 }),
  complete(1, 150),
  submit(3, 200, "flush"),
  submit(4, 300, "write", 8192, { connection: 2 }),
  complete(2, 350),
  complete(4, 400),
  complete(3, 9000),
];

/** Ids, with a minus for completions. */
function idsOf(events: readonly TraceEvent[]): number[] {
  return events.map(({ kind, id }) => kind === "submit" ? id : -id);
}

const CUTS: readonly (readonly [what: string, cut: Cut, ids: readonly number[]])[] = [
  ["everything", {}, [1, 2, -1, 3, 4, -2, -4, -3]],
  ["from a time", { fromUs: 200 }, [3, 4, -4, -3]],
  ["to a time, with what ends later", { toUs: 200 }, [1, 2, -1, -2]],
  ["a span", { fromUs: 100, toUs: 300 }, [2, 3, -2, -3]],
  ["operations", { operations: new Set(["write", "flush"]) }, [1, -1, 3, 4, -4, -3]],
  ["a connection", { connection: 2 }, [2, 4, -2, -4]],
  ["nothing", { fromUs: 1e6 }, []],
];

for (const [what, cut, ids] of CUTS) {
  Deno.test(`cutTrace() takes ${what}, requests as a whole`, async () => {
    const source = cutTrace(traceOf(EVENTS), cut);
    const events = await Array.fromAsync(eventsOf(source));
    assert.deepEqual(idsOf(events), ids);
    const { fromUs = 0 } = cut;
    for (const event of events) {
      const before = EVENTS.find(({ kind, id }) => kind === event.kind && id === event.id);
      assert.deepEqual({ ...event, timeUs: event.timeUs + fromUs }, before);
    }
    assert.equal(source.info.started_ms, (INFO.started_ms ?? 0) + fromUs / 1000);
  });
}

Deno.test("cutTrace() keeps nothing in mind where completions are not told", async () => {
  const events = [submit(1, 0, "read"), submit(2, 1, "read"), submit(3, 2, "write")];
  const source = cutTrace(traceOf(events, { completes: false }), { fromUs: 1 });
  assert.deepEqual(idsOf(await Array.fromAsync(eventsOf(source))), [2, 3]);
});

Deno.test("mergeTraces() orders by the wall clock and numbers anew", async () => {
  const first = traceOf(
    [submit(7, 0, "read"), complete(7, 50), submit(9, 2000, "read"), complete(9, 2100)],
    { started_ms: 1000, size: 4096, target: "a" },
  );
  const second = traceOf(
    [submit(7, 10, "write", 4096), submit(8, 20, "flush"), complete(8, 30), complete(7, 1200)],
    { started_ms: 1001, size: 8192, target: "b" },
  );
  const merged = mergeTraces([first, second]);
  assert.deepEqual(merged.info, { started_ms: 1000, target: null, size: 8192, completes: true });
  const events = await Array.fromAsync(eventsOf(merged));
  assert.deepEqual(
    events.map(({ kind, timeUs, id }) => [kind, timeUs, id]),
    [
      ...[["submit", 0, 1], ["complete", 50, 1], ["submit", 1010, 2], ["submit", 1020, 3]],
      ...[["complete", 1030, 3], ["submit", 2000, 4], ["complete", 2100, 4], ["complete", 2200, 2]],
    ],
  );
  const connections = events.flatMap((event) => event.kind === "submit" ? [event.connection] : []);
  assert.deepEqual(connections, [1, 2, 2, 1]);
  assert.deepEqual(merged.notes.remarks, []);
});

Deno.test("mergeTraces() lets all begin together where a beginning is not known", async () => {
  const one = traceOf([submit(1, 5, "read")], { started_ms: 1 });
  const other = traceOf([submit(1, 3, "read")], { started_ms: null });
  const merged = mergeTraces([one, other]);
  assert.equal(merged.info.started_ms, null);
  assert.match(merged.notes.remarks.join(), /all begin at the same moment/);
  const events = await Array.fromAsync(eventsOf(merged));
  assert.deepEqual(events.map(({ timeUs, id }) => [timeUs, id]), [[3, 1], [5, 2]]);
});

Deno.test("mergeTraces() tells of what its traces have lost", async () => {
  const one = traceOf([submit(1, 5, "read")]), other = traceOf([]);
  one.notes.lost = 3;
  other.notes.lost = 4;
  const merged = mergeTraces([one, other]);
  assert.equal((await Array.fromAsync(eventsOf(merged))).length, 1);
  assert.equal(merged.notes.lost, 7);
});

Deno.test("nativeEndUs() tells the time of the last whole block", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "trace");
    const events = Array.from({ length: 20_000 }, (_, at) => submit(at + 1, at * 10, "read"));
    await writeNative(path, traceOf(events));
    const endOf = (): number | null => {
      const file = systemFiles.open(path, { readOnly: true, direct: false, lock: false });
      try {
        return nativeEndUs(file);
      } finally {
        file.close();
      }
    };
    assert.equal(endOf(), 199_990);
    await Deno.truncate(path, (await Deno.stat(path)).size - 1);
    const before = endOf();
    assert.ok(before !== null && before > 0 && before < 199_990, "a torn block does not count");
    await Deno.writeTextFile(path, "something else");
    assert.equal(endOf(), null);
  }));
