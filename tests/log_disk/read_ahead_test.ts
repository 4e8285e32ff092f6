/**
 * Reading ahead: who goes forward gets a growing distance, who jumps gets none.
 *
 * @module
 */
import assert from "node:assert/strict";
import { AHEAD_BYTES_MAX, AHEAD_BYTES_MIN } from "../../lib/log_disk/read/limits.ts";
import { ReadAhead } from "../../lib/log_disk/read/read_ahead.ts";
import { seededRandom } from "../../lib/testing/random.ts";

const MIB = 2 ** 20;

function follow(size = 2 ** 40, distanceMax = AHEAD_BYTES_MAX): {
  ahead: ReadAhead;
  fetched: [number, number][];
} {
  const fetched: [number, number][] = [];
  const ahead = new ReadAhead({
    distanceMax,
    size: () => size,
    fetch: (offset, length) => fetched.push([offset, offset + length]),
  });
  return { ahead, fetched };
}

Deno.test("ReadAhead doubles its distance for a reader that goes on, without gap or overlap", () => {
  const { ahead, fetched } = follow();
  for (let at = 0; at < 64 * MIB; at += 65_536) ahead.note(at, 65_536);
  assert.deepEqual(fetched[0], [2 * 65_536, 2 * 65_536 + AHEAD_BYTES_MIN]);
  for (const [index, [start, end]] of fetched.entries()) {
    assert.ok(end - start <= AHEAD_BYTES_MAX && end > start);
    assert.equal(start, index === 0 ? start : fetched[index - 1]?.[1]);
  }
  const lengths = fetched.map(([start, end]) => end - start);
  assert.ok(Math.max(...lengths) >= AHEAD_BYTES_MAX / 2);
  assert.ok(fetched.length < 30, `${fetched.length} calls`);
});

Deno.test("ReadAhead follows a reader whose requests come in any order", () => {
  const { ahead, fetched } = follow();
  const random = seededRandom(1);
  for (let at = 0; at < 16 * MIB; at += 8 * 65_536) {
    const batch = Array.from({ length: 8 }, (_, index) => at + index * 65_536);
    for (let count = at === 0 ? 0 : batch.length; count > 0; count -= 1) {
      const [each] = batch.splice(random.below(batch.length), 1);
      ahead.note(each ?? 0, 65_536);
    }
    for (const each of batch) ahead.note(each, 65_536);
  }
  assert.ok(fetched.some(([, end]) => end >= 16 * MIB));
  const bytes = fetched.reduce((sum, [start, end]) => sum + end - start, 0);
  assert.ok(bytes <= 16 * MIB + 2 * AHEAD_BYTES_MAX, `${bytes} bytes`);
});

Deno.test("ReadAhead fetches nothing for random reads, nor past the end, nor when it is off", () => {
  const random = seededRandom(3);
  const { ahead, fetched } = follow();
  for (let turns = 0; turns < 2000; turns += 1) ahead.note(random.below(2 ** 28) * 4096, 4096);
  assert.deepEqual(fetched, []);
  const short = follow(MIB);
  for (let at = 0; at < MIB; at += 4096) short.ahead.note(at, 4096);
  assert.equal(short.fetched.at(-1)?.[1], MIB);
  const off = follow(2 ** 30, 0);
  for (let at = 0; at < MIB; at += 4096) off.ahead.note(at, 4096);
  assert.deepEqual(off.fetched, []);
});
