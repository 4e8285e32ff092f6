/**
 * Replies to the client's requests as golden bytes, and a decoder with requests in flight to try them on.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { BlockError } from "../../lib/block/errors.ts";
import type { Extent } from "../../lib/block/types.ts";
import { type ClientRequest, Pending } from "../../lib/nbd/client/pending.ts";
import { ReplyDecoder, type ReplyTerms } from "../../lib/nbd/client/reply_decoder.ts";
import { COMMAND, COMMAND_FLAG } from "../../lib/nbd/constants.ts";
import {
  bytes,
  type ChunkWriter,
  DATA,
  ERROR,
  ERROR_OFFSET,
  extendedAt,
  HOLE,
  inChunks,
  NONE,
  pattern,
  simple,
  STATUS,
  STATUS_EXT,
  structured,
} from "./client_bytes.ts";

/** Terms of a connection. */
export const SIMPLE: ReplyTerms = { structured: false, extended: false, statusContext: null };
/** Terms of a connection. */
export const STRUCTURED: ReplyTerms = { structured: true, extended: false, statusContext: 7 };
/** Terms of a connection. */
export const EXTENDED: ReplyTerms = { structured: true, extended: true, statusContext: 7 };
/** Size of the export; requests are at AT. */
export const DEVICE = 1 << 20, AT = 4096;
const FILL = 0xee;
/** Bytes before and behind the data of a read that nobody may touch. */
const GUARD = 64;

/** What a request came to. */
export interface Result {
  error: BlockError | null;
  readonly data: Uint8Array;
  extents: Extent[];
  count: number;
}

/** Requests in flight under the cookies 1, 2, 3 …, and what the server sends. */
export class Exchange {
  readonly results: Result[] = [];
  readonly #guarded: Uint8Array[] = [];
  readonly #pending = new Map<number, Pending>();
  readonly #decoder: ReplyDecoder;

  constructor(terms: ReplyTerms) {
    this.#decoder = new ReplyDecoder(terms, {
      find: (cookie) => this.#pending.get(cookie),
      finished: (cookie, pending) => {
        this.#pending.delete(cookie);
        pending.settle();
      },
    });
  }

  get waiting(): number {
    return this.#pending.size;
  }

  get idle(): boolean {
    return this.#decoder.idle;
  }

  ask(command: number, length: number, flags = 0, offset = AT): this {
    const around = new Uint8Array((command === COMMAND.READ ? length : 0) + 2 * GUARD).fill(FILL);
    this.#guarded.push(around);
    const data = around.subarray(GUARD, around.length - GUARD);
    const result: Result = { error: null, data, extents: [], count: 0 };
    this.results.push(result);
    const done = (error: BlockError | null, extents: Extent[]): void => {
      Object.assign(result, { error, extents });
      result.count += 1;
    };
    const request: ClientRequest = { command, flags, offset, length, data, done };
    this.#pending.set(this.results.length, new Pending(request, DEVICE));
    return this;
  }

  /** Fails if a byte beside the data of a read was touched. */
  checkGuards(): void {
    for (const around of this.#guarded) {
      const beside = [...around.subarray(0, GUARD), ...around.subarray(around.length - GUARD)];
      assert.ok(beside.every((byte) => byte === FILL), "memory beside a buffer was changed");
    }
  }

  answer(whole: Uint8Array, chunkBytes = Infinity): this {
    inChunks(whole, Math.min(chunkBytes, whole.length), (chunk) => {
      const before = chunk.slice();
      this.#decoder.receive(chunk);
      assert.deepEqual(chunk, before, "a received chunk was changed");
    });
    return this;
  }
}

const { READ, WRITE, FLUSH, BLOCK_STATUS } = COMMAND;
const hole = (length: number): Extent => ({ length, allocated: false, zero: true });
const data = (length: number): Extent => ({ length, allocated: true, zero: false });

/** A conversation that is well: requests as [command, length, flags], the bytes, and what has to come of it. */
export interface Golden {
  readonly name: string;
  readonly terms: ReplyTerms;
  readonly requests: readonly (readonly [number, number, number?])[];
  readonly reply: Uint8Array;
  /** Of each request: data, extents, or errno with words. */
  readonly expected: readonly (Uint8Array | readonly Extent[] | readonly [string, RegExp] | null)[];
}

