/** The requests of a load: lengths, places, mix, and that a seed gives the same again. @module */
import assert from "node:assert/strict";
import { parseBlockSizes, spellBlockSizes, unitOf } from "../../lib/bench/block_sizes.ts";
import { parsePattern, spellPattern } from "../../lib/bench/pattern.ts";
import { Sequence, type SequenceSettings } from "../../lib/bench/sequence.ts";
import { Zipf } from "../../lib/bench/zipf.ts";
import { seededRandom } from "../../lib/testing/mod.ts";

const KIB = 1024, MIB = 1024 * KIB;
const BASE: SequenceSettings = {
  size: MIB,
  blockSizes: [{ min: 4 * KIB, max: 4 * KIB, weight: 1 }],
  pattern: { kind: "random" },
  readShare: 1,
  seed: 7,
};

interface Step {
  readonly writes: boolean;
  readonly offset: number;
  readonly length: number;
}

function steps(settings: Partial<SequenceSettings>, count: number): Step[] {
  const sequence = new Sequence({ ...BASE, ...settings });
  return Array.from({ length: count }, () => {
    sequence.next();
    const { writes, offset, length } = sequence;
    return { writes, offset, length };
  });
}

function sizes(text: string): SequenceSettings["blockSizes"] {
  const parsed = parseBlockSizes(text);
  assert.ok(!("problem" in parsed), JSON.stringify(parsed));
  return parsed;
}

const PATTERNS = ["random", "sequential", "zipf:1.1", "zipf:0.6", "hot:90/10"].map((text) => {
  const pattern = parsePattern(text);
  assert.ok(!("problem" in pattern), text);
  return pattern;
});

Deno.test("Sequence gives the same requests for the same seed, and others for another", () => {
  for (const pattern of PATTERNS) {
    const settings = { pattern, readShare: 0.5, blockSizes: sizes("4k:70,8k-64k:30") };
    assert.deepEqual(steps(settings, 500), steps(settings, 500));
    assert.notDeepEqual(steps(settings, 500), steps({ ...settings, seed: 8 }, 500));
  }
});

Deno.test("Sequence keeps to the disk, to whole units and to the lengths told", () => {
  const blockSizes = sizes("4k,12k,16k-64k");
  assert.equal(unitOf(blockSizes), 4 * KIB);
  const allowed = new Set([4, 12, 16, 32, 48, 64].map((each) => each * KIB));
  for (const pattern of PATTERNS) {
    for (const size of [64 * KIB, 100 * KIB, MIB + 1000]) {
      const seen = new Set<number>();
      for (const { offset, length } of steps({ pattern, size, blockSizes }, 2_000)) {
        assert.ok(offset >= 0 && offset + length <= size, `${offset} ${length} of ${size}`);
        assert.equal(offset % (4 * KIB), 0);
        seen.add(length);
      }
      assert.deepEqual(seen, allowed);
    }
  }
});

Deno.test("Sequence goes through the disk in order and begins again", () => {
  const blockSizes = sizes("24k");
  const offsets = steps({ pattern: { kind: "sequential" }, size: 100 * KIB, blockSizes }, 9)
    .map(({ offset }) => offset / KIB);
  assert.deepEqual(offsets, [0, 24, 48, 72, 0, 24, 48, 72, 0]);
});

Deno.test("Sequence mixes reads and writes, and lengths by weight, as told", () => {
  const all = steps({ readShare: 0.7, blockSizes: sizes("4k:3,8k:1") }, 20_000);
  const writes = all.filter((step) => step.writes).length / all.length;
  const small = all.filter(({ length }) => length === 4 * KIB).length / all.length;
  assert.ok(Math.abs(writes - 0.3) < 0.02, String(writes));
  assert.ok(Math.abs(small - 0.75) < 0.02, String(small));
  assert.ok(steps({ readShare: 1 }, 500).every((step) => !step.writes));
  assert.ok(steps({ readShare: 0 }, 500).every((step) => step.writes));
});

Deno.test("Sequence sends the share told to the hot part", () => {
  const hot = steps({ pattern: { kind: "hot", requests: 0.9, part: 0.1 } }, 20_000)
    .filter(({ offset }) => offset < Math.floor(256 * 0.1) * 4 * KIB).length;
  assert.ok(Math.abs(hot / 20_000 - 0.9) < 0.02, String(hot));
});

Deno.test("Sequence by Zipf's law spreads the frequent places and reaches all", () => {
  const counts = new Map<number, number>();
  for (const { offset } of steps({ pattern: { kind: "zipf", exponent: 0.6 } }, 50_000)) {
    counts.set(offset, (counts.get(offset) ?? 0) + 1);
  }
  assert.equal(counts.size, 256, "every block is met");
  const [first, second] = [...counts].toSorted((a, b) => b[1] - a[1]);
  assert.ok(first !== undefined && second !== undefined);
  assert.ok(Math.abs(first[0] - second[0]) > 4 * KIB, "the most frequent two are no neighbours");
});

Deno.test("Zipf draws ranks as often as the law says", () => {
  for (const exponent of [0.5, 1, 1.2, 3]) {
    for (const count of [1, 2, 10, 1000]) {
      const zipf = new Zipf(count, exponent);
      const random = seededRandom(3);
      const drawn = Array.from({ length: count }, () => 0);
      const draws = 50_000;
      for (let at = 0; at < draws; at += 1) {
        const rank = zipf.rank(() => random.uint32() / 2 ** 32);
        assert.ok(Number.isInteger(rank) && rank >= 0 && rank < count);
        drawn[rank] = (drawn[rank] ?? 0) + 1;
      }
      let sum = 0;
      for (let rank = 1; rank <= count; rank += 1) sum += rank ** -exponent;
      for (let rank = 1; rank <= Math.min(count, 8); rank += 1) {
        const expected = rank ** -exponent / sum, found = (drawn[rank - 1] ?? 0) / draws;
        const where = `exponent ${exponent}, rank ${rank} of ${count}: ${found} for ${expected}`;
        assert.ok(Math.abs(found - expected) < 0.01, where);
      }
    }
  }
});

Deno.test("parseBlockSizes() and parsePattern() read what they write, and say what is wrong", () => {
  for (const text of ["4k", "512-4k", "4k:70,64k:30", "4k-64k:2,1M:1"]) {
    assert.equal(spellBlockSizes(sizes(text)), text);
  }
  for (const text of ["", "4k,", "0", "4k-", "64k-4k", "4k-6k", "4k:0", "4k:1:2", "1G", "x"]) {
    assert.ok("problem" in parseBlockSizes(text), text);
  }
  for (const text of ["random", "sequential", "zipf:1.1", "hot:90/10", "hot:99.5/0.5"]) {
    const pattern = parsePattern(text);
    assert.ok(!("problem" in pattern));
    assert.equal(spellPattern(pattern), text);
  }
  for (const text of ["", "zipf:0", "zipf:9", "hot:0/1", "hot:1", "hot:100/1", "random:1", "no"]) {
    assert.ok("problem" in parsePattern(text), text);
  }
});
