/**
 * Seeded chance: the same everywhere, spread evenly enough for tests.
 *
 * @module
 */
import assert from "node:assert/strict";
import { seededRandom } from "../../lib/testing/mod.ts";

Deno.test("seededRandom() gives the same numbers for the same seed, on any machine", () => {
  const random = seededRandom(42);
  const numbers = Array.from({ length: 3 }, () => random.uint32());
  const again = seededRandom(42);
  assert.deepEqual(numbers, Array.from({ length: 3 }, () => again.uint32()));
  const bytes = new Uint8Array(7);
  seededRandom(42).fill(bytes);
  const view = new DataView(bytes.buffer);
  assert.equal(view.getUint32(0, true), numbers[0]);
  assert.equal(bytes[4], (numbers[1] ?? 0) & 0xff);
  assert.notDeepEqual(numbers, Array.from({ length: 3 }, () => seededRandom(43).uint32()));
});

Deno.test("below() stays in its bounds and reaches all of them", () => {
  const random = seededRandom(1);
  const seen = new Set(Array.from({ length: 1000 }, () => random.below(10)));
  assert.deepEqual([...seen].sort(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const large = Array.from({ length: 1000 }, () => random.below(2 ** 53));
  assert.ok(large.every((value) => Number.isSafeInteger(value) && value >= 0));
  assert.ok(large.some((value) => value > 2 ** 52) && large.some((value) => value < 2 ** 51));
  assert.ok(large.some((value) => value % 2 === 1));
});

Deno.test("pick() throws RangeError when there is nothing to pick", () => {
  assert.throws(() => seededRandom(1).pick([]), RangeError);
});
