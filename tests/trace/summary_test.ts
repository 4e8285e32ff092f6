/**
 * Figures and sparklines of a trace: held against plain models that keep everything.
 *
 * @module
 */
import assert from "node:assert/strict";
import { seededRandom } from "../../lib/testing/random.ts";
import { BinAxis, BinHistograms, BinNumbers } from "../../lib/trace/bins.ts";
import { NO_INFO, type SubmitEvent, type TraceEvent } from "../../lib/trace/event.ts";
import { PENDING_MAX } from "../../lib/trace/limits.ts";
import { followRequests } from "../../lib/trace/requests.ts";
import { TraceNotes, type TraceSource } from "../../lib/trace/source.ts";
import { sparkline } from "../../lib/trace/sparkline.ts";
import { perSecond, sizeClassOf, sparkRows, summarize } from "../../lib/trace/summary.ts";
import { formatCount, formatUs } from "../../lib/trace/units.ts";

function source(events: readonly TraceEvent[], completes = true): TraceSource {
  const batches = async function* (): AsyncGenerator<readonly TraceEvent[]> {
    for (let at = 0; at < events.length; at += 100) yield events.slice(at, at + 100);
  };
  return { info: { ...NO_INFO, completes }, notes: new TraceNotes(), batches };
}

function submit(id: number, timeUs: number, rest: Partial<SubmitEvent> = {}): SubmitEvent {
  return {
    ...{ kind: "submit", timeUs, id, connection: 0, operation: "read", offset: 0, length: 4096 },
    ...{ flags: 0, digest: null, payload: null },
    ...rest,
  };
}

function complete(id: number, timeUs: number, errno: "EIO" | null = null): TraceEvent {
  return { kind: "complete", timeUs, id, errno, digest: null, payload: null };
}

/** The bins that values need: the narrowest width at which all fit, from the values alone. */
function plainWidth(values: readonly number[], slots: number, width: number): number {
  const least = Math.min(...values), most = Math.max(...values);
  while (Math.floor(most / width) - Math.floor(least / width) >= slots) width *= 2;
  return width;
}

Deno.test("BinAxis keeps what a plain model keeps that knows all values before", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const random = seededRandom(seed);
    const slots = random.pick([4, 16, 64]), stride = 3;
    const axis = new BinAxis(slots, 0.5);
    const sums = axis.follow(new BinNumbers(slots, "sum", stride));
    const largest = axis.follow(new BinNumbers(slots, "largest"));
    const histograms = axis.follow(new BinHistograms());
    const spread = 2 ** random.below(40), base = random.pick([0, -spread, 1e9]);
    const drift = random.pick([-1, 0, 1]) * spread / 50;
    const values = Array.from(
      { length: 1 + random.below(300) },
      (_, index) => base + random.below(spread) + drift * index + random.below(8) / 8,
    );
    values.forEach((value, index) => {
      const slot = axis.slotOf(value);
      assert.ok(slot >= 0 && slot < slots);
      sums.put(slot * stride + index % stride, index);
      largest.put(slot, index);
      histograms.put(slot, index);
    });
    const { used } = axis;
    const width = plainWidth(values, slots, 0.5);
    assert.equal(used.width, width);
    assert.equal(used.start, Math.floor(Math.min(...values) / width) * width);
    const bins = values.map((value) => Math.floor((value - used.start) / width));
    assert.equal(used.count, Math.max(...bins) + 1);
    const wanted = new Array<number>(used.count * stride).fill(0);
    const most = new Array<number>(used.count).fill(0), counts = most.slice();
    bins.forEach((bin, index) => {
      wanted[bin * stride + index % stride] = (wanted[bin * stride + index % stride] ?? 0) + index;
      most[bin] = Math.max(most[bin] ?? 0, index);
      counts[bin] = (counts[bin] ?? 0) + 1;
    });
    assert.deepEqual(sums.of(used), wanted, `seed ${seed}`);
    assert.deepEqual(largest.of(used), most);
    assert.deepEqual(histograms.of(used).map((each) => each?.count ?? 0), counts);
    assert.deepEqual(histograms.of(used).map((each) => each?.maxUs ?? 0), most);
  }
});

