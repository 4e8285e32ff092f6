/**
 * Replay: order, concurrency, pace, verification.
 *
 * @module
 */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers";
import { BlockError } from "../../lib/block/errors.ts";
import type { Operation, Request } from "../../lib/block/request.ts";
import type { Maybe } from "../../lib/block/types.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import type { TraceEvent, TraceInfo } from "../../lib/trace/event.ts";
import { digestOf } from "../../lib/trace/record.ts";
import { replay, type ReplayOptions } from "../../lib/trace/replay.ts";
import { TraceNotes, type TraceSource } from "../../lib/trace/source.ts";
import { ManualClock } from "../support/context.ts";

const SIZE = 1 << 20;

function sourceOf(events: readonly TraceEvent[], completes = true): () => Promise<TraceSource> {
  const info: TraceInfo = { started_ms: null, target: null, size: SIZE, completes };
  async function* batches(): AsyncGenerator<readonly TraceEvent[]> {
    for (let at = 0; at < events.length; at += 7) {
      yield await Promise.resolve(events.slice(at, at + 7));
    }
  }
  return () => Promise.resolve({ info, notes: new TraceNotes(), batches });
}

function submit(id: number, operation: Operation, offset = 0, length = 512): TraceEvent {
  return {
    ...{ kind: "submit", timeUs: id * 100, id, connection: 1, operation, offset },
    ...{ length, flags: 0, digest: null, payload: null },
  };
}

function withData(id: number, payload: Uint8Array): TraceEvent {
  return {
    ...{ kind: "submit", timeUs: id * 100, id, connection: 1, operation: "write", offset: 0 },
    ...{ length: payload.length, flags: 0, digest: digestOf(payload), payload },
  };
}

function complete(id: number, timeUs = id * 100 + 50): TraceEvent {
  return { kind: "complete", timeUs, id, errno: null, digest: null, payload: null };
}

/** A target whose requests are done when the test says so. */
class HeldTarget {
  readonly geometry = { size: SIZE };
  readonly held: { request: Request; done: () => void; fail: (error: Error) => void }[] = [];
  readonly log: string[] = [];

  submit(request: Request): Maybe<void> {
    this.log.push(`${request.operation} ${request.offset}`);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.held.push({ request, done: resolve, fail: reject });
    return promise;
  }
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn += 1) await null;
}

function start(
  target: ReplayOptions["target"],
  events: readonly TraceEvent[],
  rest: Partial<ReplayOptions> & { completes?: boolean } = {},
): ReturnType<typeof replay> {
  const { completes = true, ...options } = rest;
  return replay({
    ...{ open: sourceOf(events, completes), target, clock: new ManualClock(), speed: "max" },
    ...options,
  });
}

Deno.test("replay() keeps in flight together what was, and after each other what was", async () => {
  const target = new HeldTarget();
  const report = start(target, [
    ...[submit(1, "write", 0), submit(2, "write", 512), complete(2), submit(3, "flush", 0, 0)],
    ...[complete(1), complete(3)],
  ]);
  await settle();
  assert.deepEqual(target.log, ["write 0", "write 512"]);
  target.held[0]?.done();
  await settle();
  assert.equal(target.log.length, 2, "the flush followed from request 2");
  target.held[1]?.done();
  await settle();
  assert.deepEqual(target.log.slice(2), ["flush 0"]);
  target.held[2]?.done();
  assert.equal((await report).requests, 3);
});

Deno.test("replay() lets no request pass one that it overlaps, where the trace has no completions", async () => {
  const target = new HeldTarget();
  const events = [submit(1, "write", 0, 1024), submit(2, "read", 512), submit(3, "read", 4096)];
  const report = start(target, events, { completes: false });
  await settle();
  assert.deepEqual(target.log, ["write 0"]);
  target.held[0]?.done();
  await settle();
  assert.deepEqual(target.log, ["write 0", "read 512", "read 4096"]);
  for (const { done } of target.held) done();
  await report;
});

Deno.test("replay() has at most `depth` requests in flight, and loses none", async () => {
  const random = seededRandom(1);
  let inFlight = 0, most = 0;
  const target = {
    geometry: { size: SIZE },
    submit: async (): Promise<void> => {
      most = Math.max(most, ++inFlight);
      for (let turns = random.below(60); turns > 0; turns -= 1) await null;
      inFlight -= 1;
    },
  };
  const events = Array.from({ length: 500 }, (_, id) => submit(id + 1, "read", 512 * id));
  const report = await start(target, events, { depth: 5, completes: false, rounds: 2 });
  assert.equal(report.requests, 1000);
  assert.equal(most, 5);
});

