/**
 * Descriptions of volumes and snapshots, and the names of objects.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  decodeSnapshot,
  decodeVolume,
  encodeSnapshot,
  encodeVolume,
} from "../../lib/log_disk/description.ts";
import {
  checkpointKey,
  cloneKey,
  clonePrefix,
  decidedKey,
  deletingKey,
  isCloneKey,
  logKey,
  nonceOfDeletingKey,
  parseCheckpointKey,
  parseSnapshotKey,
  seqOfLogKey,
  snapshotKey,
  snapshotPrefix,
  takenKey,
} from "../../lib/log_disk/names.ts";
import { SEQ_MAX } from "../../lib/log_disk/limits.ts";
import { checkKey } from "../../lib/object_store/types.ts";
import { seededRandom } from "../../lib/testing/mod.ts";

const ID = "000102030405060708090a0b0c0d0e0f";

const VOLUME = {
  id: ID,
  diskBytes: 2 ** 30,
  blockBytes: 512,
  windowSlots: 16,
  createdMs: 1_700_000_000_000,
  parent: { address: "s3://bucket/Über", volume: ID, snapshot: "before", snapshotId: ID },
};
const SNAPSHOT = {
  volume: ID,
  name: "before",
  id: ID,
  checkpoint: checkpointKey(5, ID),
  seq: 9,
  diskBytes: 2 ** 30,
  createdMs: 1_700_000_000_000,
};

Deno.test("encodeVolume() gives the bytes of the format", () => {
  const text = new TextDecoder().decode(encodeVolume({ ...VOLUME, parent: null }));
  assert.equal(
    text,
    `dmu-volume1 ced85e73\n{"id":"${ID}","diskBytes":1073741824,"blockBytes":512,` +
      `"windowSlots":16,"createdMs":1700000000000,"parent":null}\n`,
  );
});

Deno.test("encodeSnapshot() gives the bytes of the format", () => {
  const text = new TextDecoder().decode(encodeSnapshot(SNAPSHOT));
  assert.equal(
    text,
    `dmu-snap1 d608e03f\n{"volume":"${ID}","name":"before","id":"${ID}",` +
      `"checkpoint":"ckpt/0000000000000005-${ID}","seq":9,"diskBytes":1073741824,` +
      `"createdMs":1700000000000}\n`,
  );
});

Deno.test("descriptions come back as they were", () => {
  assert.deepEqual(decodeVolume(encodeVolume(VOLUME), "volume"), VOLUME);
  const bare = { ...VOLUME, parent: null };
  assert.deepEqual(decodeVolume(encodeVolume(bare), "volume"), bare);
  assert.deepEqual(decodeSnapshot(encodeSnapshot(SNAPSHOT), "snap/x"), SNAPSHOT);
  const early = { ...SNAPSHOT, checkpoint: null, seq: 0 };
  assert.deepEqual(decodeSnapshot(encodeSnapshot(early), "snap/x"), early);
});

Deno.test("decodeVolume() refuses a description with any bit changed, or cut short", () => {
  const bytes = encodeVolume(VOLUME);
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const bad = bytes.slice();
    bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    assert.throws(() => decodeVolume(bad, "volume"), /^BlockError: Cannot use volume: /);
  }
  for (let length = 0; length < bytes.length; length += 1) {
    assert.throws(() => decodeVolume(bytes.subarray(0, length), "volume"), /Cannot use volume: /);
  }
  const random = seededRandom(1);
  for (let round = 0; round < 500; round += 1) {
    const junk = new Uint8Array(random.below(200));
    random.fill(junk);
    assert.throws(() => decodeVolume(junk, "volume"), /Cannot use volume: /);
  }
});

Deno.test("decodeVolume() refuses values that cannot be, and a later format by name", () => {
  const cases = [
    [{ id: "x" }, /"id"/],
    [{ blockBytes: 513 }, /"blockBytes" is no power of two/],
    [{ blockBytes: 256 }, /"blockBytes"/],
    [{ diskBytes: -1 }, /"diskBytes"/],
    [{ diskBytes: 0.5 }, /"diskBytes"/],
    [{ windowSlots: 0 }, /"windowSlots"/],
    [{ parent: { ...VOLUME.parent, volume: "" } }, /"volume"/],
  ] as const;
  for (const [change, reason] of cases) {
    const bytes = encodeVolume({ ...VOLUME, ...change });
    assert.throws(() => decodeVolume(bytes, "volume"), reason);
  }
  const later = new TextEncoder().encode("dmu-volume2 00000000\n{}\n");
  assert.throws(() => decodeVolume(later, "volume"), /later format/);
});

Deno.test("keys of log objects and checkpoints sort as their numbers do", () => {
  assert.equal(logKey(0x1f), "log/000000000000001f");
  assert.equal(seqOfLogKey(logKey(SEQ_MAX)), SEQ_MAX);
  for (const key of ["log/1f", "log/000000000000001F", "log/ffffffffffffffff", "logs"]) {
    assert.equal(seqOfLogKey(key), null);
  }
  assert.throws(() => logKey(-1), RangeError);
  assert.throws(() => logKey(SEQ_MAX + 1), RangeError);
  assert.deepEqual(parseCheckpointKey(checkpointKey(7, ID)), { seq: 7, nonce: ID });
  for (const key of ["ckpt/7", `ckpt/000000000000000g-${ID}`, `ckpt/0000000000000007_${ID}`]) {
    assert.equal(parseCheckpointKey(key), null);
  }
  assert.throws(() => checkpointKey(7, "x"), RangeError);
});

Deno.test("snapshotKey() has one key for each name, which a store takes", () => {
  const names = [
    "a",
    "A",
    "before upgrade",
    "ü",
    "_",
    "a_b",
    "a.b",
    "..",
    "x".repeat(50),
    "\ufeffx",
  ];
  for (const name of names) {
    const key = snapshotKey({ name, id: ID });
    checkKey(key);
    assert.ok(key.startsWith(snapshotPrefix(name)));
    assert.deepEqual(parseSnapshotKey(key), { name, id: ID });
  }
  for (const key of [cloneKey(ID, ID), takenKey(ID), deletingKey(ID, ID), decidedKey(ID, ID)]) {
    checkKey(key);
    assert.ok(key.startsWith(clonePrefix(ID)));
    assert.equal(nonceOfDeletingKey(key), key === deletingKey(ID, ID) ? ID : null);
    assert.equal(isCloneKey(key), key === cloneKey(ID, ID));
  }
  assert.equal(new Set(names.map((name) => snapshotKey({ name, id: ID }))).size, names.length);
  for (const name of ["", "x".repeat(51), "ü".repeat(26), "\ud800"]) {
    assert.throws(() => snapshotKey({ name, id: ID }), /^BlockError: Cannot use ".*" as the name/);
  }
  for (const key of ["snap/", "snap/_zz", "snap/_61", "snap/A", "snap/_ff", "snip/a"]) {
    assert.equal(parseSnapshotKey(`${key}.${ID}`), null);
  }
  for (const key of ["snap/a", "snap/a.", `snap/${ID}`, `snap/a.${ID}0`, `snap/a.${ID}.${ID}`]) {
    assert.equal(parseSnapshotKey(key), null);
  }
});
