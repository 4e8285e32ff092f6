/**
 * What is read ahead of a file: with a ring of the tests, whose reads see the file as it was when they
 * were submitted and end in any order, and on real files past the page cache.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { seededRandom } from "../../lib/testing/random.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import type { RawFile } from "../../lib/sys/file_access.ts";
import { openReadRing, type ReadCompletion, type ReadRing } from "../../lib/sys/io_uring.ts";
import { AHEAD_MS_MAX, AHEAD_READ_BYTES_MAX, AHEAD_UNIT_BYTES } from "../../lib/sys/limits.ts";
import { ReadAhead } from "../../lib/sys/read_ahead.ts";
import { withTempDir } from "../support/tools.ts";

const BLOCK = 4096, BLOCKS = 64, UNITS = 8, READS = 6;

interface Entry {
  readonly tag: number;
  readonly place: number;
  readonly offset: number;
  readonly length: number;
  /** What the file held when it was submitted. */
  seen: Uint8Array;
}

/** A ring over a file in memory. */
class FakeRing implements ReadRing {
  readonly memory = new Uint8Array(UNITS * AHEAD_UNIT_BYTES);
  readonly file: Uint8Array;
  readonly queued: Entry[] = [];
  readonly running: Entry[] = [];
  readonly done: ReadCompletion[] = [];
  readonly descriptor = -1;
  progress = 0;
  closed = false;
  waits = 0;
  /** Which of those that run is done next. */
  choose: (count: number) => number = () => 0;

  constructor(file: Uint8Array) {
    this.file = file;
  }

  get inFlight(): number {
    return this.queued.length + this.running.length + this.done.length;
  }

  get room(): number {
    return READS - this.inFlight;
  }

  begin(tag: number, place: number, length: number, offset: number): void {
    assert.ok(!this.closed && this.room > 0 && place + length <= this.memory.length);
    for (const other of [...this.queued, ...this.running]) {
      const apart = place + length <= other.place || other.place + other.length <= place;
      assert.ok(apart && other.tag !== tag, "memory of a read under way is used again");
    }
    this.queued.push({ tag, place, offset, length, seen: new Uint8Array(0) });
  }

  submit(): void {
    for (const entry of this.queued.splice(0)) {
      entry.seen = this.file.slice(entry.offset, entry.offset + entry.length);
      this.running.push(entry);
    }
  }

  wait(): void {
    this.submit();
    this.waits += 1;
    assert.ok(this.inFlight > 0, "it would wait for ever");
    if (this.done.length === 0) this.finish(this.choose(this.running.length));
  }

  /** One of those that run is done. */
  finish(index: number, result?: number): void {
    const entry = this.running.splice(index, 1)[0];
    assert.ok(entry !== undefined);
    this.memory.set(entry.seen, entry.place);
    this.done.push({ tag: entry.tag, result: result ?? entry.seen.length });
    this.progress += 1;
  }

  next(): ReadCompletion | null {
    return this.done.shift() ?? null;
  }

  close(): void {
    assert.equal(this.inFlight, 0);
    this.closed = true;
  }
}

interface Bed {
  readonly ahead: ReadAhead;
  readonly ring: FakeRing;
  readonly time: { now_ms: number };
  /** What is read ahead from a block on; null if nothing is. */
  take(block: number, blocks?: number): Uint8Array | null;
  write(block: number, value: number): void;
}

function makeBed(): Bed {
  const file = new Uint8Array(BLOCK * BLOCKS);
  for (let block = 0; block < BLOCKS; block++) file.fill(block, block * BLOCK, (block + 1) * BLOCK);
  const ring = new FakeRing(file), time = { now_ms: 0 };
  const ahead = new ReadAhead(() => ring, () => time.now_ms);
  return {
    ahead,
    ring,
    time,
    take: (block, blocks = 1) => {
      const into = new Uint8Array(blocks * BLOCK).fill(0xee);
      return ahead.take(into, block * BLOCK) ? into : null;
    },
    write: (block, value) => {
      ahead.invalidate(block * BLOCK, BLOCK);
      file.fill(value, block * BLOCK, (block + 1) * BLOCK);
    },
  };
}

function isAll(bytes: Uint8Array | null, value: number): boolean {
  return bytes !== null && bytes.every((byte) => byte === value);
}

Deno.test("ReadAhead has all that was announced under way at once, and gives each once", () => {
  const { ahead, ring, take } = makeBed();
  for (let block = 1; block <= 5; block++) ahead.announce(block * BLOCK, BLOCK);
  ahead.look(false);
  assert.equal(ring.running.length, 5);
  assert.ok(ahead.isUnderWay(3 * BLOCK, BLOCK));
  ring.finish(2);
  ahead.look(false);
  assert.ok(!ahead.isUnderWay(3 * BLOCK, BLOCK) && ahead.isUnderWay(4 * BLOCK, BLOCK));
  assert.ok(isAll(take(3), 3));
  assert.equal(ring.waits, 0);
  assert.equal(take(3), null);
  ring.choose = (count) => count - 1;
  assert.ok(isAll(take(1), 1));
  assert.equal(ring.waits, 4);
  for (const block of [5, 2, 4]) assert.ok(isAll(take(block), block));
  assert.equal(ring.waits, 4);
  assert.equal(ahead.count, 0);
  ahead.close();
});

