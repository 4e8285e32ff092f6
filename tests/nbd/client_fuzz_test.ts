/**
 * Hostile servers: mutated golden bytes and random payloads. Whatever comes, the decoder ends in
 * ProtocolError or answers, each request at most once, and memory beside the callers' buffers stays.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import { negotiateExport, negotiateList } from "../../lib/nbd/client/handshake.ts";
import { StepRunner } from "../../lib/nbd/client/steps.ts";
import { COMMAND } from "../../lib/nbd/constants.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { SeededRandom } from "../support/context.ts";
import {
  ack,
  bytes,
  type ChunkWriter,
  DATA,
  ERROR,
  ERROR_OFFSET,
  EXTENDED as EXTENDED_HEADERS,
  extendedAt,
  GO,
  greeting,
  HOLE,
  inChunks,
  INFO,
  INFO_REPLY,
  infoExport,
  LIST,
  LIST_META,
  META,
  NONE,
  optionReply,
  SERVER,
  SET_META,
  STATUS,
  STATUS_EXT,
  structured,
} from "./client_bytes.ts";
import { askAll, AT, Exchange, EXTENDED, GOLDEN, SIMPLE, STRUCTURED } from "./client_reply_rows.ts";

const { READ, WRITE, BLOCK_STATUS } = COMMAND;

Deno.test("ReplyDecoder takes mutated bytes without any other error", () => {
  const random = new SeededRandom(42);
  let broken = 0, answered = 0;
  for (let round = 0; round < 20_000; round += 1) {
    const golden = GOLDEN[random.below(GOLDEN.length)];
    assert.ok(golden !== undefined);
    const reply = golden.reply.slice();
    for (let count = 1 + random.below(3); count > 0; count -= 1) {
      const at = random.below(reply.length);
      reply[at] = random.below(2) === 0
        ? random.below(256)
        : (reply[at] ?? 0) ^ (1 << random.below(8));
    }
    const end = random.below(4) === 0 ? random.below(reply.length) + 1 : reply.length;
    const exchange = askAll(golden);
    try {
      exchange.answer(reply.slice(0, end), 1 + random.below(40));
      answered += 1;
    } catch (error) {
      assert.ok(error instanceof ProtocolError, String(error));
      broken += 1;
    }
    for (const { count } of exchange.results) assert.ok(count <= 1);
    exchange.checkGuards();
  }
  assert.ok(broken > 1000 && answered > 1000, `${broken} broken, ${answered} answered`);
});

Deno.test("ReplyDecoder takes random bytes behind a good header without any other error", () => {
  const random = new SeededRandom(43);
  let broken = 0;
  for (let round = 0; round < 5000; round += 1) {
    const terms = [SIMPLE, STRUCTURED, EXTENDED][random.below(3)] ?? SIMPLE;
    const garbage = new Uint8Array(random.below(200) + 1);
    random.fill(garbage);
    const type = [NONE, DATA, HOLE, STATUS, STATUS_EXT, ERROR, ERROR_OFFSET][random.below(7)] ??
      NONE;
    const chunk: ChunkWriter = terms.extended ? extendedAt(AT) : structured;
    const exchange = new Exchange(terms).ask(
      [READ, BLOCK_STATUS, WRITE][random.below(3)] ?? READ,
      64,
    );
    try {
      exchange.answer(chunk(1, random.below(2) === 0, type, garbage), 1 + random.below(64));
    } catch (error) {
      assert.ok(error instanceof ProtocolError, String(error));
      broken += 1;
    }
    exchange.checkGuards();
  }
  assert.ok(broken > 1000, `${broken} broken`);
});

const HANDSHAKES = [
  {
    steps: () => negotiateExport({ exportName: "disk", tls: false }),
    script: bytes(
      greeting(3),
      ack(EXTENDED_HEADERS),
      optionReply(SET_META, META, [32, 7], "base:allocation"),
      ack(SET_META),
      optionReply(GO, INFO_REPLY, [16, 3], [32, 1], [32, 4096], [32, 1 << 25]),
      optionReply(GO, INFO_REPLY, [16, 2], "a description"),
      infoExport(GO, 4096, 1),
      ack(GO),
    ),
  },
  {
    steps: () => negotiateList({ exportName: "", tls: false }),
    script: bytes(
      greeting(3),
      ack(EXTENDED_HEADERS),
      optionReply(LIST, SERVER, [32, 1], "a", "words"),
      ack(LIST),
      infoExport(INFO, 4096, 1),
      ack(INFO),
      optionReply(LIST_META, META, [32, 7], "base:allocation"),
      ack(LIST_META),
    ),
  },
];

Deno.test("StepRunner takes mutated handshakes without any error but ProtocolError and BlockError", () => {
  const random = new SeededRandom(44);
  let broken = 0, done = 0;
  for (let round = 0; round < 10_000; round += 1) {
    const { steps, script } = HANDSHAKES[random.below(HANDSHAKES.length)] ?? {};
    assert.ok(steps !== undefined && script !== undefined);
    const mutated = script.slice();
    for (let count = random.below(4); count > 0; count -= 1) {
      mutated[random.below(mutated.length)] = random.below(256);
    }
    const runner = new StepRunner<unknown>(steps());
    try {
      inChunks(mutated, 1 + random.below(60), (chunk) => runner.receive(chunk));
      if (runner.result !== null) done += 1;
    } catch (error) {
      assert.ok(error instanceof ProtocolError || error instanceof BlockError, String(error));
      broken += 1;
    }
  }
  assert.ok(broken > 1000 && done > 1000, `${broken} broken, ${done} done`);
});
