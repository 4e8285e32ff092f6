/** Every benchmark ends in a usage error for what it does not know. @module */
import assert from "node:assert/strict";
import manifest from "../../deno.json" with { type: "json" };
import { run } from "../support/tools.ts";

const TASKS = Object.entries(manifest.tasks).filter(([name, { command }]) =>
  name.startsWith("bench") && !command.includes("&&")
);

Deno.test("every benchmark refuses what it does not know, with exit code 2 and its usage", async () => {
  assert.ok(TASKS.length >= 6);
  for (const [name, { command }] of TASKS) {
    const script = command.split(" ").at(-1) ?? "";
    const wrong = await run(Deno.execPath(), ["run", "-A", "--no-check", script, "--nonsense"]);
    assert.equal(wrong.code, 2, name);
    const [problem, usage, ...rest] = wrong.stderr.split("\n");
    assert.match(problem ?? "", new RegExp(`^${name}: Unknown option '--nonsense'`));
    assert.match(usage ?? "", new RegExp(`^usage: deno task ${name} \\[--`));
    assert.deepEqual([wrong.stdout, rest], ["", [""]]);
  }
});

Deno.test("a benchmark refuses a number that is none", async () => {
  for (const value of ["0", "five", "-1"]) {
    const args = ["run", "-A", "--no-check", "bench/main.ts", `--runs=${value}`];
    const { code, stderr } = await run(Deno.execPath(), args);
    assert.equal(code, 2);
    assert.match(stderr, /--runs has to be a number above 0/);
  }
});
