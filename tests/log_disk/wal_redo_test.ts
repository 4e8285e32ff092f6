/**
 * A write-ahead log with writes for many objects, and a machine that is killed at each point of storing
 * them, again while it recovers, and again while it recovers from that: it comes back with all that it had
 * flushed, and whoever takes the disk over in its place finds it as it was after some of its writes.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Opened } from "../../lib/block/types.ts";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { openManagedDisk } from "../../lib/log_disk/managed_disk.ts";
import { WAL_BYTES_MIN } from "../../lib/log_disk/wal/limits.ts";
import { testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { MemoryBucket, MemoryStore, PLAIN_PLAN, type StorePlan } from "../support/memory_store.ts";
import { withTempDir } from "../support/tools.ts";
import { loadWithBug, PLANTED_REDO_BUGS } from "./simulation/planted.ts";
import type { WalEngine } from "./simulation/wal.ts";

const BLOCK = 512, BLOCKS = 16, OBJECT_BYTES = 4096;
/** Writes, two of which fill an object, and blocks of each. */
const WRITES = 12, WRITE_BLOCKS = 3;
/** Points of creations that a machine gets through: the first time, and when it recovers. */
const FIRST_POINTS = [2, 5, 8], REDO_POINTS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

type Image = readonly number[];

/** The disk after each of the writes, and before them. */
const STATES: readonly Image[] = statesOf();

function statesOf(): Image[] {
  const image = new Array<number>(BLOCKS).fill(0), states = [image.slice()];
  for (let tag = 1; tag <= WRITES; tag += 1) {
    const first = firstOf(tag);
    states.push(image.fill(tag, first, first + WRITE_BLOCKS).slice());
  }
  return states;
}

/** Where a write begins: most of them are partly over others. */
function firstOf(tag: number): number {
  return tag * 4 % 13;
}

/** A host that is stopped when it has got through so many points, before and after creations. */
function mortal(points: number): { plan: StorePlan; died: Promise<void> } {
  const { promise: died, resolve } = Promise.withResolvers<void>();
  const never = new Promise<void>(() => {});
  let left = points;
  const plan: StorePlan = {
    fate: () => "done",
    pass: ({ verb }) => {
      if (verb === "create") left -= 1;
      if (left >= 0) return;
      resolve();
      return never;
    },
  };
  return { plan, died };
}

function open(
  { openManagedDisk }: WalEngine,
  bucket: MemoryBucket,
  files: CrashFiles,
  plan: StorePlan,
): Promise<Opened> {
  return openManagedDisk(new MemoryStore(bucket, plan), {
    snapshot: null,
    cacheBytes: 0,
    diskCache: null,
    wal: { path: "/wal", bytes: WAL_BYTES_MIN },
    readAheadBytes: 0,
    dirtyBytes: 0,
    sealAfterMs: 1000,
    puts: 4,
    objectBytes: OBJECT_BYTES,
    collects: false,
    resolve: () => Promise.reject(new Error("no parents here")),
  }, testContext({ files }));
}

async function writeAll({ backend }: Opened): Promise<void> {
  for (let tag = 1; tag <= WRITES; tag += 1) {
    const bytes = new Uint8Array(WRITE_BLOCKS * BLOCK).fill(tag);
    await backend.write(bytes, firstOf(tag) * BLOCK, { fua: false });
  }
  await backend.flush();
}

/** What is on the disk, for whoever opens it with these files. */
async function imageOf(engine: WalEngine, bucket: MemoryBucket, files: CrashFiles): Promise<Image> {
  const { backend } = await open(engine, bucket, files, PLAIN_PLAN);
  const bytes = new Uint8Array(BLOCK * BLOCKS);
  await backend.read(bytes, 0);
  await backend[Symbol.asyncDispose]();
  return Array.from({ length: BLOCKS }, (_, block) => bytes[block * BLOCK] ?? 0);
}

function isSame(a: Image, b: Image): boolean {
  return a.every((tag, block) => tag === b[block]);
}

/** A machine that is killed so often: when it has written, and at each of these points when it recovers. */
async function killed(
  engine: WalEngine,
  first: number,
  later: readonly number[],
): Promise<{ bucket: MemoryBucket; files: CrashFiles }> {
  const bucket = new MemoryBucket(), files = new CrashFiles({ seed: 1, survival: 0 });
  await createVolume(new MemoryStore(bucket), { diskBytes: BLOCK * BLOCKS }, testContext());
  const { plan } = mortal(first);
  await writeAll(await open(engine, bucket, files, plan));
  files.crash();
  for (const points of later) {
    const { plan, died } = mortal(points);
    const opening = open(engine, bucket, files, plan);
    opening.catch(() => {}); // of a host that is dead
    await Promise.race([opening, died]);
    files.crash();
  }
  return { bucket, files };
}

async function tryAll(engine: WalEngine): Promise<void> {
  for (const first of FIRST_POINTS) {
    for (const second of REDO_POINTS) {
      for (const third of REDO_POINTS) {
        const name = `killed at ${first}, ${second}, ${third}`;
        const { bucket, files } = await killed(engine, first, [second, third]);
        const isOwn = (second + third) % 4 === 0;
        const image = await imageOf(engine, bucket, isOwn ? files : new CrashFiles({ seed: 2 }));
        const states = isOwn ? STATES.slice(-1) : STATES;
        assert.ok(states.some((state) => isSame(state, image)), `${name}: ${image.join(" ")}`);
      }
    }
  }
}

Deno.test("a redo of many objects that is cut off again and again leaves the disk as it was at some moment", async () => {
  await tryAll({ openManagedDisk });
});

for (const bug of PLANTED_REDO_BUGS) {
  Deno.test(`a redo that is cut off does not when ${bug.name}`, async () => {
    await withTempDir(async (folder) => {
      const engine = await loadWithBug(bug, folder);
      await assert.rejects(tryAll(engine), assert.AssertionError);
    });
  });
}