Deno.test("ReadAhead look() waits for one more if any is under way", () => {
  const { ahead, ring } = makeBed();
  ahead.look(true);
  assert.equal(ring.waits, 0);
  ahead.announce(0, BLOCK);
  ahead.announce(BLOCK, BLOCK);
  ahead.look(true);
  assert.equal(ring.waits, 1);
  assert.ok(!ahead.isUnderWay(0, BLOCK) && ahead.isUnderWay(BLOCK, BLOCK));
  ahead.close();
});

for (const when of ["queued", "running", "done", "known to be done"] as const) {
  Deno.test(`ReadAhead gives nothing of before a change that came when the read was ${when}`, () => {
    const { ahead, ring, take, write } = makeBed();
    ahead.announce(BLOCK, 2 * BLOCK);
    ahead.announce(9 * BLOCK, BLOCK);
    if (when !== "queued") ring.submit();
    if (when.endsWith("done")) ring.finish(0);
    if (when.startsWith("known")) ahead.look(false);
    write(2, 77);
    assert.equal(take(1, 2), null);
    // A read that begins after the change sees it, also while the void one is under way.
    ahead.announce(2 * BLOCK, BLOCK);
    ring.submit();
    ring.choose = (count) => count - 1;
    assert.ok(isAll(take(2), 77));
    assert.ok(isAll(take(9), 9));
    ahead.close();
    assert.equal(ahead.count, 0);
  });
}

Deno.test("ReadAhead keeps what lies beside a change", () => {
  const { ahead, take, write } = makeBed();
  ahead.announce(BLOCK, BLOCK);
  ahead.announce(3 * BLOCK, BLOCK);
  write(2, 77);
  write(0, 77);
  assert.ok(isAll(take(1), 1) && isAll(take(3), 3));
  ahead.close();
});

Deno.test("ReadAhead gives a range in pieces, in their order", () => {
  const { ahead, take } = makeBed();
  ahead.announce(4 * BLOCK, 4 * BLOCK);
  assert.ok(isAll(take(4), 4) && isAll(take(6), 6));
  assert.ok(isAll(take(7), 7));
  assert.equal(take(7), null);
  assert.equal(take(8), null);
  ahead.close();
});

Deno.test("ReadAhead takes no more than it has room for, and void reads keep theirs until they are done", () => {
  const { ahead, ring, take } = makeBed();
  for (let block = 0; block < READS + 3; block++) ahead.announce(block * BLOCK, BLOCK);
  assert.equal(ahead.count, READS);
  assert.equal(take(READS), null);
  ahead.forget();
  assert.equal(ahead.count, READS);
  ahead.announce(0, BLOCK);
  assert.equal(take(0), null);
  ring.finish(3);
  ahead.announce(0, BLOCK);
  assert.ok(isAll(take(0), 0));
  ahead.close();
});

Deno.test("ReadAhead takes no range that is longer than its memory, or than a read may be", () => {
  const { ahead, ring, take } = makeBed();
  ahead.announce(0, AHEAD_READ_BYTES_MAX + BLOCK);
  ahead.announce(0, (UNITS + 1) * AHEAD_UNIT_BYTES);
  assert.equal(ring.inFlight, 0);
  assert.equal(take(0), null);
  ahead.close();
});

Deno.test("ReadAhead gives nothing that nobody asked for in time, and has room again then", () => {
  const { ahead, ring, time, take } = makeBed();
  for (let block = 0; block < READS; block++) ahead.announce(block * BLOCK, 64 * 1024);
  ring.submit();
  while (ring.running.length > 2) ring.finish(0);
  ahead.look(false);
  time.now_ms += AHEAD_MS_MAX + 1;
  assert.equal(take(0), null);
  // It was under way until now, and saw what a read that begins now may see.
  assert.ok(isAll(take(READS - 1), READS - 1));
  for (let block = 32; block < 32 + READS; block++) ahead.announce(block * BLOCK, 64 * 1024);
  assert.ok(isAll(take(32), 32));
  ahead.close();
});

Deno.test("ReadAhead gives nothing of a read that failed or ended early", () => {
  const { ahead, ring, take } = makeBed();
  for (const [block, result] of [[1, -5], [2, 512], [3, 0]] as const) {
    ahead.announce(block * BLOCK, BLOCK);
    ring.submit();
    ring.finish(0, result);
    assert.equal(take(block), null);
  }
  assert.equal(ahead.count, 0);
  ahead.close();
});

Deno.test("ReadAhead close() waits for what is under way, and nothing is announced afterwards", () => {
  const { ahead, ring, take } = makeBed();
  for (let block = 0; block < 4; block++) ahead.announce(block * BLOCK, BLOCK);
  ahead.close();
  assert.ok(ring.closed);
  ahead.announce(0, BLOCK);
  assert.equal(take(0), null);
  ahead.close();
});

