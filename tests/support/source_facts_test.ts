/**
 * The rules of tests/tidy_test.ts can fail: each thing that they look for is found in a file that has
 * it, and not in one that has something alike.
 *
 * @module
 */
import assert from "node:assert/strict";
import { type Finding, sourceFacts } from "./source_facts.ts";

const FOUND: readonly (readonly [source: string, what: Finding["what"]])[] = [
  ["export default 1;", "default export"],
  ["const x = 1; export { x as default };", "default export"],
  ["export let x: any;", "any"],
  ["export let x: Array<any>;", "any"],
  ["export const x = 1 as unknown as string;", "as unknown as"],
  ["// @ts-ignore because\nexport const x = 1;", "compiler directive"],
  ["// @ts-expect-error\nexport const x = 1;", "compiler directive"],
  ["/* deno-lint-ignore-file */", "compiler directive"],
  ["Deno.dlopen('libc.so.6', {});", "Deno.dlopen"],
  ["const { dlopen } = Deno;", "Deno.dlopen"],
  ["Deno['dlopen'];", "Deno.dlopen"],
  ["await new Promise((resolve) => setTimeout(resolve, 10));", "sleep"],
  ["const ms = 10; globalThis.setTimeout(() => {}, ms);", "sleep"],
  ["setInterval(() => {}, 0);", "sleep"],
  ["import { setTimeout as later } from 'node:timers/promises';", "sleep"],
  ["import { delay } from '@std/async';", "sleep"],
  ["Atomics.wait(view, 0, 0, 10);", "sleep"],
];

Deno.test("sourceFacts() finds what the house rules forbid", () => {
  for (const [source, what] of FOUND) {
    const { findings } = sourceFacts("x.ts", source);
    assert.deepEqual([...new Set(findings.map((each) => each.what))], [what], source);
  }
});

Deno.test("sourceFacts() finds nothing in what is allowed", () => {
  for (
    const source of [
      "setTimeout(() => {}, 0);",
      "import { setImmediate } from 'node:timers/promises';",
      "Atomics.wait(view, 0, 0);",
      "export const any = 'any as unknown as // @ts-ignore Deno.dlopen setTimeout(f, 10)';",
      "// as unknown as any\nexport const x = 1 as const;",
    ]
  ) {
    assert.deepEqual(sourceFacts("x.ts", source).findings, [], source);
  }
});

Deno.test("sourceFacts() finds every way to refer to a file, with its line", () => {
  const source = `
    import type { A } from "./a.ts";
    import { b } from "./b.ts";
    export * from "./c.ts";
    export { d } from "./d.ts";
    const e = await import("./e.ts");
    export type F = import("./f.ts").F;
    new Worker(new URL("./g.ts", import.meta.url), { type: "module" });
    import.meta.resolve("./h.ts");
    new URL("./folder/", import.meta.url);
    new URL("../..", import.meta.url);
    new URL("./not.ts", "file:///");`;
  const { references } = sourceFacts("x.ts", source);
  const seen = references.map(({ specifier, kind, typeOnly, line }) =>
    `${line} ${specifier} ${kind}${typeOnly ? " type" : ""}`
  );
  assert.deepEqual(seen, [
    "2 ./a.ts import type",
    "3 ./b.ts import",
    "4 ./c.ts import",
    "5 ./d.ts import",
    "6 ./e.ts import",
    "7 ./f.ts import type",
    "8 ./g.ts url",
    "9 ./h.ts url",
  ]);
});

Deno.test("sourceFacts() knows a module comment from other comments", () => {
  const opens = (source: string): boolean => sourceFacts("x.ts", source).opensWithModuleComment;
  assert.ok(opens("/**\n * What this file is for.\n *\n * @module\n */\nexport {};"));
  assert.ok(opens("#!/usr/bin/env -S deno run\n/** What this file is for. @module */\n"));
  assert.ok(!opens("/** What this file is for. */\nexport {};"));
  assert.ok(!opens("/** @module */\nexport {};"));
  assert.ok(!opens("import './x.ts';\n/** What this file is for. @module */"));
  assert.ok(!opens("// What this file is for. @module\n"));
});
