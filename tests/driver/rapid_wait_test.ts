/** Waiting that looks before it sleeps: when it looks, for how long, and when it gives that up. @module */
import assert from "node:assert/strict";
import { CROWDED_WAITS } from "../../lib/driver/limits.ts";
import { RapidWait } from "../../lib/driver/rapid_wait.ts";
import { processorsOnline } from "../../lib/sys/clock.ts";

/** Eight looks, in numbers that add up exactly. */
const SPIN_US = 125, LOOK_MS = 1 / 64, SLEEP_MS = 1 / 16;

interface Bed {
  readonly rapid: RapidWait;
  /** Looks and sleeps so far. */
  looks: number;
  sleeps: number;
  /** Time that each of them takes, in ms. */
  look_ms: number;
  sleep_ms: number;
  /** Looks until there is something. */
  found: number;
}

function makeBed(): Bed {
  let now_ms = 0;
  const wait = (timeout_ms: number): number => {
    if (timeout_ms === 0) {
      bed.looks += 1;
      now_ms += bed.look_ms;
      return bed.looks >= bed.found ? 1 : 0;
    }
    bed.sleeps += 1;
    now_ms += bed.sleep_ms;
    return 1;
  };
  const rapid = new RapidWait(wait, () => now_ms, SPIN_US);
  const bed = { rapid, looks: 0, sleeps: 0, look_ms: LOOK_MS, sleep_ms: SLEEP_MS, found: Infinity };
  return bed;
}

const ignore = processorsOnline() === 1;

Deno.test({
  name: "RapidWait looks for its time before it sleeps, where the event before came soon",
  ignore,
  fn: () => {
    const bed = makeBed();
    bed.rapid.wait(-1);
    assert.deepEqual([bed.looks, bed.sleeps], [0, 1]);
    bed.rapid.wait(-1);
    assert.deepEqual([bed.looks, bed.sleeps], [8, 2]);
    bed.found = 11;
    assert.equal(bed.rapid.wait(-1), 1);
    assert.deepEqual([bed.looks, bed.sleeps], [11, 2], "it was found by looking");
    bed.rapid.wait(-1, false);
    assert.deepEqual([bed.looks, bed.sleeps], [11, 3], "it was not worth it");
    bed.found = Infinity;
    bed.sleep_ms = 5;
    bed.rapid.wait(-1);
    assert.deepEqual([bed.looks, bed.sleeps], [19, 4]);
    bed.rapid.wait(-1);
    assert.deepEqual([bed.looks, bed.sleeps], [19, 5], "events are rare now");
  },
});

Deno.test({
  name: "RapidWait does not look for a while after others had the processor meanwhile",
  ignore,
  fn: () => {
    const bed = makeBed();
    bed.rapid.wait(-1);
    bed.look_ms = 3;
    bed.rapid.wait(-1);
    assert.equal(bed.looks, 1);
    bed.look_ms = LOOK_MS;
    for (let count = 0; count < CROWDED_WAITS; count++) assert.equal(bed.rapid.wait(-1), 1);
    assert.equal(bed.looks, 1);
    bed.rapid.wait(-1);
    bed.rapid.wait(-1);
    assert.equal(bed.looks, 9);
  },
});
