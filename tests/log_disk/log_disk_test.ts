/**
 * A log-structured disk: what it costs, what it says when something is wrong, how it ends.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { OpenContext } from "../../lib/block/context.ts";
import type { VolumeDescription } from "../../lib/log_disk/description.ts";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { type AttachOptions, LogDisk } from "../../lib/log_disk/log_disk.ts";
import { decodeLogHeader } from "../../lib/log_disk/log_object.ts";
import { logKey, seqOfLogKey } from "../../lib/log_disk/names.ts";
import { seededRandom, testContext } from "../../lib/testing/mod.ts";
import { MemoryBucket, MemoryStore, PLAIN_PLAN, type StorePlan } from "../support/memory_store.ts";
import { ManualClock } from "../support/context.ts";

const MIB = 2 ** 20;
const PLAIN = { fua: false }, FUA = { fua: true };

/** A volume, and what attaches to it. */
class Setting {
  readonly bucket = new MemoryBucket();
  readonly clock = new ManualClock();
  readonly context: OpenContext;
  store = new MemoryStore(this.bucket);
  #nonces = 1;

  constructor() {
    this.context = testContext({ clock: this.clock });
  }

  create(diskBytes = 64 * MIB): Promise<VolumeDescription> {
    return createVolume(this.store, { diskBytes }, this.context);
  }

