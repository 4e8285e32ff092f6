/**
 * `deno task bench:log-disk [--quick]`: what the engine of disks on object storage costs, without any network:
 *
 * - objects and CPU time for random writes of 4 KiB, on a store that takes everything and keeps nothing;
 * - time and memory of an attach: 100 GiB of disk in a million extents, 256 MiB of log behind the
 *   checkpoint, in a local folder, by a process of its own.
 *
 * @module
 */
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { systemContext } from "../lib/daemon/context.ts";
import type { DiskContext } from "../lib/log_disk/context.ts";
import { encodeCheckpoint } from "../lib/log_disk/checkpoint.ts";
import { createVolume } from "../lib/log_disk/create_volume.ts";
import type { VolumeDescription } from "../lib/log_disk/description.ts";
import { ExtentMap } from "../lib/log_disk/extent_map.ts";
import { LogDisk } from "../lib/log_disk/log_disk.ts";
import { encodeLogHeader, type LogExtent, objectBytes } from "../lib/log_disk/log_object.ts";
import { checkpointKey, logKey } from "../lib/log_disk/names.ts";
import { finish } from "../lib/log_disk/load.ts";
import { openFolderStore } from "../lib/object_store/mod.ts";
import type { ObjectStore } from "../lib/object_store/types.ts";
import { seededRandom } from "../lib/testing/random.ts";
import { print } from "../tools/process.ts";
import { taskOptions } from "./options.ts";

const KIB = 1024, MIB = 1024 * KIB, GIB = 1024 * MIB;
const BLOCK = 4 * KIB;
/** The disk that is attached: its size, extents, and objects behind the checkpoint. */
const DISK_BYTES = 100 * GIB, EXTENTS = 1_000_000, TAIL_OBJECTS = 32;
/** Blocks in one log object. */
const OBJECT_BLOCKS = 2048;

