/**
 * One log in memory and on disk: bits, layout, order of writes, resizing, media that fail.
 *
 * @module
 */
import assert from "node:assert/strict";
import { DiskStore } from "../../lib/dirty_log/disk_store.ts";
import { decodeHeader, encodeHeader, logBytes } from "../../lib/dirty_log/disk_layout.ts";
import { CLEAR_HOLD_US } from "../../lib/dirty_log/limits.ts";
import { DirtyLog } from "../../lib/dirty_log/log.ts";
import { formatLogArguments, parseLogArguments } from "../../lib/dirty_log/log_arguments.ts";
import { RegionBitmap } from "../../lib/dirty_log/region_bitmap.ts";
import type { FileAccess, RawFile } from "../../lib/sys/file_access.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { FailingFiles } from "./fixtures.ts";

const OPEN = { readOnly: false, direct: false, lock: false, createSize: 4096 };

interface Made {
  readonly log: DirtyLog;
  readonly file: RawFile;
  readonly messages: MemoryLog;
  readonly clock: ManualClock;
}

function make(text: string, files: FileAccess, reconnected = false): Made {
  const parsed = parseLogArguments(text);
  const file = files.open("log", OPEN);
  const medium = parsed.place === null
    ? null
    : { store: new DiskStore(file, parsed.regions), label: "8:1" };
  const messages = new MemoryLog(), clock = new ManualClock();
  const log = new DirtyLog({
    name: "A",
    arguments: parsed,
    medium,
    reconnected,
    log: messages,
    now_us: () => clock.now(),
  });
  return { log, file, messages, clock };
}

function resumed(
  text: string,
  files: FileAccess = new CrashFiles({ seed: 1 }),
  again = false,
): Made {
  const made = make(text, files, again);
  made.log.resume(null);
  return made;
}

/** The first bytes of the file "log". */
function content(files: FileAccess, length: number, at = 0): number[] {
  const bytes = new Uint8Array(length);
  files.open("log", OPEN).read(bytes, at);
  return [...bytes];
}

/** All regions copied. */
function recoverAll(log: DirtyLog): void {
  for (let region = log.resyncWork(); region !== null; region = log.resyncWork()) {
    log.setRegionSync(region, true);
    log.clear([region]);
  }
}

Deno.test("RegionBitmap does as an array of booleans does", () => {
  const random = seededRandom(3);
  for (let round = 0; round < 300; round += 1) {
    const regions = 1 + random.below(70);
    const bitmap = new RegionBitmap(regions);
    let model = new Array<boolean>(regions).fill(false);
    for (let step = 0; step < 30; step += 1) {
      const region = random.below(regions), what = random.below(6);
      if (what < 2) assert.equal(bitmap.add(region), model[region] === false), model[region] = true;
      else if (what < 4) {
        assert.equal(bitmap.delete(region), model[region]);
        model[region] = false;
      } else if (what === 4) {
        const value = random.oneIn(2);
        bitmap.fill(value, region);
        model = model.map((bit, at) => at < region ? bit : value);
      } else {
        const other = new RegionBitmap(1 + random.below(80));
        for (let at = 0; at < other.regions; at += 1) if (random.oneIn(2)) other.add(at);
        bitmap.load(other.bytes, other.regions);
        model = model.map((bit, at) => at < other.regions ? other.has(at) : bit);
      }
      assert.equal(bitmap.count, model.filter((bit) => bit).length);
      const next = model.indexOf(false, region);
      assert.equal(bitmap.nextClear(region), next < 0 ? regions : next);
      for (const value of [true, false]) {
        const listed = [...bitmap.runs(value)].flatMap(({ start, count }) =>
          Array.from({ length: count }, (_, index) => start + index)
        );
        assert.deepEqual(listed, model.flatMap((bit, at) => bit === value ? [at] : []));
      }
    }
  }
});

Deno.test("parseLogArguments() takes what dm takes", () => {
  const parsed = parseLogArguments("65537 clustered-disk 8:1 1024 block_on_error nosync");
  assert.deepEqual(parsed, {
    type: "clustered-disk",
    place: "8:1",
    sectors: 65537,
    regionSectors: 1024,
    regions: 65,
    sync: "nosync",
    blockOnError: true,
  });
  assert.equal(formatLogArguments(parsed), "clustered-disk 4 8:1 1024 nosync block_on_error");
  assert.equal(formatLogArguments(parseLogArguments("64 core 8")), "core 1 8");
});

