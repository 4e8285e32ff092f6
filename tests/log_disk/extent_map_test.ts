/**
 * The map of a log-structured disk against a model that keeps each block by itself.
 *
 * @module
 */
import assert from "node:assert/strict";
import { emptyRun, ExtentMap, type MapCopy, type Run } from "../../lib/log_disk/extent_map.ts";
import { type SeededRandom, seededRandom } from "../../lib/testing/mod.ts";

const BLOCKS = 3000;

/** What a block is: "hole", "zero", or where its data is. */
type Block = string;

function place(origin: number, seq: number, at: number): Block {
  return `${origin}/${seq}/${at}`;
}

function blockOf(run: Readonly<Run>, block: number): Block {
  if (run.kind !== "data") return run.kind;
  return place(run.origin, run.seq, run.at + block - run.offset);
}

/** All blocks, asked for in runs of random length. */
function blocksOf(map: ExtentMap, random: SeededRandom): Block[] {
  const blocks: Block[] = [], run = emptyRun();
  while (blocks.length < BLOCKS) {
    const offset = blocks.length;
    map.find(offset, 1 + random.below(Math.min(BLOCKS - offset, 100)), run);
    assert.equal(run.offset, offset);
    assert.ok(run.length > 0);
    for (let block = offset; block < offset + run.length; block += 1) {
      blocks.push(blockOf(run, block));
    }
  }
  return blocks;
}

function blocksOfRuns(runs: Iterable<Run>): Block[] {
  const blocks = new Array<Block>(BLOCKS).fill("hole");
  let end = 0;
  for (const run of runs) {
    assert.ok(run.offset >= end && run.length > 0 && run.kind !== "hole");
    end = run.offset + run.length;
    for (let block = run.offset; block < end; block += 1) blocks[block] = blockOf(run, block);
  }
  return blocks;
}

function liveOf(blocks: readonly Block[]): Record<string, number> {
  const live: Record<string, number> = {};
  for (const block of blocks) {
    const object = block.split("/").slice(0, 2).join("/");
    if (object !== block) live[object] = (live[object] ?? 0) + 1;
  }
  return live;
}

function liveInTables({ tables }: Pick<MapCopy, "tables">): Record<string, number> {
  const live: Record<string, number> = {};
  for (const [origin, table] of tables) {
    for (const { seq, liveBytes } of table) {
      if (liveBytes > 0) live[`${origin}/${seq}`] = liveBytes;
    }
  }
  return live;
}

/** A map and its model, changed together. */
class Pair {
  readonly map = new ExtentMap();
  readonly blocks = new Array<Block>(BLOCKS).fill("hole");
  readonly #random: SeededRandom;
  readonly #lengthMax: number;
  #seq = 0;

  constructor(random: SeededRandom, lengthMax: number) {
    this.#random = random;
    this.#lengthMax = lengthMax;
  }

