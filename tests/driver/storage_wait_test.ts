/**
 * Storage that the blocking driver waits for together with its clients: with storage of the tests, which must
 * never be waited for in another way, and with files.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { file as fileBackend } from "../../backends/file.ts";
import type { Device } from "../../lib/block/device.ts";
import type { Backend } from "../../lib/block/types.ts";
import { StorageWait } from "../../lib/driver/storage_wait.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { openReadRing } from "../../lib/sys/io_uring.ts";
import { clearEvent, closeEvent, openEvent, signalEvent } from "../../lib/sys/poll.ts";
import { compact, deviceOver, joined, ram } from "../nbd/fixtures.ts";
import { READ, WRITE } from "../nbd/transmission_messages.ts";
import { testContext } from "../support/context.ts";
import { withTempDir } from "../support/tools.ts";
import { type Bed, type Client, withLoop } from "./loop_bed.ts";

const BLOCK = 4096, BLOCKS = 64, REPLY = 16 + BLOCK;

interface Storage {
  readonly device: Device;
  /** Blocks that are under way, in the order of their announcement. */
  readonly underWay: number[];
  announced: number;
  looks: number;
  /** What happens before the next look finds what is there. */
  beforeLook: () => void;
  /** A block is there. */
  finish(block: number): void;
}

/** A disk each of whose blocks begins with its number. */
function content(): Uint8Array {
  const bytes = new Uint8Array(BLOCK * BLOCKS), view = new DataView(bytes.buffer);
  for (let block = 0; block < BLOCKS; block++) view.setUint32(block * BLOCK, block);
  return bytes;
}

/** Calls `fn` with storage that is there when the test says so. `cached`: see ReadsAhead. */
async function withStorage(
  fn: (here: Storage, bed: Bed) => void,
  { cached = false, waits = (): boolean => false } = {},
): Promise<void> {
  const { backend } = ram({ content: content() });
  const event = openEvent(), ended: number[] = [];
  let progress = 0;
  const slow: Backend = {
    ...backend,
    read: (into, offset) => {
      assert.ok(!here.underWay.includes(offset / BLOCK), "it would have waited");
      return backend.read(into, offset);
    },
    willRead: (offset) => {
      here.announced += 1;
      here.underWay.push(offset / BLOCK);
    },
    ahead: {
      cached,
      news: {
        descriptor: event,
        get progress() {
          return progress;
        },
      },
      isUnderWay: (offset) => here.underWay.includes(offset / BLOCK),
      look: (wait) => {
        assert.ok(!wait, "clients would have waited");
        here.looks += 1;
        const { beforeLook } = here;
        here.beforeLook = (): void => {};
        beforeLook();
        for (const block of ended.splice(0)) here.underWay.splice(here.underWay.indexOf(block), 1);
        clearEvent(event);
      },
      forget: () => here.underWay.length = 0,
    },
  };
  const here: Storage = {
    ...{ device: deviceOver(slow), underWay: [], announced: 0, looks: 0, beforeLook: () => {} },
    finish: (block) => {
      assert.ok(here.underWay.includes(block) && !ended.includes(block));
      ended.push(block);
      progress += 1;
      signalEvent(event);
    },
  };
  try {
    await withLoop((bed) => fn(here, bed), { device: here.device, polls: true, waits });
  } finally {
    closeEvent(event);
  }
}

function read(block: number): Uint8Array {
  return compact(READ, block, block * BLOCK, BLOCK);
}

/** The numbers of the blocks that have come; each has to be that of its cookie. */
function blocksOf(client: Client): number[] {
  client.take();
  const { bytes } = client, found: number[] = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  assert.equal(bytes.length % REPLY, 0);
  for (let at = 0; at < bytes.length; at += REPLY) {
    assert.equal(view.getUint32(at + 4), 0, "an error came");
    assert.equal(view.getUint32(at + 12), view.getUint32(at + 16));
    found.push(view.getUint32(at + 16));
  }
  return found;
}

function turns(loop: { turn(): number }, count = 6): void {
  for (let turn = 0; turn < count; turn++) loop.turn();
}

Deno.test("SessionLoop serves clients while another one's reads are under way, and each read when it is there", () =>
  withStorage((here, { loop, connect }) => {
    const { client } = connect(), { client: other } = connect();
    client.send(joined([1, 2, 3, 4].map(read)));
    turns(loop);
    assert.deepEqual(here.underWay, [1, 2, 3, 4], "the first one is told, too");
    other.send(compact(WRITE, 9, 0, BLOCK, { payload: content().slice(0, BLOCK) }));
    turns(loop);
    assert.equal(other.take(), 16);
    assert.deepEqual(blocksOf(client), []);
    here.finish(3);
    turns(loop);
    assert.deepEqual(blocksOf(client), [3]);
    client.send(read(5));
    turns(loop);
    assert.deepEqual(here.underWay, [1, 2, 4, 5], "it is told while others are under way");
    for (const block of [5, 1, 4, 2]) here.finish(block);
    turns(loop);
    assert.deepEqual(blocksOf(client).slice(1).sort(), [1, 2, 4, 5]);
  }));

