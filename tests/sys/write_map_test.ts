/**
 * Tests of lib/sys/write_map.ts: which blocks are written through the mapping, told with a clock and a memory of
 * the test's own, and what a real mapping does to a real file.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { systemFiles } from "../../lib/sys/file.ts";
import type { RawFile } from "../../lib/sys/file_access.ts";
import {
  MAPPED_BLOCKS_MAX,
  MAPPED_WRITE_BYTES_MAX,
  MAPPED_WRITES_MIN,
} from "../../lib/sys/limits.ts";
import { isOfKind } from "../../lib/sys/memory_map.ts";
import {
  mapForWriting,
  MappedWrites,
  type WritableMemory,
  WRITE_BLOCK_BYTES,
} from "../../lib/sys/write_map.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { descriptorOf } from "../support/descriptors.ts";
import { withTempDir } from "../support/tools.ts";

const PLAIN = { readOnly: false, direct: false, lock: false } as const;
const PAGE = 4096, SECOND_US = 1_000_000;
/** What a write takes in these tests, in µs. */
const QUICK_US = 3, SLOW_US = 30, STUCK_US = 5_000;

/** A file that tells how it was written, at a time that it takes as long as the test says. */
class Bed implements WritableMemory {
  usual = 0;
  mapped = 0;
  touched = 0;
  unmapped: number[] = [];
  isClosed = false;
  /** Blocks of which something is not in memory. */
  readonly notInCore = new Set<number>();
  /** What a write takes, either way. */
  usualUs = SLOW_US;
  mappedUs = QUICK_US;
  timeUs = SECOND_US;
  /** Bytes that a write through the mapping takes at most. */
  takes = Infinity;
  maps = 0;
  readonly writes: MappedWrites;

  constructor(length: number, canMap = true) {
    this.writes = new MappedWrites({
      length,
      map: () => (this.maps += 1, canMap ? this : null),
      write: (from) => {
        this.usual += from.length;
        this.timeUs += this.usualUs;
      },
      nowUs: () => this.timeUs,
    });
  }

  write(from: Uint8Array, offset: number): number {
    this.timeUs += this.mappedUs;
    assert.equal(this.isClosed, false);
    const done = Math.min(from.length, this.takes);
    assert.ok(offset >= 0);
    this.mapped += done;
    return done;
  }

  isInCore(offset: number, length: number): boolean {
    assert.equal(offset % WRITE_BLOCK_BYTES, 0);
    assert.ok(length > 0 && length <= WRITE_BLOCK_BYTES);
    return !this.notInCore.has(offset / WRITE_BLOCK_BYTES);
  }

  unmap(offset: number): void {
    this.unmapped.push(offset / WRITE_BLOCK_BYTES);
  }

  touch(): void {
    this.touched += 1;
  }

  close(): void {
    this.isClosed = true;
  }

  /** Writes `count` pages of a block. */
  fill(block: number, count: number): void {
    const page = new Uint8Array(PAGE);
    for (let at = 0; at < count; at++) {
      this.writes.write(page, block * WRITE_BLOCK_BYTES + at % 512 * PAGE);
    }
  }

  /** Bytes that a write of `length` at `offset` sends through the mapping. */
  share(offset: number, length: number): number {
    const before = this.mapped;
    this.writes.write(new Uint8Array(length), offset);
    return this.mapped - before;
  }
}

/** Writes until the first block is mapped. */
function bedWithMapped(blocks = 4): Bed {
  const bed = new Bed(blocks * WRITE_BLOCK_BYTES);
  bed.fill(0, 100);
  assert.equal(bed.writes.mappedBlocks, 1);
  return bed;
}

Deno.test("MappedWrites maps a block when its writes took too long, and no other", () => {
  const bed = new Bed(4 * WRITE_BLOCK_BYTES);
  bed.fill(1, 10);
  assert.deepEqual([bed.writes.mappedBlocks, bed.mapped, bed.maps], [0, 0, 0]);
  bed.fill(1, 90);
  assert.deepEqual([bed.writes.mappedBlocks, bed.maps], [1, 1]);
  assert.equal(bed.usual + bed.mapped, 100 * PAGE);
  assert.ok(bed.mapped > 20 * PAGE && bed.usual < 80 * PAGE);
  assert.equal(bed.share(WRITE_BLOCK_BYTES, PAGE), PAGE);
  assert.equal(bed.share(0, PAGE), 0);
  assert.deepEqual(bed.unmapped, [1], "what was mapped of it by reading is mapped anew");
});

Deno.test("MappedWrites leaves files alone whose writes take as long as they should", () => {
  const bed = new Bed(4 * WRITE_BLOCK_BYTES);
  bed.usualUs = QUICK_US;
  bed.fill(0, 100_000);
  assert.deepEqual([bed.writes.mappedBlocks, bed.mapped, bed.maps], [0, 0, 0]);
});

