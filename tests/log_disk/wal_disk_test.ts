/**
 * A disk behind a write-ahead log, killed at any point: what comes back is what the disk was after some
 * of its writes, all that were flushed among them. The disk below is a model of the log on a store: it
 * makes writes durable in order, some time after it took them, and knows who its last writer was.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import type { Writer, WriterHooks } from "../../lib/log_disk/hooks.ts";
import { WAL_BYTES_MIN } from "../../lib/log_disk/wal/limits.ts";
import { type DiskBelow, openWalDisk, walHooks } from "../../lib/log_disk/wal/wal_disk.ts";
import { WriteAheadLog } from "../../lib/log_disk/wal/write_ahead_log.ts";
import type { Backend } from "../../lib/block/types.ts";
import { type SeededRandom, seededRandom } from "../../lib/testing/random.ts";
import { MemoryLog } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { VOLUME } from "./objects.ts";

const BLOCK = 4096, BLOCKS = 128;
const GEOMETRY = {
  size: BLOCK * BLOCKS,
  minimum: 512,
  preferred: BLOCK,
  maximum: 2 ** 20,
  readOnly: false,
};

/** A change of some blocks: they have this tag from then on. */
interface Change {
  readonly first: number;
  readonly count: number;
  readonly tag: number;
}

/** What a store has of the disk. */
class ModelVolume {
  readonly durable: Change[] = [];
  writer: Writer | null = null;
  epoch = 0;
}

function imageOf(changes: readonly Change[]): number[] {
  const image = new Array<number>(BLOCKS).fill(0);
  for (const { first, count, tag } of changes) image.fill(tag, first, first + count);
  return image;
}

function tagged(tag: number, count: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(count * BLOCK);
  new Uint32Array(bytes.buffer).fill(tag);
  return bytes;
}

/** The disk below; `life` ends when its host crashes. */
class ModelDisk implements DiskBelow {
  readonly capabilities = { synchronous: false, fua: false };
  readonly #volume: ModelVolume;
  readonly #hooks: WriterHooks;
  readonly #random: SeededRandom;
  readonly #changes: Change[];
  readonly #life: AbortSignal;
  readonly geometry = GEOMETRY;
  readonly failure = null;
  readonly objectBytes = 16 * BLOCK;

  constructor(volume: ModelVolume, hooks: WriterHooks, random: SeededRandom, life: AbortSignal) {
    this.#volume = volume;
    this.#hooks = hooks;
    this.#random = random;
    this.#changes = volume.durable.slice();
    this.#life = life;
  }

  /** Each change is an object of its own. */
  get position(): number {
    return this.#changes.length + 1;
  }