  /** Attaches as a host of its own. */
  attach(options: AttachOptions = {}, plan: StorePlan = PLAIN_PLAN): Promise<LogDisk> {
    this.store = new MemoryStore(this.bucket, plan);
    this.#nonces += 1;
    const random = seededRandom(this.#nonces);
    return LogDisk.attach(this.store, { ...this.context, random }, options);
  }

  logSeqs(): number[] {
    return this.bucket.keys.flatMap((key) => seqOfLogKey(key) ?? []);
  }
}

async function made(diskBytes?: number): Promise<Setting> {
  const setting = new Setting();
  await setting.create(diskBytes);
  return setting;
}

function filled(value: number, length = 4096): Uint8Array {
  return new Uint8Array(length).fill(value);
}

async function firstByte(disk: LogDisk, offset: number): Promise<number | undefined> {
  const into = new Uint8Array(512);
  await disk.read(into, offset);
  return into[0];
}

/** A volume with some objects of one block each, left as a crash leaves it; a new attach. */
async function crashed(objects: number, options: AttachOptions = {}): Promise<Setting> {
  const setting = await made();
  const disk = await setting.attach(options);
  for (let index = 0; index < objects; index += 1) {
    await disk.write(filled(index + 1), index * 4096, FUA);
  }
  return setting;
}

/** The nth log object that has data. */
function dataKey(setting: Setting, index: number): string {
  const withData = setting.logSeqs().filter((seq) => {
    const bytes = setting.bucket.peek(logKey(seq));
    return bytes !== null && decodeLogHeader(bytes, "x").dataBytes > 0;
  });
  return logKey(withData[index] ?? 0);
}

/** Replaces an object by a changed copy. */
function damage(
  setting: Setting,
  key: string,
  change: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>,
): void {
  const bytes = setting.bucket.peek(key);
  assert.ok(bytes !== null, `there is no ${key}`);
  setting.bucket.remove(key);
  setting.bucket.add(key, change(bytes.slice()));
}

Deno.test("LogDisk.attach() says when there is no volume, and createVolume() when there is one", async () => {
  const setting = new Setting();
  await assert.rejects(setting.attach(), /^BlockError: Cannot open memory: there is no volume$/);
  await setting.create();
  await assert.rejects(setting.create(), { errno: "EEXIST" });
  await assert.rejects(new Setting().create(1000), /no multiple of 512/);
});

Deno.test("LogDisk writes random blocks in few objects", async () => {
  const setting = await made(256 * MIB);
  const disk = await setting.attach();
  const random = seededRandom(1), block = new Uint8Array(4096);
  const before = setting.store.counts.puts, writes = 96 * MIB / 4096;
  for (let index = 0; index < writes; index += 1) {
    random.fill(block.subarray(0, 16));
    await disk.write(block, random.below(65_536) * 4096, PLAIN);
  }
  await disk.flush();
  // 200 for a GiB would be 18.75 for this.
  const puts = setting.store.counts.puts - before;
  assert.ok(puts <= 13, `${puts} objects were created`);
  await disk[Symbol.asyncDispose]();
});

Deno.test("LogDisk shares an object among the durable writes of one turn", async () => {
  const setting = await made();
  const disk = await setting.attach(), before = setting.store.counts.puts;
  const done = Array.from({ length: 64 }, (_, index) => disk.write(filled(9), index * 8192, FUA));
  await Promise.all(done);
  assert.equal(setting.store.counts.puts - before, 1);
  const flushes = [disk.flush(), disk.flush()];
  assert.deepEqual(flushes, [undefined, undefined], "nothing was left to do");
  await disk[Symbol.asyncDispose]();
});

Deno.test("LogDisk makes writes wait while too much is not durable", async () => {
  let holds = true;
  const held: (() => void)[] = [];
  const plan: StorePlan = {
    fate: () => "done",
    pass: ({ key }, point) => {
      if (!holds || !key.startsWith("log/") || key <= logKey(1) || point !== "before") return;
      return new Promise((resolve) => void held.push(resolve));
    },
  };
  const setting = await made();
  const disk = await setting.attach({ dirtyBytesMax: 16 * MIB }, plan);
  const block = filled(1, MIB);
  for (let index = 0; index < 16; index += 1) {
    assert.equal(disk.write(block, index * MIB, PLAIN), undefined);
  }
  assert.equal(disk.dirtyBytes, 16 * MIB);
  const waits = [disk.write(block, 20 * MIB, PLAIN), disk.write(filled(7), 20 * MIB, PLAIN)];
  assert.ok(waits.every((each) => each instanceof Promise));
  assert.equal(await firstByte(disk, 20 * MIB), 0);
  holds = false;
  for (const go of held.splice(0)) go();
  await Promise.all(waits);
  assert.equal(await firstByte(disk, 20 * MIB), 7, "the writes were made in their order");
  await disk[Symbol.asyncDispose]();
});

Deno.test("LogDisk sends by itself what nobody flushes", async () => {
  const setting = await made();
  const disk = await setting.attach({ sealAfterMs: 500 });
  await disk.write(filled(5), 0, PLAIN);
  const before = disk.durableSeq;
  setting.clock.advance(499_000);
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
  assert.equal(disk.durableSeq, before);
  setting.clock.advance(2_000);
  for (let turn = 0; turn < 200 && disk.durableSeq === before; turn += 1) await Promise.resolve();
  assert.equal(disk.dirtyBytes, 0);
  const again = await setting.attach({ readOnly: true });
  assert.equal(await firstByte(again, 0), 5);
});

Deno.test("LogDisk keeps what a store refuses, says so, and tries it again at the next flush", async () => {
  let full = false;
  const plan: StorePlan = {
    fate: ({ verb }) => full && verb === "create" ? { fail: "full" } : "done",
    pass: () => undefined,
  };
  const setting = await made();
  const disk = await setting.attach({}, plan);
  full = true;
  await disk.write(filled(3), 0, PLAIN);
  await assert.rejects(async () => await disk.flush(), { errno: "ENOSPC" });
  await assert.rejects(async () => await disk.flush(), { errno: "ENOSPC" });
  assert.equal(await firstByte(disk, 0), 3);
  full = false;
  await disk.flush();
  const again = await setting.attach({ readOnly: true });
  assert.equal(await firstByte(again, 0), 3);
});

Deno.test("LogDisk tells a writer that another has taken over, and acknowledges nothing more", async () => {
  const setting = await made();
  const first = await setting.attach();
  await first.write(filled(1), 0, FUA);
  await first.write(filled(2), 4096, PLAIN);
  const second = await setting.attach();
  const taken =
    /^BlockError: Cannot write to memory: another writer has taken it over \(epoch 2, ours was 1\)$/;
  await assert.rejects(async () => await first.flush(), taken);
  assert.throws(() => first.write(filled(3), 0, PLAIN), taken);
  assert.throws(() => first.flush(), taken);
  assert.equal(first.failure?.errno, "EROFS");
  assert.equal(await firstByte(second, 0), 1);
  assert.equal(await firstByte(second, 4096), 0);
  await assert.rejects(first[Symbol.asyncDispose](), taken);
  await second[Symbol.asyncDispose]();
});

Deno.test("LogDisk that was closed leaves no claim that must stay, one that crashed does", async () => {
  const setting = await made();
  const permanent = (disk: LogDisk): number =>
    [...disk.map.objects(0)].filter((each) => each.permanent).length;
  const first = await setting.attach();
  await first[Symbol.asyncDispose]();
  const second = await setting.attach();
  assert.equal(permanent(second), 0);
  const third = await setting.attach();
  assert.equal(permanent(third), 1, "the second one may still be there");
});

Deno.test("LogDisk for reading claims nothing, writes nothing, and shows what was durable", async () => {
  const setting = await crashed(3);
  const keys = setting.bucket.keys.length;
  const disk = await setting.attach({ readOnly: true });
  assert.equal(setting.store.counts.puts, 0);
  assert.equal(await firstByte(disk, 4096), 2);
  assert.throws(() => disk.write(filled(1), 0, PLAIN), { errno: "EROFS" });
  await disk[Symbol.asyncDispose]();
  assert.equal(setting.bucket.keys.length, keys);
});

Deno.test("LogDisk keeps a change of its size, and what was cut off stays gone", async () => {
  const setting = await made(8 * MIB);
  const disk = await setting.attach();
  await disk.write(filled(1, MIB), 7 * MIB, PLAIN);
  await disk.resize(7 * MIB + 4096);
  await disk.resize(16 * MIB);
  await assert.rejects(disk.resize(1000), { errno: "EINVAL" });
  for (const each of [disk, await setting.attach()]) {
    assert.equal(each.geometry.size, 16 * MIB);
    assert.equal(await firstByte(each, 7 * MIB), 1);
    assert.equal(await firstByte(each, 7 * MIB + 4096), 0);
  }
});

Deno.test("LogDisk.attach() names a log object that is damaged, cut short or of another volume", async () => {
  const cases: readonly (readonly [
    (bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>,
    string,
  ])[] = [
    [(bytes) => bytes.fill(0, 50, 60), "its header has a wrong checksum"],
    [(bytes) => bytes.slice(0, 30), "it is cut short"],
    [(bytes) => bytes.slice(0, -100), "bytes in place of"],
    [(bytes) => bytes.fill(0), "it is no log object"],
  ];
  for (const [change, reason] of cases) {
    const setting = await crashed(5), key = dataKey(setting, 2);
    damage(setting, key, change);
    for (const readOnly of [false, true]) {
      await assert.rejects(setting.attach({ readOnly }), (error: Error) => {
        assert.match(error.message, new RegExp(`^Cannot use memory/${key}: .*${reason}`));
        return true;
      });
    }
  }
  const setting = await crashed(3), other = await crashed(3, { sealAfterMs: 1 });
  const key = dataKey(setting, 1), foreign = other.bucket.peek(key)?.slice();
  assert.ok(foreign !== undefined);
  foreign[16] = 0xee;
  damage(setting, key, () => foreign);
  await assert.rejects(setting.attach(), /wrong checksum/);
});

Deno.test("LogDisk.attach() names a log object that was lost, if later ones are there", async () => {
  const setting = await crashed(40), key = dataKey(setting, 4);
  setting.bucket.remove(key);
  await assert.rejects(setting.attach(), (error: Error) => {
    assert.match(error.message, new RegExp(`^Cannot use memory/${key}: it does not exist, but`));
    return true;
  });
});

Deno.test("LogDisk names an object whose data is damaged when it is read", async () => {
  const setting = await crashed(3), key = dataKey(setting, 1);
  damage(setting, key, (bytes) => bytes.fill(1, bytes.length - 60, bytes.length - 50));
  const disk = await setting.attach();
  assert.equal(await firstByte(disk, 0), 1);
  await assert.rejects(firstByte(disk, 4096), (error: Error) => {
    assert.equal(error.message, `Cannot use memory/${key}: line 0 of it has a wrong checksum`);
    return true;
  });
  setting.bucket.remove(dataKey(setting, 2));
  await assert.rejects(firstByte(disk, 8192), /it does not exist$/);
});

Deno.test("LogDisk.attach() replays no more than what follows the newest checkpoint that is whole", async () => {
  const checkpoints = { afterBytes: Infinity, afterObjects: 50 };
  const setting = await crashed(120, { checkpoints });
  const found = setting.bucket.keys.filter((key) => key.startsWith("ckpt/"));
  assert.equal(found.length, 2);
  const gets = async (): Promise<number> => {
    const disk = await setting.attach({ readOnly: true });
    const { counts } = setting.store;
    for (let index = 0; index < 120; index += 1) {
      assert.equal(await firstByte(disk, index * 4096), index + 1);
    }
    return counts.gets;
  };
  assert.ok(await gets() < 40);
  const [older = "", newest = ""] = found;
  damage(setting, newest, (bytes) => bytes.fill(7, 120, 130));
  assert.ok(await gets() > 60, "the checkpoint before it was taken");
  damage(setting, older, (bytes) => bytes.slice(0, 80));
  await assert.rejects(setting.attach(), (error: Error) => {
    assert.match(error.message, new RegExp(`^Cannot use memory/${newest}: `));
    return true;
  });
});

Deno.test("LogDisk deletes checkpoints but for the two newest", async () => {
  const setting = await made();
  const disk = await setting.attach({ checkpoints: { afterBytes: Infinity, afterObjects: 10 } });
  for (let index = 0; index < 100; index += 1) {
    await disk.write(filled(index + 1), index * 4096, FUA);
  }
  // The last of them may still be at work.
  await disk[Symbol.asyncDispose]();
  assert.equal(setting.bucket.keys.filter((key) => key.startsWith("ckpt/")).length, 2);
  const again = await setting.attach();
  for (let index = 0; index < 100; index += 1) {
    assert.equal(await firstByte(again, index * 4096), index + 1);
  }
});

Deno.test("LogDisk knows what an older writer left behind the gap as garbage, and never shows it", async () => {
  const lost: Promise<void> = new Promise(() => {});
  let gap = "";
  const plan: StorePlan = {
    fate: () => "done",
    pass: ({ key }, point) => key === gap && point === "before" ? lost : undefined,
  };
  const setting = await made();
  const first = await setting.attach({}, plan);
  gap = logKey(first.position);
  for (let index = 0; index < 4; index += 1) {
    await first.write(filled(7, 4 * MIB), index * 8 * MIB, PLAIN);
    await first.write(filled(7, 4 * MIB), index * 8 * MIB + 4 * MIB, PLAIN);
  }
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
  const [, ...left] = setting.logSeqs();
  assert.equal(left.length, 3, "what follows the gap was created");
  for (const disk of [await setting.attach(), await setting.attach()]) {
    assert.equal(await firstByte(disk, 8 * MIB), 0);
    for (const seq of left) assert.equal(disk.map.objects(0).get(seq)?.liveBytes, 0);
  }
});
