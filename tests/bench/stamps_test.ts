/** Stamps: each way in which a block can be wrong is told apart, and none that is right is. @module */
import assert from "node:assert/strict";
import { stampBytesOf, Stamps } from "../../lib/bench/stamps.ts";

const BLOCK = 512, SIZE = 64 * BLOCK;

function stamps(knows = true, seed = 5): Stamps {
  return new Stamps({ size: SIZE, blockBytes: BLOCK, seed }, knows, 4);
}

/** Data of a request of four blocks at the eighth. */
function written(by: Stamps, number: number, offset = 8 * BLOCK): Uint8Array {
  const data = new Uint8Array(4 * BLOCK);
  by.wrote(offset, data.length, number);
  by.fill(data, offset, number);
  return data;
}

function faultsOf(by: Stamps, data: Uint8Array, offset = 8 * BLOCK): string[] {
  by.check(data, offset);
  return by.faults.map(({ offset, kind, what }) => `${offset / BLOCK} ${kind}: ${what}`);
}

Deno.test("Stamps finds nothing wrong with what was written", () => {
  const by = stamps();
  assert.deepEqual(faultsOf(by, written(by, 1)), []);
  assert.equal(by.checked, 4);
  assert.deepEqual(
    faultsOf(by, new Uint8Array(2 * BLOCK), 0),
    [],
    "never written: anything will do",
  );
  assert.equal(by.checked, 4);
});

Deno.test("Stamps finds a write that was lost, with what is there instead", () => {
  const by = stamps();
  const old = written(by, 1);
  written(by, 2);
  const lost = faultsOf(by, old);
  assert.equal(lost[0], "8 lost: it is as request 1 wrote it, request 2 wrote last");
  assert.equal(by.faultCount, 4);
  const zero = stamps();
  written(zero, 3);
  const found = faultsOf(zero, new Uint8Array(4 * BLOCK));
  assert.equal(found[0], "8 lost: it is all zeroes, request 3 wrote it");
});

Deno.test("Stamps finds data of another place, of another load, and torn blocks", () => {
  const by = stamps();
  const data = written(by, 1);
  const there = written(by, 2, 20 * BLOCK);
  const misplaced = data.slice();
  misplaced.set(there.subarray(0, BLOCK), BLOCK);
  assert.deepEqual(faultsOf(by, misplaced), [`9 misplaced: its data belong to ${20 * BLOCK}`]);

  const torn = stamps();
  const half = written(torn, 1);
  half[BLOCK - 1] = (half[BLOCK - 1] ?? 0) ^ 1;
  assert.deepEqual(faultsOf(torn, half), [
    "8 torn: from byte 508 on it is not what request 1 wrote",
  ]);

  const foreign = stamps();
  written(foreign, 1);
  assert.match(faultsOf(foreign, written(stamps(true, 6), 1))[0] ?? "", /foreign: .*seed 6/);
  const noise = stamps();
  written(noise, 1);
  assert.match(faultsOf(noise, new Uint8Array(4 * BLOCK).fill(7))[0] ?? "", /foreign: .*no stamp/);
});

Deno.test("Stamps without knowledge compares blocks with their own stamps alone", () => {
  const writer = stamps(), by = stamps(false);
  const data = written(writer, 3);
  assert.deepEqual(faultsOf(by, data), []);
  assert.deepEqual(faultsOf(by, new Uint8Array(BLOCK), 0), [], "no stamp, nothing to say");
  assert.equal(by.checked, 4);
  data[700] = (data[700] ?? 0) ^ 255;
  assert.deepEqual(faultsOf(by, data), ["9 torn: from byte 188 on it is not what request 3 wrote"]);
  assert.match(faultsOf(stamps(false), data, 0)[0] ?? "", /misplaced: its data belong to 4096$/);
});

Deno.test("Stamps keeps apart what overlaps, if one of the two writes", () => {
  const by = stamps();
  assert.ok(by.enter(0, 4 * BLOCK, false));
  assert.ok(by.enter(BLOCK, BLOCK, false), "reads may overlap");
  assert.ok(!by.enter(BLOCK, BLOCK, true));
  by.leave(0, 4 * BLOCK, false);
  assert.ok(!by.enter(0, 2 * BLOCK, true), "one read is left");
  by.leave(BLOCK, BLOCK, false);
  assert.ok(by.enter(0, 2 * BLOCK, true));
  assert.ok(!by.enter(BLOCK, BLOCK, true));
  assert.ok(!by.enter(BLOCK, 4 * BLOCK, false));
  by.leave(0, 2 * BLOCK, true);
  assert.ok(by.enter(BLOCK, 4 * BLOCK, false));
});

Deno.test("Stamps expects nothing of a block whose write has failed", () => {
  const by = stamps();
  const data = written(by, 1);
  by.failed(8 * BLOCK, BLOCK);
  data.fill(9, 0, BLOCK);
  assert.deepEqual(faultsOf(by, data), []);
  assert.equal(by.checked, 3);
});

Deno.test("stampBytesOf() is the largest power of two that fits all requests", () => {
  const found = [512, 1024, 1536, 4096, 12_288, 65_536, 100, 513].map(stampBytesOf);
  assert.deepEqual(found, [512, 1024, 512, 4096, 4096, 4096, null, null]);
});

Deno.test("Stamps refuses more blocks than it has room for", () => {
  const settings = { size: 2 ** 50, blockBytes: 4096, seed: 1 };
  assert.throws(() => new Stamps(settings, true, 1), /at most 134217728 are possible/);
  assert.doesNotThrow(() => new Stamps(settings, false, 1));
});
