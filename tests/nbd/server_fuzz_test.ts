/**
 * A seeded, bounded fuzzer for the server's decoders: random bytes, and valid exchanges with random
 * damage, cut anywhere. Nothing may be thrown but ProtocolError, no work may grow with what a client
 * merely announces, and the disk never sees a request outside it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import { ServerHandshake } from "../../lib/nbd/handshake_server.ts";
import type { TlsMode } from "../../lib/nbd/haggling.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import type { ByteSession } from "../../lib/stream/session.ts";
import { SeededRandom } from "../support/context.ts";
import { chunksOf, damaged } from "../support/damage.ts";
import { deviceOver, hex, joined, makeExport, ram, sessionFor, tableOf } from "./fixtures.ts";
import { META_ROWS } from "./handshake_meta_rows.ts";
import { FIXED } from "./handshake_messages.ts";
import { OPTION_ROWS } from "./handshake_rows.ts";
import { TLS_ROWS } from "./handshake_tls_rows.ts";
import { diskContent, diskExtents, planRequest, type Style } from "./random_requests.ts";

const STYLES: readonly Style[] = ["simple", "structured", "extended"];

/** Takes all output; returns its length. Fails if a session goes on giving output for ever. */
function drained(session: ByteSession, bytesMax: number): number {
  let total = 0;
  for (let out = session.takeOutput(); out !== null; out = session.takeOutput()) {
    total += out.bytes.length;
    out.release();
    assert.ok(total <= bytesMax, `${total} bytes of output`);
  }
  return total;
}

const TABLE = tableOf(
  makeExport("disk", { description: "a disk" }),
  makeExport("vm", { contexts: ["base:allocation", "qemu:dirty-bitmap:a"] }),
  makeExport("secret", { tlsRequired: true }),
);
const MODES: readonly TlsMode[] = ["off", "optional", "required"];
const SEEDS: readonly Uint8Array[] = [...OPTION_ROWS, ...META_ROWS, ...TLS_ROWS]
  .map(({ send }) => hex(send)).filter(({ length }) => length < 10_000);

Deno.test("ServerHandshake ends or goes on, whatever comes", () => {
  const ends = new Map<string, number>();
  for (let seed = 1; seed <= 6000; seed++) {
    const random = new SeededRandom(seed);
    const tls = MODES[random.below(3)] ?? "off";
    const handshake = new ServerHandshake({ exports: TABLE, tls, secured: false });
    let input: Uint8Array = new Uint8Array(random.below(200));
    random.fill(input);
    if (random.below(10) > 0) {
      const count = 1 + random.below(random.below(2) === 0 ? 1 : 4);
      const parts = Array.from({ length: count }, () => SEEDS[random.below(SEEDS.length)] ?? input);
      input = joined([hex(FIXED), damaged(joined(parts), random)]);
    }
    for (const chunk of chunksOf(input, random)) {
      const before = handshake.result;
      handshake.receive(chunk);
      // One option yields at most the list of exports or an echo of its name.
      drained(handshake, 64 * (chunk.length + 4096));
      if (before !== null && before.kind !== "starttls") assert.equal(handshake.result, before);
    }
    const kind = handshake.result?.kind ?? "open";
    ends.set(kind, (ends.get(kind) ?? 0) + 1);
    if (handshake.result?.kind === "transmission") {
      const { state } = handshake.result;
      const info = TABLE.exports.get(state.exportName);
      assert.ok(info !== undefined);
      assert.ok(!info.tlsRequired && tls !== "required", "an export that needs TLS was opened");
    }
    handshake.end(undefined);
    assert.equal(handshake.finished, true);
  }
  // The inputs reach every way to end.
  for (const kind of ["open", "transmission", "starttls", "close"]) {
    assert.ok((ends.get(kind) ?? 0) > 20, `${kind}: ${ends.get(kind)}`);
  }
});

Deno.test("ServerHandshake of a secured connection ends or goes on, whatever comes", () => {
  for (let seed = 1; seed <= 1000; seed++) {
    const random = new SeededRandom(seed);
    const handshake = new ServerHandshake({ exports: TABLE, tls: "required", secured: true });
    for (const chunk of chunksOf(damaged(SEEDS[seed % SEEDS.length] ?? hex(""), random), random)) {
      handshake.receive(chunk);
      drained(handshake, 64 * (chunk.length + 4096));
    }
    assert.notEqual(handshake.result?.kind, "starttls");
  }
});

Deno.test("NbdServerSession ends or goes on, whatever comes", async () => {
  let broken = 0, served = 0;
  const outside: string[] = [];
  for (let seed = 1; seed <= 900; seed++) {
    const random = new SeededRandom(seed);
    const style = STYLES[seed % 3] ?? "simple";
    const content = diskContent();
    const { backend, calls } = ram({
      content,
      extents: diskExtents,
      before: (verb, offset, length) => {
        // An assertion here would become an EIO.
        if (!(offset >= 0 && offset + length <= content.length)) outside.push(`${verb} ${offset}`);
        if (random.below(50) === 0 && verb !== "flush") throw new BlockError("EIO");
        return random.below(8) === 0 ? Promise.resolve() : undefined;
      },
    });
    const device = deviceOver(backend, seed % 10 === 0);
    const session = sessionFor(device, style);
    const plan = Array.from(
      { length: 1 + random.below(30) },
      (_, index) => planRequest(random, style, index),
    );
    let input: Uint8Array = damaged(joined(plan.map(({ bytes }) => bytes)), random);
    if (random.below(20) === 0) {
      input = new Uint8Array(500);
      random.fill(input);
    }
    try {
      for (const chunk of chunksOf(input, random)) {
        session.receive(chunk);
        // A read of the disk's whole size for each request at most.
        drained(session, (2 + chunk.length / 28) * (content.length + 4096));
        await Promise.resolve();
        // What a request announces is not taken before it comes.
        assert.ok(device.pool.takenBytes < 8 << 20, `${device.pool.takenBytes} bytes are taken`);
      }
    } catch (error) {
      assert.ok(error instanceof ProtocolError, String(error));
      assert.equal(session.failure, error);
      assert.equal(session.finished, true);
      broken += 1;
    }
    served += calls.length;
    session.end(undefined);
    await device.idle();
    for (let turn = 0; turn < 20; turn++) await Promise.resolve();
    assert.equal(session.finished, true);
    assert.equal(device.pool.takenCount, 0);
  }
  assert.deepEqual(outside, []);
  assert.ok(broken > 100 && served > 1000, `${broken} broken, ${served} calls`);
});