Deno.test("replay() submits when it is due, and tells how late it was", async () => {
  const clock = new ManualClock();
  const times: number[] = [];
  const target = {
    geometry: { size: SIZE },
    submit: (): void => void times.push(clock.now()),
  };
  const events = [submit(1, "read"), submit(100, "read"), submit(200, "read")];
  const report = replay({ open: sourceOf(events, false), target, clock, speed: 2 });
  let over = false;
  report.finally(() => over = true);
  while (!over) {
    clock.advance(100);
    await new Promise((resolve) => setImmediate(resolve));
  }
  // Due after 50, 5,000 and 10,000 µs; the clock moves in steps of 100.
  const { lag, plannedUs } = await report;
  assert.equal(plannedUs, 10_000);
  assert.equal(lag.count, 3);
  [50, 5000, 10_000].forEach((due, index) => {
    const late = (times[index] ?? 0) - due;
    assert.ok(late >= 0 && late <= 600, `request ${index} was ${late} µs late`);
  });
});

Deno.test("replay() verifies reads against digests, and finds what differs", async () => {
  const memory = new Uint8Array(SIZE);
  let damage = false;
  const target = {
    geometry: { size: SIZE },
    submit: ({ operation, offset, data }: Request): void => {
      if (operation === "write") memory.set(data, offset);
      else data.set(memory.subarray(offset, offset + data.length));
      if (damage && operation === "read") data[3] = 1;
    },
  };
  const payload = new Uint8Array(512).fill(7);
  const events: TraceEvent[] = [
    withData(1, payload),
    complete(1),
    submit(2, "read", 0),
    { ...complete(2), digest: digestOf(payload) },
    submit(3, "read", 512),
    { ...complete(3), digest: digestOf(new Uint8Array(512)) },
    submit(4, "read", 512),
    complete(4),
  ];
  const good = await start(target, events, { verify: true });
  assert.deepEqual([good.verified, good.unverifiable, good.mismatchCount], [2, 1, 0]);
  damage = true;
  memory.fill(0);
  const bad = await start(target, events, { verify: true });
  assert.deepEqual([bad.verified, bad.mismatchCount], [2, 2]);
  assert.match(bad.mismatches[0]?.what ?? "", /other data/);
});

Deno.test("replay() goes on after errors, and tells outcomes that differ", async () => {
  const target = {
    geometry: { size: SIZE },
    submit: ({ operation }: Request): void => {
      if (operation === "trim") throw new BlockError("EOPNOTSUPP", "Cannot trim");
    },
  };
  const events = [submit(1, "trim"), complete(1), submit(2, "read"), complete(2)];
  const report = await start(target, events, { verify: true });
  assert.equal(report.operations.trim?.errors, 1);
  assert.equal(report.operations.read?.count, 1);
  assert.deepEqual(report.mismatches.map(({ what }) => what), [
    "it ended in EOPNOTSUPP, recorded is success",
  ]);
});

Deno.test("replay() scales offsets, and leaves out what does not fit", async () => {
  const seen: number[] = [];
  const target = {
    geometry: { size: SIZE },
    submit: ({ offset }: Request): void => void seen.push(offset),
  };
  const events = [submit(1, "read", 8192 + 512), submit(2, "read", 3 * SIZE)];
  const report = await start(target, events, { scale: 0.5, completes: false });
  assert.deepEqual(seen, [4096 + 512]);
  assert.equal(report.skipped, 1);
});

Deno.test("replay() ends when it is told to, with nothing in flight", async () => {
  const target = new HeldTarget();
  const abort = new AbortController();
  const events = Array.from({ length: 20 }, (_, id) => submit(id + 1, "read", 512 * id));
  const report = start(target, events, { depth: 2, signal: abort.signal, completes: false });
  await settle();
  abort.abort(new Error("enough"));
  let over = false;
  report.catch(() => over = true);
  await settle();
  assert.ok(!over, "two requests are in flight");
  for (const { done } of target.held) done();
  await assert.rejects(report, /enough/);
  assert.equal(target.log.length, 2);
});
