/**
 * Snapshots in a form that this version does not know, as others have made: whoever could delete what they
 * keep refuses, and says what was found and what to do.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Opened } from "../../lib/block/types.ts";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { openVolume } from "../../lib/log_disk/load.ts";
import { openManagedDisk } from "../../lib/log_disk/managed_disk.ts";
import { checkVolume } from "../../lib/log_disk/tools/check.ts";
import { removeVolume } from "../../lib/log_disk/tools/clone.ts";
import { testContext } from "../support/context.ts";
import { MemoryBucket, MemoryStore } from "../support/memory_store.ts";

const BLOCK = 4096, BLOCKS = 32;
/** A snapshot as it was once kept, and the marker of a clone of it. */
const OLD_KEY = "snap/before", OLD_MARKER = `clone/before/${"a".repeat(32)}`;
const REFUSED = { errno: "EOPNOTSUPP", message: /does not know what snap\/before keeps; delete/ };

const noParents = (): Promise<never> => Promise.reject(new Error("no parents here"));

function open(bucket: MemoryBucket): Promise<Opened> {
  return openManagedDisk(new MemoryStore(bucket), {
    snapshot: null,
    cacheBytes: 0,
    diskCache: null,
    wal: null,
    readAheadBytes: 0,
    dirtyBytes: 0,
    sealAfterMs: 1000,
    puts: 4,
    collects: false,
    resolve: noParents,
  }, testContext());
}

async function put({ backend }: Opened, byte: number): Promise<void> {
  await backend.write(new Uint8Array(BLOCK * BLOCKS).fill(byte), 0, { fua: true });
}

/** A disk of which that snapshot needs what was there first. */
async function makeDisk(): Promise<MemoryBucket> {
  const bucket = new MemoryBucket(), store = new MemoryStore(bucket);
  await createVolume(store, { diskBytes: BLOCK * BLOCKS, blockBytes: BLOCK }, testContext());
  const opened = await open(bucket);
  await put(opened, 1);
  await opened.backend[Symbol.asyncDispose]();
  bucket.add(OLD_KEY, Uint8Array.of(1));
  bucket.add(OLD_MARKER, Uint8Array.of(1));
  return bucket;
}

async function keysOf(bucket: MemoryBucket): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of new MemoryStore(bucket).list("")) keys.push(key);
  return keys;
}

Deno.test("a disk with a snapshot that this version does not know works, and collects no garbage", async () => {
  const bucket = await makeDisk(), before = await keysOf(bucket), opened = await open(bucket);
  await put(opened, 2);
  await assert.rejects(async () => await opened.management?.collect?.(), REFUSED);
  await assert.rejects(async () => await opened.management?.snapshots?.(), REFUSED);
  const now = new Set(await keysOf(bucket));
  assert.deepEqual(before.filter((key) => !now.has(key)), []);
  // It is the administrator's to say that nobody needs it.
  await new MemoryStore(bucket).delete([OLD_KEY]);
  await opened.management?.collect?.();
  await opened.backend[Symbol.asyncDispose]();
  const left = new Set(await keysOf(bucket));
  assert.ok(before.some((key) => key.startsWith("log/") && !left.has(key)));
  assert.ok(!left.has(OLD_MARKER));
});

Deno.test("checkVolume() and removeVolume() refuse a snapshot that this version does not know, and delete nothing", async () => {
  const bucket = await makeDisk(), before = await keysOf(bucket), store = new MemoryStore(bucket);
  const context = testContext(), progress = (): void => {};
  const volume = await openVolume(store, noParents, context);
  for (const repair of ["none", "leaks", "all"] as const) {
    await assert.rejects(
      checkVolume(volume, { repair, deep: false, progress }, context),
      REFUSED,
    );
  }
  await assert.rejects(removeVolume(store, noParents, { ...context, progress }), REFUSED);
  assert.deepEqual(await keysOf(bucket), before);
});
