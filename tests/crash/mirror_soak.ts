/**
 * `deno task soak:mirror [--seed N] [--lives N] [--seconds N]`: lives of mirrors whose process or machine
 * ends at any moment and whose legs fail, against the model of mirror_world.ts, at length. Ends after so
 * many lives (10000 if nothing is told) or so many seconds, whichever comes first. What a seed does is the
 * same each time: one that fails is printed with the command that repeats it, and the exit code is 1.
 *
 * @module
 */
import { taskOptions } from "../../bench/options.ts";
import { print } from "../../tools/process.ts";
import { live, type Plan } from "./mirror_lives.ts";

/** Lives, if nobody says how many or how long. */
const LIVES = 10_000;
/** Time in ms between two lines about progress. */
const PROGRESS_MS = 5_000;

function say(line: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`));
}

/** What happens in the life of a seed: every mixture comes up again and again. */
function planOf(seed: number): Plan {
  const failures = seed % 3 !== 0;
  return {
    legs: 2 + Math.floor(seed / 3) % 3,
    crashes: seed % 4 === 1 ? 0 : 2 + seed % 5,
    failures,
    depth: [2, 6, 16, 40][Math.floor(seed / 7) % 4] ?? 6,
  };
}

async function main(): Promise<void> {
  const { numbers } = taskOptions({ task: "soak:mirror", numbers: ["seed", "lives", "seconds"] });
  const first = numbers.get("seed") ?? 1, seconds = numbers.get("seconds") ?? Infinity;
  const lives = numbers.get("lives") ?? (seconds === Infinity ? LIVES : Infinity);
  const start_ms = performance.now();
  const counts = { done: 0, failed: 0, crashes: 0, drops: 0 };
  let lived = 0, bad = 0, told_ms = start_ms;
  const passed_s = (): number => (performance.now() - start_ms) / 1000;
  const line = (): string =>
    `${lived} lives, ${counts.done} operations done, ${counts.crashes} crashes, ` +
    `${counts.drops} legs lost, ${bad} lives wrong`;
  while (lived < lives && passed_s() < seconds) {
    const seed = first + lived;
    lived += 1;
    try {
      const world = await live(seed, planOf(seed));
      for (const key of ["done", "failed", "crashes", "drops"] as const) {
        counts[key] += world.counts[key];
      }
    } catch (error) {
      bad += 1;
      print(
        `FAILED  deno task soak:mirror --seed ${seed} --lives 1\n` +
          `${error instanceof Error ? error.stack ?? error.message : String(error)}\n`,
      );
    }
    if (performance.now() - told_ms < PROGRESS_MS) continue;
    told_ms = performance.now();
    say(`${passed_s().toFixed(0)} s: ${line()}`);
  }
  print(`seeds ${first} to ${first + lived - 1}: ${line()}\n`);
  Deno.exitCode = bad === 0 ? 0 : 1;
}

await main();
