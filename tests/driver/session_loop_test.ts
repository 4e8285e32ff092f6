/** Tests of the blocking driver: NBD sessions over pairs of sockets, one turn at a time. @module */
import assert from "node:assert/strict";
import { SEND_STALL_MS_MAX } from "../../lib/driver/limits.ts";
import { clearEvent, signalEvent } from "../../lib/sys/poll.ts";
import { shutdown } from "../../lib/sys/socket.ts";
import { assertSame, compact, joined } from "../nbd/fixtures.ts";
import { readReplies } from "../nbd/reply_reader.ts";
import { DISC, READ, WRITE } from "../nbd/transmission_messages.ts";
import { SeededRandom } from "../support/context.ts";
import { withLoop } from "./loop_bed.ts";

const KIB = 1024;

Deno.test("SessionLoop serves input however it is cut", () =>
  withLoop(({ loop, connect }) => {
    const random = new SeededRandom(7);
    const { client } = connect();
    const requests: Uint8Array[] = [];
    for (let cookie = 0; cookie < 200; cookie++) {
      const length = 1 + random.uint32() % 5_000, offset = random.uint32() % (500 * KIB);
      const payload = new Uint8Array(length).fill(cookie);
      // What is written is not read: the upper half of the disk stays as it was.
      if (cookie % 2 === 0) requests.push(compact(WRITE, cookie, offset, length, { payload }));
      else requests.push(compact(READ, cookie, 512 * KIB + offset, length));
    }
    const lengths = requests.map((_, cookie) =>
      cookie % 2 === 0 ? 0 : readLength(requests[cookie])
    );
    const stream = joined(requests);
    for (let at = 0; at < stream.length;) {
      const piece = stream.subarray(at, at + 1 + random.uint32() % 9_000);
      client.send(piece);
      at += piece.length;
      loop.turn();
      client.take();
    }
    const answers = readReplies(client.bytes, "simple", (cookie) => ({
      read: Number(cookie) % 2 === 1,
      offset: 0n,
      length: BigInt(lengths[Number(cookie)] ?? 0),
    }));
    assert.equal(answers.size, 200);
    for (const [cookie, { error, data }] of answers) {
      assert.equal(error, 0);
      if (data === null) continue;
      const start = readOffset(requests[Number(cookie)]);
      assertSame(data, Uint8Array.from({ length: data.length }, (_, i) => start + i));
    }
  }));

function readLength(request: Uint8Array | undefined): number {
  assert.ok(request !== undefined);
  return new DataView(request.buffer, request.byteOffset).getUint32(24);
}

function readOffset(request: Uint8Array | undefined): number {
  assert.ok(request !== undefined);
  return new DataView(request.buffer, request.byteOffset).getUint32(20);
}

Deno.test("SessionLoop bounds what a slow reader piles up, serves others, and gets it all across", () =>
  withLoop(({ loop, connect, ends, device }) => {
    const slow = connect(), good = connect();
    const count = 2_000, length = 16 * KIB;
    for (let cookie = 0; cookie < count; cookie++) {
      slow.client.send(compact(READ, cookie, cookie % 64, length));
    }
    let most = 0;
    for (let turns = 0; turns < 200; turns++) {
      loop.turn();
      most = Math.max(most, device.pool.takenBytes);
    }
    assert.ok(most < 8 * KIB * KIB, `${most} bytes were out`);
    good.client.send(compact(READ, 1, 3, 100));
    loop.turn();
    loop.turn();
    good.client.take();
    assert.equal(good.client.bytes.length, 116);
    // The requests that waited are still what they were, although others used the memory.
    let got = 0;
    for (let idle = 0; got < count * (16 + length); idle++) {
      assert.ok(idle < 100_000, `only ${got} bytes came`);
      const some = slow.client.take(100_000);
      slow.client.send(new Uint8Array(0));
      got += some;
      loop.turn();
    }
    const answers = readReplies(slow.client.bytes, "simple", () => ({
      read: true,
      offset: 0n,
      length: BigInt(length),
    }));
    assert.equal(answers.size, count);
    for (const [cookie, { data }] of answers) assert.equal(data?.[0], Number(cookie) % 64);
    assert.equal(ends.size, 0);
  }));

