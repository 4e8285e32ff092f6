/**
 * `deno task test`: runs all tests, then the examples in doc comments and pages, and ends in the line
 * "N passed, N failed" (", N skipped" if any were), taken from the runs. Paths and options of
 * `deno test` may follow: then those alone run. `--part=calm` runs the tests beside which a machine may
 * do other things (test_parts.ts), `--part=alone` all the others and the examples. Exit code 0 only if
 * tests ran and all passed.
 *
 * @module
 */
import { join } from "node:path";
import { print, runDeno, taskArguments } from "./process.ts";
import { filesOf, type Part } from "./test_parts.ts";

const ROOT = new URL("../", import.meta.url);

/** Where examples are: everything that others read. */
const EXAMPLES: readonly string[] = ["mod.ts", "lib", "backends", "cli", "README.md", "docs"];

const SUMMARY = /^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed(?:.*? \| (\d+) ignored)?/;

interface Counts {
  readonly passed: number;
  readonly failed: number;
  /** Names of the tests that were ignored. */
  readonly skipped: readonly string[];
}

/** What came of `deno test` with these arguments. */
async function runTests(args: readonly string[]): Promise<Counts> {
  const { code, stdout } = await runDeno(["test", "--allow-all", ...args]);
  const lines = stdout.split("\n");
  const summary = lines.map((line) => SUMMARY.exec(line)).findLast((found) => found !== null);
  const passed = Number(summary?.[1] ?? 0), failed = Number(summary?.[2] ?? 0);
  // A run that broke off (types, a crash) has no summary line: that is one failure, not none.
  const brokeOff = passed + failed === 0 || (code !== 0 && failed === 0);
  if (brokeOff) print(`\nThe run did not come to its end, or ran nothing (exit code ${code})\n`);
  return {
    passed,
    failed: brokeOff ? 1 : failed,
    skipped: lines.filter((line) => / \.\.\. ignored \(/.test(line))
      .map((line) => line.replace(/ \.\.\. ignored \(.*/, "").trim()),
  };
}

/**
 * The configuration for examples: that of the project, but for names that are not used. Deno imports
 * everything that the file exports into each example, and then complains of what it does not need.
 */
function exampleConfig(): string {
  const manifest = JSON.parse(Deno.readTextFileSync(new URL("deno.json", ROOT)));
  const { imports, compilerOptions } = manifest;
  const absolute = Object.entries(imports).map(([name, address]) => {
    const isPath = typeof address === "string" && address.startsWith("./");
    return [name, isPath ? new URL(address, ROOT).href : address];
  });
  return JSON.stringify({
    nodeModulesDir: "none",
    imports: Object.fromEntries(absolute),
    compilerOptions: { ...compilerOptions, noUnusedLocals: false },
  });
}

async function runExamples(): Promise<Counts> {
  const folder = Deno.makeTempDirSync();
  try {
    const config = join(folder, "deno.json");
    Deno.writeTextFileSync(config, exampleConfig());
    // The same versions; Deno adds to this copy that the project itself is one of its users.
    Deno.copyFileSync(new URL("deno.lock", ROOT), join(folder, "deno.lock"));
    return await runTests(["--doc", "--config", config, ...EXAMPLES]);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/**
 * Runs whole parts. The types are those that `deno task checks` looks at, so Deno need not look at them
 * again if they were found good; `deno test` would, for each choice of files.
 */
async function runParts(parts: readonly Part[]): Promise<Counts[]> {
  const { code } = await runDeno(["check", "--quiet", "--frozen", "."]);
  if (code !== 0) return [{ passed: 0, failed: 1, skipped: [] }];
  const counts: Counts[] = [];
  for (const part of parts) {
    counts.push(await runTests(["--frozen", "--no-check", ...filesOf(part, ROOT)]));
  }
  if (parts.includes("alone")) counts.push(await runExamples());
  return counts;
}

const given = taskArguments();
const [, part] = given.length === 1 ? /^--part=(calm|alone)$/.exec(given[0] ?? "") ?? [] : [];
const isPart = (name: string | undefined): name is Part => name === "calm" || name === "alone";
const runs = given.length === 0
  ? await runParts(["calm", "alone"])
  : isPart(part)
  ? await runParts([part])
  : [await runTests(given)];

const sum = (of: (counts: Counts) => number): number =>
  runs.reduce((total, counts) => total + of(counts), 0);
const skipped = runs.flatMap((counts) => counts.skipped);
if (skipped.length > 0) print(`\nSkipped:\n${skipped.map((name) => `  ${name}\n`).join("")}`);
const failed = sum((counts) => counts.failed);
const end = skipped.length > 0 ? `, ${skipped.length} skipped` : "";
print(`\n${sum((counts) => counts.passed)} passed, ${failed} failed${end}\n`);
Deno.exit(failed === 0 ? 0 : 1);
