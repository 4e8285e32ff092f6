/**
 * Lines on disk: they survive a restart; what a crash or damage leaves of them is a miss, never other
 * bytes.
 *
 * @module
 */
import assert from "node:assert/strict";
import { LINE_BYTES } from "../../lib/log_disk/limits.ts";
import { DiskCache, type LineKey } from "../../lib/log_disk/read/disk_cache.ts";
import { hashText, seededRandom } from "../../lib/testing/random.ts";
import { MemoryLog } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { VOLUME } from "./objects.ts";

const PATH = "/cache", BYTES = 2 ** 20;
const OTHER = "f".repeat(32);

function open(files: CrashFiles, log = new MemoryLog(), bytes = BYTES): DiskCache {
  return DiskCache.open({ path: PATH, bytes }, files, log);
}

/** The content of a line follows from its key. */
function contentOf({ volume, seq, line }: LineKey): Uint8Array<ArrayBuffer> {
  const random = seededRandom(hashText(`${volume} ${seq} ${line}`));
  const bytes = new Uint8Array(1 + random.below(LINE_BYTES));
  random.fill(bytes);
  return bytes;
}

/** Checks that a line is what it should be, or a miss; true if it is there. */
function isHit(cache: DiskCache, key: LineKey): boolean {
  const bytes = cache.get(key);
  if (bytes !== null) assert.deepEqual(bytes, contentOf(key));
  return bytes !== null;
}

function keysOf(count: number): LineKey[] {
  return Array.from({ length: count }, (_, at) => ({
    volume: at % 3 === 0 ? OTHER : VOLUME,
    seq: 1 + Math.floor(at / 4),
    line: at % 4,
  }));
}

Deno.test("DiskCache gives what was put, and still does when it was opened again", () => {
  const files = new CrashFiles({ seed: 1 });
  const keys = keysOf(10);
  const cache = open(files);
  for (const key of keys) {
    assert.equal(isHit(cache, key), false);
    cache.put(key, contentOf(key));
    assert.ok(isHit(cache, key));
  }
  cache.close();
  const again = open(files);
  assert.equal(again.lines, 10);
  for (const key of keys) assert.ok(isHit(again, key));
  assert.equal(again.get({ volume: VOLUME, seq: 99, line: 0 }), null);
  again.close();
});

Deno.test("DiskCache keeps what is used when it has to make room", () => {
  const cache = open(new CrashFiles({ seed: 1 }));
  const [first, ...rest] = keysOf(60);
  assert.ok(first !== undefined);
  cache.put(first, contentOf(first));
  for (const key of rest) {
    cache.put(key, contentOf(key));
    assert.ok(isHit(cache, first));
  }
  assert.equal(cache.lines, 15); // what 1 MiB has room for
  assert.ok(rest.filter((key) => isHit(cache, key)).length === 14);
  cache.close();
});

Deno.test("DiskCache has no line that a crash has torn", () => {
  let hits = 0, misses = 0;
  for (let seed = 1; seed <= 16; seed += 1) {
    const files = new CrashFiles({ seed, survival: seed % 2 === 0 ? 0.5 : 0.98 });
    const random = seededRandom(seed);
    const keys = keysOf(40);
    for (let life = 0; life < 3; life += 1) {
      const cache = open(files);
      for (const key of keys) {
        if (isHit(cache, key)) hits += 1;
        else misses += 1;
      }
      for (let turns = 0; turns < 30; turns += 1) {
        const key = random.pick(keys);
        if (!isHit(cache, key)) cache.put(key, contentOf(key));
      }
      files.crash();
    }
  }
  assert.ok(hits > 20 && misses > 20, `${hits} hits and ${misses} misses`);
});

Deno.test("DiskCache takes any damaged byte of its file for a miss", () => {
  const keys = keysOf(12);
  for (let seed = 1; seed <= 30; seed += 1) {
    const files = new CrashFiles({ seed }), random = seededRandom(seed);
    const cache = open(files);
    for (const key of keys) cache.put(key, contentOf(key));
    const file = files.open(PATH, { readOnly: false, direct: false, lock: false });
    for (let turns = 0; turns < 200; turns += 1) {
      file.write(Uint8Array.of(random.below(256)), random.below(file.size()));
    }
    for (const key of keys) isHit(cache, key);
    cache.close();
    const again = open(files);
    for (const key of keys) isHit(again, key);
    again.close();
    file.close();
  }
});

Deno.test("DiskCache begins anew with another size, and refuses one that cannot be", () => {
  const files = new CrashFiles({ seed: 1 });
  const cache = open(files);
  const key = { volume: VOLUME, seq: 1, line: 0 };
  cache.put(key, contentOf(key));
  assert.throws(() => open(files), { code: "EAGAIN" });
  cache.close();
  const larger = open(files, new MemoryLog(), 2 * BYTES);
  assert.equal(larger.lines, 0);
  larger.close();
  assert.throws(() => open(files, new MemoryLog(), 1000), { errno: "EINVAL" });
});

Deno.test("DiskCache is a miss for ever, and says so once, when its file fails", () => {
  const files = new CrashFiles({ seed: 1 }), log = new MemoryLog();
  const cache = open(files, log);
  const keys = keysOf(3);
  for (const key of keys) cache.put(key, contentOf(key));
  files.crash(); // every call on the open file fails from now on
  for (const key of keys) {
    assert.equal(cache.get(key), null);
    cache.put(key, contentOf(key));
  }
  assert.equal(log.lines.length, 1);
  assert.match(log.lines[0] ?? "", /is not used any more/);
});