for (
  const text of [
    "",
    "64",
    "64 core",
    "64 core 7",
    "64 core 1",
    "64 core 128",
    "64 disk 8",
    "64 disk x",
    "64 mylog 8",
    "x core 8",
    "64 core 8 sync nosync",
    "64 core 8 block_on_error block_on_error",
    "64 core 8 maybe",
    "-64 core 8",
    "9007199254740993 core 8",
    "4503599627370496 core 2",
  ]
) {
  Deno.test(`parseLogArguments() refuses "${text}"`, () => {
    assert.throws(() => parseLogArguments(text), { errno: "EINVAL" });
  });
}

Deno.test("a disk log has the bytes of the kernel's", () => {
  const files = new CrashFiles({ seed: 1 });
  const { log } = resumed("160 disk log 8 nosync", files); // 20 regions
  assert.deepEqual(
    content(files, 16),
    [0x72, 0x52, 0x69, 0x4d, 2, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0],
  );
  assert.deepEqual(content(files, 4, 1024), [0xff, 0xff, 0x0f, 0]);
  log.mark([0, 9, 19]);
  assert.deepEqual(content(files, 4, 1024), [0xfe, 0xfd, 0x07, 0]);
});

Deno.test("a log without bits begins dirty, with nosync clean", () => {
  for (const type of ["core", "disk log"]) {
    assert.equal(resumed(`64 ${type} 8`).log.syncCount, 0);
    assert.equal(resumed(`64 ${type} 8 sync`).log.syncCount, 0);
    const { log } = resumed(`64 ${type} 8 nosync`);
    assert.deepEqual([log.syncCount, log.dirtyCount], [8, 0]);
    assert.equal(
      resumed(`64 ${type} 8 nosync`, new CrashFiles({ seed: 1 }), true).log.syncCount,
      0,
    );
  }
});

Deno.test("a disk log keeps what was marked, and nosync does not overrule it", () => {
  const files = new CrashFiles({ seed: 1 });
  const first = resumed("64 disk log 8 nosync", files);
  first.log.mark([3]);
  first.log.flush();
  files.crash();
  const second = resumed("64 disk log 8 nosync", files);
  assert.deepEqual([second.log.syncCount, second.log.inSync(3)], [7, false]);
  assert.equal(second.log.resyncWork(), 3);
  assert.equal(resumed("64 disk log 8 sync", files).log.syncCount, 0, "sync does");
});

Deno.test("a log that has grown takes new regions for dirty, with nosync for clean", () => {
  for (const [word, count] of [["", 20], [" nosync", 40]] as const) {
    const files = new CrashFiles({ seed: 1 });
    resumed("160 disk log 8 nosync", files);
    const file = files.open("log", OPEN);
    file.write(new Uint8Array(8).fill(0xff), 1024 + 3); // what is past the end means nothing
    assert.equal(resumed(`320 disk log 8${word}`, files).log.syncCount, count);
  }
});

Deno.test("a log that has shrunk and grown again does not remember what it had there", () => {
  const files = new CrashFiles({ seed: 1 });
  resumed("320 disk log 8 nosync", files);
  assert.equal(resumed("80 disk log 8", files).log.syncCount, 10);
  assert.deepEqual(content(files, 4, 1024), [0xff, 3, 0, 0]);
  assert.equal(resumed("320 disk log 8", files).log.syncCount, 10);
});

Deno.test("a damaged header means that all regions are dirty, and a warning", () => {
  for (const [at, value] of [[0, 0x73], [3, 0], [4, 3]] as const) {
    const files = new CrashFiles({ seed: 1 });
    resumed("160 disk log 8 nosync", files);
    files.open("log", OPEN).write(Uint8Array.of(value), at);
    const { log, messages } = resumed("160 disk log 8 nosync", files);
    assert.equal(log.syncCount, 0);
    assert.match(messages.lines.join(), /^warn: Log A: its header is damaged/);
  }
});

Deno.test("a header of a volume manager has as many regions as there are", () => {
  const files = new CrashFiles({ seed: 1 });
  const bytes = new Uint8Array(4096).fill(0xff, 1024);
  encodeHeader(bytes, 0);
  bytes.fill(0xff, 8, 16);
  assert.deepEqual(decodeHeader(bytes), { kind: "log", regions: 2n ** 64n - 1n });
  files.open("log", OPEN).write(bytes, 0);
  assert.equal(resumed("160 disk log 8", files).log.syncCount, 20);
});

Deno.test("recovery hands out each region once, the same until it is settled, none while halted", () => {
  const { log } = resumed("32 core 8");
  assert.equal(log.resyncWork(), 0);
  assert.equal(log.resyncWork(), 0);
  log.setRegionSync(0, true);
  log.presuspend();
  assert.equal(log.resyncWork(), null);
  log.resume(null);
  assert.equal(log.resyncWork(), 1);
  log.setRegionSync(1, false); // its copy failed
  assert.equal(log.resyncWork(), 2);
  log.setRegionSync(2, true);
  assert.equal(log.resyncWork(), 3);
  log.setRegionSync(3, true);
  assert.equal(log.resyncWork(), null, "what failed waits for the next resume");
  log.postsuspend();
  log.resume(null);
  assert.equal(log.resyncWork(), 1);
  assert.equal(log.syncCount, 3);
});

