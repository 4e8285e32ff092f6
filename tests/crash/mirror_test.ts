/**
 * Mirrors whose process or machine ends at any moment, and whose legs fail: against a model, seeded. Bugs
 * are planted to see that the model finds them. `deno task soak:mirror` runs more.
 *
 * @module
 */
import assert from "node:assert/strict";
import { live, type Plan } from "./mirror_lives.ts";
import type { Bug } from "./mirror_world.ts";

const SEEDS = 40;

/** The first seed at which a bug is found; fails if none does. */
async function firstFound(plan: Plan, seeds: number): Promise<string> {
  for (let seed = 1; seed <= seeds; seed += 1) {
    try {
      await live(seed, plan);
    } catch (error) {
      assert.ok(error instanceof assert.AssertionError, String(error));
      return error.message;
    }
  }
  assert.fail(`${plan.bug} is not found in ${seeds} lives`);
}

Deno.test("openMirror() loses no answered write when process or machine end at any moment", async () => {
  let done = 0;
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    done += (await live(seed, { crashes: 4, failures: false })).counts.done;
  }
  assert.ok(done > 1_000, `only ${done} operations were done`);
});

Deno.test("openMirror() loses no answered write while legs fail and one in sync lives", async () => {
  let drops = 0;
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    drops += (await live(seed, { crashes: 0, legs: 3, failures: true })).counts.drops;
  }
  assert.ok(drops > 20, `only ${drops} legs have failed`);
});

Deno.test("openMirror() loses no answered write when legs fail and machines crash", async () => {
  let drops = 0;
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const legs = 2 + seed % 2;
    drops += (await live(seed, { crashes: 4, legs, failures: true })).counts.drops;
  }
  assert.ok(drops > 20, `only ${drops} legs have failed`);
});

Deno.test("openMirror() has the same life for the same seed", async () => {
  const [one, two] = [
    await live(7, { crashes: 3, failures: true }),
    await live(7, { crashes: 3, failures: true }),
  ];
  assert.deepEqual(one.counts, two.counts);
  assert.deepEqual(one.log.lines, two.log.lines);
});

const BUGS: readonly [Bug, boolean][] = [
  ["clear before data is flushed", false],
  ["mark after write", false],
  ["marks are not flushed", false],
  ["leg is read that is not in sync", false],
  ["copy races a write", false],
  ["drop is not durable", true],
];

for (const [bug, failures] of BUGS) {
  Deno.test(`the model finds the bug "${bug}"`, async () => {
    assert.notEqual(await firstFound({ bug, crashes: 4, failures }, SEEDS), "");
  });
}
