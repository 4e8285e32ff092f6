/**
 * The decoder of replies: golden bytes of simple, structured and extended replies, cut anywhere, and
 * every rule that a server can break.
 *
 * @module
 */
import assert from "node:assert/strict";
import { ERROR_CHUNKS_MAX, READ_FRAGMENTS_MAX } from "../../lib/nbd/client/limits.ts";
import type { ReplyTerms } from "../../lib/nbd/client/reply_decoder.ts";
import { COMMAND, COMMAND_FLAG } from "../../lib/nbd/constants.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { SeededRandom } from "../support/context.ts";
import {
  bytes,
  DATA,
  ERROR,
  ERROR_OFFSET,
  extendedAt,
  HOLE,
  NONE,
  pattern,
  simple,
  STATUS,
  STATUS_EXT,
  structured,
} from "./client_bytes.ts";
import {
  askAll,
  AT,
  check,
  Exchange,
  EXTENDED,
  GOLDEN,
  SIMPLE,
  STRUCTURED,
} from "./client_reply_rows.ts";

const { READ, WRITE, FLUSH, BLOCK_STATUS } = COMMAND;

for (const golden of GOLDEN) {
  Deno.test(`ReplyDecoder takes ${golden.name}, cut anywhere`, () => {
    for (let cut = 1; cut <= golden.reply.length; cut += 1) {
      const exchange = askAll(golden);
      exchange.answer(golden.reply, cut);
      check(golden, exchange);
      exchange.checkGuards();
    }
  });
}

