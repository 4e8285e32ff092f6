/** Tests of lib/driver/gather_pause.ts: a client of which only the depth and the time of a request matter. @module */
import assert from "node:assert/strict";
import { GatherPause } from "../../lib/driver/gather_pause.ts";
import { GATHER_RETRY_TURNS_MAX, GATHER_US_MAX, GATHER_US_MIN } from "../../lib/driver/limits.ts";

interface Outcome {
  readonly requests: number;
  readonly turns: number;
  /** Time in µs in which the client had nothing to do, because a pause was too long. */
  readonly lost_us: number;
  readonly longest_us: number;
}

/** A client with `depth` requests under way that needs `each_us` for one, and a server that is as quick. */
function simulate(depth: number, each_us: number, turns: number): Outcome {
  const gather = new GatherPause();
  let sum = 0, lost_us = 0, longest_us = 0;
  // Replies that the client has not taken, and requests that the server has not.
  let unread = depth - 1, waiting = 1, sent = depth;
  for (let turn = 0; turn < turns; turn++) {
    const requests = waiting;
    sum += requests;
    gather.turn(requests, unread / Math.max(1, sent));
    sent = requests;
    unread += requests;
    const pause_us = gather.next_us;
    longest_us = Math.max(longest_us, pause_us);
    const taken = Math.min(unread, Math.max(1, Math.floor(pause_us / each_us)));
    lost_us += Math.max(0, pause_us - unread * each_us);
    unread -= taken;
    waiting = taken;
  }
  return { requests: sum, turns, lost_us, longest_us };
}

Deno.test("GatherPause lets requests of a busy client come together, and loses no time", () => {
  const { requests, turns, lost_us, longest_us } = simulate(64, 7, 5_000);
  assert.ok(requests > 16 * turns, `${requests} requests in ${turns} turns`);
  assert.equal(lost_us, 0);
  assert.ok(longest_us <= GATHER_US_MAX);
});

Deno.test("GatherPause leaves alone who waits for each reply", () => {
  const { longest_us } = simulate(1, 7, 5_000);
  assert.equal(longest_us, 0);
});

Deno.test("GatherPause tries ever less often where few requests are under way", () => {
  const { requests, lost_us } = simulate(2, 7, 50_000);
  // A request in flight takes 7 µs: what is lost is a small share of the time.
  assert.ok(lost_us > 0, "it was never tried");
  assert.ok(lost_us < requests * 7 / 100, `${lost_us} µs lost in ${requests * 7} µs`);
});

Deno.test("GatherPause forgets when nothing comes, and shrinks when a client waited", () => {
  const gather = new GatherPause();
  gather.turn(1, 1);
  assert.equal(gather.next_us, GATHER_US_MIN);
  for (let turn = 0; turn < 100; turn++) gather.turn(1, 1);
  assert.equal(gather.next_us, GATHER_US_MAX);
  gather.turn(1, 0);
  assert.equal(gather.next_us, GATHER_US_MAX / 2);
  gather.turn(0, Infinity);
  assert.equal(gather.next_us, 0);
  for (let turn = 0; turn < 100_000; turn++) gather.turn(1, turn % 2 === 1 ? 0 : 1);
  let turns = 0;
  for (; gather.next_us === 0; turns++) gather.turn(1, 1);
  assert.ok(turns <= GATHER_RETRY_TURNS_MAX + 1, `${turns} turns`);
});

Deno.test("GatherPause gets shorter before a client has to wait, and stays as it is in between", () => {
  const gather = new GatherPause();
  for (let turn = 0; turn < 10; turn++) gather.turn(1, 1);
  const long_us = gather.next_us;
  gather.turn(1, 0.4);
  assert.equal(gather.next_us, long_us);
  gather.turn(1, 0.1);
  assert.ok(gather.next_us < long_us && gather.next_us > long_us / 2);
  for (let turn = 0; turn < 100; turn++) gather.turn(1, 0.1);
  assert.equal(gather.next_us, GATHER_US_MIN);
});