Deno.test("MappedWrites lets long writes, and such that leave the block or the file, go the usual way", () => {
  const bed = new Bed(WRITE_BLOCK_BYTES + 8 * PAGE);
  bed.fill(0, 100);
  bed.fill(1, 100);
  assert.equal(bed.writes.mappedBlocks, 2);
  assert.equal(bed.share(PAGE, MAPPED_WRITE_BYTES_MAX), MAPPED_WRITE_BYTES_MAX);
  assert.equal(bed.share(PAGE, MAPPED_WRITE_BYTES_MAX + 1), 0);
  assert.equal(bed.share(WRITE_BLOCK_BYTES - 1, 2), 0);
  assert.equal(bed.share(WRITE_BLOCK_BYTES - 2, 2), 2);
  assert.equal(bed.share(WRITE_BLOCK_BYTES + 8 * PAGE - 1, 1), 1);
  assert.equal(bed.share(WRITE_BLOCK_BYTES + 8 * PAGE - 1, 2), 0);
});

Deno.test("MappedWrites writes the usual way what the mapping does not take", () => {
  const bed = bedWithMapped();
  for (const takes of [0, 1, PAGE - 1]) {
    bed.takes = takes;
    const before = bed.usual;
    assert.equal(bed.share(PAGE, PAGE), takes);
    assert.equal(bed.usual - before, PAGE - takes);
  }
});

Deno.test("MappedWrites does not map what is not all in memory", () => {
  const bed = new Bed(4 * WRITE_BLOCK_BYTES);
  bed.notInCore.add(0);
  bed.fill(0, 1000);
  assert.deepEqual([bed.writes.mappedBlocks, bed.mapped], [0, 0]);
  bed.notInCore.delete(0);
  bed.fill(0, 100);
  assert.equal(bed.writes.mappedBlocks, 1);
});

Deno.test("MappedWrites asks once where a file cannot be mapped", () => {
  const bed = new Bed(4 * WRITE_BLOCK_BYTES, false);
  for (let block = 0; block < 4; block++) bed.fill(block, 1000);
  assert.deepEqual([bed.writes.mappedBlocks, bed.mapped, bed.maps], [0, 0, 1]);
});

Deno.test("MappedWrites begins anew with each flush, and tells that the file was changed", () => {
  const bed = bedWithMapped();
  bed.writes.flushing();
  assert.deepEqual([bed.writes.mappedBlocks, bed.touched], [0, 1]);
  assert.deepEqual(bed.unmapped, [0, 0]);
  for (let round = 0; round < 100; round++) {
    bed.fill(0, 10);
    bed.writes.flushing();
  }
  assert.deepEqual([bed.writes.mappedBlocks, bed.touched], [0, 1], "few writes between flushes");
  bed.fill(0, 100);
  assert.equal(bed.writes.mappedBlocks, 1);
});

Deno.test("MappedWrites gives up blocks that are seldom written", () => {
  const bed = new Bed(4 * WRITE_BLOCK_BYTES);
  bed.fill(0, 100);
  bed.fill(1, 100);
  for (let time = 0; time < 3; time++) {
    bed.timeUs += 11 * SECOND_US;
    bed.fill(0, 2 * MAPPED_WRITES_MIN);
    bed.fill(1, 10);
  }
  assert.equal(bed.writes.mappedBlocks, 1);
  assert.equal(bed.share(0, PAGE), PAGE);
  assert.equal(bed.share(WRITE_BLOCK_BYTES, PAGE), 0);
  assert.ok(bed.touched >= 2, "the time of the change is told without a flush");
});

Deno.test("MappedWrites gives up a block whose mapped writes take long", () => {
  const bed = bedWithMapped();
  bed.mappedUs = STUCK_US;
  bed.fill(0, 2 * 7);
  assert.equal(bed.writes.mappedBlocks, 1);
  bed.fill(0, 7);
  assert.equal(bed.writes.mappedBlocks, 0, "more than two were long");
  bed.fill(0, 3000);
  const before = bed.mapped;
  bed.fill(0, 300);
  assert.deepEqual([bed.writes.mappedBlocks, bed.mapped - before], [0, 0], "nor is it tried again");
  bed.mappedUs = QUICK_US;
  for (let time = 0; time < 5; time++) {
    bed.timeUs += 11 * SECOND_US;
    bed.fill(0, 7);
  }
  bed.fill(0, 100);
  assert.equal(bed.writes.mappedBlocks, 1, "but for a later time");
});

Deno.test("MappedWrites asks for more where writes through the mapping are slower than usual", () => {
  const bed = new Bed(8 * WRITE_BLOCK_BYTES);
  bed.usualUs = bed.mappedUs = SLOW_US;
  bed.fill(0, 2000);
  const mapped = bed.writes.mappedBlocks;
  bed.fill(1, 5000);
  assert.equal(bed.writes.mappedBlocks, mapped, "it would gain nothing");
});