/** A rule, the terms, requests, and bytes that break it. */
const BROKEN: readonly (readonly [
  string,
  ReplyTerms,
  readonly (readonly [number, number, number?])[],
  Uint8Array,
  RegExp,
])[] = [
  ["the magic", SIMPLE, [[READ, 8]], new Uint8Array(16), /magic/],
  ["no structured reply unasked", SIMPLE, [[FLUSH, 0]], structured(1, true, NONE), /magic/],
  [
    "no simple reply under extended headers",
    EXTENDED,
    [[FLUSH, 0]],
    bytes(simple(1, 0), new Uint8Array(16)),
    /magic/,
  ],
  [
    "no structured reply under extended headers",
    EXTENDED,
    [[FLUSH, 0]],
    bytes(structured(1, true, NONE), new Uint8Array(12)),
    /magic/,
  ],
  ["a cookie that is in flight", SIMPLE, [[READ, 8]], simple(2, 0), /no request 2/],
  [
    "a cookie of structured replies",
    STRUCTURED,
    [[READ, 8]],
    structured(9, true, NONE),
    /no request 9/,
  ],
  ["no second reply", SIMPLE, [[FLUSH, 0]], bytes(simple(1, 0), simple(1, 0)), /no request 1/],
  [
    "no cookie above 2^53",
    SIMPLE,
    [[FLUSH, 0]],
    bytes([32, 0x67446698], [32, 0], [64, 2n ** 63n]),
    /no request/,
  ],
  [
    "no simple data under structured replies",
    STRUCTURED,
    [[READ, 8]],
    simple(1, 0, pattern(8)),
    /simple/,
  ],
  ["no simple success of block status", STRUCTURED, [[BLOCK_STATUS, 8]], simple(1, 0), /simple/],
  [
    "the offset of extended replies",
    EXTENDED,
    [[FLUSH, 0]],
    extendedAt(AT + 1)(1, true, NONE),
    /offset/,
  ],
  [
    "NONE is empty",
    STRUCTURED,
    [[FLUSH, 0]],
    structured(1, true, NONE, "x"),
    /type 0x0 has 1 bytes/,
  ],
  ["NONE is the last", STRUCTURED, [[FLUSH, 0]], structured(1, false, NONE), /not the last/],
  ["no unknown type", STRUCTURED, [[FLUSH, 0]], structured(1, true, 3, "x"), /type 3/],
  [
    "data is not empty",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, DATA, [64, AT]),
    /0x1 has 8/,
  ],
  [
    "data for a read",
    STRUCTURED,
    [[WRITE, 8]],
    structured(1, true, DATA, [64, AT], "x"),
    /data came/,
  ],
  [
    "data fits the request",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, DATA, [64, AT], pattern(9)),
    /0x1 has 17/,
  ],
  [
    "data before the request",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, DATA, [64, AT - 1], "x"),
    /1 bytes at 4095/,
  ],
  [
    "data behind the request",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, DATA, [64, AT + 1], pattern(8)),
    /8 bytes at 4097/,
  ],
  [
    "data near 2^64",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, DATA, [64, 2n ** 64n - 1n], "x"),
    /came for it/,
  ],
  [
    "data of 2^32 - 1 bytes",
    STRUCTURED,
    [[READ, 8]],
    bytes([32, 0x668e33ef], [16, 1], [16, 1], [64, 1], [32, 2 ** 32 - 1]),
    /0x1 has/,
  ],
  [
    "extended data of 2^63 bytes",
    EXTENDED,
    [[READ, 8]],
    bytes([32, 0x6e8a278c], [16, 1], [16, 1], [64, 1], [64, AT], [64, 2n ** 63n]),
    /0x1 has/,
  ],
  [
    "a hole has 12 bytes",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, HOLE, [64, AT], [64, 8]),
    /0x2 has 16/,
  ],
  [
    "a hole is not empty",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, HOLE, [64, AT], [32, 0]),
    /0 bytes at/,
  ],
  [
    "a hole fits the request",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, HOLE, [64, AT], [32, 9]),
    /9 bytes at/,
  ],
  [
    "no byte twice: same chunk",
    STRUCTURED,
    [[READ, 8]],
    bytes(
      structured(1, false, DATA, [64, AT], pattern(4)),
      structured(1, false, DATA, [64, AT], pattern(4)),
    ),
    /twice/,
  ],
  [
    "no byte twice: around",
    STRUCTURED,
    [[READ, 8]],
    bytes(
      structured(1, false, DATA, [64, AT + 2], pattern(2)),
      structured(1, false, HOLE, [64, AT], [32, 8]),
    ),
    /twice/,
  ],
  [
    "no byte twice: behind a gap",
    STRUCTURED,
    [[READ, 8]],
    bytes(
      structured(1, false, DATA, [64, AT + 2], pattern(4)),
      structured(1, false, HOLE, [64, AT + 5], [32, 2]),
    ),
    /twice/,
  ],
  [
    "data is complete",
    STRUCTURED,
    [[READ, 8]],
    bytes(
      structured(1, false, DATA, [64, AT], pattern(4)),
      structured(1, true, DATA, [64, AT + 5], pattern(3)),
    ),
    /without the data at 4100/,
  ],
  [
    "there is data",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, NONE),
    /without the data at 4096/,
  ],
  [
    "an error has 6 bytes",
    STRUCTURED,
    [[FLUSH, 0]],
    structured(1, true, ERROR, [32, 5]),
    /0x8001 has 4/,
  ],
  [
    "words fit the error",
    STRUCTURED,
    [[FLUSH, 0]],
    structured(1, true, ERROR, [32, 5], [16, 2], "x"),
    /0x8001/,
  ],
  [
    "an error has an end",
    STRUCTURED,
    [[FLUSH, 0]],
    structured(1, true, ERROR, new Uint8Array(9000)),
    /0x8001 has 9000/,
  ],
  [
    "an error offset has 14 bytes",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, ERROR_OFFSET, [32, 5], [16, 0]),
    /0x8002 has 6/,
  ],
  [
    "an error is inside the request",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, ERROR_OFFSET, [32, 5], [16, 0], [64, AT + 8]),
    /error at 4104/,
  ],
  [
    "status for block status",
    STRUCTURED,
    [[READ, 8]],
    structured(1, true, STATUS, [32, 7], [32, 8], [32, 0]),
    /block status came for it/,
  ],
  [
    "status of the context",
    STRUCTURED,
    [[BLOCK_STATUS, 8]],
    structured(1, true, STATUS, [32, 8], [32, 8], [32, 0]),
    /context 8/,
  ],
  [
    "status has extents",
    STRUCTURED,
    [[BLOCK_STATUS, 8]],
    structured(1, true, STATUS, [32, 7]),
    /0x5 has 4/,
  ],
  [
    "status has whole extents",
    STRUCTURED,
    [[BLOCK_STATUS, 8]],
    structured(1, true, STATUS, [32, 7], [32, 8]),
    /0x5 has 8/,
  ],
  [
    "no empty extent",
    STRUCTURED,
    [[BLOCK_STATUS, 8]],
    structured(1, true, STATUS, [32, 7], [32, 0], [32, 0]),
    /without length/,
  ],
  [
    "no extent past the request",
    STRUCTURED,
    [[BLOCK_STATUS, 8]],
    structured(1, true, STATUS, [32, 7], [32, 8], [32, 0], [32, 8], [32, 1]),
    /past its end/,
  ],
  [
    "one extent with REQ_ONE",
    STRUCTURED,
    [[BLOCK_STATUS, 8, COMMAND_FLAG.REQ_ONE]],
    structured(1, true, STATUS, [32, 7], [32, 4], [32, 0], [32, 4], [32, 1]),
    /the one extent/,
  ],
  [
    "a short extent with REQ_ONE",
    STRUCTURED,
    [[BLOCK_STATUS, 8, COMMAND_FLAG.REQ_ONE]],
    structured(1, true, STATUS, [32, 7], [32, 9], [32, 0]),
    /the one extent/,
  ],
  [
    "status once",
    STRUCTURED,
    [[BLOCK_STATUS, 8]],
    bytes(
      structured(1, false, STATUS, [32, 7], [32, 4], [32, 0]),
      structured(1, true, STATUS, [32, 7], [32, 4], [32, 0]),
    ),
    /twice/,
  ],
  [
    "there is status",
    STRUCTURED,
    [[BLOCK_STATUS, 8]],
    structured(1, true, NONE),
    /without block status/,
  ],
  [
    "no 64-bit status in structured replies",
    STRUCTURED,
    [[BLOCK_STATUS, 8]],
    structured(1, true, STATUS_EXT, [32, 7], [32, 1], [64, 8], [64, 0]),
    /type 6/,
  ],
  [
    "no 32-bit status under extended headers",
    EXTENDED,
    [[BLOCK_STATUS, 8]],
    extendedAt(AT)(1, true, STATUS, [32, 7], [32, 8], [32, 0]),
    /type 5/,
  ],
  [
    "the count of extents",
    EXTENDED,
    [[BLOCK_STATUS, 8]],
    extendedAt(AT)(1, true, STATUS_EXT, [32, 7], [32, 2], [64, 8], [64, 0]),
    /0x6/,
  ],
];

