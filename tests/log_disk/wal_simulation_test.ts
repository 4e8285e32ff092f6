/**
 * Simulations of machines with write-ahead logs: the bounded share of what the soak task does at length.
 *
 * @module
 */
import assert from "node:assert/strict";
import { openManagedDisk } from "../../lib/log_disk/managed_disk.ts";
import { withTempDir } from "../support/tools.ts";
import { loadWithBug, PLANTED_WAL_BUGS } from "./simulation/planted.ts";
import { simulateWal, type WalOutcome, walScenarioOf } from "./simulation/wal.ts";

/** Seeds of the suite's share, and those after which a planted bug counts as not found. */
const SEEDS = 120, SEEDS_TO_FIND = 200;

/** A run whose failure names its seed. */
async function runSeed(seed: number): Promise<WalOutcome> {
  try {
    return await simulateWal({ openManagedDisk }, walScenarioOf(seed));
  } catch (error) {
    throw new Error(`Seed ${seed} fails: ${String(error)}`, { cause: error });
  }
}

Deno.test("machines with write-ahead logs lose nothing that they flushed, and put nothing old on a disk", async () => {
  const counts: Record<string, number> = {};
  for (let seed = 0; seed < SEEDS; seed += 1) {
    for (const [what, count] of Object.entries((await runSeed(seed)).counts)) {
      counts[what] = (counts[what] ?? 0) + count;
    }
  }
  for (const what of ["open", "crash", "flush", "recovered", "taken over", "refused", "read"]) {
    assert.ok((counts[what] ?? 0) >= SEEDS / 4, `${what}: ${counts[what]}`);
  }
});

Deno.test("a simulation of machines of the same seed is the same run", async () => {
  for (const seed of [1, 2, 3]) {
    const first = await runSeed(seed);
    assert.ok(first.calls.length > 50);
    assert.deepEqual(await runSeed(seed), first);
  }
});

for (const bug of PLANTED_WAL_BUGS) {
  Deno.test(`simulations of machines find it when ${bug.name}`, async () => {
    await withTempDir(async (folder) => {
      const engine = await loadWithBug(bug, folder);
      for (let seed = 0; seed < SEEDS_TO_FIND; seed += 1) {
        try {
          await simulateWal(engine, walScenarioOf(seed));
        } catch (error) {
          assert.ok(error instanceof assert.AssertionError, `seed ${seed}: ${String(error)}`);
          return;
        }
      }
      assert.fail(`not found within ${SEEDS_TO_FIND} seeds`);
    });
  });
}
