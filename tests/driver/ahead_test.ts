/** Reads on storage that works on several at a time and tells which are there: in what order and how far ahead. @module */
import assert from "node:assert/strict";
import { CONNECTION_REQUESTS_MAX } from "../../lib/block/limits.ts";
import type { Device } from "../../lib/block/device.ts";
import type { Backend } from "../../lib/block/types.ts";
import { AHEAD_READS_MAX } from "../../lib/nbd/limits.ts";
import { memoryPair } from "../../lib/stream/memory_pair.ts";
import { runSession } from "../../lib/stream/run_session.ts";
import { shutdown } from "../../lib/sys/socket.ts";
import { compact, deviceOver, joined, ram, sessionFor } from "../nbd/fixtures.ts";
import { DISC, ESHUTDOWN, READ, WRITE } from "../nbd/transmission_messages.ts";
import { type Client, withLoop } from "./loop_bed.ts";

const BLOCK = 512, BLOCKS = 2_048, REPLY = 16 + BLOCK;

interface Storage {
  readonly device: Device;
  /** Ranges that are under way, in the order of their announcement. */
  readonly underWay: number[];
  /** How many were, whenever it was waited for them. */
  readonly depths: number[];
  /** Ranges that were read without being announced. */
  readonly alone: number[];
  announced: number;
  forgotten: number;
  /** Which of those under way is there next. */
  choose: (count: number) => number;
}

/** A disk each of whose blocks begins with its number. */
function storage(): Storage {
  const content = new Uint8Array(BLOCK * BLOCKS);
  const view = new DataView(content.buffer);
  for (let block = 0; block < BLOCKS; block++) view.setUint32(block * BLOCK, block);
  const { backend } = ram({ content });
  const there = new Set<number>();
  const ahead: Backend = {
    ...backend,
    read: (into, offset) => {
      if (!there.delete(offset)) here.alone.push(offset / BLOCK);
      return backend.read(into, offset);
    },
    willRead: (offset) => {
      here.announced += 1;
      here.underWay.push(offset);
    },
    ahead: {
      isUnderWay: (offset) => here.underWay.includes(offset),
      look: (wait) => {
        if (!wait) return;
        here.depths.push(here.underWay.length);
        const [offset] = here.underWay.splice(here.choose(here.underWay.length), 1);
        assert.ok(offset !== undefined, "it would wait for ever");
        there.add(offset);
      },
      forget: () => {
        here.forgotten += 1;
        here.underWay.length = 0;
        there.clear();
      },
    },
  };
  const here: Storage = {
    device: deviceOver(ahead),
    ...{ underWay: [], depths: [], alone: [], announced: 0, forgotten: 0, choose: () => 0 },
  };
  return here;
}

function read(block: number): Uint8Array {
  return compact(READ, block, block * BLOCK, BLOCK);
}

/** The numbers of the blocks in replies; each has to be that of its cookie. */
function blocksIn(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found: number[] = [];
  assert.equal(bytes.length % REPLY, 0);
  for (let at = 0; at < bytes.length; at += REPLY) {
    assert.equal(view.getUint32(at + 4), 0, "an error came");
    assert.equal(view.getUint32(at + 12), view.getUint32(at + 16));
    found.push(view.getUint32(at + 16));
  }
  return found;
}

function numbers(count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, at) => from + at);
}

/** Makes turns until so many bytes have come. */
function turnUntil(loop: { turn(): number }, client: Client, bytes: number): void {
  for (let turns = 0; client.bytes.length < bytes; turns++) {
    assert.ok(turns < 5_000, `only ${client.bytes.length} bytes came`);
    loop.turn();
    client.take();
  }
  assert.equal(client.bytes.length, bytes);
}

Deno.test("reads are answered in the order in which the storage has them", async () => {
  const here = storage();
  here.choose = (count) => count - 1;
  await withLoop(({ loop, connect }) => {
    const { client } = connect();
    client.send(joined(numbers(16).map(read)));
    turnUntil(loop, client, 16 * REPLY);
    assert.deepEqual(blocksIn(client.bytes), [0, ...numbers(15, 1).reverse()]);
    assert.deepEqual(here.alone, [0]);
  }, { device: here.device });
  assert.equal(here.depths[0], 15);
});

Deno.test("a reply leaves as soon as it is there, and what its client asks for then is told at once", async () => {
  const here = storage(), depth = 32, rounds = 20;
  await withLoop(({ loop, connect }) => {
    const { client } = connect();
    let next = depth;
    client.send(joined(numbers(depth).map(read)));
    for (let seen = 0, turns = 0; seen < depth * rounds; turns++) {
      assert.ok(turns < 10_000);
      loop.turn();
      for (client.take(); (seen + 1) * REPLY <= client.bytes.length; seen++) {
        if (next < depth * rounds) client.send(read(next++));
      }
    }
    assert.deepEqual(blocksIn(client.bytes).sort((a, b) => a - b), numbers(depth * rounds));
    assert.deepEqual(here.alone, [0]);
  }, { device: here.device });
  // One more reply may be on its way than the client has seen.
  const steady = here.depths.slice(0, depth * (rounds - 1) - depth);
  assert.ok(steady.every((count) => count >= depth - 3), `depths ${steady.join()}`);
});

