/**
 * Log objects: the bytes they are made of, and that nothing else passes for one.
 *
 * @module
 */
import assert from "node:assert/strict";
import { LINE_BYTES } from "../../lib/log_disk/limits.ts";
import {
  CHECK_BYTES,
  decodeLogHeader,
  encodeLogHeader,
  FIXED_HEADER_BYTES,
  headerBytesOf,
  isLineIntact,
  lineCount,
  lineDataBytes,
  lineOffset,
  type LogHeader,
  logHeaderBytes,
  objectBytes,
  sealLine,
} from "../../lib/log_disk/log_object.ts";
import { seededRandom } from "../../lib/testing/mod.ts";

const VOLUME = "000102030405060708090a0b0c0d0e0f", NONCE = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

const HEADER: LogHeader = {
  volume: VOLUME,
  nonce: NONCE,
  seq: 0x1122334455,
  epoch: 3,
  next: 0x1122334456,
  diskBytes: 2 ** 40,
  dataBytes: 4096 + 512,
  claim: false,
  detach: true,
  afterDetach: false,
  extents: [
    { kind: "write", offset: 2 ** 35 + 4096, length: 4096 },
    { kind: "zero", offset: 0, length: 512 },
    { kind: "trim", offset: 8192, length: 2 ** 34 },
    { kind: "move", offset: 512, length: 512, origin: 2, seq: 77, at: 65536 },
  ],
};

Deno.test("encodeLogHeader() gives the bytes of the format", () => {
  const expected = [
    "646d752d6c6f6731", // dmu-log1
    "ac000000", // 172 bytes
    "02000000", // detach
    VOLUME,
    NONCE,
    "5544332211000000",
    "0300000000000000",
    "5644332211000000",
    "0000000000010000",
    "00120000",
    "04000000",
    "0010000008000001" + "0010000000000000",
    "0000000000000002" + "0002000000000000",
    "0020000000000003" + "0000000004000000",
    "0002000000000004" + "0002000000000000" + "4d00000000000002" + "0000010000000000",
  ].join("");
  const bytes = encodeLogHeader(HEADER);
  assert.equal(bytes.subarray(0, -CHECK_BYTES).toHex(), expected);
  assert.equal(bytes.subarray(-CHECK_BYTES).toHex(), "b8500c1c");
  assert.equal(bytes.length, headerBytesOf(HEADER.extents));
});

Deno.test("decodeLogHeader() gives back what was encoded, whatever follows it", () => {
  const bytes = encodeLogHeader(HEADER);
  assert.deepEqual(decodeLogHeader(bytes, "x"), HEADER);
  const more = new Uint8Array(bytes.length + 100);
  more.set(bytes);
  assert.deepEqual(decodeLogHeader(more, "x"), HEADER);
  const claim = { ...HEADER, detach: false, claim: true, afterDetach: true, extents: [] };
  const whole = { ...claim, dataBytes: 0, next: claim.seq + 16 };
  assert.deepEqual(decodeLogHeader(encodeLogHeader(whole), "x"), whole);
});

Deno.test("decodeLogHeader() refuses a header with any bit changed", () => {
  const bytes = encodeLogHeader(HEADER);
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const bad = bytes.slice();
    bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    assert.throws(() => decodeLogHeader(bad, "log/5"), /^BlockError: Cannot use log\/5: /);
  }
});

Deno.test("decodeLogHeader() refuses a header that is cut short, at every byte", () => {
  const bytes = encodeLogHeader(HEADER);
  for (let length = 0; length < bytes.length; length += 1) {
    assert.throws(
      () => decodeLogHeader(bytes.subarray(0, length), "log/5"),
      /^BlockError: Cannot use log\/5: it is (cut short|no log object)$/,
    );
  }
  assert.equal(logHeaderBytes(bytes.subarray(0, FIXED_HEADER_BYTES), "x"), bytes.length);
});

Deno.test("decodeLogHeader() refuses headers that are sealed well and make no sense", () => {
  const cases: readonly (readonly [Partial<LogHeader>, RegExp])[] = [
    [{ seq: 0, next: 1 }, /object 1 follows 0/],
    [{ next: HEADER.seq }, /follows/],
    [{ next: HEADER.seq + 2 }, /only a claim/],
    [{ epoch: 0 }, /epoch/],
    [{ seq: 2 ** 50, next: 2 ** 50 + 1 }, /follows/],
    [{ dataBytes: 4096 }, /its extents need 4608/],
    [{ claim: true }, /claim that has extents/],
    [{ afterDetach: true }, /only a claim/],
    [{ extents: [{ kind: "zero", offset: 0, length: 0 }], dataBytes: 0 }, /extent of 0 bytes/],
    [{ extents: [{ kind: "trim", offset: 2 ** 52, length: 2 ** 52 + 1 }], dataBytes: 0 }, /extent/],
    [
      {
        extents: [{ kind: "move", offset: 0, length: 512, origin: 16, seq: 1, at: 0 }],
        dataBytes: 512,
      },
      /impossible place/,
    ],
  ];
  for (const [change, reason] of cases) {
    const bytes = encodeLogHeader({ ...HEADER, ...change });
    assert.throws(() => decodeLogHeader(bytes, "log/5"), reason);
  }
});

Deno.test("decodeLogHeader() refuses junk, and a later format by name", () => {
  const random = seededRandom(1);
  for (let round = 0; round < 2000; round += 1) {
    const junk = new Uint8Array(random.below(400));
    random.fill(junk);
    if (random.oneIn(2)) junk.set(encodeLogHeader(HEADER).subarray(0, Math.min(12, junk.length)));
    assert.throws(() => decodeLogHeader(junk, "log/5"), /^BlockError: Cannot use log\/5: /);
  }
  const later = encodeLogHeader(HEADER);
  later[7] = 0x32;
  assert.throws(() => decodeLogHeader(later, "log/5"), /later format/);
});

Deno.test("isLineIntact() knows a line of another place, object or volume from this one", () => {
  const random = seededRandom(2), stored = new Uint8Array(1000 + CHECK_BYTES);
  random.fill(stored);
  sealLine(stored, VOLUME, 9, 4);
  assert.ok(isLineIntact(stored, VOLUME, 9, 4));
  assert.ok(!isLineIntact(stored, VOLUME, 9, 5));
  assert.ok(!isLineIntact(stored, VOLUME, 10, 4));
  assert.ok(!isLineIntact(stored, NONCE, 9, 4));
  assert.ok(!isLineIntact(stored.subarray(0, 900), VOLUME, 9, 4));
  assert.ok(!isLineIntact(stored.subarray(0, CHECK_BYTES), VOLUME, 9, 4));
  for (let bit = 0; bit < stored.length * 8; bit += 7) {
    const bad = stored.slice();
    bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    assert.ok(!isLineIntact(bad, VOLUME, 9, 4));
  }
});

Deno.test("lines follow one another, each with its checksum", () => {
  const dataBytes = 2 * LINE_BYTES + 512;
  assert.equal(lineCount(dataBytes), 3);
  assert.deepEqual([0, 1, 2].map((line) => lineDataBytes(dataBytes, line)), [
    LINE_BYTES,
    LINE_BYTES,
    512,
  ]);
  assert.equal(lineOffset(100, 2), 100 + 2 * (LINE_BYTES + CHECK_BYTES));
  assert.equal(objectBytes(100, dataBytes), 100 + dataBytes + 3 * CHECK_BYTES);
  assert.equal(lineCount(0), 0);
});