Deno.test("BinAxis has no bins before the first value, and one after it", () => {
  const axis = new BinAxis(8, 1);
  assert.deepEqual(axis.used, { slot: 0, count: 0, start: 0, width: 1 });
  axis.slotOf(12.5);
  assert.deepEqual(axis.used, { slot: 0, count: 1, start: 12, width: 1 });
});

Deno.test("summarize() counts what a model counts that keeps every request", async () => {
  const random = seededRandom(11);
  const events: TraceEvent[] = [];
  const open: SubmitEvent[] = [];
  const latencies: number[] = [];
  let depthMax = 0, timeUs = 5000, errors = 0, sequential = 0, next = -1;
  for (let id = 1; id <= 5000; id += 1) {
    timeUs += random.below(50);
    const operation = random.pick(["read", "write", "flush"] as const);
    const length = operation === "flush" ? 0 : 512 << random.below(6);
    const offset = operation === "read" && random.oneIn(2) && next > 0 ? next : 512 * id;
    const event = submit(id, timeUs, {
      ...{ operation, offset: length === 0 ? 0 : offset, length, connection: id % 3 },
    });
    if (operation === "read") {
      if (offset === next) sequential += 1;
      next = offset + length;
    }
    events.push(event);
    open.push(event);
    depthMax = Math.max(depthMax, open.length);
    while (open.length > 0 && random.oneIn(2)) {
      const [done] = open.splice(random.below(open.length), 1);
      assert.ok(done !== undefined);
      timeUs += random.below(20);
      const isBad = done.operation === "write" && random.oneIn(9);
      if (isBad) errors += 1;
      if (done.operation === "read") latencies.push(timeUs - done.timeUs);
      events.push(complete(done.id, timeUs, isBad ? "EIO" : null));
    }
  }
  events.push(complete(9_999_999, timeUs));
  const found = await summarize(source(events));
  const of = (operation: string): SubmitEvent[] =>
    events.filter((each) => each.kind === "submit").filter((each) => each.operation === operation);
  assert.deepEqual(
    [found.events, found.requests, found.unanswered, found.unasked, found.connections],
    [events.length, 5000, open.length, 1, 3],
  );
  assert.deepEqual([found.firstUs, found.lastUs], [events[0]?.timeUs, timeUs]);
  assert.deepEqual([found.depthMax, Math.max(...found.series.depthMax)], [depthMax, depthMax]);
  const { read, write, flush } = found.operations;
  assert.deepEqual(Object.keys(found.operations), ["read", "write", "flush"]);
  assert.equal(read?.bytes, of("read").reduce((sum, { length }) => sum + length, 0));
  assert.deepEqual([read?.sequential, read?.lengthMin, read?.lengthMax], [sequential, 512, 16384]);
  assert.deepEqual(
    write?.sizes,
    [512, 1024, 2048, 4096, 8192, 16384].map((upToBytes) => ({
      upToBytes,
      count: of("write").filter(({ length }) => length === upToBytes).length,
    })),
  );
  assert.deepEqual([write?.errors, read?.errors, flush?.bytes], [errors, 0, 0]);
  latencies.sort((one, other) => one - other);
  const p99 = latencies[Math.ceil(latencies.length * 0.99) - 1] ?? 0;
  assert.equal(read?.latency.count, latencies.length);
  assert.ok(read.latency.p99Us >= p99 && read.latency.p99Us <= p99 * 1.125 + 1);
  const { series } = found;
  const total = series.readBytesPerS.reduce((sum, rate, index) => {
    const from = Math.max(found.firstUs, series.startUs + index * series.widthUs);
    const to = Math.min(found.lastUs, series.startUs + (index + 1) * series.widthUs);
    return sum + rate * Math.max(to - from, series.widthUs / 2) / 1e6;
  }, 0);
  assert.ok(Math.abs(total - read.bytes) < 1, `${total} of ${read.bytes}`);
});

Deno.test("summarize() says nothing of times where a trace does not tell completions", async () => {
  const events = Array.from({ length: 300 }, (_, index) => submit(index + 1, index));
  const found = await summarize(source(events, false));
  assert.deepEqual([found.unanswered, found.depthMax, found.requests], [300, 0, 300]);
  assert.ok(found.series.latencyP50Us.every((each) => each === null));
  const labels = sparkRows(found, { width: 10 }).map(({ label }) => label);
  assert.deepEqual(labels, ["requests", "read", "lengths"]);
});

