/** Tests of the blocking driver: NBD sessions over pairs of sockets, one turn at a time. @module */
import assert from "node:assert/strict";
import type { Device } from "../../lib/block/device.ts";
import { SEND_STALL_MS_MAX } from "../../lib/driver/limits.ts";
import { SessionLoop } from "../../lib/driver/session_loop.ts";
import { clearEvent, closeEvent, openEvent, signalEvent } from "../../lib/sys/poll.ts";
import {
  closeDescriptor,
  openSocketPair,
  receive,
  send,
  shutdown,
  WOULD_BLOCK,
} from "../../lib/sys/socket.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { assertSame, compact, deviceOver, joined, ram, sessionFor } from "../nbd/fixtures.ts";
import { readReplies } from "../nbd/reply_reader.ts";
import { DISC, READ, WRITE } from "../nbd/transmission_messages.ts";
import { SeededRandom } from "../support/context.ts";

const KIB = 1024;

/** A client's end of a connection. */
class Client {
  readonly fd: number;
  readonly received: Uint8Array[] = [];
  ended = false;
  /** What did not fit into the socket yet. */
  #unsent = new Uint8Array(0);

  constructor(fd: number) {
    this.fd = fd;
  }

  /** Sends as much as fits; true when all has gone. */
  send(bytes: Uint8Array): boolean {
    this.#unsent = joined([this.#unsent, bytes]).slice();
    while (this.#unsent.length > 0) {
      const count = send(this.fd, this.#unsent);
      if (count === WOULD_BLOCK) return false;
      this.#unsent = this.#unsent.slice(count);
    }
    return true;
  }

  /** Takes what is there, up to `most` bytes; how many came. */
  take(most = Infinity): number {
    let total = 0;
    while (total < most && !this.ended) {
      const into = new Uint8Array(Math.min(most - total, 64 * KIB));
      const count = this.#receive(into);
      if (count === WOULD_BLOCK) break;
      if (count <= 0) this.ended = true;
      else this.received.push(into.subarray(0, count));
      total += Math.max(count, 0);
    }
    return total;
  }

  #receive(into: Uint8Array<ArrayBuffer>): number {
    try {
      return receive(this.fd, into);
    } catch (error) {
      assert.ok(error instanceof SystemError && error.code === "ECONNRESET");
      return 0;
    }
  }

  get bytes(): Uint8Array {
    return joined(this.received);
  }
}

interface Bed {
  readonly loop: SessionLoop;
  readonly device: Device;
  readonly wakeFd: number;
  /** Why each connection has ended, by number. */
  readonly ends: Map<number, string | null>;
  readonly time: { now_ms: number };
  /** A new connection and its number. */
  connect(): { client: Client; id: number };
}

async function withLoop(
  fn: (bed: Bed) => void | Promise<void>,
  settings: { scarce?: () => boolean; device?: Device } = {},
): Promise<void> {
  await using device = settings.device ?? deviceOver(ram().backend);
  const wakeFd = openEvent();
  const ends = new Map<number, string | null>();
  const time = { now_ms: 0 };
  const clients: Client[] = [];
  const loop = new SessionLoop({
    wakeFd,
    now_ms: () => time.now_ms,
    waits: () => device.inFlight > 0,
    scarce: settings.scarce ?? ((): boolean => false),
    scarceSweep_ms: 5_000,
    scarcePartialBytes: 1_000,
    ended: (id, cause) => ends.set(id, cause?.message ?? null),
  });
  const connect = (): { client: Client; id: number } => {
    const [here, there] = openSocketPair();
    const client = new Client(here);
    const id = clients.push(client) - 1;
    loop.add(id, there, sessionFor(device, "simple"));
    return { client, id };
  };
  try {
    await fn({ loop, device, wakeFd, ends, time, connect });
  } finally {
    loop.close(new Error("the test is over"));
    for (const { fd } of clients) closeDescriptor(fd);
    closeEvent(wakeFd);
  }
  assert.equal(device.pool.takenCount, 0, "buffers are out after the end");
}

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
