/**
 * Damaged and hostile images are opened, read and written: a few hundred here, more in `deno task
 * soak:qcow2`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { interopTest } from "../support/tools.ts";
import { attack, makeVictims, type Outcome } from "./hostile.ts";

const SEEDS = 80;
/** Bytes that all of them together may leave the process larger by. */
const GROWTH_BYTES_MAX = 512 * 2 ** 20;

interopTest("damaged images give results or clear errors, and stay in their bounds", [
  "qemu-img",
  "qemu-io",
], async () => {
  const victims = await makeVictims();
  const before = Deno.memoryUsage().rss;
  const outcomes = new Map<Outcome, number>();
  for (const [index, victim] of victims.entries()) {
    for (let seed = 0; seed < SEEDS; seed += 1) {
      const outcome = await attack(victim, index * 10_000 + seed);
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
  }
  const told = JSON.stringify([...outcomes]);
  for (const outcome of ["refused", "failed", "served"] as const) {
    assert.ok((outcomes.get(outcome) ?? 0) > SEEDS / 20, `${outcome} is rare: ${told}`);
  }
  const growth = Deno.memoryUsage().rss - before;
  assert.ok(growth < GROWTH_BYTES_MAX, `the process has grown by ${growth} bytes`);
});
