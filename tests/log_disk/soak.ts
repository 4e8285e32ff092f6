/**
 * Simulations of log-structured disks at length: `soak.ts [FIRST [COUNT]]` runs seeds and prints those that
 * fail. Exit code 1 if one does.
 *
 * @module
 */
import { Collector } from "../../lib/log_disk/gc/collector.ts";
import { LogDisk } from "../../lib/log_disk/log_disk.ts";
import { scenarioOf, simulate } from "./simulation/run.ts";

/** Seeds, if not told; seeds between two lines about progress. */
const COUNT = 10_000, PROGRESS = 500;

function say(line: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`));
}

const [first = 1_000, count = COUNT] = Deno.args.map(Number);
let failed = 0;
for (let seed = first; seed < first + count; seed += 1) {
  try {
    await simulate({ LogDisk, Collector }, scenarioOf(seed));
  } catch (error) {
    failed += 1;
    say(`Seed ${seed} fails: ${error instanceof Error ? error.stack : String(error)}`);
  }
  if ((seed - first + 1) % PROGRESS === 0) say(`${seed - first + 1} of ${count} seeds`);
}
say(`${failed} of ${count} seeds fail`);
Deno.exit(failed === 0 ? 0 : 1);