Deno.test("summarize() of no event and of one has figures without nonsense", async () => {
  const none = await summarize(source([]));
  assert.deepEqual([none.events, none.firstUs, none.lastUs, none.offsetEnd], [0, 0, 0, 0]);
  assert.deepEqual(sparkRows(none, { width: 10 }), []);
  const one = await summarize(source([submit(1, 7, { offset: 512, length: 512 })]));
  assert.deepEqual([one.firstUs, one.lastUs, one.offsetMin, one.offsetEnd], [7, 7, 512, 1024]);
  assert.deepEqual(one.series.requestsPerS, [0]);
  assert.deepEqual(
    sparkRows(one, { width: 10 }).map(({ label, scale }) => [label, scale]),
    [["in flight", "up to 1"], ["lengths", "512 B"]],
  );
});

Deno.test("followRequests() keeps no more than PENDING_MAX requests that never end", async () => {
  const count = 3 * PENDING_MAX;
  let depthMax = 0, done = 0;
  const batches = async function* (): AsyncGenerator<readonly TraceEvent[]> {
    for (let id = 1; id <= count; id += 1) yield [submit(id, id)];
    yield [complete(count, count), complete(1, count)];
  };
  const counts = await followRequests(
    { info: { ...NO_INFO, completes: true }, notes: new TraceNotes(), batches },
    [{
      submitted: (_event, depth) => depthMax = Math.max(depthMax, depth),
      completed: () => done += 1,
    }],
  );
  assert.ok(depthMax <= PENDING_MAX && depthMax > PENDING_MAX / 2, `${depthMax}`);
  assert.deepEqual([done, counts.unasked, counts.unanswered], [1, 1, count - 1]);
});

Deno.test("perSecond() measures the edges by what the trace covers of them", () => {
  const range = { slot: 0, count: 3, start: 0, width: 1000 };
  assert.deepEqual(perSecond([5, 10, 6], range, 500, 2600), [10_000, 10_000, 10_000]);
  assert.deepEqual(perSecond([5, 10, 1], range, 0, 2001), [5_000, 10_000, 2_000]);
});

Deno.test("sizeClassOf() gives the power of two that is not below a length", () => {
  const rows = [[0, 0], [1, 1], [2, 2], [3, 4], [512, 512], [513, 1024], [4096, 4096]];
  const large = [[2 ** 31, 2 ** 31], [2 ** 31 + 1, 2 ** 32], [2 ** 32, 2 ** 32]];
  const huge = [[2 ** 40 + 1, 2 ** 41], [2 ** 53 - 1, 2 ** 53]];
  for (const [length = 0, wanted] of [...rows, ...large, ...huge]) {
    assert.equal(sizeClassOf(length), wanted, `${length}`);
  }
});

Deno.test("sparkline() shows heights, blanks and ASCII, at the width that was asked for", () => {
  assert.equal(sparkline([0, 1, 4, 8], { width: 4 }), "▁▂▅█");
  assert.equal(sparkline([0, 1, 4, 8], { width: 4, ascii: true }), "_.=#");
  assert.equal(sparkline([1, 1, 1, 1, 8, 8], { width: 3 }), "▂▂█");
  assert.equal(sparkline([0, 8], { width: 4 }), "▁▁██");
  assert.equal(sparkline([null, 8, null], { width: 3 }), " █ ");
  assert.equal(sparkline([1, 10, 100], { width: 3, scale: "log" }), "▂▅█");
  assert.equal(sparkline([5, 5], { width: 2, scale: "log" }), "██");
  assert.equal(sparkline([0, 0], { width: 2 }), "▁▁");
  assert.equal(sparkline([], { width: 5 }), "");
});

Deno.test("formatUs() and formatCount() give three digits and a unit", () => {
  assert.deepEqual(
    [0, 0.25, 7, 999.7, 1234, 99_960, 1.5e6, 3.6e9].map(formatUs),
    ["0 µs", "250 ns", "7 µs", "1 ms", "1.23 ms", "100 ms", "1.5 s", "3600 s"],
  );
  assert.deepEqual(
    [0, 1.25, 512, 9999, 12_345, 999_900, 4.5e9].map(formatCount),
    ["0", "1.25", "512", "9999", "12.3 k", "1 M", "4.5 G"],
  );
});
