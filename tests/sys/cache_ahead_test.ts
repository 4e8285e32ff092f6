/**
 * Reads into the page cache that are under way before they are asked for: with a ring of the tests, and on
 * real files.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { CacheAhead } from "../../lib/sys/cache_ahead.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { openReadRing, type ReadCompletion, type ReadRing } from "../../lib/sys/io_uring.ts";
import { CACHE_AHEAD_BYTES_MAX } from "../../lib/sys/limits.ts";
import { descriptorOf } from "../support/descriptors.ts";
import { withTempDir } from "../support/tools.ts";

const BLOCK = 4096, READS = 4;

/** A ring whose reads end when the test says so. */
class FakeRing implements ReadRing {
  readonly memory = new Uint8Array(CACHE_AHEAD_BYTES_MAX);
  readonly descriptor = 77;
  progress = 0;
  closed = false;
  readonly queued: number[] = [];
  readonly running: number[] = [];
  readonly done: ReadCompletion[] = [];

  get inFlight(): number {
    return this.queued.length + this.running.length + this.done.length;
  }

  get room(): number {
    return READS - this.inFlight;
  }

  begin(tag: number, place: number, length: number): void {
    assert.ok(this.room > 0 && place + length <= this.memory.length);
    assert.ok(!this.queued.includes(tag) && !this.running.includes(tag));
    this.queued.push(tag);
  }

  submit(): void {
    this.running.push(...this.queued.splice(0));
  }

  wait(): void {
    this.submit();
    assert.ok(this.inFlight > 0, "it would wait for ever");
    if (this.done.length === 0) this.finish(0);
  }

