/**
 * The parts of the test suite: every test file is in one of them, and only calm ones bear company.
 *
 * @module
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { filesOf, partOf } from "../../tools/test_parts.ts";

Deno.test("filesOf() has every test file in one part", () => {
  const root = new URL("../../", import.meta.url);
  const calm = filesOf("calm", root), alone = filesOf("alone", root);
  const all = readdirSync(new URL("tests/", root), { recursive: true })
    .map((path) => `tests/${path.toString()}`)
    .filter((path) => path.endsWith("_test.ts"));
  assert.deepEqual([...calm, ...alone].sort(), all.sort());
  assert.ok(calm.includes("tests/filters/contract_test.ts"));
  assert.ok(alone.includes("tests/interop/fio_test.ts"));
});

Deno.test("partOf() keeps what others could disturb for a quiet machine", () => {
  const calm = 'import { contractTests } from "../../lib/testing/mod.ts";\n';
  assert.equal(partOf("tests/filters/new_test.ts", calm), "calm");
  assert.equal(partOf("tests/interop/new_test.ts", calm), "alone");
  assert.equal(partOf("tests/new_test.ts", calm), "alone");
  const uncalm = [
    'import { startDaemon } from "../../lib/daemon/daemon.ts";',
    'import { withMount } from "../support/mounts.ts";',
    "await using server = await startDmu([]);",
    'new Worker(new URL("./thread.ts", import.meta.url), { type: "module" });',
    'import { createServer } from "node:net";',
    "Deno.listen({ port: 0 });",
    "const before = Deno.memoryUsage().rss;",
    "const start = performance.now();",
    'Deno.openSync("/dev/fuse");',
  ];
  for (const line of uncalm) {
    assert.equal(partOf("tests/filters/new_test.ts", `${calm}${line}\n`), "alone", line);
  }
});