Deno.test("MappedWrites maps no more blocks than there may be", () => {
  const bed = new Bed((MAPPED_BLOCKS_MAX + 3) * WRITE_BLOCK_BYTES);
  for (let block = 0; block < MAPPED_BLOCKS_MAX + 3; block++) {
    bed.fill(block, 60);
    bed.timeUs = SECOND_US;
  }
  assert.equal(bed.writes.mappedBlocks, MAPPED_BLOCKS_MAX);
  bed.writes.close();
  assert.equal(bed.writes.mappedBlocks, 0);
  assert.ok(bed.isClosed);
});

/** Whatever is asked of it, its blocks are mapped soon: its clock says that writes are slow. */
function eagerWrites(file: RawFile, memory: WritableMemory, length: number): MappedWrites {
  let timeUs = 0;
  return new MappedWrites({
    length,
    map: () => memory,
    write: (from, offset) => {
      timeUs += SLOW_US;
      file.write(from, offset);
    },
    nowUs: () => timeUs,
  });
}

interface RealBed {
  readonly path: string;
  readonly file: RawFile;
  readonly writes: MappedWrites;
  /** What went through the mapping, in bytes. */
  mapped(): number;
}

/** Calls `fn` with a real file, whose writes all go through a mapping if they can; where there is none it says so. */
function withMapping(length: number, fn: (bed: RealBed) => Promise<void> | void): Promise<void> {
  return withTempDir(async (folder) => {
    const path = join(folder, "disk.img");
    const file = systemFiles.open(path, { ...PLAIN, createSize: length });
    const descriptor = descriptorOf(path);
    try {
      const real = mapForWriting(descriptor, length);
      if (real === null) {
        assert.ok(!isOfKind(descriptor, new Set([0xef53n])), "ext4 can be mapped");
        return;
      }
      let mapped = 0;
      const memory: WritableMemory = {
        write: (from, offset) => {
          const done = real.write(from, offset);
          mapped += done;
          return done;
        },
        isInCore: (offset, length) => real.isInCore(offset, length),
        unmap: (offset, length) => real.unmap(offset, length),
        touch: () => real.touch(),
        close: () => real.close(),
      };
      const writes = eagerWrites(file, memory, length);
      file.write(new Uint8Array(length), 0);
      for (let at = 0; at < 200; at++) {
        for (let start = 0; start < length; start += WRITE_BLOCK_BYTES) {
          writes.write(new Uint8Array(1), start);
        }
      }
      assert.equal(writes.mappedBlocks, Math.ceil(length / WRITE_BLOCK_BYTES));
      await fn({ path, file, writes, mapped: () => mapped });
      writes.close();
    } finally {
      file.close();
    }
  });
}

Deno.test("a mapping writes what the usual way writes, wherever it lies", () => {
  const length = 5 * 2 ** 20 + 1234;
  return withMapping(length, ({ path, file, writes, mapped }) => {
    const random = seededRandom(11), model = new Uint8Array(length);
    for (let step = 0; step < 3000; step++) {
      const size = 1 + random.below(step % 10 === 0 ? MAPPED_WRITE_BYTES_MAX : 9000);
      const offset = random.below(length - size + 1);
      const room = new Uint8Array(size + 16).fill(1 + random.below(255));
      const start = random.below(16), data = room.subarray(start, start + size);
      if (step % 13 === 0) {
        file.punch(offset, size);
        model.fill(0, offset, offset + size);
      } else {
        if (step % 7 === 0) file.write(data, offset);
        else writes.write(data, offset);
        model.set(data, offset);
      }
    }
    assert.ok(mapped() > 10 * 2 ** 20, `${mapped()} bytes went through the mapping`);
    writes.flushing();
    file.flush();
    assert.equal(Buffer.compare(Deno.readFileSync(path), model), 0);
  });
});

Deno.test("a mapping of a file that was cut lets the file grow again", () =>
  withMapping(2 * WRITE_BLOCK_BYTES, ({ path, file, writes }) => {
    Deno.truncateSync(path, WRITE_BLOCK_BYTES);
    const data = new Uint8Array(PAGE).fill(7), last = 2 * WRITE_BLOCK_BYTES - PAGE;
    writes.write(data, last);
    assert.equal(file.size(), 2 * WRITE_BLOCK_BYTES);
    const into = new Uint8Array(PAGE);
    file.read(into, last);
    assert.deepEqual(into, data);
  }));

Deno.test("a mapping tells when the file was changed", () =>
  withMapping(WRITE_BLOCK_BYTES, ({ path, writes }) => {
    const data = new Uint8Array(PAGE).fill(7), past = new Date(1_000_000_000_000);
    writes.write(data, 0);
    Deno.utimeSync(path, past, past);
    // The page can be written by now, so that the system notes nothing.
    writes.write(data, 0);
    writes.flushing();
    assert.ok((Deno.statSync(path).mtime?.getTime() ?? 0) > past.getTime());
  }));
