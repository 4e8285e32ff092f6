/**
 * Tests of the transmission phase against golden bytes, in all three styles of replies.
 *
 * @module
 */
import assert from "node:assert/strict";
import { TRANSMISSION } from "../../lib/nbd/constants.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { EXTENDED_ROWS } from "./extended_rows.ts";
import {
  assertSame,
  deviceOver,
  digits,
  hex,
  joined,
  outputOf,
  ram,
  sessionFor,
  show,
  stateFor,
} from "./fixtures.ts";
import { SIMPLE_ROWS } from "./simple_rows.ts";
import { STRUCTURED_ROWS } from "./structured_rows.ts";
import {
  COOKIE,
  type Exchange,
  PAYLOAD_LEN,
  READ,
  request,
  wideRequest,
  WRITE,
} from "./transmission_messages.ts";

type Style = "simple" | "structured" | "extended";

const SUITES: readonly [Style, Exchange[]][] = [
  ["simple", SIMPLE_ROWS],
  ["structured", STRUCTURED_ROWS],
  ["extended", EXTENDED_ROWS],
];

async function play(style: Style, row: Exchange, pieceBytes: number): Promise<void> {
  const { backend, calls } = ram(row.ram);
  await using device = deviceOver(backend);
  const { flags } = stateFor(device, style);
  const session = sessionFor(
    device,
    style,
    row.shownReadOnly === true ? { flags: flags | TRANSMISSION.READ_ONLY } : {},
  );
  const input = hex(row.send);
  const outputs: Uint8Array[] = [];
  for (let at = 0; at < input.length && !session.finished; at += pieceBytes) {
    assert.ok(session.ready);
    session.receive(input.slice(at, at + pieceBytes));
    outputs.push(outputOf(session));
  }
  assertSame(joined(outputs), hex(row.expect));
  if (row.calls !== undefined) assert.deepEqual(calls, row.calls);
  assert.equal(session.finished, row.finished ?? false);
  session.end(undefined);
  assert.equal(session.finished, true);
  assert.equal(device.pool.takenCount, 0);
}

for (const [style, rows] of SUITES) {
  Deno.test(`NbdServerSession answers as the protocol document says, ${style} replies`, async (t) => {
    for (const row of rows) {
      await t.step(row.rule, () => play(style, row, Infinity));
    }
  });

  Deno.test(`NbdServerSession does not care where chunks end, ${style} replies`, async () => {
    for (const row of rows) {
      for (const pieceBytes of [1, 5, 29]) await play(style, row, pieceBytes);
    }
  });
}

Deno.test("NbdServerSession ends with a client that breaks the protocol", async (t) => {
  const rows: readonly (readonly [string, Style, string, RegExp])[] = [
    ["the magic of a reply", "simple", "67446698" + "00".repeat(24), /begins with 0x67446698/],
    [
      "a compact request where extended headers were agreed on",
      "extended",
      request(READ, 0, 1) +
      "00000000",
      /begins with 0x25609513/,
    ],
    [
      "an extended request where they were not",
      "structured",
      wideRequest(READ, 0, 1),
      /0x21e41c71/,
    ],
    ["a write of more than 64 MiB", "simple", request(WRITE, 0, (64 << 20) + 1), /67108865 bytes/],
    ["a write of 2^32 - 1 bytes", "structured", request(WRITE, 0, 0xffffffff), /4294967295 bytes/],
    [
      "an extended write of 2^63 bytes",
      "extended",
      wideRequest(WRITE, 0, 2n ** 63n, PAYLOAD_LEN),
      /WRITE with 9223372036854\d* bytes/,
    ],
    [
      "a payload of more than 64 MiB",
      "extended",
      wideRequest(READ, 0, 2 ** 32, PAYLOAD_LEN),
      /READ with 4294967296 bytes/,
    ],
    [
      "an extended write that says that no payload follows",
      "extended",
      wideRequest(WRITE, 0, 1),
      /does not say that a payload follows/,
    ],
  ];
  for (const [what, style, send, message] of rows) {
    await t.step(what, async () => {
      await using device = deviceOver(ram().backend);
      const session = sessionFor(device, style);
      assert.throws(
        () => session.receive(hex(send)),
        (error) => error instanceof ProtocolError && message.test(error.message),
      );
      assert.equal(session.finished, true);
      assert.ok(session.failure instanceof ProtocolError);
      session.end(session.failure);
      assert.equal(device.pool.takenCount, 0);
    });
  }
});

Deno.test("NbdServerSession carries reads and writes of 64 MiB", async () => {
  const length = 64 << 20;
  await using device = deviceOver(ram({ size: length, content: new Uint8Array(length) }).backend);
  const session = sessionFor(device, "structured");
  const payload = new Uint8Array(length).fill(0x5a);
  session.receive(hex(request(WRITE, 0, length)));
  for (let at = 0; at < length; at += 1 << 20) session.receive(payload.slice(at, at + (1 << 20)));
  assert.equal(show(outputOf(session)), show(hex("67446698" + "00000000" + COOKIE)));
  session.receive(hex(request(READ, 0, length)));
  const output = outputOf(session);
  const header = "668e33ef" + "0001" + "0001" + COOKIE + digits(length + 8, 32) + "00".repeat(8);
  assert.equal(show(output.subarray(0, 28)), show(hex(header)));
  assert.equal(output.length, 28 + length);
  assert.equal(output.indexOf(0x00, 28), -1);
  session.end(undefined);
  assert.equal(device.pool.takenCount, 0);
});
