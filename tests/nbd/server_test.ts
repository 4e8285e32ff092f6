/**
 * Tests of NBD service over Web Streams: a whole connection, TLS in its middle, and the ways to fail.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Device } from "../../lib/block/device.ts";
import { exportInfoOf, type ExportTable } from "../../lib/nbd/export_info.ts";
import {
  type ConnectionEnd,
  serveConnection,
  type ServeConnectionOptions,
  serveTransmission,
} from "../../lib/nbd/server.ts";
import type { NbdServerSession } from "../../lib/nbd/server_session.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { memoryPair } from "../../lib/stream/memory_pair.ts";
import type { BytePair } from "../../lib/stream/session.ts";
import {
  ascii,
  assertSame,
  deviceOver,
  digits,
  hex,
  joined,
  makeExport,
  ram,
  stateFor,
  tableOf,
} from "./fixtures.ts";
import {
  ABORT,
  ACK,
  EXPORT_NAME,
  exportReply,
  FIXED_NO_ZEROES,
  FLAG_DF,
  FLAGS,
  GO,
  GREETING,
  infoData,
  option,
  reply,
  STARTTLS,
  STRUCTURED_REPLY,
} from "./handshake_messages.ts";
import { chunk, DISC, READ, request, simple } from "./transmission_messages.ts";

const MIB = 1 << 20;

/** A client that writes and reads bytes. */
class Client {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(pair: BytePair) {
    this.#writer = pair.writable.getWriter();
    this.#reader = pair.readable.getReader();
  }

  async send(text: string): Promise<void> {
    await this.#writer.write(hex(text));
  }

