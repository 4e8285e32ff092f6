/**
 * The write-ahead log: what was synced is there after a crash, in order and whole; room is used again;
 * records go back to the volume that they are of, or to none.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  type WalPosition,
  type WalRecord,
  WriteAheadLog,
} from "../../lib/log_disk/wal/write_ahead_log.ts";
import {
  WAL_BYTES_MIN,
  WAL_CLAIMS_MAX,
  WAL_RECORD_DATA_BYTES_MAX,
} from "../../lib/log_disk/wal/limits.ts";
import { isTagUpTo, objectTag } from "../../lib/log_disk/wal/format.ts";
import type { Writer } from "../../lib/log_disk/hooks.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { VOLUME } from "./objects.ts";

const PATH = "/wal";

function open(files: CrashFiles, bytes = WAL_BYTES_MIN): Promise<WriteAheadLog> {
  return WriteAheadLog.open({ path: PATH, bytes }, {
    files,
    random: seededRandom(files.crashes + 7),
  });
}

function writer(epoch: number): Writer {
  return { epoch, nonce: epoch.toString(16).padStart(32, "0") };
}

/** Opens a log that begins with writer 1. */
async function begun(files: CrashFiles, bytes?: number): Promise<WriteAheadLog> {
  const log = await open(files, bytes);
  await log.begin(VOLUME, writer(1));
  return log;
}

/** A record as it can be compared. */
function shown({ kind, offset, length, data }: WalRecord): string {
  return `${kind} ${offset} ${length} ${data.toHex().slice(0, 64)}`;
}

function all(log: WriteAheadLog): string[] {
  return Array.from(log.read(), shown);
}

interface Appended {
  /** Records, with the place behind each. */
  readonly records: { readonly text: string; readonly end: WalPosition }[];
  /** Records that were synced, and released. */
  synced: number;
  released: number;
}

/** Appends a random record, if there is room. */
function appendSome(
  log: WriteAheadLog,
  appended: Appended,
  random: ReturnType<typeof seededRandom>,
): void {
  const kind = random.pick(["write", "write", "write", "zero", "trim"] as const);
  const length = 1 + random.below(random.oneIn(4) ? WAL_RECORD_DATA_BYTES_MAX : 5000);
  const data = new Uint8Array(kind === "write" ? length : 0);
  random.fill(data);
  if (log.usedBytes + 2 * length + 200 > log.ringBytes) return;
  const offset = random.below(2 ** 40);
  assert.equal(log.append(kind, offset, length, kind === "write" ? data : null), undefined);
  appended.records.push({ text: shown({ kind, offset, length, data }), end: log.position });
}

async function step(
  log: WriteAheadLog,
  appended: Appended,
  random: ReturnType<typeof seededRandom>,
): Promise<void> {
  const what = random.below(10);
  if (what < 6) return appendSome(log, appended, random);
  if (what < 8) {
    const count = appended.records.length;
    await log.sync();
    appended.synced = Math.max(appended.synced, count);
    return;
  }
  const release = appended.released + random.below(appended.synced - appended.released + 1);
  const end = appended.records[release - 1]?.end;
  if (end !== undefined) log.release(end);
  appended.released = Math.max(appended.released, release);
}

async function live(seed: number, flushDoesNothing = false): Promise<number> {
  const files = new CrashFiles({ seed, flushDoesNothing, survival: 0.4 });
  const random = seededRandom(seed);
  let log = await begun(files), wraps = 0;
  for (let life = 1; life <= 4; life += 1) {
    const appended: Appended = { records: [], synced: 0, released: 0 };
    for (let turns = 20 + random.below(150); turns > 0; turns -= 1) {
      const work = step(log, appended, random);
      // Sometimes the crash comes in the midst of it.
      if (turns === 1 && random.oneIn(2)) work.catch(() => {});
      else await work;
    }
    wraps += Math.floor(log.position.total / log.ringBytes);
    files.crash();
    log = await open(files);
    const texts = appended.records.map(({ text }) => text), found = all(log);
    const first = found[0] === undefined ? appended.released : texts.indexOf(found[0]);
    assert.ok(first >= 0 && first <= appended.released, "what was not released is gone");
    assert.deepEqual(found, texts.slice(first, first + found.length));
    assert.ok(first + found.length >= appended.synced, "what was synced is gone");
    log.checkOwner(VOLUME, writer(life));
    await log.claim(writer(life + 1), { ...writer(life), seq: 0 });
    await log.begin(VOLUME, writer(life + 1));
    assert.deepEqual(all(log), []);
  }
  await log.close();
  return wraps;
}

