/**
 * The map of a log-structured disk: for each part of the disk the log object, and the place in its data,
 * that holds it. Sorted, disjoint extents in leaves of typed arrays below one array of leaves: 32 bytes an
 * extent, a million of them in about 50 MB. A copy for a checkpoint is made by reference; a leaf is copied
 * when it is changed afterwards.
 *
 * @module
 */
import assert from "node:assert/strict";
import { SEQ_MAX } from "./limits.ts";
import { ObjectTable } from "./object_table.ts";

/** How a run of the disk is kept: not at all (zeroes), as zeroes that keep their place, or as data. */
export type RunKind = "hole" | "zero" | "data";

/** A run of the disk. Offsets and lengths are bytes. */
export interface Run {
  /** Where on the disk. */
  offset: number;
  /** At least 1. */
  length: number;
  /** How it is kept. */
  kind: RunKind;
  /** Whose object: 0 for this volume, 1 for its parent … (data alone). */
  origin: number;
  /** Sequence number of the object (data alone). */
  seq: number;
  /** Where in the data of the object (data alone). */
  at: number;
}

/** A place in the data of a log object. */
export interface Place {
  /** 0 for this volume, 1 for its parent … */
  readonly origin: number;
  /** Sequence number of the object. */
  readonly seq: number;
  /** Bytes from the beginning of its data. */
  readonly at: number;
}

const LEAF_EXTENTS = 128;
/** Numbers of an extent: offset, length, object (seq * 16 + origin; negative for zeroes), place. */
const STRIDE = 4;
const OFFSET = 0, LENGTH = 1, OBJECT = 2, AT = 3;
const ZERO_OBJECT = -1;
/** Extents of a leaf that is filled in order: room is left for what is written between. */
const FILLED_EXTENTS = 96;
const ORIGIN_RADIX = 16;

interface Leaf {
  numbers: Float64Array;
  count: number;
  /** Of the map when the leaf was made: an older leaf belongs to a copy as well. */
  generation: number;
}

function emptyLeaf(generation: number): Leaf {
  return { numbers: new Float64Array(LEAF_EXTENTS * STRIDE), count: 0, generation };
}

/** A run to be filled by `find`. */
export function emptyRun(): Run {
  return { offset: 0, length: 0, kind: "hole", origin: 0, seq: 0, at: 0 };
}

function showExtent(run: Run, numbers: Float64Array, index: number): void {
  const base = index * STRIDE, object = numbers[base + OBJECT] ?? 0;
  run.offset = numbers[base + OFFSET] ?? 0;
  run.length = numbers[base + LENGTH] ?? 0;
  if (object < 0) {
    run.kind = "zero";
    return;
  }
  run.kind = "data";
  run.seq = Math.floor(object / ORIGIN_RADIX);
  run.origin = object - run.seq * ORIGIN_RADIX;
  run.at = numbers[base + AT] ?? 0;
}

/** The state of a map at one moment. */
export interface MapCopy {
  /** Extents in it. */
  readonly extents: number;
  /** Its objects, by origin. */
  readonly tables: ReadonlyMap<number, ObjectTable>;
  /** The extents in order; each call of `visit` gets the same `Run`. */
  runs(): Generator<Run>;
}

/** A map of disk ranges to log objects. */
export class ExtentMap {
  /** Never empty; only the first leaf may have no extents, and only if it is the only one. */
  #leaves: Leaf[] = [emptyLeaf(0)];
  /** Offset of the first extent of each leaf; that of the first leaf counts as 0. */
  #firsts: number[] = [0];
  #extents = 0;
  #generation = 0;
  readonly #tables = new Map<number, ObjectTable>();
  /** Where `#locate` ended: a leaf and an extent in it. */
  #leaf = 0;
  #index = 0;

  /** Extents in the map. */
  get extents(): number {
    return this.#extents;
  }

  /** The objects of an origin, with the bytes of each that the map points to. */
  objects(origin: number): ObjectTable {
    let table = this.#tables.get(origin);
    if (table === undefined) {
      assert.ok(origin >= 0 && origin < ORIGIN_RADIX);
      table = new ObjectTable();
      this.#tables.set(origin, table);
    }
    return table;
  }

