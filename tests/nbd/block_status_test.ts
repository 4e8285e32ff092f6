/**
 * Tests of block status and of reads around holes, where golden bytes would be too long.
 *
 * @module
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import type { Extent } from "../../lib/block/types.ts";
import { describe } from "../../lib/nbd/block_status.ts";
import { SPARSE_HOLE_BYTES_MIN, SPARSE_PIECES_MAX } from "../../lib/nbd/limits.ts";
import { cutRead } from "../../lib/nbd/sparse_read.ts";

const statusOf = ({ allocated, zero }: Extent): number => (allocated ? 0 : 1) | (zero ? 2 : 0);

const someExtents = fc.array(
  fc.record({
    length: fc.integer({ min: 1, max: 100_000 }),
    allocated: fc.boolean(),
    zero: fc.boolean(),
  }),
  { minLength: 1, maxLength: 200 },
);

/** The status of each of the first bytes that descriptors cover, as runs without equal neighbours. */
function runs(parts: readonly { length: number; status: number }[], bytes: number): number[][] {
  const merged: number[][] = [];
  let left = bytes;
  for (const { length, status } of parts) {
    const count = Math.min(length, left);
    left -= count;
    if (count === 0) continue;
    const last = merged.at(-1);
    if (last !== undefined && last[1] === status) last[0] = (last[0] ?? 0) + count;
    else merged.push([count, status]);
  }
  return merged;
}

Deno.test("describe() tells the state of every byte that was asked for", () => {
  fc.assert(
    fc.property(
      someExtents,
      fc.integer({ min: 1, max: 2_000_000 }),
      fc.boolean(),
      fc.boolean(),
      (extents, length, one, wide) => {
        const descriptors = describe(extents, statusOf, { length, one, wide });
        assert.ok(descriptors.length >= 1);
        assert.ok(descriptors.every((each) => each.length >= 1));
        const total = descriptors.reduce((sum, each) => sum + each.length, 0);
        const before = total - (descriptors.at(-1)?.length ?? 0);
        assert.ok(before < length);
        if (one) assert.ok(descriptors.length === 1 && total <= length);
        descriptors.forEach(({ status }, at) =>
          assert.notEqual(status, descriptors[at + 1]?.status)
        );
        const told = extents.map((extent) => ({ length: extent.length, status: statusOf(extent) }));
        assert.deepEqual(runs(descriptors, total), runs(told, total));
        const known = told.reduce((sum, each) => sum + each.length, 0);
        if (!one) assert.ok(total >= Math.min(length, known));
      },
    ),
    { seed: 2, numRuns: 300 },
  );
});

Deno.test("describe() gives at most 2^20 descriptors", () => {
  const extents = Array.from({ length: 2 ** 20 + 5 }, (_, at) => ({
    length: 512,
    allocated: true,
    zero: at % 2 === 0,
  }));
  const limits = { length: 2 ** 40, one: false, wide: true };
  assert.equal(describe(extents, statusOf, limits).length, 2 ** 20);
});

Deno.test("cutRead() covers the read without gaps and takes only zeroes for holes", () => {
  let cuts = 0;
  fc.assert(
    fc.property(
      someExtents,
      fc.nat(1 << 30),
      fc.integer({ min: 1, max: 4_000_000 }),
      (extents, offset, length) => {
        const pieces = cutRead(extents, offset, length);
        if (pieces === null) return;
        cuts += 1;
        let at = offset;
        for (const piece of pieces) {
          assert.equal(piece.offset, at);
          at += piece.length;
        }
        assert.equal(at, offset + length);
        assert.ok(pieces.some(({ hole }) => hole) && pieces.length <= SPARSE_PIECES_MAX);
        for (const { hole, offset: start, length: bytes } of pieces) {
          if (!hole) continue;
          assert.ok(bytes >= SPARSE_HOLE_BYTES_MIN || bytes === length);
          let from = offset;
          for (const extent of extents) {
            const to = from + extent.length;
            if (to > start && from < start + bytes) assert.ok(extent.zero);
            from = to;
          }
          assert.ok(from >= start + bytes, "what is not known is data");
        }
      },
    ),
    { seed: 3, numRuns: 500 },
  );
  assert.ok(cuts > 50);
});

Deno.test("cutRead() gives up where a read would fall into too many pieces", () => {
  const piece = SPARSE_HOLE_BYTES_MIN;
  const extents = (count: number): Extent[] =>
    Array.from(
      { length: count },
      (_, at) => ({ length: piece, allocated: true, zero: at % 2 > 0 }),
    );
  assert.equal(cutRead(extents(SPARSE_PIECES_MAX), 0, SPARSE_PIECES_MAX * piece)?.length, 64);
  assert.equal(cutRead(extents(SPARSE_PIECES_MAX + 1), 0, (SPARSE_PIECES_MAX + 1) * piece), null);
});
