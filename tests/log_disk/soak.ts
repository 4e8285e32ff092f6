/**
 * Simulations of log-structured disks at length: `soak.ts [FIRST [COUNT]]` runs all schedules of clones and deletions,
 * then seeds, of single volumes and, a fifth as many, of families of volumes and of machines with write-ahead logs, and
 * prints those that fail. Exit code 1 if one does.
 *
 * @module
 */
import { Collector } from "../../lib/log_disk/gc/collector.ts";
import { LogDisk } from "../../lib/log_disk/log_disk.ts";
import { openManagedDisk } from "../../lib/log_disk/managed_disk.ts";
import * as snapshots from "../../lib/log_disk/snapshots.ts";
import { cloneVolume, removeVolume } from "../../lib/log_disk/tools/clone.ts";
import { LONG_RACES, raceName, runRace } from "./simulation/clone_races.ts";
import { familyScenarioOf, simulateFamily } from "./simulation/family.ts";
import { scenarioOf, simulate } from "./simulation/run.ts";
import { simulateWal, walScenarioOf } from "./simulation/wal.ts";

/** Seeds, if not told; seeds between two lines about progress. */
const COUNT = 10_000, PROGRESS = 500;
/** Seeds of single volumes for each of the others. */
const SINGLES = 5;

function say(line: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`));
}

const [first = 1_000, count = COUNT] = Deno.args.map(Number);
let failed = 0;

async function run(what: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    failed += 1;
    say(`${what} fails: ${error instanceof Error ? error.stack : String(error)}`);
  }
}

for (const race of LONG_RACES) {
  const name = raceName(race),
    engine = { ...snapshots, openManagedDisk, cloneVolume, removeVolume };
  await run(name, async () => {
    const { situations, schedules } = await runRace(engine, race);
    say(`${name}: ${situations} situations, ${schedules} schedules`);
  });
}

for (let seed = first; seed < first + count; seed += 1) {
  await run(`Seed ${seed}`, () => simulate({ LogDisk, Collector }, scenarioOf(seed)));
  if (seed % SINGLES === 0) {
    const scenario = familyScenarioOf(seed);
    await run(
      `Seed ${seed} of families`,
      () => simulateFamily({ openManagedDisk, cloneVolume }, scenario),
    );
    await run(
      `Seed ${seed} of machines`,
      () => simulateWal({ openManagedDisk }, walScenarioOf(seed)),
    );
  }
  if ((seed - first + 1) % PROGRESS === 0) say(`${seed - first + 1} of ${count} seeds`);
}
say(`${failed} runs of ${LONG_RACES.length} races and ${count} seeds fail`);
Deno.exit(failed === 0 ? 0 : 1);