Deno.test("SessionLoop has the single reads of several clients under way together", () =>
  withStorage((here, { loop, connect }) => {
    const clients = [1, 2, 3].map((block) => {
      const { client } = connect();
      client.send(read(block));
      return client;
    });
    turns(loop);
    assert.deepEqual(here.underWay.toSorted(), [1, 2, 3]);
    for (const block of [2, 3, 1]) {
      here.finish(block);
      turns(loop);
    }
    assert.deepEqual(clients.map(blocksOf), [[1], [2], [3]]);
  }));

Deno.test("SessionLoop looks at storage for all that wait, if one of them has found what is another's", () => {
  let other: Client | null = null;
  const answered = (): boolean => other !== null && blocksOf(other).length > 0;
  return withStorage((here, { loop, connect }) => {
    const { client } = connect();
    ({ client: other } = connect());
    client.send(joined([1, 2].map(read)));
    other.send(joined([11, 12].map(read)));
    turns(loop);
    // It is there while the first client's session looks, and nothing else tells: `run` must not sleep then.
    client.send(read(3));
    here.beforeLook = (): void => here.finish(12);
    assert.equal(loop.run(), 0);
    assert.deepEqual(blocksOf(other), [12]);
    assert.deepEqual(blocksOf(client), []);
    for (const block of [1, 2, 3, 11]) here.finish(block);
    turns(loop);
    assert.deepEqual(blocksOf(other), [12, 11]);
    assert.equal(blocksOf(client).length, 3);
  }, { waits: answered });
});

Deno.test("SessionLoop does not look at storage that has nothing new", () =>
  withStorage((here, { loop, connect }) => {
    const { client } = connect();
    client.send(joined([1, 2].map(read)));
    turns(loop, 10);
    const { looks } = here;
    turns(loop, 100);
    assert.equal(here.looks, looks);
    here.finish(1);
    turns(loop, 100);
    assert.ok(here.looks > looks && here.looks < looks + 10, `${here.looks - looks} looks`);
    here.finish(2);
    turns(loop);
    assert.equal(blocksOf(client).length, 2);
  }));

Deno.test("SessionLoop forgets a client that goes away while its reads are under way", () =>
  withStorage((here, { loop, connect, ends }) => {
    const { client, id } = connect(), { client: other } = connect();
    client.send(joined([1, 2].map(read)));
    turns(loop);
    loop.cut(id, new Error("gone"));
    assert.equal(ends.get(id), "gone");
    other.send(read(3));
    turns(loop);
    here.finish(3);
    turns(loop);
    assert.deepEqual(blocksOf(other), [3]);
  }));

Deno.test("a cache is told of reads only while they are slow, and reads that had to wait count as slow", () =>
  withStorage((here, { loop, connect }) => {
    const { client } = connect();
    client.send(joined([1, 2, 3].map(read)));
    turns(loop);
    assert.equal(here.announced, 0);
    assert.equal(blocksOf(client).length, 3);
    // As after reads that have been slow.
    for (let count = 0; count < 3; count++) here.device.noteParked();
    for (let round = 0; round < 200; round++) {
      const block = 4 + round % 50;
      client.send(read(block));
      turns(loop, 3);
      assert.equal(here.announced, round + 1, "it is told as long as reads have to wait");
      here.finish(block);
      turns(loop, 3);
      client.take();
    }
    assert.equal(blocksOf(client).length, 203);
  }, { cached: true }));

Deno.test("StorageWait has news for whoever waits until all were taken", () => {
  const wait = new StorageWait<string>(), storage = { descriptor: 5, progress: 7 };
  assert.equal(wait.hasNews, false);
  assert.equal(wait.add("a", storage), true);
  assert.equal(wait.add("b", storage), false);
  assert.deepEqual(wait.take(), ["a", "b"]);
  assert.equal(wait.count, 0);
  wait.add("a", storage);
  assert.equal(wait.hasNews, false, "nothing has changed since all looked");
  storage.progress += 1;
  assert.equal(wait.hasNews, true);
  wait.delete("a");
  assert.equal(wait.hasNews, false);
  wait.add("b", storage);
  assert.deepEqual(wait.take(), ["b"]);
});

const ring = openReadRing(0, 1, BLOCK);
ring?.close();

for (const direct of [false, true]) {
  Deno.test({
    name: `SessionLoop is woken by reads of a file that end (direct ${direct})`,
    ignore: ring === null,
    fn: () =>
      withTempDir(async (folder) => {
        const path = join(folder, "disk");
        await Deno.writeFile(path, content());
        const options = { path, direct, discard: true, lock: false };
        const { backend } = await fileBackend.open(
          options,
          testContext({ files: systemFiles, mayBlock: true }),
        );
        let client: Client | null = null;
        const answered = (): boolean => {
          client?.take();
          return client !== null && client.bytes.length >= 2 * BLOCKS * REPLY;
        };
        const device = deviceOver(backend);
        await withLoop(({ loop, connect }) => {
          ({ client } = connect());
          for (let count = 0; count < 3; count++) device.noteParked();
          const blocks = Array.from({ length: 2 * BLOCKS }, (_, at) => at * 7 % BLOCKS);
          client.send(joined(blocks.map(read)));
          // It returns as soon as all are answered, and would never if it slept through the end of a read.
          assert.equal(loop.run(), 0);
          assert.deepEqual(blocksOf(client).sort(), blocks.sort());
        }, { device, polls: true, waits: answered });
      }),
  });
}
