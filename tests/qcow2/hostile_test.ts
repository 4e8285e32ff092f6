/**
 * Damaged and hostile images are opened, read and written: a few hundred here, more in `deno task
 * soak:qcow2`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { interopTest } from "../support/tools.ts";
import { attack, makeVictims, type Outcome } from "./hostile.ts";

const SEEDS = 80;
/** Images after which garbage is collected, which takes as long as many of them. */
const COLLECT_EVERY = 20;
/**
 * Bytes that all of them together may leave the process larger by. What is garbage already does not
 * count: when the engine collects it is chance, and the largest part is the files of these tests.
 */
const GROWTH_BYTES_MAX = 512 * 2 ** 20;
/** Bytes that the process may grow by during one of them: 9 MiB were seen. */
const IMAGE_BYTES_MAX = 64 * 2 ** 20;

/** A function that collects garbage: the engine has it where it is asked to. */
function collector(): () => void {
  setFlagsFromString("--expose-gc");
  const collect: unknown = runInNewContext("gc");
  if (typeof collect !== "function") throw new Error("The engine does not collect when told");
  return () => void collect();
}

interopTest("damaged images give results or clear errors, and stay in their bounds", [
  "qemu-img",
  "qemu-io",
], async () => {
  const victims = await makeVictims();
  const collect = collector();
  let before: number | null = null;
  const outcomes = new Map<Outcome, number>();
  for (const [index, victim] of victims.entries()) {
    for (let seed = 0; seed < SEEDS; seed += 1) {
      const beforeIt = Deno.memoryUsage().rss;
      const outcome = await attack(victim, index * 10_000 + seed);
      const took = Deno.memoryUsage().rss - beforeIt;
      assert.ok(took < IMAGE_BYTES_MAX, `seed ${seed} of ${victim.name} took ${took} bytes`);
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      if (seed % COLLECT_EVERY !== 0) continue;
      collect();
      // The first has loaded and compiled what all of them use.
      before ??= Deno.memoryUsage().rss;
    }
  }
  const told = JSON.stringify([...outcomes]);
  for (const outcome of ["refused", "failed", "served"] as const) {
    assert.ok((outcomes.get(outcome) ?? 0) > SEEDS / 20, `${outcome} is rare: ${told}`);
  }
  collect();
  const growth = Deno.memoryUsage().rss - (before ?? 0);
  assert.ok(growth < GROWTH_BYTES_MAX, `the process has grown by ${growth} bytes`);
});
