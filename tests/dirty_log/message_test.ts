/**
 * Frames and payloads of the dirty-region log interface against bytes written down by hand, and against
 * noise.
 *
 * @module
 */
import assert from "node:assert/strict";
import { REQUEST_TYPES } from "../../lib/dirty_log/constants.ts";
import { PAYLOAD_BYTES_MAX, UUID_BYTES_MAX } from "../../lib/dirty_log/limits.ts";
import {
  decodeFrame,
  describeMessage,
  encodeAck,
  encodeFrame,
  encodeReply,
  makeMessage,
  requestName,
} from "../../lib/dirty_log/message.ts";
import * as payload from "../../lib/dirty_log/payload.ts";
import { seededRandom } from "../../lib/testing/random.ts";

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/[0-9a-f]{2}/g) ?? [], (pair) => parseInt(pair, 16));
}

function hexOf(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** IN_SYNC of region 5, uuid "AB", luid 0x1122334455667788, seq 0x0a0b0c0d, version 3. */
const IN_SYNC_FRAME = "cc000000" + "0300" + "0000" + "0d0c0b0a" + "00000000" + // nlmsghdr
  "07000000" + "01000000" + "0d0c0b0a" + "00000000" + "a800" + "0000" + // cn_msg
  "8877665544332211" + "4142" + "00".repeat(127) + "000000" + // luid, uuid, padding
  "03000000" + "00000000" + "0d0c0b0a" + "08000000" + "08000000" + // version … data_size
  "0500000000000000";

const IN_SYNC = makeMessage({
  luid: 0x1122334455667788n,
  uuid: "AB",
  seq: 0x0a0b0c0d,
  type: REQUEST_TYPES.IN_SYNC,
  data: payload.encodeWords(5),
});

Deno.test("encodeFrame() gives the bytes of the kernel's structures", () => {
  assert.equal(hexOf(encodeFrame(IN_SYNC)), IN_SYNC_FRAME);
});

Deno.test("decodeFrame() reads them, with and without padding behind", () => {
  for (const padding of ["", "00", "000000"]) {
    const decoded = decodeFrame(bytesOf(IN_SYNC_FRAME + padding));
    assert.equal(decoded.kind, "message");
    if (decoded.kind === "message") {
      assert.deepEqual({ ...decoded.message, data: [...decoded.message.data] }, {
        ...IN_SYNC,
        data: [5, 0, 0, 0, 0, 0, 0, 0],
      });
    }
  }
});

Deno.test("encodeReply() changes the error, the payload and the lengths alone", () => {
  const reply = hexOf(encodeReply(bytesOf(IN_SYNC_FRAME), -22, new Uint8Array(0)));
  const wanted = IN_SYNC_FRAME.slice(0, -16).split("");
  const put = (at: number, hex: string): void => void wanted.splice(at * 2, hex.length, ...hex);
  put(0, "c4000000");
  put(32, "a000");
  put(180, "eaffffff");
  put(192, "00000000");
  assert.equal(reply, wanted.join(""));
});

Deno.test("decodeFrame() masks the type and keeps a bare acknowledgement apart", () => {
  const frame = bytesOf(IN_SYNC_FRAME);
  frame[189] = 0xff; // above the mask
  const decoded = decodeFrame(frame);
  assert.ok(decoded.kind === "message" && decoded.message.type === REQUEST_TYPES.IN_SYNC);
  const ack = encodeAck({ seq: 7, ack: 11 });
  assert.equal(ack.length, 36);
  assert.deepEqual(decodeFrame(ack), { kind: "ack", ack: { seq: 7, ack: 11 } });
});

const BROKEN: readonly (readonly [name: string, at: number, value: number])[] = [
  ["a length past its end", 0, 0xff],
  ["another netlink type", 4, 4],
  ["another connector", 16, 1],
  ["another connector value", 20, 2],
  ["a connector length past its end", 32, 0xff],
  ["a payload past its end", 192, 9],
];

for (const [name, at, value] of BROKEN) {
  Deno.test(`decodeFrame() finds a frame foreign that has ${name}`, () => {
    const frame = bytesOf(IN_SYNC_FRAME);
    frame[at] = value;
    assert.equal(decodeFrame(frame).kind, "foreign");
  });
}

Deno.test("decodeFrame() finds a uuid without an end foreign", () => {
  const frame = bytesOf(IN_SYNC_FRAME);
  frame.fill(0x41, 44, 44 + 129);
  assert.equal(decodeFrame(frame).kind, "foreign");
});

Deno.test("encodeFrame() refuses what does not fit, and takes the longest that does", () => {
  const longest = makeMessage({
    luid: 1n,
    uuid: "u".repeat(UUID_BYTES_MAX),
    seq: 1,
    type: 1,
    data: new Uint8Array(PAYLOAD_BYTES_MAX),
  });
  const decoded = decodeFrame(encodeFrame(longest));
  assert.ok(decoded.kind === "message" && decoded.message.uuid === longest.uuid);
  assert.throws(() => encodeFrame({ ...longest, uuid: longest.uuid + "u" }), RangeError);
  assert.throws(() => encodeFrame({ ...longest, uuid: "a\0b" }), RangeError);
  const long = new Uint8Array(PAYLOAD_BYTES_MAX + 1);
  assert.throws(() => encodeFrame({ ...longest, data: long }), RangeError);
  assert.throws(() => encodeReply(encodeFrame(longest), 0, long), RangeError);
});

Deno.test("decodeFrame() and encodeFrame() are each other's inverse for all 17 requests", () => {
  const random = seededRandom(9);
  const types = Object.values(REQUEST_TYPES);
  assert.deepEqual(types, Array.from({ length: 17 }, (_, index) => index + 1));
  for (let round = 0; round < 2000; round += 1) {
    const data = new Uint8Array(random.below(PAYLOAD_BYTES_MAX + 1));
    random.fill(data);
    const message = {
      luid: BigInt(random.uint32()) << 32n | BigInt(random.uint32()),
      uuid: "ü".repeat(random.below(64)) + "x".repeat(random.below(2)),
      version: random.below(5),
      error: random.below(200) - 200,
      seq: random.uint32(),
      type: random.pick(types),
      data,
    };
    const decoded = decodeFrame(encodeFrame(message));
    assert.equal(decoded.kind, "message");
    if (decoded.kind === "message") assert.deepEqual(decoded.message, message);
  }
});

Deno.test("decodeFrame() survives noise, and frames with noise in them", () => {
  const random = seededRandom(10);
  const kinds = new Set<string>();
  for (let round = 0; round < 20_000; round += 1) {
    const bytes = random.oneIn(4) ? new Uint8Array(random.below(300)) : bytesOf(IN_SYNC_FRAME);
    if (bytes.length !== IN_SYNC_FRAME.length / 2) random.fill(bytes);
    for (let count = random.below(4); count > 0; count -= 1) {
      if (bytes.length > 0) bytes[random.below(bytes.length)] = random.below(256);
    }
    const decoded = decodeFrame(bytes.subarray(0, bytes.length - random.below(3)));
    kinds.add(decoded.kind);
    if (decoded.kind === "message") assert.ok(decoded.message.data.length <= bytes.length);
  }
  assert.deepEqual([...kinds].sort(), ["foreign", "message"]);
});

Deno.test("payloads are the kernel's words", () => {
  assert.equal(hexOf(payload.encodeWords(1, 258)), "01000000000000000201000000000000");
  assert.deepEqual(payload.decodeWords(bytesOf("0201000000000000")), [258]);
  assert.deepEqual(payload.decodeWords(bytesOf("ffffffffffffffff")), [Infinity]);
  assert.equal(payload.decodeWords(new Uint8Array(9)), null);
  assert.throws(() => payload.encodeWords(Infinity), RangeError);
  assert.throws(() => payload.encodeWords(...new Array<number>(42).fill(1)), RangeError);
  assert.deepEqual(payload.decodeRegionSync(bytesOf("0700000000000000" + "0100000000000000")), {
    region: 7,
    inSync: true,
  });
  assert.equal(payload.decodeRegionSync(new Uint8Array(8)), null);
  assert.equal(payload.decodeRegion(new Uint8Array(16)), null);
});

Deno.test("a NUL behind the text of a CTR tells a reconnect from a creation", () => {
  for (const reconnects of [true, false]) {
    const data = payload.encodeConstructor({ text: "2048 core 8", reconnects });
    assert.equal(data.length, reconnects ? 12 : 11);
    assert.deepEqual(payload.decodeConstructor(data), { text: "2048 core 8", reconnects });
  }
  assert.deepEqual([...payload.encodeDevice("8:1")], [56, 58, 49, 0]);
  assert.equal(payload.encodeDevice(null).length, 0);
  assert.equal(payload.encodeText("x".repeat(400)).length, PAYLOAD_BYTES_MAX);
  assert.equal(payload.decodeText(bytesOf("414200")), "AB");
});

Deno.test("describeMessage() names the request", () => {
  assert.equal(describeMessage(IN_SYNC), "seq 168496141 IN_SYNC AB/0x1122334455667788 8 bytes");
  assert.equal(describeMessage({ ...IN_SYNC, error: -3 }).split(" ").at(-1), "-3");
  assert.equal(requestName(18), "type 18");
});
