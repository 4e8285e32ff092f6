/** Several connections of one thread: what each gets, counted in turns of the loop. @module */
import assert from "node:assert/strict";
import type { Device } from "../../lib/block/device.ts";
import { TURNS_IN_A_ROW_MAX } from "../../lib/driver/limits.ts";
import { compact, deviceOver, joined, ram } from "../nbd/fixtures.ts";
import { READ, WRITE } from "../nbd/transmission_messages.ts";
import { type Client, withLoop } from "./loop_bed.ts";

const KIB = 1024;

/** A client that keeps so many reads of so many bytes under way. */
class Reader {
  readonly client: Client;
  /** Reads that are answered. */
  answered = 0;
  readonly #depth: number;
  readonly #length: number;
  #asked = 0;
  #bytes = 0;

  constructor(client: Client, depth: number, length: number) {
    this.client = client;
    this.#depth = depth;
    this.#length = length;
  }

  /** Takes what is there, and asks for as much again. */
  step(): void {
    this.#bytes += this.client.take();
    this.client.received.length = 0;
    this.answered = Math.floor(this.#bytes / (16 + this.#length));
    const missing = this.answered + this.#depth - this.#asked;
    const requests = Array.from(
      { length: missing },
      (_, index) => compact(READ, this.#asked + index, 0, this.#length),
    );
    this.#asked += missing;
    this.client.send(joined(requests));
  }
}

Deno.test("SessionLoop gives eight busy connections the same", () =>
  withLoop(({ loop, connect }) => {
    const readers = Array.from({ length: 8 }, () => new Reader(connect().client, 32, 4 * KIB));
    for (let turn = 0; turn < 100; turn++) {
      for (const reader of readers) reader.step();
      loop.turn();
    }
    const answered = readers.map((reader) => reader.answered);
    assert.ok(Math.min(...answered) > 1_000, answered.join(" "));
    assert.ok(Math.min(...answered) >= Math.max(...answered) / 2, answered.join(" "));
  }));

Deno.test("SessionLoop answers a client with one request at a time beside greedy ones in each turn", () =>
  withLoop(({ loop, connect }) => {
    const greedy = Array.from({ length: 7 }, () => new Reader(connect().client, 256, 64 * KIB));
    const modest = new Reader(connect().client, 1, 4 * KIB);
    const turns = 100;
    for (let turn = 0; turn < turns; turn++) {
      for (const reader of [...greedy, modest]) reader.step();
      loop.turn();
    }
    modest.step();
    // A turn begins with those whose replies did not fit before; what has come since is served in it.
    assert.ok(modest.answered >= turns / 2, `${modest.answered} answers in ${turns} turns`);
    const answered = greedy.map((reader) => reader.answered);
    assert.ok(Math.min(...answered) >= Math.max(...answered) / 2, answered.join(" "));
  }));

/** A device whose writes make the client send the next one, and how often it wrote. */
function endlessWrites(
  length: number,
): { device: Device; count: () => number; start(client: Client): void } {
  let sender: Client | null = null, count = 0;
  const request = compact(WRITE, 1, 0, length, { payload: new Uint8Array(length) });
  const backend = ram({
    before: (verb) => {
      if (verb !== "write") return;
      count += 1;
      if (count < 1_000) sender?.send(request);
    },
  }).backend;
  const device = deviceOver({ ...backend, capabilities: { synchronous: true, fua: true } });
  const start = (client: Client): void => {
    sender = client;
    client.send(joined([request, request]));
  };
  return { device, count: () => count, start };
}

Deno.test("SessionLoop goes on with the only client that sends much, but not for ever", () => {
  const { device, count, start } = endlessWrites(40 * KIB);
  return withLoop(({ loop, connect }) => {
    const { client } = connect();
    start(client);
    let most = 0;
    for (let turn = 0; turn < 20; turn++) {
      const before = count();
      loop.turn();
      client.take();
      most = Math.max(most, count() - before);
    }
    // Two are in the socket at the beginning, and each that is stored makes another one.
    assert.ok(most > 2 && most <= 2 * TURNS_IN_A_ROW_MAX, `${most} in a turn`);
    assert.ok(count() > 40, `${count()} in all`);
  }, { device });
});

Deno.test("SessionLoop asks who else is there after each turn of one client among others", () => {
  const { device, count, start } = endlessWrites(40 * KIB);
  return withLoop(({ loop, connect }) => {
    start(connect().client);
    const other = new Reader(connect().client, 1, 4 * KIB);
    loop.turn();
    for (let turn = 0; turn < 20; turn++) {
      const before = count();
      other.step();
      loop.turn();
      assert.ok(count() - before <= 2, `${count() - before} in turn ${turn}`);
    }
    other.step();
    assert.equal(other.answered, 20, "it is answered in each turn");
  }, { device });
});
