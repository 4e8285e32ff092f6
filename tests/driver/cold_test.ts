/** Reads that no cache has, under the blocking driver: how many of them the storage works on at a time. @module */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { BufferPool } from "../../lib/block/pool.ts";
import type { Backend } from "../../lib/block/types.ts";
import { compact, joined, ram } from "../nbd/fixtures.ts";
import { READ, WRITE } from "../nbd/transmission_messages.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";
import { withLoop } from "./loop_bed.ts";

const BLOCK = 4096, BLOCKS = 256;
/** Time of the storage for a range that nobody has announced, and for any other, in µs. */
const COLD_US = 100, WARM_US = 2;

interface Storage {
  readonly device: Device;
  /** Ranges that the storage has begun with, and that were not asked for yet. */
  readonly begun: Set<number>;
  /** Most of them at a time. */
  most: number;
  /** Announcements so far. */
  announced: number;
}

/** Storage that fetches what is announced beside others, and all else one after another. */
function storage(cold: boolean): Storage {
  const clock = new ManualClock();
  const { backend } = ram({ size: BLOCK * BLOCKS });
  const begun = new Set<number>();
  const slow: Backend = {
    ...backend,
    capabilities: { synchronous: true, fua: true },
    read: (into, offset) => {
      clock.advance(begun.delete(offset) || !cold ? WARM_US : COLD_US);
      return backend.read(into, offset);
    },
    willRead: (offset, length) => {
      assert.ok(offset % BLOCK === 0 && offset < BLOCK * BLOCKS && length === BLOCK);
      begun.add(offset);
      here.announced += 1;
      // The read that the storage works on by itself is one more.
      here.most = Math.max(here.most, begun.size + 1);
    },
  };
  const device = new Device(slow, {
    name: "disk",
    clock,
    log: new MemoryLog(),
    pool: new BufferPool({ poison: true }),
  });
  const here: Storage = { device, begun, most: 1, announced: 0 };
  return here;
}

/** All blocks are read in a random order, `depth` at a time, in `rounds` goes. */
function readRounds(here: Storage, depth: number, rounds: number): Promise<void> {
  return withLoop(({ loop, connect }) => {
    const { client } = connect();
    let next = 1;
    for (let round = 0; round < rounds; round++) {
      const requests = Array.from({ length: depth }, () => {
        next = next * 3 % 257;
        return compact(READ, next, (next - 1) * BLOCK, BLOCK);
      });
      client.send(joined(requests));
      for (let got = 0, turns = 0; got < depth * (16 + BLOCK); turns++) {
        assert.ok(turns < 1_000, `only ${got} bytes came in round ${round}`);
        loop.turn();
        got += client.take();
      }
      assert.equal(here.begun.size, 0, "something was announced and not read");
    }
  }, { device: here.device });
}

Deno.test("cold reads at depth 64 are all with the storage at once, at depth 1 each alone", async () => {
  const deep = storage(true), flat = storage(true);
  await readRounds(deep, 64, 4);
  assert.equal(deep.most, 64);
  await readRounds(flat, 1, 256);
  assert.equal(flat.most, 1);
  assert.equal(flat.announced, 0);
});

Deno.test("reads that a cache has are not announced", async () => {
  const here = storage(false);
  await readRounds(here, 64, 8);
  assert.equal(here.announced, 0);
});

Deno.test("reads behind writes are announced, what is no range of the disk is not", async () => {
  const here = storage(true);
  await withLoop(({ loop, connect }) => {
    const { client } = connect();
    for (let cookie = 0; cookie < 8; cookie++) {
      client.send(compact(READ, cookie, cookie * BLOCK, BLOCK));
      loop.turn();
    }
    client.take();
    assert.equal(here.announced, 0);
    const before = client.bytes.length;
    client.send(joined([
      compact(WRITE, 1, 0, BLOCK, { payload: new Uint8Array(BLOCK).fill(7) }),
      compact(READ, 2, 8 * BLOCK, BLOCK),
      compact(READ, 3, BLOCKS * BLOCK, BLOCK),
      compact(READ, 4, 0, 0),
      compact(READ, 5, 2 ** 40, 2 ** 31),
      compact(READ, 6, 9 * BLOCK, BLOCK).subarray(0, 20),
    ]));
    for (let turns = 0; client.bytes.length - before < 5 * 16 + BLOCK; turns++) {
      assert.ok(turns < 100, "not all was answered");
      loop.turn();
      client.take();
    }
    assert.equal(here.announced, 1);
    assert.equal(client.bytes.length - before, 5 * 16 + BLOCK);
  }, { device: here.device });
});
