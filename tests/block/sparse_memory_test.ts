/**
 * Sparse memory against a plain model: content, and exactly which pages are allocated, over seeded
 * random histories; and what it does at its bounds.
 *
 * @module
 */
import assert from "node:assert/strict";
import { SPARSE_SCAN_PAGES_MAX } from "../../lib/block/limits.ts";
import { PAGE_BYTES } from "../../lib/block/page_arena.ts";
import { LEAF_PAGES } from "../../lib/block/page_table.ts";
import { SparseMemory } from "../../lib/block/sparse_memory.ts";
import type { Extent } from "../../lib/block/types.ts";
import { type SeededRandom, seededRandom } from "../../lib/testing/mod.ts";

type State = "hole" | "reserved" | "data";

const EXTENT: Readonly<Record<State, Omit<Extent, "length">>> = {
  hole: { allocated: false, zero: true },
  reserved: { allocated: true, zero: true },
  data: { allocated: true, zero: false },
};

/** Pages in an array, each with its state. */
class PlainMemory {
  bytes: Uint8Array;
  states: State[];

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.states = Array.from({ length: Math.ceil(size / PAGE_BYTES) }, () => "hole");
  }

  #eachPage(offset: number, length: number, use: (page: number, whole: boolean) => void): void {
    const end = offset + length;
    for (let page = Math.floor(offset / PAGE_BYTES); page * PAGE_BYTES < end; page += 1) {
      const start = page * PAGE_BYTES;
      use(page, offset <= start && end >= Math.min(start + PAGE_BYTES, this.bytes.length));
    }
  }

  write(from: Uint8Array, offset: number): void {
    this.bytes.set(from, offset);
    this.#eachPage(offset, from.length, (page) => this.states[page] = "data");
  }

  discard(offset: number, length: number): void {
    this.bytes.fill(0, offset, offset + length);
    this.#eachPage(offset, length, (page, whole) => {
      if (whole) this.states[page] = "hole";
    });
  }

  reserve(offset: number, length: number): void {
    this.bytes.fill(0, offset, offset + length);
    this.#eachPage(offset, length, (page) => {
      if (this.states[page] === "hole") this.states[page] = "reserved";
    });
  }

  resize(size: number): void {
    const bytes = new Uint8Array(size);
    bytes.set(this.bytes.subarray(0, size));
    this.bytes = bytes;
    const pages = Math.ceil(size / PAGE_BYTES);
    this.states = Array.from({ length: pages }, (_, page) => this.states[page] ?? "hole");
  }

  extents(offset: number, length: number): Extent[] {
    const extents: { length: number; allocated: boolean; zero: boolean }[] = [];
    this.#eachPage(offset, length, (page) => {
      const start = Math.max(page * PAGE_BYTES, offset);
      const end = Math.min((page + 1) * PAGE_BYTES, offset + length);
      const state = EXTENT[this.states[page] ?? "hole"];
      const last = extents.at(-1);
      if (last?.allocated === state.allocated && last.zero === state.zero) {
        last.length += end - start;
      } else extents.push({ length: end - start, ...state });
    });
    return extents;
  }
}

function randomRange(random: SeededRandom, size: number): [offset: number, length: number] {
  let offset = random.below(size);
  if (random.oneIn(2)) offset -= offset % PAGE_BYTES;
  const wanted = random.oneIn(4)
    ? 1 + random.below(size)
    : random.oneIn(2)
    ? PAGE_BYTES * (1 + random.below(4))
    : 1 + random.below(3 * PAGE_BYTES);
  return [offset, Math.min(wanted, size - offset)];
}