Deno.test("of many reads only so many are told at a time, and all are answered", async () => {
  const here = storage(), count = 4 * CONNECTION_REQUESTS_MAX;
  await withLoop(({ loop, connect }) => {
    const { client } = connect();
    client.send(joined(numbers(count).map(read)));
    turnUntil(loop, client, count * REPLY);
    assert.deepEqual(blocksIn(client.bytes).sort((a, b) => a - b), numbers(count));
  }, { device: here.device });
  assert.ok(Math.max(...here.depths) <= AHEAD_READS_MAX);
  assert.deepEqual(here.alone, [0]);
});

Deno.test("reads are told wherever their headers are cut, each once, and payloads are not taken for them", async () => {
  for (const cut of [1, 20, 27, 29, 100]) {
    const here = storage();
    await withLoop(({ loop, connect }) => {
      const { client } = connect();
      // A payload that is a request itself.
      const payload = joined([read(99), new Uint8Array(BLOCK - 28)]);
      const write = compact(WRITE, 7, 500 * BLOCK, BLOCK, { payload });
      const input = joined([...numbers(4).map(read), write, ...numbers(4, 4).map(read)]);
      here.choose = (count) => count - 1;
      client.send(input.slice(0, 4 * 28 + 3));
      loop.turn();
      for (let at = 4 * 28 + 3; at < input.length; at += cut) {
        client.send(input.slice(at, at + cut));
        loop.turn();
      }
      turnUntil(loop, client, 8 * REPLY + 16);
      assert.ok(!here.alone.includes(99));
      assert.ok(here.announced >= 3 && here.announced <= 7, `${here.announced} were told`);
    }, { device: here.device });
    assert.equal(here.underWay.length, 0);
  }
});

Deno.test("what comes before the end of a connection is answered", async () => {
  for (const end of ["DISC", "half-close"] as const) {
    const here = storage();
    await withLoop(({ loop, connect, ends }) => {
      const { client, id } = connect();
      here.choose = (count) => count - 1;
      const requests = numbers(12).map(read);
      if (end === "DISC") requests.push(compact(DISC, 0, 0, 0));
      client.send(joined(requests));
      if (end === "half-close") shutdown(client.fd, "write");
      turnUntil(loop, client, 12 * REPLY);
      for (let turns = 0; !client.ended; turns++) {
        assert.ok(turns < 100, "it does not end");
        loop.turn();
        client.take();
      }
      assert.deepEqual(blocksIn(client.bytes), [0, ...numbers(11, 1).reverse()]);
      if (end === "half-close") assert.equal(ends.get(id), null);
    }, { device: here.device });
  }
});

Deno.test("reads of a client that went away, or that failed, are given up", async () => {
  const here = storage();
  await withLoop(({ loop, connect }) => {
    const { client, id } = connect();
    client.send(joined(numbers(12).map(read)));
    loop.turn();
    assert.ok(here.underWay.length > 8);
    loop.cut(id, new Error("gone"));
    assert.equal(here.underWay.length, 0);
    assert.equal(here.forgotten, 1);
  }, { device: here.device });
});

Deno.test("a connection that is stopped answers what it has, without waiting for the storage", async () => {
  const here = storage();
  await withLoop(({ loop, connect }) => {
    const { client, id } = connect();
    client.send(joined(numbers(12).map(read)));
    loop.turn();
    client.take();
    const before = client.bytes.length / REPLY;
    assert.ok(Number.isInteger(before) && before < 12);
    loop.stop(id);
    const waits = here.depths.length;
    turnUntil(loop, client, before * REPLY + (12 - before) * 16);
    assert.equal(here.depths.length, waits);
    const refused = client.bytes.slice(before * REPLY);
    for (let at = 7; at < refused.length; at += 16) assert.equal(refused[at], ESHUTDOWN);
  }, { device: here.device });
});

Deno.test("several connections have their reads under way together", async () => {
  const here = storage();
  await withLoop(({ loop, connect }) => {
    const clients = numbers(4).map(() => connect().client);
    for (const [index, client] of clients.entries()) {
      client.send(joined(numbers(8, index * 100).map(read)));
    }
    for (const client of clients) turnUntil(loop, client, 8 * REPLY);
    for (const [index, client] of clients.entries()) {
      assert.deepEqual(blocksIn(client.bytes).sort((a, b) => a - b), numbers(8, index * 100));
    }
  }, { device: here.device });
  assert.ok(Math.max(...here.depths) >= 4 * 7 - 4, here.depths.join());
});

Deno.test("over streams reads are answered in the order in which the storage has them, too", async () => {
  const here = storage();
  here.choose = (count) => count - 1;
  await using device = here.device;
  const [client, server] = memoryPair();
  const running = runSession(server, sessionFor(device, "simple"));
  const writer = client.writable.getWriter();
  await writer.write(joined([...numbers(40).map(read), compact(DISC, 0, 0, 0)]));
  const parts: Uint8Array[] = [];
  for await (const part of client.readable) parts.push(part);
  await running;
  await writer.close().catch(() => {});
  assert.deepEqual(blocksIn(joined(parts)), [0, ...numbers(39, 1).reverse()]);
  assert.equal(here.depths[0], 39);
});
