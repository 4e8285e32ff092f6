/**
 * The codec of dm-user: the numbers, headers byte for byte, words for people, frames.
 *
 * @module
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { BufferPool } from "../../lib/block/pool.ts";
import {
  HEADER_BYTES,
  REQUEST_FLAGS,
  REQUEST_FLAGS_KNOWN,
  REQUEST_TYPES,
  RESPONSE_TYPES,
} from "../../lib/dm_user/constants.ts";
import {
  decodeHeader,
  describeFlags,
  describeMessage,
  describeResponse,
  encodeHeader,
  messageFormat,
  type MessageHeader,
  putU64,
  requestTypeName,
  responseFormat,
  responseTypeName,
  u64At,
} from "../../lib/dm_user/message.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { FrameSplitter } from "../../lib/stream/splitter.ts";
import { answerBytes, messageBytes, pattern } from "./fixtures.ts";

const REQUEST_TYPE_ROWS =
  "READ 0, WRITE 1, FLUSH 2, DISCARD 3, SECURE_ERASE 4, WRITE_SAME 5, WRITE_ZEROES 6, ZONE_OPEN 7, " +
  "ZONE_CLOSE 8, ZONE_FINISH 9, ZONE_APPEND 10, ZONE_RESET 11, ZONE_RESET_ALL 12";
const REQUEST_FLAG_ROWS =
  "FAILFAST_DEV 0x1, FAILFAST_TRANSPORT 0x2, FAILFAST_DRIVER 0x4, SYNC 0x8, META 0x10, PRIO 0x20, " +
  "NOMERGE 0x40, IDLE 0x80, INTEGRITY 0x100, FUA 0x200, PREFLUSH 0x400, RAHEAD 0x800, " +
  "BACKGROUND 0x1000, NOWAIT 0x2000, CGROUP_PUNT 0x4000, NOUNMAP 0x8000, HIPRI 0x10000, " +
  "DRV 0x20000, SWAP 0x40000";
const RESPONSE_TYPE_ROWS = "SUCCESS 0, ERROR 1, UNSUPPORTED 2";

Deno.test("the numbers are those of the kernel's header", () => {
  const rows = (table: Readonly<Record<string, number>>, radix: 10 | 16): string =>
    Object.entries(table)
      .map(([name, value]) => `${name} ${radix === 16 ? `0x${value.toString(16)}` : value}`)
      .join(", ");
  assert.equal(rows(REQUEST_TYPES, 10), REQUEST_TYPE_ROWS);
  assert.equal(rows(REQUEST_FLAGS, 16), REQUEST_FLAG_ROWS);
  assert.equal(rows(RESPONSE_TYPES, 10), RESPONSE_TYPE_ROWS);
  const all = Object.values(REQUEST_FLAGS).reduce((sum, bit) => sum + bit, 0);
  assert.equal(all, REQUEST_FLAGS_KNOWN);
});

Deno.test("encodeHeader() lays five little-endian u64 into 40 bytes", () => {
  const header: MessageHeader = {
    seq: 0x0102030405060708n,
    type: 1n,
    flags: 0x8000000000000208n,
    sector: 0x1122334455n,
    length: 4096n,
  };
  const bytes = new Uint8Array(HEADER_BYTES + 2).fill(0xff);
  encodeHeader(header, bytes, 1);
  const expected = "ff 0807060504030201 0100000000000000 0802000000000080 5544332211000000 " +
    "0010000000000000 ff";
  assert.equal(bytes.toHex(), expected.replaceAll(" ", ""));
  assert.deepEqual(decodeHeader(bytes, 1), header);
});

Deno.test("encodeHeader() and decodeHeader() refuse what does not fit", () => {
  const header = decodeHeader(new Uint8Array(40));
  assert.throws(() => decodeHeader(new Uint8Array(39)), RangeError);
  assert.throws(() => decodeHeader(new Uint8Array(60), 21), RangeError);
  assert.throws(() => decodeHeader(new Uint8Array(60), -1), RangeError);
  assert.throws(() => encodeHeader(header, new Uint8Array(39)), RangeError);
  for (const value of [-1n, 1n << 64n]) {
    assert.throws(() => encodeHeader({ ...header, sector: value }, new Uint8Array(40)), RangeError);
  }
});

Deno.test("a header survives encoding and decoding, whatever it holds", () => {
  const field = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
  const headers = fc.record({
    seq: field,
    type: field,
    flags: field,
    sector: field,
    length: field,
  });
  fc.assert(
    fc.property(headers, (header) => {
      const bytes = new Uint8Array(HEADER_BYTES);
      encodeHeader(header, bytes);
      assert.deepEqual(decodeHeader(bytes), { ...header });
      const type = u64At(bytes, 8);
      assert.equal(Number.isSafeInteger(type), header.type <= Number.MAX_SAFE_INTEGER);
      if (Number.isSafeInteger(type)) assert.equal(BigInt(type), header.type);
      assert.ok(describeMessage(header).length > 0);
    }),
    { seed: 1 },
  );
});

Deno.test("putU64() writes what u64At() reads", () => {
  for (const value of [0, 1, 255, 256, 2 ** 32 - 1, 2 ** 32, 2 ** 45 + 7, 2 ** 53 - 1]) {
    const bytes = new Uint8Array(10);
    putU64(bytes, 1, value);
    assert.equal(u64At(bytes, 1), value);
    assert.equal(bytes[0], 0);
    assert.equal(bytes[9], 0);
  }
});

Deno.test("messages and responses are put into words, unknown numbers with their bits", () => {
  const rows: readonly (readonly [string, string])[] = [
    [requestTypeName(10), "ZONE_APPEND"],
    [requestTypeName(13), "type 13 (0xd)"],
    [requestTypeName(1n << 63n), "type 9223372036854775808 (0x8000000000000000)"],
    [responseTypeName(2), "UNSUPPORTED"],
    [responseTypeName(3), "type 3 (0x3)"],
    [describeFlags(0), "0x0"],
    [describeFlags(0x698), "0x698 SYNC|META|IDLE|FUA|PREFLUSH"],
    [describeFlags(0x80008n), "0x80008 SYNC|bit 19"],
    [describeFlags((1n << 63n) | (1n << 40n)), "0x8000010000000000 bit 40|bit 63"],
    [
      describeMessage({ seq: 9n, type: 500n, flags: 1n << 20n, sector: 8n, length: 512n }),
      "seq 9 type 500 (0x1f4) sector 8 len 512 flags 0x100000 bit 20",
    ],
    [
      describeResponse({ seq: 9n, type: 1n, flags: 0n, sector: 0n, length: 0n }),
      "seq 9 ERROR",
    ],
    [
      describeResponse({ seq: 9n, type: 7n, flags: 6n, sector: 0n, length: 0n }),
      "seq 9 type 7 (0x7) flags 0x6",
    ],
  ];
  for (const [actual, expected] of rows) assert.equal(actual, expected);
});

/** All frames of `bytes`, fed in pieces of `step`. */
function split(splitter: FrameSplitter, bytes: Uint8Array, step: number): string[] {
  const frames: string[] = [];
  for (let at = 0; at < bytes.length; at += step) {
    splitter.push(bytes.slice(at, at + step));
    while (splitter.next()) {
      frames.push(splitter.bytes.subarray(splitter.start, splitter.end).toHex());
    }
  }
  return frames;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

Deno.test("messageFormat() finds messages however the bytes are cut", () => {
  const messages = [
    messageBytes({ seq: 0n, type: 0n, length: 4096n }),
    messageBytes({ seq: 1n, type: 1n }, pattern(512)),
    messageBytes({ seq: 2n, type: 1n, flags: 0x400n, length: 0n }),
    messageBytes({ seq: 3n, type: 5n, length: 512n }),
    messageBytes({ seq: 4n, type: 10n, length: 512n }),
    messageBytes({ seq: 5n, type: 1n << 60n, length: 1n << 60n }),
  ];
  for (const step of [1, 7, 40, 41, 4096]) {
    const splitter = new FrameSplitter(messageFormat(), new BufferPool());
    assert.deepEqual(
      split(splitter, joined(messages), step),
      messages.map((message) => message.toHex()),
    );
  }
});

Deno.test("messageFormat() refuses a WRITE that is too long", () => {
  const long = messageBytes({ type: 1n, length: 4097n });
  const splitter = new FrameSplitter(messageFormat(4096), new BufferPool());
  splitter.push(long);
  assert.throws(() => splitter.next(), ProtocolError);
  assert.throws(() => {
    const bytes = messageBytes({ type: 1n, length: (1n << 64n) - 1n });
    messageFormat().frameLength(bytes, 0, bytes.length);
  }, ProtocolError);
});

Deno.test("responseFormat() finds responses, given the lengths of the READs", () => {
  const responses = [
    answerBytes(0),
    answerBytes(7, RESPONSE_TYPES.SUCCESS, pattern(512)),
    answerBytes(7, RESPONSE_TYPES.ERROR),
    answerBytes(7, 99),
    answerBytes(1n << 63n, RESPONSE_TYPES.UNSUPPORTED),
  ];
  const format = responseFormat((seq) => seq === 7n ? 512 : 0);
  for (const step of [1, 13, 40, 4096]) {
    const splitter = new FrameSplitter(format, new BufferPool());
    assert.deepEqual(
      split(splitter, joined(responses), step),
      responses.map((response) => response.toHex()),
    );
  }
});
