/**
 * Connections of the client: against the project's own server over a pair in memory, and against
 * servers that stop, lie or die in the middle.
 *
 * @module
 */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { memory } from "../../backends/memory.ts";
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { connectNbd, inspectExport, listExports } from "../../lib/nbd/client/connect.ts";
import type { NbdConnection } from "../../lib/nbd/client/connection.ts";
import type { Dial } from "../../lib/nbd/client/dial.ts";
import { COMMAND_FLAG } from "../../lib/nbd/constants.ts";
import { exportInfoOf } from "../../lib/nbd/export_info.ts";
import { serveConnection } from "../../lib/nbd/server.ts";
import type { NbdUri } from "../../lib/nbd/uri.ts";
import { memoryPair, type MemoryPairOptions } from "../../lib/stream/memory_pair.ts";
import type { BytePair } from "../../lib/stream/session.ts";
import { testClock, testContext } from "../../lib/testing/mod.ts";
import { ManualClock, SeededRandom } from "../support/context.ts";
import {
  ack,
  bytes,
  EXTENDED,
  GO,
  greeting,
  infoExport,
  optionReply,
  simple,
  STRUCTURED,
  UNSUP,
} from "./client_bytes.ts";

const URI: NbdUri = {
  address: { kind: "unix", path: "in-memory" },
  tls: false,
  exportName: "disk",
  tlsVerifyPeer: true,
};
const SIZE = 8 << 20;

/** A dialler that gives one end of a pair away and keeps nothing. */
function dialTo(serve: (pair: BytePair) => void, options: MemoryPairOptions = {}): Dial {
  return () => {
    const [mine, theirs] = memoryPair(options);
    serve(theirs);
    return Promise.resolve({
      pair: mine,
      encrypt: () => Promise.reject(new Error("no TLS here")),
      close: () => {
        mine.writable.close().catch(() => {});
        mine.readable.cancel().catch(() => {});
      },
    });
  };
}

interface Served {
  readonly connection: NbdConnection;
  readonly device: Device;
}

/** Runs `test` with a connection to a memory disk behind the project's server. */
async function withServer(
  options: MemoryPairOptions,
  test: (served: Served) => Promise<void>,
): Promise<void> {
  const context = testContext();
  const { backend } = await memory.open({ size: SIZE, limit: 2 * SIZE }, context);
  await using device = new Device(backend, { name: "disk", clock: testClock, log: context.log });
  const served: Promise<unknown>[] = [];
  const exports = new Map([["disk", exportInfoOf(device, { description: "for a test" })]]);
  const dial = dialTo((pair) => {
    const table = { exports, defaultExport: "disk", stopping: false };
    served.push(serveConnection(pair, { exports: table, open: () => ({ device }) }));
  }, options);
  {
    const listed = await listExports(URI, { clock: testClock, dial });
    assert.deepEqual(listed.exports.map(({ name }) => name), ["disk"]);
    const inspected = await inspectExport({ ...URI, exportName: "" }, { clock: testClock, dial });
    assert.equal(inspected.exports[0]?.description, "for a test");
    await using connection = await connectNbd(URI, { clock: testClock, dial });
    await test({ connection, device });
  }
  // A client that only asked says ABORT and hangs up: whether the server hears the one or sees the other
  // first is chance. The connection that was used has to end well.
  const [listing, inspecting, ...used] = served;
  await Promise.allSettled([listing, inspecting]);
  await Promise.all(used);
}

async function read(
  connection: NbdConnection,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const into = new Uint8Array(length).fill(0xee);
  await connection.read(into, offset);
  return into;
}

async function errnoOf(work: Promise<unknown>): Promise<string | null> {
  try {
    await work;
    return null;
  } catch (error) {
    assert.ok(error instanceof BlockError, String(error));
    return error.errno;
  }
}

for (const chunkBytesMax of [3, 1000, 1 << 20]) {
  Deno.test(`NbdConnection does every verb over chunks of ${chunkBytesMax} bytes`, async () => {
    await withServer({ chunkBytesMax }, async ({ connection }) => {
      const { negotiated } = connection;
      assert.equal(negotiated.size, SIZE);
      assert.ok(negotiated.extended && negotiated.statusContext !== null);
      const data = new Uint8Array(50_001);
      new SeededRandom(7).fill(data);
      await connection.write(data, 4097, COMMAND_FLAG.FUA);
      assert.deepEqual(await read(connection, 4097, data.length), data);
      await connection.zero(8192, 4096, COMMAND_FLAG.NO_HOLE);
      await connection.zero(12_288, 4096, 0);
      assert.deepEqual(await read(connection, 8192, 8192), new Uint8Array(8192));
      await connection.trim(16_384, 4096);
      await connection.cache(0, SIZE);
      await connection.flush();
      const extents = await connection.extents(0, SIZE);
      assert.equal(extents.reduce((sum, { length }) => sum + length, 0), SIZE);
      assert.deepEqual(extents.at(-1)?.zero, true);
      assert.equal(await errnoOf(connection.read(new Uint8Array(1), SIZE)), "EINVAL");
      assert.equal(await errnoOf(connection.write(new Uint8Array(1), SIZE)), "ENOSPC");
      assert.equal(connection.inFlight, 0);
    });
  });
}