/** A store that keeps small objects alone, and counts. */
function forgetfulStore(): ObjectStore & { readonly puts: Record<string, number> } {
  const kept = new Map<string, Uint8Array<ArrayBuffer>>(), puts: Record<string, number> = {};
  const counts = { gets: 0, lists: 0, deletes: 0, bytesOut: 0, bytesIn: 0, retries: 0 };
  return {
    name: "nowhere",
    puts,
    get counts() {
      return { ...counts, puts: Object.values(puts).reduce((sum, each) => sum + each, 0) };
    },
    create: (key, body) => {
      const kind = key.split("/")[0] ?? key;
      puts[kind] = (puts[kind] ?? 0) + 1;
      const [first] = body;
      if (body.length === 1 && first !== undefined && first.length < 4 * KIB) kept.set(key, first);
      return Promise.resolve("created");
    },
    get: (key) => Promise.resolve(kept.get(key) ?? null),
    list: async function* (): AsyncGenerator<never> {},
    delete: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

function context(): DiskContext & ReturnType<typeof systemContext> {
  const quiet = (): void => {};
  return systemContext({
    log: { error: quiet, warn: quiet, info: quiet, debug: quiet },
    signal: new AbortController().signal,
    readOnly: false,
    mayBlock: true,
  });
}

async function randomWrites(bytes: number): Promise<void> {
  const store = forgetfulStore(), random = seededRandom(1);
  await createVolume(store, { diskBytes: 100 * GIB }, context());
  const disk = await LogDisk.attach(store, context());
  const block = new Uint8Array(BLOCK), blocks = 100 * GIB / BLOCK, count = bytes / BLOCK;
  random.fill(block);
  const before = Deno.memoryUsage().rss, start = process.cpuUsage();
  for (let index = 0; index < count; index += 1) {
    const waits = disk.write(block, random.below(blocks) * BLOCK, { fua: false });
    if (waits !== undefined) await waits;
    // As a connection does between two chunks of requests.
    if (index % 256 === 255) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  await disk.flush();
  const { user, system } = process.cpuUsage(start);
  const { log = 0, ckpt = 0 } = store.puts;
  print(`random writes of 4 KiB, ${bytes / MIB} MiB\n`);
  print(`  objects created        ${log} of the log, ${ckpt} checkpoints\n`);
  print(`  CPU for each write     ${((user + system) / count).toFixed(2)} µs\n`);
  print(`  extents                ${disk.map.extents}\n`);
  print(`  memory for them        ${((Deno.memoryUsage().rss - before) / MIB).toFixed(0)} MiB\n`);
}

/** A volume that looks as if it had been written to at random for long. */
async function makeVolume(folder: string): Promise<void> {
  const own = context(), random = seededRandom(2);
  const store = await openFolderStore(folder, { ...own, readOnly: false });
  const volume = await createVolume(store, { diskBytes: DISK_BYTES }, own);
  const map = new ExtentMap(), slots = DISK_BYTES / BLOCK;
  let seq = 0, place = 0;
  while (map.extents < EXTENTS) {
    if (place === 0) map.objects(0).add(seq += 1, 40 * KIB, OBJECT_BLOCKS * BLOCK);
    map.write(random.below(slots) * BLOCK, BLOCK, 0, seq, place * BLOCK);
    place = (place + 1) % OBJECT_BLOCKS;
  }
  const nonce = volume.id, next = seq + 1;
  const state = { volume: volume.id, nonce, seq, epoch: 1, next, diskBytes: DISK_BYTES };
  const parts = encodeCheckpoint({ ...state, blockBytes: 512, detached: false }, map.copy());
  await store.create(checkpointKey(seq, nonce), await finish(parts, false, own));
  for (let index = 0; index < TAIL_OBJECTS; index += 1) {
    await makeObject(store, folder, volume, next + index);
  }
  await store[Symbol.asyncDispose]();
}

/** A log object whose data is a hole of its file: nobody reads it here. */
async function makeObject(
  store: ObjectStore,
  folder: string,
  volume: VolumeDescription,
  seq: number,
): Promise<void> {
  const random = seededRandom(seq), slots = DISK_BYTES / BLOCK;
  const extents = Array.from({ length: OBJECT_BLOCKS }, (): LogExtent => {
    return { kind: "write", offset: random.below(slots) * BLOCK, length: BLOCK };
  });
  const dataBytes = OBJECT_BLOCKS * BLOCK;
  const header = encodeLogHeader({
    volume: volume.id,
    nonce: volume.id,
    seq,
    epoch: 1,
    next: seq + 1,
    diskBytes: DISK_BYTES,
    dataBytes,
    claim: false,
    detach: false,
    afterDetach: false,
    extents,
  });
  await store.create(logKey(seq), [header]);
  await Deno.truncate(join(folder, logKey(seq)), objectBytes(header.length, dataBytes));
}

/** What the child process does: attach, and tell. */
async function attachAndTell(folder: string): Promise<void> {
  const own = context(), startMs = performance.now();
  const store = await openFolderStore(folder, { ...own, readOnly: false });
  const disk = await LogDisk.attach(store, own);
  const ms = performance.now() - startMs, { user, system } = process.cpuUsage();
  const status = await Deno.readTextFile("/proc/self/status");
  const peak = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / KIB;
  print(
    `attach of ${
      DISK_BYTES / GIB
    } GiB, ${disk.map.extents} extents, ${TAIL_OBJECTS} objects to replay\n`,
  );
  print(`  time                   ${(ms / 1000).toFixed(2)} s\n`);
  print(`  CPU of the process     ${((user + system) / 1e6).toFixed(2)} s\n`);
  print(`  memory at most         ${peak.toFixed(0)} MiB\n`);
  print(`  requests               ${store.counts.gets} reads, ${store.counts.lists} listings\n`);
  await disk[Symbol.asyncDispose]();
}

async function attachInChild(): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "dmu-log-disk-" });
  try {
    await makeVolume(folder);
    const args = ["run", "-A", fileURLToPath(import.meta.url), "--attach", folder];
    const command = new Deno.Command(Deno.execPath(), { args, stdout: "inherit" });
    const { code } = await command.output();
    if (code !== 0) throw new Error(`The attach ended with code ${code}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const { flags, texts } = taskOptions({
  task: "bench:log-disk",
  flags: ["quick"],
  texts: ["attach"],
});
const attached = texts.get("attach");
if (attached !== undefined) {
  await attachAndTell(attached);
} else {
  await randomWrites(flags.has("quick") ? 256 * MIB : GIB);
  await attachInChild();
}