Deno.test("WriteAheadLog has all that was synced after a crash, in order, and nothing else", async () => {
  let wraps = 0;
  for (let seed = 1; seed <= 25; seed += 1) wraps += await live(seed);
  assert.ok(wraps > 10, `the ring went round ${wraps} times`);
});

Deno.test("WriteAheadLog fails that test when its flushes do nothing", async () => {
  await assert.rejects(async () => {
    for (let seed = 1; seed <= 20; seed += 1) await live(seed, true);
  });
});

Deno.test("WriteAheadLog keeps what a process left that was killed, and begins anew after a clean end", async () => {
  const files = new CrashFiles({ seed: 1 });
  const first = await begun(files);
  await first.append("write", 4096, 3, Uint8Array.of(1, 2, 3));
  await first.append("trim", 0, 512, null);
  // Its file is closed by the kernel: nothing was synced, and everything is in the page cache.
  await first.close();
  const second = await open(files);
  assert.deepEqual(all(second), ["write 4096 3 010203", "trim 0 512 "]);
  second.checkOwner(VOLUME, writer(1));
  second.release(second.position);
  await second.close();
  const third = await open(files, 2 * WAL_BYTES_MIN);
  assert.equal(third.records, 0);
  assert.ok(third.ringBytes > WAL_BYTES_MIN);
  await third.close();
});

Deno.test("WriteAheadLog gives its records to nobody but its writer and those that were to follow it", async () => {
  const files = new CrashFiles({ seed: 1 });
  const first = await begun(files);
  first.checkOwner("f".repeat(32), writer(9)); // without records it is anybody's
  await first.append("zero", 0, 512, null);
  await first.sync();
  files.crash();
  const log = await open(files);
  log.checkOwner(VOLUME, writer(1));
  assert.throws(() => log.checkOwner("f".repeat(32), writer(1)), { errno: "EBUSY" });
  assert.throws(() => log.checkOwner(VOLUME, writer(2)), /another writer has continued the volume/);
  await log.claim(writer(2), { ...writer(1), seq: 0 });
  await log.claim({ epoch: 3, nonce: "3".repeat(32) }, { ...writer(1), seq: 0 });
  files.crash();
  const again = await open(files);
  again.checkOwner(VOLUME, writer(1));
  again.checkOwner(VOLUME, writer(2));
  again.checkOwner(VOLUME, { epoch: 3, nonce: "3".repeat(32) });
  assert.throws(() => again.checkOwner(VOLUME, { epoch: 2, nonce: "3".repeat(32) }), {
    errno: "EBUSY",
  });
  assert.throws(() => again.checkOwner(VOLUME, writer(4)), { errno: "EBUSY" });
  assert.deepEqual(all(again), ["zero 0 512 "]);
  await again.close();
});

Deno.test("WriteAheadLog waits for room, in order, and has it once a release is durable", async () => {
  const files = new CrashFiles({ seed: 4 });
  const log = await begun(files);
  const data = new Uint8Array(WAL_RECORD_DATA_BYTES_MAX);
  const ends: WalPosition[] = [];
  let pending: Promise<void> | undefined;
  while (pending === undefined) {
    ends.push(log.position);
    const added = log.append("write", ends.length, data.length, data);
    if (added instanceof Promise) pending = added;
  }
  let done = 0;
  const work = [pending, log.append("zero", 0, 1, null)]
    .map((each) => Promise.resolve(each).then(() => done += 1));
  await log.sync();
  assert.equal(done, 0);
  log.release(ends[2] ?? log.position);
  await Promise.all(work);
  await log.sync();
  files.crash();
  const again = await open(files);
  const [large, small] = all(again).slice(-2);
  assert.match(large ?? "", new RegExp(`^write ${ends.length} ${data.length} `));
  assert.equal(small, "zero 0 1 ");
  await again.close();
});

Deno.test("WriteAheadLog fails those that wait for room when it is closed", async () => {
  const log = await begun(new CrashFiles({ seed: 5 }));
  const data = new Uint8Array(WAL_RECORD_DATA_BYTES_MAX).fill(7);
  let waiting: Promise<void> | undefined;
  while (waiting === undefined) {
    const added = log.append("write", 100, data.length, data);
    if (added instanceof Promise) waiting = added;
  }
  const failed = assert.rejects(waiting, { errno: "ESHUTDOWN" });
  await log.close();
  await failed;
});

