/**
 * The clock of a thread that blocks: sleepers wake when they are told to.
 *
 * @module
 */
import assert from "node:assert/strict";
import { LoopClock } from "../../lib/fuse/loop_clock.ts";

Deno.test("LoopClock wakes who is due, in no other way", async () => {
  let now = 1_000.5;
  const clock = new LoopClock({ now: () => now, wall: () => 7 });
  assert.deepEqual([clock.now(), clock.wall(), clock.waitMs()], [1000, 7, -1]);
  const woken: string[] = [];
  const late = clock.sleep(5).then(() => woken.push("late"));
  const early = clock.sleep(2).then(() => woken.push("early"));
  assert.equal(clock.waitMs(), 2);
  now += 1_500;
  assert.equal(clock.waitMs(), 1, "rounded up");
  clock.wakeDue();
  now += 500;
  clock.wakeDue();
  await early;
  assert.deepEqual(woken, ["early"]);
  assert.equal(clock.waitMs(), 3);
  now += 10_000;
  assert.equal(clock.waitMs(), 0);
  clock.wakeDue();
  await late;
  assert.equal(clock.waitMs(), -1);
});

Deno.test("LoopClock.sleep() rejects with the reason of its signal", async () => {
  const clock = new LoopClock({ now: () => 0, wall: () => 0 });
  const reason = new Error("enough");
  const stop = new AbortController();
  const sleeping = assert.rejects(clock.sleep(5, stop.signal), reason);
  stop.abort(reason);
  await sleeping;
  assert.equal(clock.waitMs(), -1);
  await assert.rejects(clock.sleep(5, AbortSignal.abort(reason)), reason);
});