Deno.test("NbdConnection keeps many requests in flight apart", async () => {
  await withServer({ bufferBytes: 64 * 1024, chunkBytesMax: 10_000 }, async ({ connection }) => {
    const random = new SeededRandom(11);
    const model = new Uint8Array(SIZE);
    const slot = 32 * 1024;
    const lane = async (start: number): Promise<void> => {
      for (let round = 0; round < 20; round += 1) {
        const length = 1 + random.below(slot), at = start + random.below(slot - length + 1);
        const data = new Uint8Array(length);
        random.fill(data);
        await connection.write(data, at);
        model.set(data, at);
        assert.deepEqual(await read(connection, start, slot), model.slice(start, start + slot));
      }
    };
    await Promise.all(Array.from({ length: 64 }, (_, index) => lane(index * slot)));
    assert.deepEqual(await read(connection, 0, SIZE), model);
  });
});

Deno.test("NbdConnection sends more requests than may be in flight", async () => {
  await withServer({}, async ({ connection }) => {
    const work = Array.from({ length: 2000 }, (_, index) => {
      const data = Uint8Array.of(index & 0xff, index >> 8);
      return connection.write(data, index * 2);
    });
    assert.ok(connection.inFlight > 1000);
    await Promise.all(work);
    const whole = await read(connection, 0, 4000);
    for (let index = 0; index < 2000; index += 1) {
      assert.equal((whole[2 * index] ?? 0) + 256 * (whole[2 * index + 1] ?? 0), index);
    }
  });
});

/** The other end of a connection, driven by hand. */
class HandServer {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #unread = new Uint8Array(0);

  constructor(pair: BytePair) {
    this.#reader = pair.readable.getReader();
    this.#writer = pair.writable.getWriter();
  }

  async send(...parts: readonly Uint8Array[]): Promise<void> {
    await this.#writer.write(bytes(...parts));
  }

  /** The next `length` bytes; null if the client has closed. */
  async take(length: number): Promise<Uint8Array | null> {
    while (this.#unread.length < length) {
      const { done, value } = await this.#reader.read();
      if (done) return null;
      this.#unread = new Uint8Array(bytes(this.#unread, value));
    }
    const taken = this.#unread.slice(0, length);
    this.#unread = this.#unread.slice(length);
    return taken;
  }

  /** Reads one compact request; gives its command and cookie. */
  async request(): Promise<{ command: number; cookie: number }> {
    const header = await this.take(28);
    assert.ok(header !== null, "the client has closed");
    const view = new DataView(header.buffer);
    return { command: view.getUint16(6), cookie: Number(view.getBigUint64(8)) };
  }

  async close(): Promise<void> {
    await this.#writer.close().catch(() => {});
    await this.#reader.cancel().catch(() => {});
  }
}

/** What a server says up to GO, for a disk of SIZE bytes with `flags`, without any extension. */
function opening(flags = 0b1101): Uint8Array {
  return bytes(
    greeting(3),
    optionReply(EXTENDED, UNSUP),
    optionReply(STRUCTURED, UNSUP),
    infoExport(GO, SIZE, flags),
    ack(GO),
  );
}

/** Bytes that the client sends up to GO: flags, two empty options, GO with three items. */
const OPENING_BYTES = 4 + 16 + 16 + 16 + 4 + 4 + 2 + 6;

interface ByHand {
  readonly connection: NbdConnection;
  readonly server: HandServer;
  readonly clock: ManualClock;
}

async function withHand(
  test: (parts: ByHand) => Promise<void>,
  options: { timeoutMs?: number; bufferBytes?: number } = {},
): Promise<void> {
  const clock = new ManualClock();
  const servers: HandServer[] = [];
  const dial = dialTo((pair) => {
    const server = new HandServer(pair);
    servers.push(server);
    void server.send(opening());
  }, options);
  const connection = await connectNbd(URI, { clock, dial, timeoutMs: options.timeoutMs ?? 0 });
  const [server] = servers;
  assert.ok(server !== undefined);
  await server.take(OPENING_BYTES);
  try {
    await test({ connection, server, clock });
  } finally {
    connection.abort(new Error("the test is over"));
    await connection.over;
    await server.close();
  }
}

Deno.test("NbdConnection fails what is in flight, and all that comes later, when the server goes away", async () => {
  await withHand(async ({ connection, server }) => {
    const work = [connection.read(new Uint8Array(8), 0), connection.flush()].map(errnoOf);
    await server.request();
    await server.close();
    assert.deepEqual(await Promise.all(work), ["EIO", "EIO"]);
    await connection.over;
    assert.equal(await errnoOf(connection.flush()), "ENOTCONN");
    assert.equal(connection.refusal?.errno, "ENOTCONN");
  });
});