Deno.test("WriteAheadLog refuses what is no log of ours, and one whose headers are damaged", async () => {
  const files = new CrashFiles({ seed: 6 });
  const other = files.open(PATH, { readOnly: false, createSize: 9000, direct: false, lock: false });
  other.write(Uint8Array.of(1), 8999);
  await assert.rejects(open(files), { errno: "EINVAL" });
  other.truncate(0);
  const log = await begun(files);
  await log.append("zero", 0, 512, null);
  await log.close();
  other.write(Uint8Array.of(0xee), 40);
  other.write(Uint8Array.of(0xee), 4096 + 40);
  await assert.rejects(open(files), { errno: "EIO" });
  other.close();
  await assert.rejects(open(files, 1000), { errno: "EINVAL" });
});

Deno.test("WriteAheadLog stays broken once a flush has failed", async () => {
  const files = new CrashFiles({ seed: 8 });
  const log = await begun(files);
  await log.append("zero", 0, 512, null);
  files.crash(); // every call on the open file fails from now on
  await assert.rejects(log.sync(), { errno: "EIO" });
  await assert.rejects(log.sync(), { errno: "EIO" });
  assert.throws(() => log.append("zero", 0, 512, null), { errno: "EIO" });
  await log.close();
});

Deno.test("WriteAheadLog is made whole or not at all when a crash comes meanwhile", async () => {
  for (let seed = 1; seed <= 40; seed += 1) {
    const files = new CrashFiles({ seed });
    const making = open(files).then((log) => log.begin(VOLUME, writer(1)));
    making.catch(() => {});
    for (let turns = seed % 24; turns > 0; turns -= 1) await Promise.resolve();
    files.crash();
    const log = await open(files);
    assert.equal(log.records, 0);
    await log.close();
  }
});

Deno.test("WriteAheadLog forgets at a claim what the volume has, and nothing at those that follow", async () => {
  const files = new CrashFiles({ seed: 9 }), log = await begun(files), data = Uint8Array.of(1);
  for (const [at, object] of [5, 5, 6, 7, 9].entries()) {
    await log.append("write", at, 1, data, { object });
  }
  const offsets = (from: WriteAheadLog): number[] => [...from.read()].map(({ offset }) => offset);
  // Object 6 has what was added before the last record that may be in it.
  await log.claim(writer(2), { ...writer(1), seq: 6 });
  assert.deepEqual(offsets(log), [2, 3, 4]);
  // It came late: more is there by now.
  await log.claim(writer(2), { ...writer(1), seq: 8 });
  assert.deepEqual(offsets(log), [3, 4]);
  // Objects of those who recover tell nothing of the records, however many of them there were.
  for (let epoch = 2; epoch < 2 * WAL_CLAIMS_MAX; epoch += 1) {
    await log.claim(writer(epoch + 1), { ...writer(epoch), seq: 100 + epoch });
  }
  files.crash();
  const again = await open(files);
  assert.deepEqual(offsets(again), [3, 4]);
  again.checkOwner(VOLUME, writer(1));
  again.checkOwner(VOLUME, writer(2 * WAL_CLAIMS_MAX));
  assert.throws(() => again.checkOwner(VOLUME, writer(3)), { errno: "EBUSY" });
  await again.claim(writer(999), { ...writer(1), seq: 9 });
  assert.deepEqual(offsets(again), [4]);
  await again.close();
});

Deno.test("WriteAheadLog keeps all records that do not say in which object they are", async () => {
  const files = new CrashFiles({ seed: 10 }), log = await begun(files);
  for (let at = 0; at < 3; at += 1) await log.append("zero", at, 1, null);
  await log.claim(writer(2), { ...writer(1), seq: 100 });
  assert.equal(all(log).length, 3);
  await log.close();
});

Deno.test("isTagUpTo() compares objects that are near one another, also where tags begin again", () => {
  for (const seq of [1, 1000, 2 ** 32 - 2, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 7, 2 ** 49 - 1]) {
    for (const behind of [0, 1, 2, 2 ** 20, 2 ** 31 - 1]) {
      if (behind >= seq) continue;
      assert.ok(isTagUpTo(objectTag(seq - behind), seq), `${seq} - ${behind}`);
      if (behind > 0) assert.ok(!isTagUpTo(objectTag(seq), seq - behind), `${seq} - ${behind}`);
    }
    assert.ok(objectTag(seq) >= 1 && objectTag(seq) < 2 ** 32);
    assert.ok(!isTagUpTo(0, seq));
  }
});