  finish(index: number, result = BLOCK): void {
    const [tag] = this.running.splice(index, 1);
    assert.ok(tag !== undefined);
    this.done.push({ tag, result });
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

function makeBed(): { ahead: CacheAhead; ring: FakeRing; advised: string[] } {
  const ring = new FakeRing(), advised: string[] = [];
  const advise = (offset: number, length: number): void => {
    advised.push(`${offset / BLOCK}+${length / BLOCK}`);
  };
  return { ahead: new CacheAhead(() => ring, advise), ring, advised };
}

Deno.test("CacheAhead has all that was announced under way at once, and knows what has ended", () => {
  const { ahead, ring, advised } = makeBed();
  for (const block of [1, 2, 3]) ahead.announce(block * BLOCK, BLOCK);
  ahead.announce(2 * BLOCK, BLOCK);
  assert.equal(ahead.news?.descriptor, ring.descriptor);
  ahead.look(false);
  assert.equal(ring.running.length, 3, "each once");
  assert.ok(ahead.isUnderWay(2 * BLOCK, BLOCK));
  assert.ok(!ahead.isUnderWay(2 * BLOCK, 2 * BLOCK), "more than was announced");
  assert.ok(!ahead.isUnderWay(4 * BLOCK, BLOCK));
  ring.finish(1);
  ring.finish(0, -5);
  assert.equal(ahead.news?.progress, 2);
  ahead.look(false);
  assert.deepEqual([1, 2, 3].map((block) => ahead.isUnderWay(block * BLOCK, BLOCK)), [
    ...[false, false, true],
  ]);
  ahead.look(true);
  assert.ok(!ahead.isUnderWay(3 * BLOCK, BLOCK));
  ahead.look(true);
  assert.deepEqual(advised, []);
  ahead.close();
  assert.ok(ring.closed);
});

Deno.test("CacheAhead tells the page cache alone of long ranges, and of those for which there is no room", () => {
  const { ahead, ring, advised } = makeBed();
  ahead.announce(0, CACHE_AHEAD_BYTES_MAX + BLOCK);
  for (let block = 20; block < 20 + READS + 2; block++) ahead.announce(block * BLOCK, BLOCK);
  ahead.look(false);
  assert.equal(ring.running.length, READS);
  assert.deepEqual(advised, ["0+17", "24+1", "25+1"]);
  assert.ok(!ahead.isUnderWay(24 * BLOCK, BLOCK), "nobody would tell when it ends");
  ahead.close();
});

Deno.test("CacheAhead tells the page cache where there is no ring, and asks for one once", () => {
  let asked = 0;
  const advised: number[] = [];
  const ahead = new CacheAhead(() => {
    asked += 1;
    return null;
  }, (offset) => advised.push(offset));
  ahead.announce(0, BLOCK);
  ahead.announce(BLOCK, BLOCK);
  ahead.look(true);
  assert.deepEqual(advised, [0, BLOCK]);
  assert.ok(!ahead.isUnderWay(0, BLOCK));
  assert.equal(ahead.news, null);
  assert.equal(asked, 1);
  ahead.close();
});

Deno.test("CacheAhead.forget() makes nobody wait for what was announced, nor end what is announced then", () => {
  const { ahead, ring } = makeBed();
  ahead.announce(BLOCK, BLOCK);
  ahead.look(false);
  ahead.forget();
  assert.ok(!ahead.isUnderWay(BLOCK, BLOCK));
  ahead.announce(BLOCK, BLOCK);
  ahead.look(false);
  assert.equal(ring.running.length, 2);
  ring.finish(0);
  ahead.look(false);
  assert.ok(ahead.isUnderWay(BLOCK, BLOCK), "that was the one before");
  ring.finish(0);
  ahead.look(false);
  assert.ok(!ahead.isUnderWay(BLOCK, BLOCK));
  // A longer range from the same place on: the shorter one ends first.
  ahead.announce(2 * BLOCK, BLOCK);
  ahead.announce(2 * BLOCK, 2 * BLOCK);
  ahead.look(false);
  ring.finish(0);
  ahead.look(false);
  assert.ok(ahead.isUnderWay(2 * BLOCK, 2 * BLOCK));
  ahead.close();
  assert.ok(ring.closed, "it was waited for");
});

const probe = openReadRing(0, 1, BLOCK);
probe?.close();

Deno.test({
  name: "ReadRing can be asked for its progress when it is closed",
  ignore: probe === null,
  fn: () =>
    withTempDir((folder) => {
      using file = Deno.openSync(join(folder, "disk"), { create: true, write: true, read: true });
      const ring = openReadRing(descriptorOf(join(folder, "disk")), READS, BLOCK);
      assert.ok(ring !== null);
      file.writeSync(new Uint8Array(BLOCK));
      ring.begin(1, 0, BLOCK, 0);
      ring.wait();
      assert.deepEqual(ring.next(), { tag: 1, result: BLOCK });
      assert.equal(ring.progress, 1);
      ring.close();
      assert.equal(ring.progress, 0, "its memory is gone");
    }),
});

Deno.test({
  name: "a file through the page cache has what was announced, whatever was written meanwhile",
  ignore: probe === null,
  fn: () =>
    withTempDir((folder) => {
      const blocks = 64;
      const file = systemFiles.open(join(folder, "disk"), {
        ...{ readOnly: false, direct: false, lock: false, createSize: blocks * BLOCK },
      });
      try {
        const data = new Uint8Array(blocks * BLOCK).map((_, at) => (at >> 12) + 1);
        file.write(data, 0);
        file.flush();
        const { ahead } = file;
        assert.ok(ahead?.cached === true);
        for (let block = 0; block < blocks; block++) ahead.announce(block * BLOCK, BLOCK);
        ahead.look(false);
        file.write(new Uint8Array(BLOCK).fill(99), 7 * BLOCK);
        data.fill(99, 7 * BLOCK, 8 * BLOCK);
        for (let block = 0; block < blocks; block++) {
          while (ahead.isUnderWay(block * BLOCK, BLOCK)) ahead.look(true);
        }
        const into = new Uint8Array(data.length);
        file.read(into, 0);
        assert.deepEqual(into, data);
        // Closed while reads are under way.
        for (let block = 0; block < blocks; block++) ahead.announce(block * BLOCK, BLOCK);
        ahead.look(false);
      } finally {
        file.close();
      }
    }),
});
