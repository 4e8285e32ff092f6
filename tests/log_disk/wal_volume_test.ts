/**
 * The disk as it is served, with a write-ahead log on a file layer that forgets what was not made durable:
 * killed at any call of the store, or of its own, it comes back as it was after some of its writes, all
 * that were flushed among them.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Opened } from "../../lib/block/types.ts";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { openManagedDisk } from "../../lib/log_disk/managed_disk.ts";
import { WAL_BYTES_MIN } from "../../lib/log_disk/wal/limits.ts";
import { type SeededRandom, seededRandom } from "../../lib/testing/random.ts";
import { testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { MemoryBucket, MemoryStore, PLAIN_PLAN, type StorePlan } from "../support/memory_store.ts";

const BLOCK = 4096, BLOCKS = 32;

type Image = readonly number[];

interface Host {
  readonly bucket: MemoryBucket;
  readonly files: CrashFiles;
  readonly random: SeededRandom;
}

function open(
  { bucket, files, random }: Host,
  plan: StorePlan,
  wal = "/wal",
  readOnly = false,
): Promise<Opened> {
  return openManagedDisk(new MemoryStore(bucket, plan), {
    snapshot: null,
    cacheBytes: 0,
    diskCache: { folder: "/", bytes: 2 ** 20 },
    wal: { path: wal, bytes: WAL_BYTES_MIN },
    readAheadBytes: 0,
    dirtyBytes: 0,
    sealAfterMs: 1000,
    puts: 4,
    collects: false,
    resolve: () => Promise.reject(new Error("no parents here")),
  }, testContext({ random, files, readOnly }));
}

function tagged(tag: number, count: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(count * BLOCK);
  new Uint32Array(bytes.buffer).fill(tag);
  return bytes;
}

async function imageOf({ backend }: Opened): Promise<Image> {
  const bytes = new Uint8Array(BLOCK * BLOCKS);
  await backend.read(bytes, 0);
  const words = new Uint32Array(bytes.buffer);
  return Array.from({ length: BLOCKS }, (_, block) => words[block * BLOCK / 4] ?? 0);
}

/** A host that stops at some call of the store; `died` then resolves, and no call ends any more. */
function mortal(calls: number): { plan: StorePlan; died: Promise<void> } {
  const { promise: died, resolve } = Promise.withResolvers<void>();
  const never = new Promise<void>(() => {});
  let left = calls;
  const pass = (): Promise<void> => {
    left -= 1;
    if (left >= 0) return Promise.resolve();
    resolve();
    return never;
  };
  return { plan: { fate: () => "done", pass }, died };
}

let tags = 0;

/** Works until it is killed, or has done enough; gives the states that the disk may be in. */
async function live(host: Host, before: Image): Promise<Image[]> {
  const { files, random } = host;
  const { plan, died } = mortal(random.below(120));
  let states: Image[] = [before], stopped = false;
  const work = async (): Promise<void> => {
    const { backend } = await open(host, plan);
    for (let turns = random.below(150); turns > 0 && !stopped; turns -= 1) {
      if (random.oneIn(5)) {
        const { length } = states;
        await backend.flush();
        if (!stopped) states = states.slice(length - 1);
        continue;
      }
      const first = random.below(BLOCKS), count = 1 + random.below(Math.min(5, BLOCKS - first));
      tags += 1;
      const image = (states.at(-1) ?? []).slice();
      image.fill(tags, first, first + count);
      states.push(image);
      await backend.write(tagged(tags, count), first * BLOCK, { fua: false });
    }
    if (random.oneIn(4) && !stopped) await backend[Symbol.asyncDispose]();
  };
  const working = work();
  working.catch(() => {}); // of a host that is dead
  await Promise.race([working, died]);
  stopped = true;
  files.crash();
  return states;
}

async function run(seed: number, flushDoesNothing = false): Promise<void> {
  const random = seededRandom(seed);
  const files = new CrashFiles({ seed, survival: 0.4, flushDoesNothing });
  const host: Host = { bucket: new MemoryBucket(), files, random };
  const size = { diskBytes: BLOCK * BLOCKS };
  await createVolume(new MemoryStore(host.bucket), size, testContext({ random }));
  let image: Image = new Array<number>(BLOCKS).fill(0);
  for (let life = 0; life < 6; life += 1) {
    const states = await live(host, image);
    const opened = await open(host, PLAIN_PLAN);
    const found = await imageOf(opened);
    const known = states.some((state) => state.every((tag, block) => tag === found[block]));
    assert.ok(known, `seed ${seed}, life ${life}: in no state that it was in`);
    image = found;
    await opened.backend[Symbol.asyncDispose]();
  }
}

Deno.test("openManagedDisk() with a write-ahead log has what was flushed, wherever it is killed", async () => {
  for (let seed = 1; seed <= 8; seed += 1) await run(seed);
});

Deno.test("openManagedDisk() with a write-ahead log fails that test when the file's flush does nothing", async () => {
  await assert.rejects(async () => {
    for (let seed = 1; seed <= 40; seed += 1) await run(seed, true);
  });
});

Deno.test("openManagedDisk() flushes to its write-ahead log while the store does not answer", async () => {
  const random = seededRandom(1), files = new CrashFiles({ seed: 1 });
  const host: Host = { bucket: new MemoryBucket(), files, random };
  await createVolume(new MemoryStore(host.bucket), { diskBytes: BLOCK * BLOCKS }, testContext());
  let answers = true;
  const never = new Promise<void>(() => {});
  const { backend } = await open(host, {
    fate: () => "done",
    pass: () => answers ? undefined : never,
  });
  answers = false;
  await backend.write(tagged(5, 1), 0, { fua: false });
  await backend.flush();
  files.crash();
  await assert.rejects(
    open(host, PLAIN_PLAN, "/wal", true),
    /has 1 records that are not on the disk/,
  );
  // Another host that continues the volume makes the log nobody's; it stays as it is.
  const opened = await open(host, PLAIN_PLAN, "/other");
  await opened.backend[Symbol.asyncDispose]();
  await assert.rejects(open(host, PLAIN_PLAN), { errno: "EBUSY" });
  await assert.rejects(open(host, PLAIN_PLAN), /another writer has continued the volume/);
});

Deno.test("openManagedDisk() gives what it has in memory at once, without a promise", async () => {
  const random = seededRandom(2), files = new CrashFiles({ seed: 2 });
  const host: Host = { bucket: new MemoryBucket(), files, random };
  await createVolume(new MemoryStore(host.bucket), { diskBytes: BLOCK * BLOCKS }, testContext());
  const { backend } = await open(host, PLAIN_PLAN);
  await backend.write(tagged(5, 4), 0, { fua: true });
  await backend[Symbol.asyncDispose]();
  const again = await open(host, PLAIN_PLAN), into = new Uint8Array(BLOCK);
  await again.backend.read(into, 0);
  into.fill(0);
  assert.equal(again.backend.read(into, BLOCK), undefined);
  assert.deepEqual(into, tagged(5, 1));
  await again.backend[Symbol.asyncDispose]();
});
