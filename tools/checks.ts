/**
 * `deno task checks`: everything that can be said of the code without running it. All checks run,
 * also after one has failed; the last line is "N checks passed, N checks failed".
 *
 * @module
 */
import { print, runDeno } from "./process.ts";

function entryPoints(): string[] {
  const manifest: unknown = JSON.parse(Deno.readTextFileSync("deno.json"));
  if (typeof manifest !== "object" || manifest === null || !("exports" in manifest)) return [];
  return Object.values(manifest.exports ?? {}).filter((path) => typeof path === "string");
}

const checks: readonly (readonly [name: string, args: readonly string[]])[] = [
  ["format", ["fmt", "--check"]],
  ["lint", ["lint"]],
  ["types", ["check", "--frozen", "."]],
  ["documentation", ["doc", "--lint", ...entryPoints()]],
  ["package", ["publish", "--dry-run", "--allow-dirty"]],
];

const failed: string[] = [];
for (const [name, args] of checks) {
  print(`\n== ${name}: deno ${args.join(" ")}\n`);
  const { code } = await runDeno(args);
  if (code !== 0) failed.push(name);
}
print(failed.length === 0 ? "\n" : `\nFailed: ${failed.join(", ")}\n`);
print(`${checks.length - failed.length} checks passed, ${failed.length} checks failed\n`);
Deno.exit(failed.length === 0 ? 0 : 1);