  /** All tables of objects, by origin. */
  get tables(): ReadonlyMap<number, ObjectTable> {
    return this.#tables;
  }

  /** Finds the first extent that ends behind `offset`: sets `#leaf` and `#index`, which may be past the leaf's end. */
  #locate(offset: number): void {
    const firsts = this.#firsts;
    let low = 0, high = firsts.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((firsts[middle] ?? 0) <= offset) low = middle;
      else high = middle;
    }
    const leaf = this.#leafAt(low);
    const { numbers } = leaf;
    let from = 0, to = leaf.count;
    while (from < to) {
      const middle = (from + to) >>> 1, base = middle * STRIDE;
      if ((numbers[base] ?? 0) + (numbers[base + LENGTH] ?? 0) <= offset) from = middle + 1;
      else to = middle;
    }
    this.#leaf = low;
    this.#index = from;
    if (from === leaf.count && low + 1 < firsts.length) {
      this.#leaf = low + 1;
      this.#index = 0;
    }
  }

  #leafAt(index: number): Leaf {
    const leaf = this.#leaves[index];
    if (leaf === undefined) assert.fail(`the map has no leaf ${index}`);
    return leaf;
  }

  /** A leaf that may be changed. */
  #own(index: number): Leaf {
    const leaf = this.#leafAt(index);
    if (leaf.generation === this.#generation) return leaf;
    const own = { numbers: leaf.numbers.slice(), count: leaf.count, generation: this.#generation };
    this.#leaves[index] = own;
    return own;
  }

  /**
   * Fills `run` with what is at `offset`, of at most `length` bytes: all of one kind, and data that lies
   * in one piece. `length` is at least 1.
   */
  find(offset: number, length: number, run: Run): void {
    this.#locate(offset);
    const leaf = this.#leafAt(this.#leaf), end = offset + length;
    run.kind = "hole";
    run.offset = offset;
    run.length = length;
    if (this.#index === leaf.count) return;
    const start = leaf.numbers[this.#index * STRIDE] ?? 0;
    if (start > offset) {
      run.length = Math.min(length, start - offset);
      return;
    }
    showExtent(run, leaf.numbers, this.#index);
    run.at += offset - start;
    run.length = Math.min(run.offset + run.length, end) - offset;
    run.offset = offset;
  }

  /** The data of the range is from now on at a place. The object has to be in its table. */
  write(offset: number, length: number, origin: number, seq: number, at: number): void {
    this.#replace(offset, length, seq * ORIGIN_RADIX + origin, at);
  }

  /** The range is zeroes from now on, and keeps its place. */
  zero(offset: number, length: number): void {
    this.#replace(offset, length, ZERO_OBJECT, 0);
  }

  /** The range is a hole from now on. */
  trim(offset: number, length: number): void {
    this.#cut(offset, offset + length);
  }

  /**
   * Data was copied from one place to another: whatever part of the range still shows the old place shows
   * the new one. Gives the bytes of those parts.
   */
  move(offset: number, length: number, from: Place, to: Place): number {
    const parts: number[] = [];
    const run = emptyRun();
    for (let at = offset; at < offset + length; at += run.length) {
      this.find(at, offset + length - at, run);
      const same = run.kind === "data" && run.origin === from.origin && run.seq === from.seq &&
        run.at === from.at + at - offset;
      if (same) parts.push(at, run.length);
    }
    let moved = 0;
    for (let index = 0; index < parts.length; index += 2) {
      const at = parts[index] ?? 0, bytes = parts[index + 1] ?? 0;
      this.write(at, bytes, to.origin, to.seq, to.at + at - offset);
      moved += bytes;
    }
    return moved;
  }

  /** Counts data as live, or no longer. */
  #count(object: number, bytes: number): void {
    if (object < 0) return;
    const seq = Math.floor(object / ORIGIN_RADIX);
    this.objects(object - seq * ORIGIN_RADIX).adjust(seq, bytes);
  }

  #replace(offset: number, length: number, object: number, at: number): void {
    const end = offset + length;
    this.#locate(offset);
    const leaf = this.#leafAt(this.#leaf), base = this.#index * STRIDE;
    if (
      this.#index < leaf.count && leaf.numbers[base] === offset &&
      leaf.numbers[base + LENGTH] === length
    ) {
      // What is overwritten is often what was written before, to the byte.
      const { numbers } = this.#own(this.#leaf);
      this.#count(numbers[base + OBJECT] ?? 0, -length);
      this.#count(object, length);
      numbers[base + OBJECT] = object;
      numbers[base + AT] = at;
      return;
    }
    this.#cut(offset, end);
    this.#count(object, length);
    this.#insert(offset, length, object, at);
  }

  /** Takes everything from `start` to `end` out. */
  #cut(start: number, end: number): void {
    this.#locate(start);
    const leaf = this.#leafAt(this.#leaf);
    if (this.#index === leaf.count) return;
    const { numbers } = leaf, base = this.#index * STRIDE;
    const first = numbers[base] ?? 0, firstEnd = first + (numbers[base + LENGTH] ?? 0);
    if (first >= end) return;
    if (first < start) {
      const object = numbers[base + OBJECT] ?? 0, at = numbers[base + AT] ?? 0;
      this.#own(this.#leaf).numbers[base + LENGTH] = start - first;
      this.#count(object, start - Math.min(firstEnd, end));
      if (firstEnd > end) {
        this.#index += 1;
        this.#insertAt(end, firstEnd - end, object, object < 0 ? 0 : at + end - first);
        return;
      }
      this.#index += 1;
    }
    this.#removeWhole(end);
  }

  /** Takes out, from `#leaf` and `#index` on, what ends up to `end`, and the front of what goes beyond. */
  #removeWhole(end: number): void {
    let leafIndex = this.#leaf, from = this.#index;
    const emptyFrom: number[] = [];
    for (; leafIndex < this.#leaves.length; leafIndex += 1, from = 0) {
      const { numbers, count } = this.#leafAt(leafIndex);
      let to = from;
      for (; to < count; to += 1) {
        const base = to * STRIDE, length = numbers[base + LENGTH] ?? 0;
        if ((numbers[base] ?? 0) + length > end) break;
        this.#count(numbers[base + OBJECT] ?? 0, -length);
      }
      this.#removeExtents(leafIndex, from, to);
      if (from === 0 && to === count) {
        emptyFrom.push(leafIndex);
        continue;
      }
      if (to < count) {
        this.#trimFront(leafIndex, from, end);
        break;
      }
    }
    const [first] = emptyFrom;
    if (first !== undefined) this.#dropLeaves(first, emptyFrom.length);
  }

  #removeExtents(leafIndex: number, from: number, to: number): void {
    if (from === to) return;
    const leaf = this.#own(leafIndex);
    leaf.numbers.copyWithin(from * STRIDE, to * STRIDE, leaf.count * STRIDE);
    leaf.count -= to - from;
    this.#extents -= to - from;
    if (from === 0 && leaf.count > 0 && leafIndex > 0) {
      this.#firsts[leafIndex] = leaf.numbers[0] ?? 0;
    }
  }

  /** The extent at an index begins at `start` if it began before. */
  #trimFront(leafIndex: number, index: number, start: number): void {
    const base = index * STRIDE, offset = this.#leafAt(leafIndex).numbers[base] ?? 0;
    if (offset >= start) return;
    const { numbers } = this.#own(leafIndex), object = numbers[base + OBJECT] ?? 0;
    numbers[base] = start;
    numbers[base + LENGTH] = (numbers[base + LENGTH] ?? 0) - (start - offset);
    if (object >= 0) numbers[base + AT] = (numbers[base + AT] ?? 0) + start - offset;
    this.#count(object, offset - start);
    if (index === 0 && leafIndex > 0) this.#firsts[leafIndex] = start;
  }

  #dropLeaves(first: number, count: number): void {
    this.#leaves.splice(first, count);
    this.#firsts.splice(first, count);
    if (this.#leaves.length === 0) {
      this.#leaves.push(emptyLeaf(this.#generation));
      this.#firsts.push(0);
    }
    if (first === 0) this.#firsts[0] = 0;
  }

  /** Puts an extent where there is none, together with its neighbours if they go on in the same object. */
  #insert(offset: number, length: number, object: number, at: number): void {
    this.#locate(offset);
    // What comes before may be in the leaf before: that leaf has room as well as this.
    if (this.#index === 0 && this.#leaf > 0) {
      this.#leaf -= 1;
      this.#index = this.#leafAt(this.#leaf).count;
    }
    if (this.#index > 0 && this.#extendLeft(offset, length, object, at)) return;
    this.#insertAt(offset, length, object, at);
  }

  /** True if the extent before the insertion point goes on with this one: then it is made longer. */
  #extendLeft(offset: number, length: number, object: number, at: number): boolean {
    const { numbers } = this.#leafAt(this.#leaf), base = (this.#index - 1) * STRIDE;
    const before = numbers[base + LENGTH] ?? 0;
    const joins = (numbers[base] ?? 0) + before === offset && numbers[base + OBJECT] === object &&
      (object < 0 || (numbers[base + AT] ?? 0) + before === at);
    if (joins) this.#own(this.#leaf).numbers[base + LENGTH] = before + length;
    return joins;
  }

  /** Puts an extent at `#leaf` and `#index`. */
  #insertAt(offset: number, length: number, object: number, at: number): void {
    if (this.#leafAt(this.#leaf).count === LEAF_EXTENTS) this.#split();
    const leaf = this.#own(this.#leaf), base = this.#index * STRIDE;
    leaf.numbers.copyWithin(base + STRIDE, base, leaf.count * STRIDE);
    leaf.numbers[base] = offset;
    leaf.numbers[base + LENGTH] = length;
    leaf.numbers[base + OBJECT] = object;
    leaf.numbers[base + AT] = at;
    leaf.count += 1;
    this.#extents += 1;
    if (this.#index === 0 && this.#leaf > 0) this.#firsts[this.#leaf] = offset;
  }

  /** Splits the full `#leaf`; `#leaf` and `#index` then are the same place in one of the halves. */
  #split(): void {
    const leaf = this.#own(this.#leaf);
    // Writing in order leaves full leaves behind.
    const atEnd = this.#index === LEAF_EXTENTS && this.#leaf === this.#leaves.length - 1;
    const kept = atEnd ? LEAF_EXTENTS - LEAF_EXTENTS / 8 : LEAF_EXTENTS / 2;
    const right = emptyLeaf(this.#generation);
    right.numbers.set(leaf.numbers.subarray(kept * STRIDE));
    right.count = LEAF_EXTENTS - kept;
    leaf.count = kept;
    this.#leaves.splice(this.#leaf + 1, 0, right);
    this.#firsts.splice(this.#leaf + 1, 0, right.numbers[0] ?? 0);
    if (this.#index <= kept) return;
    this.#leaf += 1;
    this.#index -= kept;
  }

  /** Adds an extent behind all others: how a checkpoint is loaded. `kind` is not "hole". */
  append({ offset, length, kind, origin, seq, at }: Readonly<Run>): void {
    assert.ok(kind !== "hole" && seq <= SEQ_MAX);
    let last = this.#own(this.#leaves.length - 1);
    if (last.count >= FILLED_EXTENTS) {
      last = emptyLeaf(this.#generation);
      this.#leaves.push(last);
      this.#firsts.push(offset);
    }
    const object = kind === "zero" ? ZERO_OBJECT : seq * ORIGIN_RADIX + origin;
    const base = last.count * STRIDE;
    last.numbers[base] = offset;
    last.numbers[base + LENGTH] = length;
    last.numbers[base + OBJECT] = object;
    last.numbers[base + AT] = kind === "zero" ? 0 : at;
    last.count += 1;
    this.#extents += 1;
    this.#count(object, length);
  }

  /** The map as it is now, at no cost: it does not change with this. */
  copy(): MapCopy {
    this.#generation += 1;
    const leaves = this.#leaves.slice(), extents = this.#extents;
    const tables = new Map([...this.#tables].map(([origin, table]) => [origin, table.copy()]));
    return { extents, tables, runs: () => runsOf(leaves) };
  }

  /** All extents in order; the map must not change meanwhile. Each is shown in the same `Run`. */
  runs(): Generator<Run> {
    return runsOf(this.#leaves);
  }
}

function* runsOf(leaves: readonly Leaf[]): Generator<Run> {
  const run = emptyRun();
  for (const { numbers, count } of leaves) {
    for (let index = 0; index < count; index += 1) {
      showExtent(run, numbers, index);
      yield run;
    }
  }
}