  get image(): number[] {
    return imageOf(this.#changes);
  }

  read(into: Uint8Array, offset: number): void {
    const image = this.image;
    for (let at = 0; at < into.length; at += BLOCK) {
      into.set(tagged(image[(offset + at) / BLOCK] ?? 0, 1), at);
    }
  }

  write(from: Uint8Array, offset: number): Promise<void> | undefined {
    const tag = new DataView(from.buffer, from.byteOffset).getUint32(0, true);
    return this.#change({ first: offset / BLOCK, count: from.length / BLOCK, tag });
  }

  trim(offset: number, length: number): Promise<void> | undefined {
    return this.#change({ first: offset / BLOCK, count: length / BLOCK, tag: 0 });
  }

  zero(offset: number, length: number): Promise<void> | undefined {
    return this.trim(offset, length);
  }

  async flush(): Promise<void> {
    await this.#store(this.#changes.length);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.flush();
  }

  /** Taken at once or a little later, and now and then made durable by itself, as full objects are. */
  #change(change: Change): Promise<void> | undefined {
    this.#changes.push(change);
    if (this.#random.oneIn(12)) void this.#store(this.#changes.length).catch(() => {});
    return this.#random.oneIn(3) ? this.#turns() : undefined;
  }

  async #turns(): Promise<void> {
    for (let turns = this.#random.below(6); turns > 0; turns -= 1) await Promise.resolve();
    this.#life.throwIfAborted();
  }

  async #store(count: number): Promise<void> {
    await this.#hooks.beforeCreate();
    await this.#turns();
    const { durable, writer } = this.#volume;
    if (writer?.epoch !== this.#volume.epoch) throw new BlockError("EROFS", "fenced");
    durable.push(...this.#changes.slice(durable.length, count));
  }
}

interface Host {
  readonly files: CrashFiles;
  readonly random: SeededRandom;
  readonly log: MemoryLog;
  life: AbortController;
}

async function attach(host: Host, volume: ModelVolume, plain = false): Promise<Backend> {
  const { files, random, log } = host;
  const life = host.life = new AbortController();
  const wal = await WriteAheadLog.open({ path: "/wal", bytes: WAL_BYTES_MIN }, { files, random });
  const writer = { epoch: volume.epoch + 1, nonce: random.uint32().toString(16).padStart(32, "0") };
  const hooks = walHooks(wal);
  try {
    const last = volume.writer ?? { epoch: 0, nonce: "" }, seq = volume.durable.length;
    await hooks.beforeClaim(VOLUME, { ...last, seq }, writer);
    life.signal.throwIfAborted();
  } catch (error) {
    await wal.close();
    throw error;
  }
  volume.writer = writer;
  volume.epoch = writer.epoch;
  const told = plain ? { ...hooks, beforeCreate: () => Promise.resolve() } : hooks;
  const disk = new ModelDisk(volume, told, random, life.signal);
  return await openWalDisk({ disk, wal, volume: VOLUME, writer, log });
}

function makeHost(seed: number): Host {
  return {
    files: new CrashFiles({ seed, survival: 0.4 }),
    random: seededRandom(seed),
    log: new MemoryLog(),
    life: new AbortController(),
  };
}

async function imageNow(disk: Backend): Promise<number[]> {
  const bytes = new Uint8Array(GEOMETRY.size);
  await disk.read(bytes, 0);
  const words = new Uint32Array(bytes.buffer);
  return Array.from({ length: BLOCKS }, (_, block) => words[block * BLOCK / 4] ?? 0);
}

/** Runs some hosts' lives on one volume; throws if something is lost. Gives what was recovered. */
async function run(seed: number, plain = false): Promise<number> {
  const volume = new ModelVolume(), host = makeHost(seed), { random } = host;
  let tag = 0, recovered = 0;
  // What the disk may be: changes since the last state that is known, and how many are flushed.
  let base: number[] = imageOf([]);
  for (let life = 0; life < 5; life += 1) {
    const disk = await attach(host, volume, plain);
    recovered += host.log.lines.splice(0).length;
    assert.deepEqual(await imageNow(disk), base, "not the state that it was");
    const changes: Change[] = [];
    let flushed = 0;
    const work: Promise<void>[] = [];
    for (let turns = random.below(120); turns > 0; turns -= 1) {
      if (random.oneIn(8)) {
        const count = changes.length;
        // What is in flight is not covered: a flush is sent once everything is done, mostly.
        if (random.oneIn(2)) await Promise.all(work.splice(0));
        const covered = work.length === 0 ? count : flushed;
        await disk.flush();
        flushed = Math.max(flushed, covered);
        continue;
      }
      const first = random.below(BLOCKS), count = 1 + random.below(Math.min(8, BLOCKS - first));
      const trim = random.oneIn(6);
      tag += 1;
      changes.push({ first, count, tag: trim ? 0 : tag });
      const done = trim
        ? disk.trim?.(first * BLOCK, count * BLOCK, { fua: false })
        : disk.write(tagged(tag, count), first * BLOCK, { fua: random.oneIn(20) });
      if (done instanceof Promise) work.push(done);
      if (random.oneIn(3)) await Promise.all(work.splice(0));
    }
    host.life.abort(new Error("crashed"));
    host.files.crash();
    await Promise.allSettled(work);
    await Promise.allSettled([disk[Symbol.asyncDispose]()]);
    // Recovery itself may crash, anywhere.
    while (random.oneIn(2)) {
      const attempt = attach(host, volume, plain);
      attempt.catch(() => {});
      for (let turns = random.below(60); turns > 0; turns -= 1) await Promise.resolve();
      host.life.abort(new Error("crashed"));
      host.files.crash();
      const [ended] = await Promise.allSettled([attempt]);
      if (ended.status === "fulfilled") {
        await Promise.allSettled([ended.value[Symbol.asyncDispose]()]);
      }
    }
    const next = await attach(host, volume, plain);
    const image = await imageNow(next);
    const states = changes.map((_, index) => index + 1).filter((count) => count >= flushed);
    if (flushed === 0) states.unshift(0);
    const start = base.slice();
    const matches = states.some((count) => {
      const state = start.slice();
      for (const { first, count: blocks, tag } of changes.slice(0, count)) {
        state.fill(tag, first, first + blocks);
      }
      return state.every((each, block) => each === image[block]);
    });
    assert.ok(matches, `seed ${seed}, life ${life}: no state after ${flushed} flushed changes`);
    base = image;
    await next[Symbol.asyncDispose]();
  }
  return recovered;
}

Deno.test("openWalDisk() gives the disk after some of its writes, all flushed ones among them, after any crash", async () => {
  let recovered = 0;
  for (let seed = 1; seed <= 25; seed += 1) recovered += await run(seed);
  assert.ok(recovered > 8, `${recovered} recoveries`);
});

Deno.test("openWalDisk() fails that test when objects are created before the log is synced", async () => {
  await assert.rejects(async () => {
    for (let seed = 1; seed <= 200; seed += 1) await run(seed, true);
  }, assert.AssertionError);
});

Deno.test("openWalDisk() refuses a volume that another writer has continued, and keeps the log", async () => {
  const host = makeHost(3), volume = new ModelVolume();
  const disk = await attach(host, volume);
  await disk.write(tagged(7, 1), 0, { fua: true });
  host.life.abort(new Error("crashed"));
  host.files.crash();
  await Promise.allSettled([disk[Symbol.asyncDispose]()]);
  const own = volume.writer;
  volume.writer = { epoch: volume.epoch += 1, nonce: "9".repeat(32) };
  for (let attempt = 0; attempt < 2; attempt += 1) {
    await assert.rejects(attach(host, volume), /has 1 records of epoch 1, and another writer/);
  }
  // Without the other writer they are still there.
  volume.writer = own;
  volume.epoch = own?.epoch ?? 0;
  const again = await attach(host, volume);
  assert.equal((await imageNow(again))[0], 7);
  await again[Symbol.asyncDispose]();
});

Deno.test("openWalDisk() goes on when its log is full, and has nothing in it after a clean end", async () => {
  const host = makeHost(5), volume = new ModelVolume();
  const disk = await attach(host, volume);
  const work: Promise<void>[] = [];
  for (let tag = 1; tag <= 3000; tag += 1) {
    const done = disk.write(tagged(tag, 1), tag % BLOCKS * BLOCK, { fua: false });
    if (done instanceof Promise) work.push(done);
    if (tag % 100 === 0) await Promise.all(work.splice(0));
  }
  await Promise.all(work);
  await disk.flush();
  await disk[Symbol.asyncDispose]();
  const { files, random } = host;
  const wal = await WriteAheadLog.open({ path: "/wal", bytes: WAL_BYTES_MIN }, { files, random });
  assert.equal(wal.records, 0);
  await wal.close();
  assert.equal(volume.durable.length, 3000);
});

Deno.test("openWalDisk() takes writes at a time that are together longer than its log", async () => {
  const host = makeHost(6), volume = new ModelVolume();
  const disk = await attach(host, volume);
  const whole = tagged(3, BLOCKS);
  const work = Array.from(
    { length: 40 },
    () => Promise.resolve(disk.write(whole, 0, { fua: true })),
  );
  await Promise.all(work);
  assert.deepEqual(await imageNow(disk), new Array<number>(BLOCKS).fill(3));
  await disk[Symbol.asyncDispose]();
});
