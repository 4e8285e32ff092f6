/**
 * Tests of the server's handshake: golden bytes for each rule, then limits and the ways to end.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { HandshakeResult } from "../../lib/nbd/haggling.ts";
import { ServerHandshake } from "../../lib/nbd/handshake_server.ts";
import { HANDSHAKE_AHEAD_BYTES_MAX, OPTIONS_PER_HANDSHAKE_MAX } from "../../lib/nbd/limits.ts";
import { ascii, digits, hex, joined, makeExport, outputOf, show, tableOf } from "./fixtures.ts";
import {
  ACK,
  BASE,
  DISK,
  ERR_SHUTDOWN,
  EXPORT_NAME,
  exportReply,
  FIXED,
  FIXED_NO_ZEROES,
  FLAGS,
  GO,
  GREETING,
  INFO,
  infoData,
  LIST,
  metaData,
  option,
  refused,
  reply,
  type Row,
  SET_META,
  STARTTLS,
  STRUCTURED_REPLY,
} from "./handshake_messages.ts";
import { META_ROWS } from "./handshake_meta_rows.ts";
import { OPTION_ROWS } from "./handshake_rows.ts";
import { TLS_ROWS } from "./handshake_tls_rows.ts";

const ROWS = [...OPTION_ROWS, ...META_ROWS, ...TLS_ROWS];

function resultOf(handshake: ServerHandshake): HandshakeResult | null {
  return handshake.result;
}

function play(row: Row, cut: (bytes: Uint8Array) => Uint8Array[]): [Uint8Array, ServerHandshake] {
  const handshake = new ServerHandshake({
    exports: row.table ?? tableOf(DISK),
    tls: row.tls ?? "off",
    secured: row.secured ?? false,
  });
  const input = row.secured === true ? hex(row.send) : hex((row.flags ?? FIXED) + row.send);
  const outputs = [outputOf(handshake)];
  for (const chunk of cut(input)) {
    // A driver stops as soon as there is a result; what it has not read yet comes after it.
    if (handshake.result !== null) break;
    handshake.receive(chunk);
    outputs.push(outputOf(handshake));
  }
  return [joined(outputs), handshake];
}

function check(row: Row, output: Uint8Array, { result }: ServerHandshake): void {
  const expected = row.secured === true ? hex(row.expect) : joined([GREETING, hex(row.expect)]);
  assert.equal(show(output), show(expected));
  assert.equal(result?.kind, row.end);
  if (result?.kind === "close" && row.reason !== undefined) assert.match(result.reason, row.reason);
  if (result?.kind === "transmission") {
    for (const [key, value] of Object.entries(row.state ?? {})) {
      assert.deepEqual(Object.entries(result.state).find(([name]) => name === key)?.[1], value);
    }
    assert.deepEqual(structuredClone(result.state), result.state);
  }
}

Deno.test("ServerHandshake answers as the protocol document says", async (t) => {
  for (const row of ROWS) {
    await t.step(row.rule, () => {
      const [output, handshake] = play(row, (bytes) => [bytes]);
      check(row, output, handshake);
      if (handshake.result?.kind === "transmission") {
        assert.equal(handshake.result.unread.toHex(), row.unread ?? "");
      }
    });
  }
});

Deno.test("ServerHandshake does not care where chunks end", () => {
  for (const row of ROWS) {
    // Rows about what comes too early depend on how it comes.
    if (/bytes behind STARTTLS/.test(row.rule)) continue;
    const long = row.send.length > 10_000;
    for (const size of long ? [1000] : [1, 3, 17]) {
      const [output, handshake] = play(row, (bytes) => {
        const count = Math.ceil(bytes.length / size);
        return Array.from({ length: count }, (_, i) => bytes.slice(i * size, (i + 1) * size));
      });
      check(row, output, handshake);
    }
  }
});

Deno.test("ServerHandshake keeps the client's flags over STARTTLS and forgets what was agreed on", () => {
  const exports = tableOf(DISK);
  const before = new ServerHandshake({ exports, tls: "optional", secured: false });
  before.receive(hex(FIXED_NO_ZEROES + option(STRUCTURED_REPLY)));
  before.receive(hex(option(SET_META, metaData("disk", BASE)) + option(STARTTLS)));
  assert.ok(before.result?.kind === "starttls");
  const { clientFlags } = before.result;
  assert.equal(clientFlags, 3);
  const after = new ServerHandshake({ exports, tls: "optional", secured: true, clientFlags });
  // "the server MUST NOT preserve any negotiation state issued before this command"; no greeting.
  assert.equal(after.takeOutput(), null);
  after.receive(hex(option(EXPORT_NAME, ascii("disk"))));
  assert.equal(show(outputOf(after)), show(hex("0000000000100000" + digits(FLAGS, 16))));
  assert.ok(after.result?.kind === "transmission");
  assert.equal(after.result.state.structured, false);
  assert.deepEqual(after.result.state.contexts, []);
});

Deno.test("ServerHandshake ends when bytes come between STARTTLS and TLS", () => {
  const handshake = new ServerHandshake({
    exports: tableOf(DISK),
    tls: "optional",
    secured: false,
  });
  handshake.receive(hex(FIXED + option(STARTTLS)));
  assert.equal(resultOf(handshake)?.kind, "starttls");
  handshake.receive(hex(option(GO, infoData("disk"))));
  assert.equal(handshake.result?.kind, "close");
});

Deno.test("ServerHandshake waits with options until their replies can leave", () => {
  const many = Array.from({ length: 500 }, (_, i) => makeExport(`${"e".repeat(200)}${i}`));
  const handshake = new ServerHandshake({ exports: tableOf(...many), tls: "off", secured: false });
  outputOf(handshake);
  handshake.receive(hex(FIXED));
  const lists = 100;
  handshake.receive(hex(option(LIST).repeat(lists)));
  assert.equal(handshake.ready, false);
  let longest = 0, acks = 0, total = 0;
  for (let out = handshake.takeOutput(); out !== null; out = handshake.takeOutput()) {
    longest = Math.max(longest, out.bytes.length);
    total += out.bytes.length;
    acks += out.bytes.toHex().split(reply(LIST, ACK)).length - 1;
    out.release();
  }
  assert.equal(acks, lists);
  // One list at most is held at a time.
  assert.ok(longest < 150_000 && total > 10_000_000, `${longest} of ${total}`);
  assert.equal(handshake.ready, true);
  assert.equal(resultOf(handshake), null);
});

Deno.test("ServerHandshake ends with a client that does not wait for replies", () => {
  const many = Array.from({ length: 500 }, (_, i) => makeExport(`${"e".repeat(200)}${i}`));
  const handshake = new ServerHandshake({ exports: tableOf(...many), tls: "off", secured: false });
  handshake.receive(hex(FIXED));
  const chunk = hex(option(LIST).repeat(1024));
  for (let sent = 0; sent <= HANDSHAKE_AHEAD_BYTES_MAX; sent += chunk.length) {
    assert.equal(resultOf(handshake), null);
    handshake.receive(chunk);
  }
  assert.equal(handshake.result?.kind, "close");
});

Deno.test("ServerHandshake counts options", () => {
  const handshake = new ServerHandshake({ exports: tableOf(DISK), tls: "off", secured: false });
  handshake.receive(hex(FIXED));
  const one = hex(option(99));
  for (let count = 0; count < OPTIONS_PER_HANDSHAKE_MAX; count++) {
    handshake.receive(one);
    outputOf(handshake);
  }
  assert.equal(resultOf(handshake), null);
  handshake.receive(one);
  assert.ok(handshake.result?.kind === "close");
  assert.match(handshake.result.reason, /more than 16384 options/);
});

Deno.test("ServerHandshake sees changes of the table at the next option", () => {
  const exports = new Map([["disk", DISK]]);
  const table = { exports, defaultExport: "disk", stopping: false };
  const handshake = new ServerHandshake({ exports: table, tls: "off", secured: false });
  handshake.receive(hex(FIXED));
  outputOf(handshake);
  exports.set("late", makeExport("late", { size: 4096 }));
  handshake.receive(hex(option(INFO, infoData("late"))));
  const found = exportReply(INFO, 4096, FLAGS) + reply(INFO, ACK);
  assert.equal(show(outputOf(handshake)), show(hex(found)));
  table.stopping = true;
  handshake.receive(hex(option(INFO, infoData("late"))));
  const down = refused(INFO, ERR_SHUTDOWN, "Cannot do INFO: the server is shutting down");
  assert.equal(show(outputOf(handshake)), show(hex(down)));
});

Deno.test("ServerHandshake.end() leaves a result and no output", () => {
  const handshake = new ServerHandshake({ exports: tableOf(DISK), tls: "off", secured: false });
  handshake.end(undefined);
  assert.equal(handshake.takeOutput(), null);
  assert.ok(handshake.result?.kind === "close");
  assert.match(handshake.result.reason, /went away/);
});