function step(random: SeededRandom, memory: SparseMemory, plain: PlainMemory): void {
  const size = memory.size;
  const [offset, length] = randomRange(random, size);
  switch (random.below(10)) {
    case 0:
    case 1:
    case 2:
    case 3: {
      const bytes = new Uint8Array(length);
      random.fill(bytes);
      memory.write(bytes, offset);
      return plain.write(bytes, offset);
    }
    case 4:
    case 5:
      memory.discard(offset, length);
      return plain.discard(offset, length);
    case 6:
      memory.reserve(offset, length);
      return plain.reserve(offset, length);
    case 7: {
      if (!random.oneIn(4)) return;
      const changed = 1 + random.below(40 * PAGE_BYTES);
      memory.resize(changed);
      return plain.resize(changed);
    }
    default: {
      const into = new Uint8Array(length).fill(0xee);
      memory.read(into, offset);
      assert.deepEqual(into, plain.bytes.slice(offset, offset + length));
      assert.deepEqual(memory.extents(offset, length), plain.extents(offset, length));
    }
  }
}

for (let seed = 1; seed <= 20; seed += 1) {
  Deno.test(`SparseMemory agrees with a plain model, seed ${seed}`, () => {
    const random = seededRandom(seed);
    const size = 1 + random.below(40 * PAGE_BYTES);
    const memory = new SparseMemory({ size });
    const plain = new PlainMemory(size);
    for (let count = 0; count < 300; count += 1) step(random, memory, plain);
    const into = new Uint8Array(memory.size);
    memory.read(into, 0);
    assert.deepEqual(into, plain.bytes);
    const used = plain.states.filter((state) => state !== "hole").length;
    assert.equal(memory.allocated, used * PAGE_BYTES);
    memory.discard(0, memory.size);
    assert.equal(memory.allocated, 0);
    assert.equal(memory.resident, 0);
  });
}

Deno.test("SparseMemory keeps pages at the ends of leaves and branches apart", () => {
  const size = Number.MAX_SAFE_INTEGER;
  const memory = new SparseMemory({ size });
  const leaf = LEAF_PAGES * PAGE_BYTES;
  const places = [leaf, leaf * 2 ** 10, leaf * 2 ** 20, leaf * 2 ** 27].flatMap((edge) => [
    edge - PAGE_BYTES,
    edge,
  ]);
  places.push(size - 1);
  for (const [index, place] of places.entries()) memory.write(new Uint8Array([index + 1]), place);
  for (const [index, place] of places.entries()) {
    const into = new Uint8Array(1);
    memory.read(into, place);
    assert.equal(into[0], index + 1, `at ${place}`);
  }
  const data = memory.extents(0, size).filter((extent) => extent.allocated);
  const lengths = data.map(({ length }) => length / PAGE_BYTES);
  assert.deepEqual(lengths, [2, 2, 2, 2, (PAGE_BYTES - 1) / PAGE_BYTES]);
  memory.discard(leaf - PAGE_BYTES, leaf * 2 ** 20);
  assert.equal(memory.allocated, 3 * PAGE_BYTES);
  memory.discard(0, size);
  assert.equal(memory.allocated, 0);
});

Deno.test("SparseMemory stops an extents call short of a long walk, and goes on from there", () => {
  const memory = new SparseMemory({ size: 2 ** 50 });
  const length = 2 * SPARSE_SCAN_PAGES_MAX * PAGE_BYTES;
  memory.reserve(0, length);
  const first = memory.extents(0, 2 ** 50);
  assert.deepEqual(first, [{ length: length / 2, allocated: true, zero: true }]);
  const [rest] = memory.extents(length / 2, 2 ** 50 - length / 2);
  assert.deepEqual(rest, { length: length / 2, allocated: true, zero: true });
});

Deno.test("SparseMemory zeroes a page that it uses again", () => {
  const memory = new SparseMemory({ size: 4 * PAGE_BYTES });
  memory.write(new Uint8Array(3 * PAGE_BYTES).fill(1), 0);
  memory.discard(PAGE_BYTES, 2 * PAGE_BYTES);
  memory.write(new Uint8Array([2]), 3 * PAGE_BYTES + 7);
  const into = new Uint8Array(PAGE_BYTES);
  memory.read(into, 3 * PAGE_BYTES);
  assert.equal(into[7], 2);
  assert.equal(into.reduce((sum, byte) => sum + byte, 0), 2);
});