Deno.test("ReadAhead without a ring does nothing, and asks for one once", () => {
  let asked = 0;
  const ahead = new ReadAhead(() => {
    asked += 1;
    return null;
  }, () => 0);
  for (let block = 0; block < 4; block++) ahead.announce(block * BLOCK, BLOCK);
  ahead.look(true);
  assert.ok(!ahead.isUnderWay(0, BLOCK) && !ahead.take(new Uint8Array(BLOCK), 0));
  ahead.close();
  assert.equal(asked, 1);
});

for (let seed = 1; seed <= 20; seed++) {
  Deno.test(`ReadAhead gives what the file holds, whatever happens in between (seed ${seed})`, () => {
    const { ahead, ring, take, write } = makeBed();
    const random = seededRandom(seed);
    ring.choose = (count) => random.below(count);
    let given = 0;
    for (let step = 0; step < 2_000; step++) {
      const block = random.below(BLOCKS / 4), what = random.below(100);
      if (what < 40) ahead.announce(block * BLOCK, (1 + random.below(3)) * BLOCK);
      else if (what < 60) write(block, random.below(256));
      else if (what < 62) ahead.forget();
      else if (what < 70 && ring.running.length > 0) ring.finish(random.below(ring.running.length));
      else if (what < 75) ahead.look(false);
      else {
        const blocks = 1 + random.below(2), into = take(block, blocks);
        if (into === null) continue;
        given += 1;
        assert.deepEqual(into, ring.file.slice(block * BLOCK, (block + blocks) * BLOCK));
      }
    }
    assert.ok(given > 50, `only ${given} reads were there ahead`);
    ahead.close();
    assert.equal(ahead.count, 0);
  });
}

const ringWorks = await withTempDir((folder) => {
  const file = openDirect(join(folder, "probe"));
  if (file === null) return false;
  file.close();
  const ring = openReadRing(0, 1, BLOCK);
  ring?.close();
  return ring !== null;
});

function openDirect(path: string): RawFile | null {
  try {
    return systemFiles.open(path, {
      ...{ readOnly: false, direct: true, lock: false, createSize: BLOCK * BLOCKS },
    });
  } catch {
    return null;
  }
}

/** Calls `fn` with a new file past the page cache. */
function withDirect(fn: (file: RawFile) => void): Promise<void> {
  return withTempDir((folder) => {
    const file = openDirect(join(folder, "disk"));
    assert.ok(file !== null);
    try {
      fn(file);
    } finally {
      file.close();
    }
  });
}

Deno.test({
  name: "a direct file gives what was announced, from a ring",
  ignore: !ringWorks,
  fn: () =>
    withDirect((file) => {
      const data = new Uint8Array(BLOCK * BLOCKS).map((_, at) => (at >> 12) * 3 + (at & 7));
      file.write(data, 0);
      const { ahead } = file;
      assert.ok(ahead instanceof ReadAhead);
      for (let block = 0; block < BLOCKS; block++) ahead.announce(block * BLOCK, BLOCK);
      assert.equal(ahead.count, BLOCKS);
      const into = new Uint8Array(BLOCK);
      for (let block = BLOCKS - 1; block >= 0; block--) {
        file.read(into, block * BLOCK);
        assert.deepEqual(into, data.slice(block * BLOCK, (block + 1) * BLOCK));
      }
      assert.equal(ahead.count, 0);
      // Closed while reads are under way.
      for (let block = 0; block < BLOCKS; block++) ahead.announce(block * BLOCK, BLOCK);
      ahead.look(false);
    }),
});

Deno.test({
  name: "a direct file of which all kinds of changes are made gives what it holds",
  ignore: !ringWorks,
  fn: () =>
    withDirect((file) => {
      const model = new Uint8Array(BLOCK * BLOCKS), random = seededRandom(5);
      const supported = (change: () => void): boolean => {
        try {
          change();
          return true;
        } catch (error) {
          assert.ok(error instanceof Error && "code" in error && error.code === "EOPNOTSUPP");
          return false;
        }
      };
      for (let step = 0; step < 4_000; step++) {
        const blocks = 1 + random.below(4), block = random.below(BLOCKS - blocks);
        const offset = block * BLOCK, length = blocks * BLOCK;
        const what = random.below(100);
        if (what < 45) file.ahead?.announce(offset, length);
        else if (what < 55) {
          const from = new Uint8Array(length).fill(1 + random.below(255));
          file.write(from, offset);
          model.set(from, offset);
        } else if (what < 57) {
          if (supported(() => file.punch(offset, length))) model.fill(0, offset, offset + length);
        } else if (what < 59) {
          if (supported(() => file.zero(offset, length))) model.fill(0, offset, offset + length);
        } else if (what === 59) {
          file.truncate(offset);
          file.truncate(model.length);
          model.fill(0, offset);
        } else if (what === 60) file.ahead?.look(true);
        else {
          const into = new Uint8Array(length);
          file.read(into, offset);
          assert.deepEqual(into, model.slice(offset, offset + length), `step ${step}`);
        }
      }
    }),
});