Deno.test("NbdConnection fails everything when the server breaks the protocol", async () => {
  await withHand(async ({ connection, server }) => {
    const work = [connection.read(new Uint8Array(8), 0), connection.flush()];
    const { cookie } = await server.request();
    await server.send(simple(cookie + 100, 0));
    for (const each of work) {
      await assert.rejects(each, (error) => {
        assert.ok(error instanceof BlockError && error.errno === "EIO");
        assert.match(error.message, /no request 10\d is in flight/);
        return true;
      });
    }
  });
});

Deno.test("NbdConnection ends at bytes that come before any request", async () => {
  await withHand(async ({ connection, server }) => {
    await server.send(simple(1, 0));
    await connection.over;
    assert.equal(await errnoOf(connection.flush()), "ENOTCONN");
  });
});

Deno.test("NbdConnection.abort() fails what is in flight with its reason", async () => {
  await withHand(async ({ connection, server }) => {
    const work = connection.read(new Uint8Array(8), 0);
    await server.request();
    connection.abort(new BlockError("ECANCELED", "somebody pressed a key"));
    await assert.rejects(work, /pressed a key/);
    assert.equal(await errnoOf(connection.flush()), "ENOTCONN");
  });
});

Deno.test("NbdConnection fails with ETIMEDOUT when nothing moves for the time-out", async () => {
  await withHand(async ({ connection, server, clock }) => {
    const work = errnoOf(connection.read(new Uint8Array(8), 0));
    const { cookie } = await server.request();
    clock.advance(5_000_000);
    await server.send(simple(cookie, 0, new Uint8Array(4)));
    await setImmediate();
    clock.advance(5_000_000);
    await setImmediate();
    assert.equal(connection.refusal, null, "bytes came meanwhile");
    clock.advance(10_000_000);
    assert.equal(await work, "ETIMEDOUT");
  }, { timeoutMs: 10_000 });
});

Deno.test("NbdConnection keeps a buffer until its bytes are sent, though the reply came before", async () => {
  await withHand(async ({ connection, server }) => {
    let done = false;
    const data = new Uint8Array(4 << 20).fill(1);
    const work = errnoOf(connection.write(data, 0)).finally(() => done = true);
    const { cookie } = await server.request();
    await server.send(simple(cookie, 28));
    await setImmediate();
    assert.equal(done, false, "the buffer is still being sent");
    const payload = await server.take(data.length);
    assert.ok(payload?.every((byte) => byte === 1));
    assert.equal(await work, "ENOSPC");
    const next = errnoOf(connection.flush());
    await server.send(simple((await server.request()).cookie, 0));
    assert.equal(await next, null);
  }, { bufferBytes: 4096 });
});

Deno.test("NbdConnection says goodbye after what is in flight", async () => {
  await withHand(async ({ connection, server }) => {
    const work = errnoOf(connection.flush());
    const disposed = connection[Symbol.asyncDispose]();
    const { command, cookie } = await server.request();
    assert.equal(command, 3);
    assert.equal(await errnoOf(connection.flush()), "ESHUTDOWN");
    await server.send(simple(cookie, 0));
    assert.equal(await work, null);
    assert.equal((await server.request()).command, 2);
    assert.equal(await server.take(1), null);
    await disposed;
  });
});

Deno.test("NbdConnection leaves when the server is shutting down", async () => {
  await withHand(async ({ connection, server }) => {
    const work = errnoOf(connection.flush());
    await server.send(simple((await server.request()).cookie, 108));
    assert.equal(await work, "ESHUTDOWN");
    assert.equal((await server.request()).command, 2);
    assert.equal(await errnoOf(connection.flush()), "ESHUTDOWN");
    await connection.over;
  });
});

Deno.test("connectNbd() gives up on a server that says nothing", async () => {
  const clock = new ManualClock();
  const dial = dialTo(() => {});
  const work = errnoOf(connectNbd(URI, { clock, dial, timeoutMs: 1000 }));
  await setImmediate();
  clock.advance(1_000_000);
  assert.equal(await work, "ETIMEDOUT");
});

Deno.test("connectNbd() rejects with the signal's reason", async () => {
  const controller = new AbortController();
  const reason = new Error("never mind");
  const options = { clock: new ManualClock(), dial: dialTo(() => {}), signal: controller.signal };
  const work = connectNbd(URI, options);
  await setImmediate();
  controller.abort(reason);
  await assert.rejects(work, (error) => error === reason);
  await assert.rejects(connectNbd(URI, options), (error) => error === reason);
});

Deno.test("connectNbd() says what a server that hangs up may have meant", async () => {
  const dial = dialTo((pair) => {
    const server = new HandServer(pair);
    void server.send(greeting(0)).then(() => server.close());
  });
  await assert.rejects(connectNbd(URI, { clock: new ManualClock(), dial }), (error) => {
    assert.ok(error instanceof BlockError && error.errno === "ENOTCONN");
    assert.match(error.message, /no such export.*in-memory/);
    return true;
  });
});

Deno.test("connectNbd() turns a breach of the protocol into EPROTO", async () => {
  const dial = dialTo((pair) => {
    void new HandServer(pair).send(bytes("HTTP/1.1 400 Bad Request"));
  });
  assert.equal(await errnoOf(connectNbd(URI, { clock: new ManualClock(), dial })), "EPROTO");
});
