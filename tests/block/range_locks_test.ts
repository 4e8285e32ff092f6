/**
 * RangeLocks and the helpers for values that are there now or later.
 *
 * @module
 */
import assert from "node:assert/strict";
import { parseDuration, spellDuration } from "../../lib/block/duration.ts";
import { chain, ensure, inLanes, oneByOne, rescue } from "../../lib/block/maybe.ts";
import { RangeLocks } from "../../lib/block/range_locks.ts";
import { SeededRandom } from "../support/context.ts";

async function someTurns(random: SeededRandom): Promise<void> {
  for (let turns = random.below(10); turns >= 0; turns -= 1) await Promise.resolve();
}

Deno.test("RangeLocks.run() is done at once when the range is free", () => {
  const locks = new RangeLocks();
  assert.equal(locks.run(0, 10, "exclusive", () => 7), 7);
  assert.throws(() =>
    locks.run(0, 10, "exclusive", () => {
      throw new Error("work failed");
    }), /work failed/);
  assert.equal(locks.run(0, 10, "exclusive", () => 8), 8);
});

Deno.test("RangeLocks.run() lets no two pieces of work meet that must not", async () => {
  const random = new SeededRandom(3);
  const locks = new RangeLocks();
  const readers = new Int32Array(64), writers = new Int32Array(64);
  let together = 0, waited = 0;
  const works = Array.from({ length: 2000 }, () => {
    const start = random.below(64), length = 1 + random.below(64 - start);
    const exclusive = random.below(3) === 0;
    const own = exclusive ? writers : readers;
    const outcome = locks.run(start, length, exclusive ? "exclusive" : "shared", async () => {
      for (let at = start; at < start + length; at += 1) {
        assert.equal(writers[at], 0, "somebody has it alone");
        if (exclusive) assert.equal(readers[at], 0, "somebody reads it");
        else if ((readers[at] ?? 0) > 0) together += 1;
        own[at] = (own[at] ?? 0) + 1;
      }
      await someTurns(random);
      for (let at = start; at < start + length; at += 1) own[at] = (own[at] ?? 0) - 1;
      if (random.below(10) === 0) throw new RangeError("work failed");
    });
    if (outcome instanceof Promise) waited += 1;
    return outcome;
  });
  const ends = await Promise.allSettled(works);
  assert.ok(ends.every((end) => end.status === "fulfilled" || end.reason instanceof RangeError));
  assert.ok(together > 0 && waited > 1000);
  assert.equal(locks.run(0, Infinity, "exclusive", () => "free"), "free");
});

Deno.test("RangeLocks.run() keeps the order of arrival", async () => {
  const locks = new RangeLocks();
  const order: string[] = [];
  let release = (): void => {};
  const held = locks.run(0, 4, "shared", () => new Promise<void>((resolve) => release = resolve));
  const writer = locks.run(0, 8, "exclusive", () => void order.push("writer"));
  // It could run beside the first, but not before the writer that came earlier.
  const reader = locks.run(2, 1, "shared", () => void order.push("reader"));
  const other = locks.run(8, 1, "exclusive", () => void order.push("other"));
  release();
  await Promise.all([held, writer, reader, other]);
  assert.deepEqual(order, ["other", "writer", "reader"]);
});

Deno.test("chain(), rescue() and ensure() make no promise where there is none", async () => {
  assert.equal(chain(1, (value) => value + 1), 2);
  assert.equal(await chain(Promise.resolve(1), (value) => value + 1), 2);
  const fail = (): never => {
    throw new Error("failed");
  };
  assert.equal(rescue(fail, () => 3), 3);
  assert.equal(await rescue(() => Promise.reject(new Error("later")), () => 4), 4);
  let ends = 0;
  const end = (): void => void (ends += 1);
  assert.equal(ensure(() => 5, end), 5);
  assert.throws(() => ensure(fail, end), /failed/);
  await assert.rejects(
    async () => await ensure(() => Promise.reject(new Error("later")), end),
    /later/,
  );
  assert.equal(ends, 3);
});

Deno.test("oneByOne() waits for each step before it asks for the next item", async () => {
  const log: string[] = [];
  function* items(): Generator<number> {
    for (let item = 0; item < 3; item += 1) {
      log.push(`item ${item}`);
      yield item;
    }
  }
  const sync = oneByOne(items(), (item) => void log.push(`done ${item}`));
  assert.equal(sync, undefined);
  const expected = ["item 0", "done 0", "item 1", "done 1", "item 2", "done 2"];
  assert.deepEqual(log.splice(0), expected);
  await oneByOne(items(), async (item) => {
    await Promise.resolve();
    log.push(`done ${item}`);
  });
  assert.deepEqual(log, expected);
});

Deno.test("inLanes() keeps so many in flight, and begins nothing after a failure", async () => {
  let inFlight = 0, most = 0, begun = 0, begunAtFailure = 0;
  const step = async (item: number): Promise<void> => {
    begun += 1;
    inFlight += 1;
    most = Math.max(most, inFlight);
    await someTurns(new SeededRandom(item));
    inFlight -= 1;
    if (item !== 20) return;
    begunAtFailure = begun;
    throw new Error("step 20");
  };
  await assert.rejects(
    async () => await inLanes(Array.from({ length: 100 }, (_, item) => item), 4, step),
    /step 20/,
  );
  assert.equal(most, 4);
  assert.equal(inFlight, 0);
  assert.ok(begun >= 21 && begun < 100 && begun === begunAtFailure, `${begun}`);
  assert.equal(inLanes([1, 2], 4, () => undefined), undefined);
});

Deno.test("parseDuration() reads what spellDuration() writes, and refuses bare numbers", () => {
  for (
    const [text, ms] of [["250us", 0.25], ["10ms", 10], ["1.5s", 1500], ["2min", 120_000], [
      "0",
      0,
    ]] as const
  ) {
    assert.equal(parseDuration(text), ms);
    assert.equal(spellDuration(ms), text);
  }
  assert.equal(parseDuration("1h"), 3_600_000);
  assert.equal(parseDuration("5µs"), 0.005);
  for (const text of ["5", "-1ms", "ms", "1 day", "1e3ms", ""]) {
    assert.equal(typeof parseDuration(text), "object", text);
  }
});