Deno.test("SessionLoop disconnects who takes nothing for SEND_STALL_MS_MAX, and nobody earlier", () =>
  withLoop(({ loop, connect, ends, time }) => {
    const { client, id } = connect();
    for (let cookie = 0; cookie < 200; cookie++) client.send(compact(READ, cookie, 0, 64 * KIB));
    for (let turns = 0; turns < 20; turns++) loop.turn();
    time.now_ms = SEND_STALL_MS_MAX - 1;
    loop.turn();
    assert.equal(ends.size, 0);
    // Whoever takes something has its time again.
    client.take(1024 * KIB);
    loop.turn();
    time.now_ms += SEND_STALL_MS_MAX - 1;
    loop.turn();
    assert.equal(ends.size, 0);
    time.now_ms += 2;
    loop.turn();
    assert.match(ends.get(id) ?? "", /taken nothing of what was sent for 60001 ms/);
  }));

Deno.test("SessionLoop cuts off half a request while memory is scarce, and none else", async () => {
  let scarce = false;
  await withLoop(({ loop, connect, ends, time }) => {
    const half = connect(), idle = connect();
    half.client.send(compact(WRITE, 1, 0, 100 * KIB, { payload: new Uint8Array(2 * KIB) }));
    loop.turn();
    time.now_ms = 100_000;
    loop.turn();
    assert.equal(ends.size, 0);
    scarce = true;
    loop.turn();
    time.now_ms += 5_001;
    loop.turn();
    time.now_ms += 5_001;
    loop.turn();
    assert.match(ends.get(half.id) ?? "", /stopped in the middle/);
    assert.equal(ends.has(idle.id), false);
  }, { scarce: () => scarce });
});

Deno.test("SessionLoop serves many connections and forgets those that have gone", () =>
  withLoop(({ loop, connect, ends }) => {
    const all = Array.from({ length: 300 }, connect);
    loop.turn();
    for (const [cookie, { client }] of all.entries()) {
      client.send(compact(READ, cookie, cookie, 10));
    }
    for (let turns = 0; turns < 20; turns++) loop.turn();
    for (const [cookie, { client }] of all.entries()) {
      client.take();
      assert.equal(client.bytes.length, 26);
      assert.equal(client.bytes[16], cookie & 255);
      client.send(compact(DISC, 1, 0, 0));
    }
    for (let turns = 0; turns < 20; turns++) loop.turn();
    for (const { client } of all) {
      client.take();
      assert.equal(client.ended, true);
    }
    assert.equal(ends.size, 0, "the server waits for clients to close");
    for (const { client } of all) shutdown(client.fd, "write");
    for (let turns = 0; turns < 20; turns++) loop.turn();
    assert.equal(loop.count, 0);
    assert.ok([...ends.values()].every((cause) => cause === null));
    assert.equal(ends.size, 300);
  }));

Deno.test("SessionLoop.stop() answers what came before, then ESHUTDOWN, then ends", () =>
  withLoop(({ loop, connect, ends, time }) => {
    const { client, id } = connect();
    client.send(joined([compact(READ, 1, 0, 10), compact(READ, 2, 0, 10).subarray(0, 20)]));
    loop.turn();
    loop.stop(id);
    client.send(compact(READ, 2, 0, 10).subarray(20));
    loop.turn();
    loop.turn();
    client.take();
    assert.equal(client.bytes.length, 26);
    assert.equal(client.ended, true);
    time.now_ms += 2_000;
    loop.turn();
    loop.turn();
    assert.equal(ends.get(id), null);
    assert.equal(loop.count, 0);
  }));

Deno.test("SessionLoop ends alone the connection that breaks the protocol, or is cut", () =>
  withLoop(({ loop, connect, ends }) => {
    const bad = connect(), cut = connect(), gone = connect(), good = connect();
    bad.client.send(new Uint8Array(28).fill(7));
    loop.turn();
    loop.turn();
    assert.match(ends.get(bad.id) ?? "", /magic|request/i);
    loop.cut(cut.id, new Error("it is enough"));
    assert.equal(ends.get(cut.id), "it is enough");
    shutdown(gone.client.fd, "write");
    loop.turn();
    assert.equal(ends.get(gone.id), null);
    good.client.send(compact(READ, 1, 0, 10));
    loop.turn();
    good.client.take();
    assert.equal(good.client.bytes.length, 26);
    assert.equal(loop.count, 1);
  }));

Deno.test("SessionLoop.run() returns when it is signalled, with the number of signals", () =>
  withLoop(({ loop, wakeFd, connect }) => {
    const { client } = connect();
    client.send(compact(READ, 1, 0, 10));
    signalEvent(wakeFd);
    signalEvent(wakeFd);
    assert.equal(loop.run(), 2);
    assert.equal(clearEvent(wakeFd), 0);
    client.take();
    assert.equal(client.bytes.length, 26, "who was ready in the same turn was served");
  }));
