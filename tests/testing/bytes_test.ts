/**
 * Bytes compared as a whole: what the contract kit relies on for guards and buffers.
 *
 * @module
 */
import assert from "node:assert/strict";
import { allAre } from "../../lib/testing/bytes.ts";

Deno.test("allAre() finds one byte that differs, wherever it is", () => {
  for (const length of [1, 2, 63, 4096]) {
    // Part of a larger buffer, whose bytes beside it do not count.
    const bytes = new Uint8Array(length + 20).subarray(10, 10 + length).fill(0xa5);
    assert.ok(allAre(bytes, 0xa5));
    assert.ok(!allAre(bytes, 0));
    for (const at of [0, length >> 1, length - 1]) {
      bytes[at] = 0xa4;
      assert.ok(!allAre(bytes, 0xa5), `${length} bytes, byte ${at}`);
      bytes[at] = 0xa5;
    }
  }
  assert.ok(allAre(new Uint8Array(0), 1));
});