/** Conversations that are well. */
export const GOLDEN: readonly Golden[] = [
  {
    name: "simple replies out of order",
    terms: SIMPLE,
    requests: [[READ, 5], [FLUSH, 0], [READ, 3]],
    reply: bytes(simple(2, 0), simple(3, 0, pattern(3)), simple(1, 0, pattern(5, 9))),
    expected: [pattern(5, 9), null, pattern(3)],
  },
  {
    name: "simple errors, an unknown value among them",
    terms: SIMPLE,
    requests: [[READ, 5], [WRITE, 9], [WRITE, 9]],
    reply: bytes(simple(1, 5), simple(2, 28), simple(3, 4711)),
    expected: [["EIO", /read 5 bytes at 4096/], ["ENOSPC", /write/], ["EINVAL", /write/]],
  },
  ...[STRUCTURED, EXTENDED].flatMap((terms): Golden[] => {
    const chunk: ChunkWriter = terms.extended ? extendedAt(AT) : structured;
    const kind = terms.extended ? "extended" : "structured";
    const status = terms.extended
      ? (done: boolean, ...runs: [number, number][]): Uint8Array =>
        chunk(
          1,
          done,
          STATUS_EXT,
          [32, 7],
          [32, runs.length],
          ...runs.map(([length, flags]) => bytes([64, length], [64, flags])),
        )
      : (done: boolean, ...runs: [number, number][]): Uint8Array =>
        chunk(
          1,
          done,
          STATUS,
          [32, 7],
          ...runs.map(([length, flags]) => bytes([32, length], [32, flags])),
        );
    return [
      {
        name: `${kind}: data in one chunk`,
        terms,
        requests: [[READ, 700]],
        reply: chunk(1, true, DATA, [64, AT], pattern(700)),
        expected: [pattern(700)],
      },
      {
        name: `${kind}: chunks in any order, interleaved, with a hole and a NONE`,
        terms,
        requests: [[READ, 40], [READ, 20]],
        reply: bytes(
          chunk(1, false, DATA, [64, AT + 30], pattern(10, 3)),
          chunk(2, false, DATA, [64, AT + 10], pattern(10, 4)),
          chunk(1, false, HOLE, [64, AT + 10], [32, 20]),
          chunk(2, true, DATA, [64, AT], pattern(10, 5)),
          chunk(1, false, DATA, [64, AT], pattern(10, 6)),
          chunk(1, true, NONE),
        ),
        expected: [
          bytes(pattern(10, 6), new Uint8Array(20), pattern(10, 3)),
          bytes(pattern(10, 5), pattern(10, 4)),
        ],
      },
      {
        name: `${kind}: an error with words that a terminal must not see as they are`,
        terms,
        requests: [[WRITE, 9]],
        reply: chunk(1, true, ERROR, [32, 28], [16, 10], "full\x1b[31m\n"),
        expected: [["ENOSPC", /no space left on device: full \[31m$/]],
      },
      {
        name: `${kind}: words that say no more than the error does are not said twice`,
        terms,
        requests: [[WRITE, 9]],
        reply: chunk(1, true, ERROR, [32, 28], [16, 23], "no space left on device"),
        expected: [["ENOSPC", /answers no space left on device$/]],
      },
      {
        name: `${kind}: the first of several errors counts, data may still follow`,
        terms,
        requests: [[READ, 20]],
        reply: bytes(
          chunk(1, false, ERROR_OFFSET, [32, 5], [16, 3], "bad", [64, AT + 19]),
          chunk(1, false, DATA, [64, AT], pattern(10)),
          chunk(1, true, ERROR, [32, 22], [16, 0], "more"),
        ),
        expected: [["EIO", /input\/output error: bad$/]],
      },
      {
        name: `${kind}: an error type that nobody knows, without an error value`,
        terms,
        requests: [[FLUSH, 0]],
        reply: chunk(1, true, 0x8009, [32, 0], [16, 0], "what follows"),
        expected: [["EINVAL", /flush/]],
      },
      {
        name: `${kind}: unknown reply flags are passed over`,
        terms,
        requests: [[FLUSH, 0]],
        reply: withFlags(chunk(1, true, NONE), 0x8001),
        expected: [null],
      },
      {
        name: `${kind}: block status, alike extents joined, unknown flags passed over`,
        terms,
        requests: [[BLOCK_STATUS, 1000]],
        reply: status(true, [512, 3], [100, 0], [100, 4], [4096, 7]),
        expected: [[hole(512), data(200), hole(4096)]],
      },
      {
        name: `${kind}: block status that stops short, then NONE`,
        terms,
        requests: [[BLOCK_STATUS, 100_000]],
        reply: bytes(status(false, [512, 1]), chunk(1, true, NONE)),
        expected: [[{ length: 512, allocated: false, zero: false }]],
      },
      {
        name: `${kind}: block status is cut at the end of the device`,
        terms,
        requests: [[BLOCK_STATUS, 512]],
        reply: status(true, [0xffffffff, 2]),
        expected: [[{ length: DEVICE - AT, allocated: true, zero: true }]],
      },
      {
        name: `${kind}: block status with REQ_ONE`,
        terms,
        requests: [[BLOCK_STATUS, 512, COMMAND_FLAG.REQ_ONE]],
        reply: status(true, [512, 0]),
        expected: [[data(512)]],
      },
    ];
  }),
  {
    name: "extended: extents beyond 2^53",
    terms: EXTENDED,
    requests: [[BLOCK_STATUS, 512]],
    reply: extendedAt(AT)(1, true, STATUS_EXT, [32, 7], [32, 1], [64, 2n ** 63n], [64, 3]),
    expected: [[hole(DEVICE - AT)]],
  },
  {
    name: "structured: simple replies without data are allowed",
    terms: STRUCTURED,
    requests: [[FLUSH, 0], [READ, 8], [BLOCK_STATUS, 8]],
    reply: bytes(simple(1, 0), simple(2, 5), simple(3, 22)),
    expected: [null, ["EIO", /read/], ["EINVAL", /block status/]],
  },
];

function withFlags(chunk: Uint8Array, flags: number): Uint8Array {
  new DataView(chunk.buffer).setUint16(4, flags);
  return chunk;
}

/** Puts the requests of a conversation in flight. */
export function askAll({ terms, requests }: Golden): Exchange {
  const exchange = new Exchange(terms);
  for (const [command, length, flags = 0] of requests) exchange.ask(command, length, flags);
  return exchange;
}

/** Checks that everything came to what it should. */
export function check(golden: Golden, exchange: Exchange): void {
  assert.equal(exchange.waiting, 0);
  assert.ok(exchange.idle);
  golden.expected.forEach((expected, index) => {
    const result = exchange.results[index];
    assert.ok(result !== undefined);
    assert.equal(result.count, 1);
    const [errno, words] = Array.isArray(expected) ? expected : [];
    if (typeof errno === "string" && words instanceof RegExp) {
      assert.equal(result.error?.errno, errno);
      assert.match(result.error.message, words);
      return;
    }
    assert.equal(result.error, null);
    if (expected instanceof Uint8Array) assert.deepEqual(result.data, expected);
    else if (expected !== null) assert.deepEqual(result.extents, expected);
  });
}