for (const [rule, terms, requests, reply, message] of BROKEN) {
  Deno.test(`ReplyDecoder ends a connection that breaks a rule: ${rule}`, () => {
    for (const chunkBytes of [reply.length, 1]) {
      const exchange = new Exchange(terms);
      for (const [command, length, flags = 0] of requests) exchange.ask(command, length, flags);
      assert.throws(() => exchange.answer(reply, chunkBytes), (error) => {
        assert.ok(error instanceof ProtocolError, String(error));
        assert.match(error.message, message);
        return true;
      });
    }
  });
}

Deno.test("ReplyDecoder joins single bytes in random order", () => {
  const length = READ_FRAGMENTS_MAX * 2;
  const random = new SeededRandom(5);
  const order = Array.from({ length }, (_, index) => index);
  for (let index = length - 1; index > 0; index -= 1) {
    const other = random.below(index + 1);
    [order[index], order[other]] = [order[other] ?? 0, order[index] ?? 0];
  }
  const whole = pattern(length);
  const exchange = new Exchange(STRUCTURED).ask(READ, length);
  for (const at of order) {
    exchange.answer(structured(1, false, DATA, [64, AT + at], whole.subarray(at, at + 1)));
  }
  exchange.answer(structured(1, true, NONE));
  assert.deepEqual(exchange.results[0]?.data, whole);
});

Deno.test("ReplyDecoder bounds the fragments of a read", () => {
  const exchange = new Exchange(STRUCTURED).ask(READ, 4 * READ_FRAGMENTS_MAX);
  assert.throws(() => {
    for (let index = 0; index <= READ_FRAGMENTS_MAX; index += 1) {
      exchange.answer(structured(1, false, HOLE, [64, AT + 2 * index + 1], [32, 1]));
    }
  }, /too many fragments/);
});

Deno.test("ReplyDecoder bounds the errors of a reply", () => {
  const exchange = new Exchange(STRUCTURED).ask(FLUSH, 0);
  assert.throws(() => {
    for (let index = 0; index <= ERROR_CHUNKS_MAX; index += 1) {
      exchange.answer(structured(1, false, ERROR, [32, 5], [16, 0]));
    }
  }, ProtocolError);
});
