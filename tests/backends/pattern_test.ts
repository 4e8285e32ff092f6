/**
 * The pattern backend: the contract, golden bytes, and the check that finds each wrong byte.
 *
 * @module
 */
import assert from "node:assert/strict";
import { pattern, patternFill, patternMismatch } from "../../backends/pattern.ts";
import { contractTests, seededRandom, testContext } from "../../lib/testing/mod.ts";

for (const size of [0, 7, 2 ** 22 + 3, 2 ** 53 - 1]) {
  const cases = contractTests(
    `pattern (${size} bytes)`,
    () => pattern.open({ size }, testContext()),
    { fixedContent: slowPattern, windowBytes: 2 ** 14, steps: 200 },
  );
  for (const { name, run } of cases) Deno.test(name, run);
}

/** The definition, byte by byte and with bigints. */
function slowPattern(into: Uint8Array, offset: number): void {
  for (let at = 0; at < into.length; at += 1) {
    const where = BigInt(offset) + BigInt(at);
    const word = where - where % 8n;
    into[at] = Number((word >> (8n * (7n - where % 8n))) & 0xffn);
  }
}

function hexAt(offset: number, length: number): string {
  const bytes = new Uint8Array(length);
  patternFill(bytes, offset);
  return bytes.toHex();
}

const GOLDEN: readonly (readonly [number, number, string])[] = [
  [0, 16, "00000000000000000000000000000008"],
  [8, 8, "0000000000000008"],
  [0x1234_5678, 8, "0000000012345678"],
  [0x1234_567d, 6, "345678000000"],
  [2 ** 32 - 8, 16, "00000000fffffff80000000100000000"],
  [2 ** 53 - 8, 7, "001fffffffffff"],
  [7, 1, "00"],
  [15, 2, "0800"],
];

for (const [offset, length, hex] of GOLDEN) {
  Deno.test(`patternFill() gives ${hex} for ${length} bytes at ${offset}`, () => {
    assert.equal(hexAt(offset, length), hex);
  });
}

Deno.test("patternFill() equals the definition at random places and alignments", () => {
  const random = seededRandom(3);
  for (let round = 0; round < 2000; round += 1) {
    const whole = new Uint8Array(80).fill(0xee);
    const into = whole.subarray(random.below(9), 9 + random.below(60));
    const offset = random.below(random.pick([100, 2 ** 32, 2 ** 33, 2 ** 53 - 80]));
    const expected = new Uint8Array(into.length);
    slowPattern(expected, offset);
    patternFill(into, offset);
    assert.deepEqual(into, expected, `${into.length} bytes at ${offset}`);
    assert.ok(whole.subarray(into.byteOffset + into.length).every((byte) => byte === 0xee));
    assert.equal(patternMismatch(into, offset), -1);
  }
});

Deno.test("patternMismatch() names the first wrong byte", () => {
  const bytes = new Uint8Array(50);
  for (let wrong = 0; wrong < bytes.length; wrong += 1) {
    patternFill(bytes, 2 ** 32 - 20);
    bytes[wrong] = (bytes[wrong] ?? 0) ^ 0x80;
    if (wrong + 9 < bytes.length) bytes[wrong + 9] = (bytes[wrong + 9] ?? 0) ^ 1;
    assert.equal(patternMismatch(bytes, 2 ** 32 - 20), 2 ** 32 - 20 + wrong);
  }
});

Deno.test("pattern refuses a write that gets past the Device", async () => {
  const { backend } = await pattern.open({ size: 4096 }, testContext());
  assert.throws(() => backend.write(new Uint8Array(1), 0, { fua: false }), { errno: "EROFS" });
  await backend[Symbol.asyncDispose]();
});
