/**
 * Clones and deletions of one snapshot at the same time, in all orders of their calls: the bounded share of
 * what the soak task does at length.
 *
 * @module
 */
import assert from "node:assert/strict";
import { openManagedDisk } from "../../lib/log_disk/managed_disk.ts";
import * as snapshots from "../../lib/log_disk/snapshots.ts";
import { cloneVolume, removeVolume } from "../../lib/log_disk/tools/clone.ts";
import { withTempDir } from "../support/tools.ts";
import { type CloneEngine, raceName, RACES, runRace } from "./simulation/clone_races.ts";
import { loadWithBug, PLANTED_CLONE_BUGS } from "./simulation/planted.ts";

const ENGINE: CloneEngine = { ...snapshots, openManagedDisk, cloneVolume, removeVolume };

for (const race of RACES) {
  Deno.test(`a clone stands or is not made, in all orders: ${raceName(race)}`, async () => {
    const { situations, schedules } = await runRace(ENGINE, race);
    // As many as there are: with fewer something does not take part any more.
    assert.ok(situations >= race.roles.length * 100, `${situations} situations`);
    assert.ok(schedules >= 10, `${schedules} schedules`);
  });
}

for (const bug of PLANTED_CLONE_BUGS) {
  Deno.test(`races of clones find it when ${bug.name}`, async () => {
    await withTempDir(async (folder) => {
      const engine = await loadWithBug(bug, folder);
      for (const race of RACES) {
        try {
          await runRace(engine, race);
        } catch (error) {
          const cause = error instanceof Error ? error.cause : null;
          assert.ok(cause instanceof assert.AssertionError, String(error));
          return;
        }
      }
      assert.fail("not found");
    });
  });
}
