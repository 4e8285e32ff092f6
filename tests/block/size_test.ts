/** Sizes: every suffix, every refusal, exactness near 2^53. @module */
import assert from "node:assert/strict";
import fc from "fast-check";
import {
  formatDuration,
  formatRate,
  formatSize,
  parseSize,
  spellSize,
} from "../../lib/block/size.ts";

function problem(text: string): string {
  const result = parseSize(text);
  assert.notEqual(typeof result, "number", `${text} was taken for ${String(result)}`);
  return typeof result === "number" ? "" : result.problem;
}

Deno.test("parseSize() reads every suffix as a power of 1024", () => {
  const rows: readonly (readonly [string, number])[] = [
    ["0", 0],
    ["512", 512],
    ["512b", 512],
    ["513 B", 513],
    ["1k", 1024],
    ["1K", 1024],
    ["4KiB", 4096],
    ["4kib", 4096],
    ["1M", 2 ** 20],
    ["1m", 2 ** 20],
    ["1 GiB", 2 ** 30],
    ["1.5G", 1.5 * 2 ** 30],
    ["0.5k", 512],
    ["2TiB", 2 ** 41],
    ["1P", 2 ** 50],
    ["0E", 0],
    ["0.001953125E", 2 ** 51],
    ["512s", 262144],
    ["1.5s", 768],
    ["  64k ", 65536],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
    ["1.0000000000k", 1024],
  ];
  for (const [text, bytes] of rows) assert.equal(parseSize(text), bytes, text);
});

Deno.test("parseSize() says why a text is no size", () => {
  const rows: readonly (readonly [string, RegExp])[] = [
    ["", /must be a size such as/],
    ["G", /must be a size such as/],
    ["1X", /not "1X"/],
    ["1e3", /not "1e3"/],
    ["0x10", /not "0x10"/],
    ["1,5G", /not "1,5G"/],
    ["1.G", /not "1\.G"/],
    [".5G", /not "\.5G"/],
    ["1 0G", /must be a size/],
    ["Infinity", /must be a size/],
    ["NaN", /must be a size/],
    ["-1", /must not be negative/],
    [" -4k", /must not be negative/],
    ["1GB", /two meanings: write 1G or 1GiB/],
    ["1.1k", /whole number of bytes/],
    ["0.5", /whole number of bytes/],
    ["9007199254740992", /less than 8 PiB/],
    ["8P", /less than 8 PiB/],
    ["1E", /less than 8 PiB/],
    ["9".repeat(64), /less than 8 PiB/],
    ["9".repeat(65), /must be a size such as .*…"$/],
  ];
  for (const [text, expected] of rows) assert.match(problem(text), expected);
});

Deno.test("spellSize() is exact: parseSize() reads it back", () => {
  assert.equal(spellSize(2 ** 30), "1G");
  assert.equal(spellSize(1.5 * 2 ** 30), "1536M");
  assert.equal(spellSize(65536), "64k");
  assert.equal(spellSize(513), "513");
  assert.equal(spellSize(0), "0");
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.integer({ min: 0, max: 50 }), (value, shift) => {
      const bytes = Math.floor(value / 2 ** shift) * 2 ** shift;
      assert.equal(parseSize(spellSize(bytes)), bytes);
    }),
    { seed: 11, numRuns: 500 },
  );
});

Deno.test("formatSize() rounds for people", () => {
  const rows: readonly (readonly [number, string])[] = [
    [0, "0 B"],
    [513, "513 B"],
    [1023, "1023 B"],
    [1024, "1 KiB"],
    [1.5 * 2 ** 20, "1.5 MiB"],
    [2 ** 30, "1 GiB"],
    [2 ** 30 - 1, "1 GiB"],
    [1234567, "1.18 MiB"],
    [Number.MAX_SAFE_INTEGER, "8 PiB"],
  ];
  for (const [bytes, text] of rows) assert.equal(formatSize(bytes), text);
});

Deno.test("formatRate() shows three digits of the unit", () => {
  assert.equal(formatRate(0), "0 B/s");
  assert.equal(formatRate(512 * 2 ** 20), "512 MiB/s");
  assert.equal(formatRate(1234567890), "1.15 GiB/s");
  assert.equal(formatRate(12.345 * 2 ** 20), "12.3 MiB/s");
});

Deno.test("formatDuration() chooses units by length", () => {
  const rows: readonly (readonly [number, string])[] = [
    [0, "0 ms"],
    [849.6, "850 ms"],
    [12_300, "12 s"],
    [59_700, "1 min 0 s"],
    [185_000, "3 min 5 s"],
    [7_800_000, "2 h 10 min"],
    [200_000_000, "2 d 7 h"],
  ];
  for (const [ms, text] of rows) assert.equal(formatDuration(ms), text);
});