  #fill(offset: number, length: number, block: (index: number) => Block): void {
    for (let index = 0; index < length; index += 1) this.blocks[offset + index] = block(index);
  }

  step(): void {
    const random = this.#random, { map } = this;
    const offset = random.below(BLOCKS);
    const length = 1 + random.below(Math.min(BLOCKS - offset, this.#lengthMax));
    switch (random.below(8)) {
      case 0:
        map.trim(offset, length);
        return this.#fill(offset, length, () => "hole");
      case 1:
        map.zero(offset, length);
        return this.#fill(offset, length, () => "zero");
      case 2:
        return this.#move(offset, length);
      default:
        this.#write(offset, length);
    }
  }

  #newObject(): { origin: number; seq: number; at: number } {
    const origin = this.#random.below(3), at = this.#random.below(50) * 10;
    this.#seq += 1;
    this.map.objects(origin).add(this.#seq, 100, 100_000);
    return { origin, seq: this.#seq, at };
  }

  #write(offset: number, length: number): void {
    const { origin, seq, at } = this.#newObject();
    // In pieces that follow one another: they come out as one.
    const cut = this.#random.below(length);
    if (cut > 0) this.map.write(offset, cut, origin, seq, at);
    this.map.write(offset + cut, length - cut, origin, seq, at + cut);
    this.#fill(offset, length, (index) => place(origin, seq, at + index));
  }

  /** Moves what an object has, or had, at a place. */
  #move(offset: number, length: number): void {
    const found = /^(\d+)\/(\d+)\/(\d+)$/.exec(this.blocks[offset] ?? "");
    if (found === null) return;
    const [origin = 0, seq = 0, at = 0] = found.slice(1).map(Number);
    const to = this.#newObject();
    let expected = 0;
    for (let index = 0; index < length; index += 1) {
      if (this.blocks[offset + index] !== place(origin, seq, at + index)) continue;
      this.blocks[offset + index] = place(to.origin, to.seq, to.at + index);
      expected += 1;
    }
    assert.equal(this.map.move(offset, length, { origin, seq, at }, to), expected);
  }

  check(): void {
    assert.deepEqual(blocksOf(this.map, this.#random), this.blocks);
    assert.deepEqual(blocksOfRuns(this.map.runs()), this.blocks);
    assert.deepEqual(liveInTables(this.map), liveOf(this.blocks));
    assert.equal([...this.map.runs()].length, this.map.extents);
  }
}

for (const lengthMax of [1, 5, 60, BLOCKS]) {
  Deno.test(`ExtentMap is what a list of blocks is, with ranges of up to ${lengthMax}`, () => {
    const random = seededRandom(lengthMax);
    const pair = new Pair(random, lengthMax);
    const copies: { copy: MapCopy; blocks: Block[] }[] = [];
    for (let step = 0; step < 4000; step += 1) {
      pair.step();
      if (step % 200 === 0) pair.check();
      if (step % 500 === 0) copies.push({ copy: pair.map.copy(), blocks: pair.blocks.slice() });
    }
    pair.check();
    for (const { copy, blocks } of copies) {
      assert.deepEqual(blocksOfRuns(copy.runs()), blocks);
      assert.deepEqual(liveInTables(copy), liveOf(blocks));
      assert.equal([...copy.runs()].length, copy.extents);
    }
  });
}

Deno.test("ExtentMap keeps what is written in order as one extent", () => {
  const map = new ExtentMap();
  map.objects(0).add(7, 100, 2 ** 20);
  for (let at = 0; at < 2 ** 20; at += 4096) map.write(2 ** 40 + at, 4096, 0, 7, at);
  assert.equal(map.extents, 1);
  map.zero(0, 2 ** 30);
  map.zero(2 ** 30, 2 ** 30);
  assert.equal(map.extents, 2);
  assert.equal(map.objects(0).get(7)?.liveBytes, 2 ** 20);
  map.trim(0, 2 ** 41);
  assert.equal(map.extents, 0);
  assert.equal(map.objects(0).get(7)?.liveBytes, 0);
});

Deno.test("ExtentMap refuses data of an object that it does not know", () => {
  const map = new ExtentMap();
  assert.throws(() => map.write(0, 512, 0, 1, 0), /the map knows no object 1/);
});

Deno.test("ObjectTable keeps objects in order, and forgets none that is needed", () => {
  const map = new ExtentMap(), table = map.objects(0);
  const random = seededRandom(3), seqs = new Set<number>();
  while (seqs.size < 500) seqs.add(1 + random.below(10_000));
  for (const seq of seqs) table.add(seq, seq, seq * 2, seq % 3 === 0);
  const sorted = [...seqs].sort((a, b) => a - b);
  assert.deepEqual([...table].map(({ seq }) => seq), sorted);
  assert.throws(() => table.add(sorted[0] ?? 0, 1, 1), /known already/);
  const [first = 0, second = 0] = sorted;
  assert.deepEqual(table.get(first), {
    seq: first,
    headerBytes: first,
    dataBytes: first * 2,
    liveBytes: 0,
    permanent: first % 3 === 0,
  });
  map.write(0, 512, 0, first, 0);
  assert.throws(() => table.forget(first), /still needs/);
  assert.ok(table.forget(second));
  assert.ok(!table.forget(second));
  assert.equal(table.get(second), null);
  assert.equal(table.size, 499);
});