Deno.test("a region out of sync is not cleared", () => {
  const { log } = resumed("64 core 8 nosync");
  log.mark([1, 2]);
  log.setRegionSync(1, false);
  log.clear([1, 2]);
  assert.deepEqual([log.isClean(1), log.isClean(2), log.inSync(1)], [false, true, false]);
});

Deno.test("a leg that lacks a region is on disk before the kernel hears so", () => {
  const files = new CrashFiles({ seed: 1, survival: 0 });
  const { log } = resumed("64 disk log 8 nosync", files);
  log.setRegionSync(5, false);
  files.crash();
  assert.equal(resumed("64 disk log 8", files).log.inSync(5), false);
});

Deno.test("regions that are not there are refused, and nothing else of that request is done", () => {
  const { log } = resumed("64 core 8 nosync");
  for (const region of [8, Infinity, -1]) {
    assert.throws(() => log.mark([1, region]), { errno: "EINVAL" });
    assert.throws(() => log.clear([region]), { errno: "EINVAL" });
    assert.throws(() => log.inSync(region), { errno: "EINVAL" });
    assert.throws(() => log.isClean(region), { errno: "EINVAL" });
    assert.throws(() => log.setRegionSync(region, true), { errno: "EINVAL" });
  }
  assert.equal(log.dirtyCount, 0);
});

Deno.test("clears wait for company, so a region that is written again costs no flush", () => {
  const files = new CrashFiles({ seed: 1 });
  const { log, clock } = resumed("64 disk log 8 nosync", files);
  const begun = files.flushes;
  for (let round = 0; round < 100; round += 1) {
    log.mark([3]);
    log.flush();
    log.clear([3]);
    log.flush();
  }
  assert.equal(files.flushes - begun, 1);
  assert.deepEqual(content(files, 1, 1024), [0xf7]);
  clock.advance(CLEAR_HOLD_US);
  log.flush();
  assert.deepEqual(content(files, 1, 1024), [0xff], "after a time it is written");
  log.mark([3]);
  log.flush();
  assert.equal(files.flushes - begun, 2, "and marking it is a flush again");
});

Deno.test("a suspended log is clean on disk", () => {
  const files = new CrashFiles({ seed: 1, survival: 0 });
  const { log } = resumed("64 disk log 8", files);
  recoverAll(log);
  log.postsuspend();
  files.crash();
  assert.deepEqual(content(files, 1, 1024), [0xff]);
});

for (const failing of ["write", "flush"] as const) {
  Deno.test(`a log whose medium fails to ${failing} answers EIO until all of it is written`, () => {
    const files = new FailingFiles(new CrashFiles({ seed: 1, survival: 0 }));
    const { log, messages } = resumed("64 disk log 8 nosync", files);
    assert.equal(log.statusInfo(), "3 disk 8:1 A");
    files.failing = failing;
    const attempt = (): void => {
      log.mark([2]);
      log.flush();
    };
    assert.throws(attempt, { errno: "EIO" });
    assert.throws(attempt, { errno: "EIO" });
    assert.equal(log.statusInfo(), "3 disk 8:1 F");
    assert.equal(messages.lines.length, 1, "it is said once");
    files.failing = null;
    log.flush();
    assert.equal(log.statusInfo(), "3 disk 8:1 A");
    assert.deepEqual(content(files, 1, 1024), [0xfb]);
  });
}

Deno.test("a log that cannot be read is not in use until its medium can", () => {
  const files = new FailingFiles(new CrashFiles({ seed: 1 }));
  resumed("64 disk log 8 nosync", files).log.mark([2]);
  const { log } = make("64 disk log 8 nosync", files);
  for (const failing of ["read", "write", "flush"] as const) {
    files.failing = failing;
    assert.throws(() => log.resume(null), { errno: "EIO" });
    assert.deepEqual([log.phase, log.syncCount, log.waitsForMedium], ["pending", 0, true]);
    assert.equal(log.statusInfo(), "3 disk 8:1 D");
  }
  files.failing = null;
  log.resume(null);
  assert.deepEqual([log.phase, log.syncCount, log.waitsForMedium], ["active", 7, false]);
});

Deno.test("status strings are dm's", () => {
  const { log } = resumed("64 clustered-core 8 nosync");
  assert.deepEqual([log.statusInfo(), log.statusTable()], [
    "1 clustered-core",
    "clustered-core 2 8 nosync",
  ]);
  assert.equal(logBytes(8, 512), 1536);
});
