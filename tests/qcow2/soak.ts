/**
 * `deno task soak:qcow2 [--seed N] [--rounds N] [--only matrix|differential|crash|hostile]`: the tests
 * of qcow2 against QEMU's tools at length: the whole matrix, thousands of operations on twins, every
 * prefix and many reorders of crashes, thousands of damaged images. Each failure is printed with what
 * repeats it; the exit code is 1 if there was one.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { print, taskArguments } from "../../tools/process.ts";
import { withTempDir } from "../support/tools.ts";
import { enumerateCrashes } from "./crash.ts";
import { compareTwins } from "./differential.ts";
import { attack, makeVictims } from "./hostile.ts";
import { allRows, readTheirs, rowText, writeOurs } from "./matrix.ts";
import { randomOperations } from "./operations.ts";
import { crashRuns, TWINS } from "./rows.ts";

/** Operations of one script of the differential test, and of one crash run. */
const TWIN_OPERATIONS = 3000, CRASH_OPERATIONS = 120;
const CHECKPOINT_EVERY = 100;
/** Damaged copies of each image in one round. */
const ATTACKS = 3000;

let failures = 0;

/** Runs one part; a failure is printed and counted. */
async function part(name: string, run: () => Promise<string | void>): Promise<void> {
  const startMs = performance.now();
  try {
    const told = await run();
    const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
    print(`ok      ${name}${typeof told === "string" ? `: ${told}` : ""} (${seconds} s)\n`);
  } catch (error) {
    failures += 1;
    print(
      `FAILED  ${name}\n${error instanceof Error ? error.stack ?? error.message : String(error)}\n`,
    );
  }
}

async function matrix(seed: number): Promise<void> {
  for (const row of allRows()) {
    await part(
      `QEMU's, seed ${seed}: ${rowText(row)}`,
      () => withTempDir((folder) => readTheirs(folder, row, seed)),
    );
    await part(
      `ours, seed ${seed}: ${rowText(row)}`,
      () => withTempDir((folder) => writeOurs(folder, row, seed)),
    );
  }
}

async function differential(seed: number): Promise<void> {
  for (const twins of TWINS) {
    await part(
      `twins, seed ${seed}: ${twins.name}`,
      () =>
        compareTwins(twins, randomOperations(seed, twins.shape, TWIN_OPERATIONS), CHECKPOINT_EVERY),
    );
  }
}

async function crash(seed: number): Promise<void> {
  for (const run of crashRuns({ seed, prefixEvery: 1, singles: 40, subsets: 40 })) {
    await part(`crashes, seed ${seed}: ${run.name}`, async () => {
      const operations = randomOperations(seed, run.shape, CRASH_OPERATIONS);
      const { events, flushes, states, leaks } = await enumerateCrashes(run, operations);
      return `${events} events, ${flushes} flushes, ${states} states, ${leaks} with leaks`;
    });
  }
}

async function hostile(seed: number): Promise<void> {
  for (const victim of await makeVictims()) {
    await part(`damaged images, seed ${seed}: ${victim.name}`, async () => {
      const counts = { refused: 0, failed: 0, served: 0 };
      for (let each = 0; each < ATTACKS; each += 1) {
        counts[await attack(victim, seed * 1_000_000 + each)] += 1;
      }
      return JSON.stringify(counts);
    });
  }
}

const PARTS = { matrix, differential, crash, hostile };

async function main(): Promise<void> {
  const { values: { seed, rounds, only } } = parseArgs({
    args: taskArguments(),
    options: {
      seed: { type: "string", default: "1" },
      rounds: { type: "string", default: "1" },
      only: { type: "string", default: "" },
    },
  });
  for (let round = 0; round < Number(rounds); round += 1) {
    for (const [name, run] of Object.entries(PARTS)) {
      if (name.includes(only)) await run(Number(seed) + round);
    }
  }
  print(failures === 0 ? "all is well\n" : `${failures} failed\n`);
  Deno.exitCode = failures === 0 ? 0 : 1;
}

await main();
