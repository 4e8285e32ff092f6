/**
 * Simulations of log-structured disks: the bounded share of what the soak task does at length.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Collector } from "../../lib/log_disk/gc/collector.ts";
import { LogDisk } from "../../lib/log_disk/log_disk.ts";
import { withTempDir } from "../support/tools.ts";
import { openManagedDisk } from "../../lib/log_disk/managed_disk.ts";
import { cloneVolume } from "../../lib/log_disk/tools/clone.ts";
import {
  type FamilyEngine,
  type FamilyOutcome,
  familyScenarioOf,
  simulateFamily,
} from "./simulation/family.ts";
import { loadWithBug, PLANTED_BUGS, PLANTED_FAMILY_BUGS } from "./simulation/planted.ts";
import {
  type Engine,
  type Outcome,
  type Scenario,
  scenarioOf,
  simulate,
} from "./simulation/run.ts";
import { NO_FAULTS } from "./simulation/world.ts";

const ENGINE: Engine = { LogDisk, Collector };
/** Seeds of the suite's share. */
const SEEDS = 1000;
/** Seeds after which a planted bug counts as not found. */
const SEEDS_TO_FIND = 400;
const FAMILY_ENGINE: FamilyEngine = { openManagedDisk, cloneVolume };
/** Seeds of the suite's share of families of volumes. */
const FAMILY_SEEDS = 150;

/** A run whose failure names its seed. */
async function runSeed(seed: number): Promise<Outcome> {
  try {
    return await simulate(ENGINE, scenarioOf(seed));
  } catch (error) {
    throw new Error(`Seed ${seed} fails: ${String(error)}`, { cause: error });
  }
}

Deno.test("LogDisk loses nothing, whoever writes, is held up, is killed or collects garbage", async () => {
  const counts: Record<string, number> = {};
  for (let seed = 0; seed < SEEDS; seed += 1) {
    for (const [what, count] of Object.entries((await runSeed(seed)).counts)) {
      counts[what] = (counts[what] ?? 0) + count;
    }
  }
  // What a run is about came to pass often enough to mean something.
  for (const what of ["attached", "flushed", "read", "collected", "killed", "write refused"]) {
    assert.ok((counts[what] ?? 0) >= SEEDS / 4, `${what}: ${counts[what]}`);
  }
});

/** One host and its successors, with nothing else that goes wrong. */
const QUIET: Scenario = {
  seed: 11,
  steps: 50,
  hostsMax: 1,
  faults: NO_FAULTS,
  checkpointObjects: 6,
  windowSlots: 4,
  quiet: true,
  killPoint: null,
};

Deno.test("LogDisk loses nothing when its host is killed at any of its calls", async () => {
  const { calls } = await simulate(ENGINE, QUIET);
  const count = calls.filter((line) => /^\d+ host0 .* before$/.test(line)).length;
  assert.ok(count > 40, `only ${count} calls`);
  for (let call = 0; call < count; call += 1) {
    for (const point of ["before", "after"] as const) {
      await simulate(ENGINE, { ...QUIET, killPoint: { call, point } });
    }
  }
});

Deno.test("LogDisk begins again if a name was deleted and claimed in vain while it attached", async () => {
  const { calls } = await simulate(ENGINE, { ...scenarioOf(22_846), steps: 138 });
  assert.ok(calls.length > 100);
});

Deno.test("a simulation of the same seed is the same run", async () => {
  for (const seed of [1, 2, 3, 5, 8]) {
    const first = await runSeed(seed), second = await runSeed(seed);
    assert.ok(first.calls.length > 50);
    assert.deepEqual(second.calls, first.calls);
    assert.deepEqual(second.counts, first.counts);
  }
  assert.notDeepEqual((await runSeed(1)).calls, (await runSeed(2)).calls);
});

for (const bug of PLANTED_BUGS) {
  Deno.test(`simulations find it when ${bug.name}`, async () => {
    await withTempDir(async (folder) => {
      const engine = await loadWithBug(bug, folder);
      for (let seed = 0; seed < SEEDS_TO_FIND; seed += 1) {
        try {
          await simulate(engine, scenarioOf(seed));
        } catch (error) {
          assert.ok(error instanceof assert.AssertionError, `seed ${seed}: ${String(error)}`);
          return;
        }
      }
      assert.fail(`not found within ${SEEDS_TO_FIND} seeds`);
    });
  });
}

/** A run of a family of volumes whose failure names its seed. */
async function runFamily(seed: number): Promise<FamilyOutcome> {
  try {
    return await simulateFamily(FAMILY_ENGINE, familyScenarioOf(seed));
  } catch (error) {
    throw new Error(`Seed ${seed} of families fails: ${String(error)}`, { cause: error });
  }
}

Deno.test("disks with snapshots, clones and caches lose nothing, whoever resizes, deletes or is killed", async () => {
  const counts: Record<string, number> = {};
  for (let seed = 0; seed < FAMILY_SEEDS; seed += 1) {
    for (const [what, count] of Object.entries((await runFamily(seed)).counts)) {
      counts[what] = (counts[what] ?? 0) + count;
    }
  }
  const often = ["open", "flush", "read", "resize", "snapshot", "objects deleted", "killed"];
  for (const what of often) {
    assert.ok((counts[what] ?? 0) >= FAMILY_SEEDS / 2, `${what}: ${counts[what]}`);
  }
  for (const what of ["clone", "read snapshot", "delete snapshot"]) {
    assert.ok((counts[what] ?? 0) >= FAMILY_SEEDS / 10, `${what}: ${counts[what]}`);
  }
});

Deno.test("a simulation of a family of the same seed is the same run", async () => {
  for (const seed of [1, 2, 3]) {
    const first = await runFamily(seed), second = await runFamily(seed);
    assert.ok(first.calls.length > 50);
    assert.deepEqual(second, first);
  }
});

for (const bug of PLANTED_FAMILY_BUGS) {
  Deno.test(`simulations of families find it when ${bug.name}`, async () => {
    await withTempDir(async (folder) => {
      const engine = await loadWithBug(bug, folder);
      for (let seed = 0; seed < SEEDS_TO_FIND; seed += 1) {
        try {
          await simulateFamily(engine, familyScenarioOf(seed));
        } catch (error) {
          assert.ok(error instanceof assert.AssertionError, `seed ${seed}: ${String(error)}`);
          return;
        }
      }
      assert.fail(`not found within ${SEEDS_TO_FIND} seeds`);
    });
  });
}
