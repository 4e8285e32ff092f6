/**
 * `deno task test`: runs all tests, then the examples in doc comments and pages, and ends in the line
 * "N passed, N failed" (", N skipped" if any were), taken from the runs. Paths and options of
 * `deno test` may follow: then those alone run. `--part=calm` runs the tests beside which a machine may
 * do other things (test_parts.ts), `--part=alone` all the others and the examples; types are then left
 * to `deno task checks`. Exit code 0 only if tests ran and all passed.
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

/** What `deno task checks` says of the types. `deno test` would look again at each choice of files. */
async function checkTypes(): Promise<Counts> {
  const { code } = await runDeno(["check", "--quiet", "--frozen", "."]);
  return { passed: 0, failed: code === 0 ? 0 : 1, skipped: [] };
}

function runPart(part: Part): Promise<Counts> {
  return runTests(["--frozen", "--no-check", ...filesOf(part, ROOT)]);
}

const given = taskArguments();
const only = given.length === 1 ? given[0] : undefined;
const runs = given.length === 0
  ? [await checkTypes(), await runPart("calm"), await runPart("alone"), await runExamples()]
  : only === "--part=calm"
  ? [await runPart("calm")]
  : only === "--part=alone"
  ? [await runPart("alone"), await runExamples()]
  : [await runTests(given)];

const sum = (of: (counts: Counts) => number): number =>
  runs.reduce((total, counts) => total + of(counts), 0);
const skipped = runs.flatMap((counts) => counts.skipped);
if (skipped.length > 0) print(`\nSkipped:\n${skipped.map((name) => `  ${name}\n`).join("")}`);
const failed = sum((counts) => counts.failed);
const end = skipped.length > 0 ? `, ${skipped.length} skipped` : "";
print(`\n${sum((counts) => counts.passed)} passed, ${failed} failed${end}\n`);
Deno.exit(failed === 0 ? 0 : 1);
