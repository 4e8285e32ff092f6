/**
 * The null backend: the contract with content that never changes.
 *
 * @module
 */
import assert from "node:assert/strict";
import { nullBackend } from "../../backends/null.ts";
import { contractTests, testContext } from "../../lib/testing/mod.ts";

for (const size of [0, 513, 2 ** 22, 2 ** 50]) {
  const cases = contractTests(
    `null (${size} bytes)`,
    () => nullBackend.open({ size }, testContext()),
    { fixedContent: (into) => into.fill(0) },
  );
  for (const { name, run } of cases) Deno.test(name, run);
}

Deno.test("null is one hole, whatever was written", async () => {
  const { backend } = await nullBackend.open({ size: 2 ** 53 - 1 }, testContext());
  backend.write(new Uint8Array(10).fill(1), 5, { fua: true });
  assert.deepEqual(await backend.extents?.(3, 2 ** 52), [
    { length: 2 ** 52, allocated: false, zero: true },
  ]);
  const bytes = new Uint8Array(20).fill(1);
  backend.read(bytes, 0);
  assert.deepEqual(bytes, new Uint8Array(20));
  await backend[Symbol.asyncDispose]();
});