  /** Fails unless these bytes come next. */
  async expect(text: string | Uint8Array): Promise<void> {
    const expected = typeof text === "string" ? hex(text) : text;
    while (this.#rest.length < expected.length) {
      const { done, value } = await this.#reader.read();
      assert.ok(!done, `the server ended after ${this.#rest.length} bytes`);
      this.#rest = joined([this.#rest, value]);
    }
    assertSame(this.#rest.subarray(0, expected.length), expected);
    this.#rest = this.#rest.subarray(expected.length);
  }

  /** Fails unless the server ends the connection without another byte. */
  async expectEnd(): Promise<void> {
    const end = await this.#reader.read().catch(() => ({ done: true }));
    assert.ok(end.done && this.#rest.length === 0);
  }

  async close(): Promise<void> {
    await this.#writer.close();
    await this.#reader.cancel();
  }

  /** Lets go of the streams, so that TLS can begin over them. */
  release(): void {
    this.#writer.releaseLock();
    this.#reader.releaseLock();
  }
}

interface Served {
  readonly client: Client;
  readonly pair: BytePair;
  readonly end: Promise<ConnectionEnd>;
  readonly closed: string[];
}

function serve(device: Device, options: Partial<ServeConnectionOptions> = {}): Served {
  const [clientPair, pair] = memoryPair();
  const closed: string[] = [];
  const end = serveConnection(pair, {
    exports: tableOf(exportInfoOf(device)),
    open: (state) => ({ device, close: () => void closed.push(state.exportName) }),
    ...options,
  });
  end.catch(() => {});
  return { client: new Client(clientPair), pair, end, closed };
}

Deno.test("serveConnection() runs the handshake and the transmission phase", async () => {
  await using device = deviceOver(ram().backend);
  const { client, end, closed } = serve(device);
  await client.expect(GREETING);
  await client.send(FIXED_NO_ZEROES + option(STRUCTURED_REPLY));
  await client.expect(reply(STRUCTURED_REPLY, ACK));
  // What comes right behind GO belongs to the transmission phase.
  await client.send(option(GO, infoData("")) + request(READ, 1, 2));
  await client.expect(exportReply(GO, MIB, FLAGS | FLAG_DF) + reply(GO, ACK));
  await client.expect(chunk(1, 1, "0000000000000001" + "0102"));
  assert.deepEqual(closed, []);
  await client.send(request(DISC, 0, 0));
  await client.expectEnd();
  const served = await end;
  assert.ok(served.kind === "served");
  assert.equal(served.state.exportName, "disk");
  assert.deepEqual(closed, ["disk"]);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("serveConnection() goes on over TLS after STARTTLS", async () => {
  await using device = deviceOver(ram().backend);
  // The "TLS" of this test is another pair of streams.
  const [insideClient, insideServer] = memoryPair();
  let upgraded: BytePair | null = null;
  const { client, pair, end } = serve(device, {
    tls: "required",
    upgrade: (from) => {
      upgraded = from;
      return Promise.resolve(insideServer);
    },
  });
  await client.expect(GREETING);
  await client.send(FIXED_NO_ZEROES + option(STARTTLS));
  await client.expect(reply(STARTTLS, ACK));
  const inside = new Client(insideClient);
  await inside.send(option(GO, infoData("disk")));
  await inside.expect(exportReply(GO, MIB, FLAGS) + reply(GO, ACK));
  assert.equal(upgraded, pair);
  await inside.send(request(READ, 0, 1) + request(DISC, 0, 0));
  await inside.expect(simple(0, "00"));
  await inside.expectEnd();
  const served = await end;
  assert.ok(served.kind === "served" && served.state.secured);
});

Deno.test("serveConnection() takes up a handshake whose STARTTLS was answered elsewhere", async () => {
  await using device = deviceOver(ram().backend);
  const session = Promise.withResolvers<NbdServerSession>();
  const { client, end } = serve(device, {
    tls: "required",
    secured: { clientFlags: 1 },
    started: session.resolve,
  });
  await client.send(option(EXPORT_NAME, ascii("disk")));
  // No greeting, and the zeroes that the client did not do without.
  await client.expect("0000000000100000" + digits(FLAGS, 16) + "00".repeat(124));
  (await session.promise).stop();
  await client.expectEnd();
  const served = await end;
  assert.ok(served.kind === "served" && served.state.secured);
});

Deno.test("serveConnection() closes after ABORT, and tells why", async () => {
  await using device = deviceOver(ram().backend);
  const { client, end, closed } = serve(device);
  await client.send(FIXED_NO_ZEROES + option(ABORT));
  await client.expect(joined([GREETING, hex(reply(ABORT, ACK))]));
  await client.expectEnd();
  assert.deepEqual(await end, { kind: "closed", reason: "the client ended the handshake" });
  assert.deepEqual(closed, []);
});

Deno.test("serveConnection() does not mind a client that leaves without the answer to ABORT", async () => {
  await using device = deviceOver(ram().backend);
  let writes = 0;
  const pair: BytePair = {
    readable: ReadableStream.from([hex(FIXED_NO_ZEROES + option(ABORT))]),
    writable: new WritableStream({
      write: () => {
        writes += 1;
        if (writes > 1) throw new Error("broken pipe");
      },
    }),
  };
  const end = await serveConnection(pair, {
    exports: tableOf(),
    open: () => ({ device }),
  });
  assert.equal(writes, 2);
  assert.deepEqual(end, { kind: "closed", reason: "the client ended the handshake" });
});

Deno.test("serveConnection() closes when the client goes away during the handshake", async () => {
  await using device = deviceOver(ram().backend);
  const { client, end } = serve(device);
  await client.expect(GREETING);
  await client.close();
  assert.deepEqual(await end, { kind: "closed", reason: "the client went away" });
});

Deno.test("serveConnection() rejects with what failed and ends the connection", async (t) => {
  const go = FIXED_NO_ZEROES + option(GO, infoData("disk"));
  const rows: readonly (readonly [string, Partial<ServeConnectionOptions>, string, RegExp])[] = [
    ["open", { open: () => Promise.reject(new Error("no such disk")) }, go, /no such disk/],
    [
      "upgrade",
      { tls: "optional", upgrade: () => Promise.reject(new Error("bad certificate")) },
      FIXED_NO_ZEROES + option(STARTTLS),
      /bad certificate/,
    ],
    [
      "a missing upgrade",
      { tls: "optional" },
      FIXED_NO_ZEROES + option(STARTTLS),
      /`upgrade` is missing/,
    ],
  ];
  for (const [what, options, send, message] of rows) {
    await t.step(what, async () => {
      await using device = deviceOver(ram().backend);
      const { client, end } = serve(device, options);
      await client.expect(GREETING);
      await client.send(send);
      await assert.rejects(end, message);
    });
  }
});

Deno.test("serveConnection() rejects when the client breaks the protocol", async (t) => {
  const go = FIXED_NO_ZEROES + option(GO, infoData("disk"));
  const bad = "11".repeat(28);
  const rows = [["right behind the handshake", go + bad, ""], ["later", go, bad]] as const;
  for (const [what, first, second] of rows) {
    await t.step(what, async () => {
      await using device = deviceOver(ram().backend);
      const { client, end, closed } = serve(device);
      await client.expect(GREETING);
      await client.send(first);
      await client.expect(exportReply(GO, MIB, FLAGS) + reply(GO, ACK));
      if (second !== "") await client.send(second);
      await assert.rejects(end, ProtocolError);
      await client.expectEnd();
      assert.deepEqual(closed, ["disk"]);
      assert.equal(device.pool.takenCount, 0);
    });
  }
});

Deno.test("serveConnection() ends when its signal aborts", async (t) => {
  for (const phase of ["before", "handshake", "transmission"]) {
    await t.step(phase, async () => {
      await using device = deviceOver(ram().backend);
      const controller = new AbortController();
      const reason = new Error("stop");
      if (phase === "before") controller.abort(reason);
      const { client, end, closed } = serve(device, { signal: controller.signal });
      if (phase !== "before") await client.expect(GREETING);
      if (phase === "transmission") {
        await client.send(FIXED_NO_ZEROES + option(GO, infoData("disk")) + request(READ, 0, 1));
        await client.expect(exportReply(GO, MIB, FLAGS) + reply(GO, ACK) + simple(0, "00"));
      }
      controller.abort(reason);
      await assert.rejects(end, reason);
      await client.expectEnd();
      assert.deepEqual(closed, phase === "transmission" ? ["disk"] : []);
    });
  }
});

Deno.test("serveTransmission() ends after NbdServerSession.stop()", async () => {
  await using device = deviceOver(ram().backend);
  const [clientPair, pair] = memoryPair();
  const client = new Client(clientPair);
  const session = Promise.withResolvers<NbdServerSession>();
  const serving = serveTransmission(pair, stateFor(device, "simple"), hex(request(READ, 0, 1)), {
    device,
    started: session.resolve,
  });
  await client.expect(simple(0, "00"));
  (await session.promise).stop();
  await client.expectEnd();
  await serving;
});

Deno.test("serveConnection() serves many clients of one device", async () => {
  await using device = deviceOver(ram().backend);
  const info = exportInfoOf(device, { name: "shared" });
  const exports: ExportTable = tableOf(info, makeExport("other"));
  const clients = Array.from({ length: 20 }, () => serve(device, { exports }));
  await Promise.all(clients.map(async ({ client }, index) => {
    await client.expect(GREETING);
    await client.send(FIXED_NO_ZEROES + option(GO, infoData("shared")));
    await client.expect(exportReply(GO, MIB, FLAGS) + reply(GO, ACK));
    await client.send(request(READ, index, 1));
    await client.expect(simple(0, index.toString(16).padStart(2, "0")));
    await client.close();
  }));
  for (const { end, closed } of clients) {
    assert.equal((await end).kind, "served");
    assert.deepEqual(closed, ["shared"]);
  }
  assert.equal(device.pool.takenCount, 0);
});
