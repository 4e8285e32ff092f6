/**
 * Checkpoints: the bytes they are made of, that maps come back whole, that damage is told.
 *
 * @module
 */
import assert from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";
import { crc32 } from "node:zlib";
import {
  CHECKPOINT_HEADER_BYTES,
  type CheckpointState,
  decodeCheckpointBody,
  decodeCheckpointHeader,
  encodeCheckpoint,
} from "../../lib/log_disk/checkpoint.ts";
import { ExtentMap } from "../../lib/log_disk/extent_map.ts";
import { seededRandom } from "../../lib/testing/mod.ts";

const STATE: CheckpointState = {
  volume: "000102030405060708090a0b0c0d0e0f",
  nonce: "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
  seq: 9,
  epoch: 2,
  next: 25,
  diskBytes: 2 ** 40,
  blockBytes: 512,
  detached: true,
};

/** Runs a generator to its end. */
function result<T>(generator: Generator<void, T>): T {
  for (;;) {
    const step = generator.next();
    if (step.done === true) return step.value;
  }
}

function encoded(map: ExtentMap, state = STATE): Uint8Array {
  const parts = result(encodeCheckpoint(state, map.copy()));
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function decoded(bytes: Uint8Array): ExtentMap {
  const header = decodeCheckpointHeader(bytes, "ckpt/x");
  return result(decodeCheckpointBody(header, bytes.subarray(CHECKPOINT_HEADER_BYTES), "ckpt/x"));
}

function content(map: ExtentMap): unknown {
  return {
    runs: [...map.runs()].map((run) => run.kind === "zero" ? [run.offset, run.length] : { ...run }),
    tables: [...map.tables].sort().map(([origin, table]) => [origin, [...table]]),
  };
}

function smallMap(): ExtentMap {
  const map = new ExtentMap();
  map.objects(0).add(3, 92, 0, true);
  map.objects(0).add(9, 200, 8192);
  map.objects(2).add(300, 120, 512);
  map.write(1024, 4096, 0, 9, 4096);
  map.zero(5120, 512);
  map.write(2 ** 35, 512, 2, 300, 0);
  return map;
}

Deno.test("encodeCheckpoint() gives the bytes of the format", () => {
  assert.equal(encoded(smallMap()).toHex(), GOLDEN.join(""));
});

/** Header; objects of this volume, of an ancestor; extents. */
const GOLDEN = [
  "646d752d6d617031" + "74000000" + "01000000" + STATE.volume + STATE.nonce +
  "0900000000000000" + "0200000000000000" + "1900000000000000" + "0000000000010000" +
  "0300000000000000" + "0300000000000000" + "4e00000000000000" + "03000000" + "00020000" +
  "63ecce89",
  "0a000000" + "02000000" + "01000000" + "00" + "03b90100" + "0690038040" + "ee5dbb8c",
  "07000000" + "01000000" + "01000000" + "02" + "ac02f0018004" + "12f588d0",
  "0d000000" + "03000000" + "02000000" + "04080208" + "0101" + "eaffff3f010200" + "32d1c370",
];

Deno.test("a map comes back from its checkpoint as it was", () => {
  const map = smallMap();
  assert.deepEqual(content(decoded(encoded(map))), content(map));
  assert.deepEqual(content(decoded(encoded(new ExtentMap()))), content(new ExtentMap()));
  const header = decodeCheckpointHeader(encoded(map), "x");
  assert.deepEqual(header, { ...STATE, extents: 3, objects: 3, sections: 3, bodyBytes: 78 });
});

Deno.test("a map of many sections comes back from its checkpoint as it was", () => {
  const random = seededRandom(5), map = new ExtentMap();
  const objects = 30_000;
  for (let seq = 1; seq <= objects; seq += 1) {
    map.objects(seq % 2).add(seq * 1000, 500, 2 ** 22, seq % 7 === 0);
  }
  for (let round = 0; round < 50_000; round += 1) {
    const seq = 1 + random.below(objects), offset = random.below(2 ** 30) * 512;
    const length = 512 * (1 + random.below(30));
    if (random.oneIn(10)) map.zero(offset, length);
    else map.write(offset, length, seq % 2, seq * 1000, random.below(8000) * 512);
  }
  const bytes = encoded(map);
  assert.ok(decodeCheckpointHeader(bytes, "x").sections > 2);
  // Nobody wants to see the difference of two lists as long as these.
  assert.ok(isDeepStrictEqual(content(decoded(bytes)), content(map)));
});

Deno.test("a checkpoint with any bit changed, or cut short, is refused by name", () => {
  const bytes = encoded(smallMap());
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const bad = bytes.slice();
    bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    assert.throws(() => decoded(bad), /^BlockError: Cannot use ckpt\/x: /);
  }
  for (let length = 0; length < bytes.length; length += 1) {
    assert.throws(() => decoded(bytes.subarray(0, length)), /^BlockError: Cannot use ckpt\/x: /);
  }
});

Deno.test("junk that is sealed as a checkpoint is refused by name, and asks for little memory", () => {
  const random = seededRandom(6), bytes = encoded(smallMap());
  for (let round = 0; round < 3000; round += 1) {
    const bad = bytes.slice();
    reseal(bad, random.pick(SECTIONS), () => random.uint32(), random.below(4) + 1);
    try {
      const map = decoded(bad);
      for (const run of map.runs()) assert.ok(run.offset + run.length <= STATE.diskBytes);
    } catch (error) {
      assert.match(String(error), /^BlockError: Cannot use ckpt\/x: /);
    }
  }
});

/** Where the parts of the small map's checkpoint are that have a checksum each, at their end. */
const SECTIONS: readonly (readonly [start: number, end: number])[] = [
  [0, CHECKPOINT_HEADER_BYTES],
  [CHECKPOINT_HEADER_BYTES, CHECKPOINT_HEADER_BYTES + 26],
  [CHECKPOINT_HEADER_BYTES + 26, CHECKPOINT_HEADER_BYTES + 49],
  [CHECKPOINT_HEADER_BYTES + 49, CHECKPOINT_HEADER_BYTES + 78],
];

function reseal(
  bytes: Uint8Array,
  [start, end]: readonly [number, number],
  chance: () => number,
  changes: number,
): void {
  const sumAt = end - 4;
  for (let change = 0; change < changes; change += 1) {
    bytes[start + chance() % (sumAt - start)] = chance() & 0xff;
  }
  new DataView(bytes.buffer).setUint32(sumAt, crc32(bytes.subarray(start, sumAt)), true);
}
