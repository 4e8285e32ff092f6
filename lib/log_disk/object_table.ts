/**
 * Which log objects of one volume hold data, and how much of it the map still needs. Sorted arrays of
 * numbers: a disk that is flushed after every block has as many objects as blocks.
 *
 * @module
 */
import assert from "node:assert/strict";

/** A log object, as the map knows it. */
export interface KnownObject {
  /** Its sequence number. */
  readonly seq: number;
  /** Bytes of its header: 0 until it is sealed. */
  readonly headerBytes: number;
  /** Bytes of data in it. */
  readonly dataBytes: number;
  /** Bytes of its data that the map points to. */
  readonly liveBytes: number;
  /** It is a claim that keeps older writers out, and is never deleted. */
  readonly permanent: boolean;
}

const SLOTS_MIN = 64;
/** Numbers of one object: seq, bytes of header (negative: permanent), bytes of data, live bytes. */
const STRIDE = 4;

/** The objects of one volume, by sequence number. */
export class ObjectTable {
  #rows: Float64Array;
  #count = 0;
  /** Where the last object was found: neighbours in a log are asked for together. */
  #recent = 0;

  constructor() {
    this.#rows = new Float64Array(SLOTS_MIN * STRIDE);
  }

  /** Objects in the table. */
  get size(): number {
    return this.#count;
  }

  #seqAt(index: number): number {
    return this.#rows[index * STRIDE] ?? Infinity;
  }

  /** Index of the first object with at least that sequence number. */
  #lowerBound(seq: number): number {
    let low = 0, high = this.#count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#seqAt(middle) < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #find(seq: number): number {
    const recent = this.#recent;
    if (recent < this.#count && this.#seqAt(recent) === seq) return recent;
    const index = this.#lowerBound(seq);
    if (index === this.#count || this.#seqAt(index) !== seq) return -1;
    this.#recent = index;
    return index;
  }

  #row(seq: number): number {
    const index = this.#find(seq);
    // Called for every write: no message is made unless it is needed.
    if (index < 0) assert.fail(`the map knows no object ${seq}`);
    return index * STRIDE;
  }

  /** Adds an object that is not there yet; without live bytes. Objects mostly come in order. */
  add(seq: number, headerBytes: number, dataBytes: number, permanent = false): void {
    if ((this.#count + 1) * STRIDE > this.#rows.length) {
      const larger = new Float64Array(Math.ceil(this.#rows.length * 1.5 / STRIDE) * STRIDE);
      larger.set(this.#rows);
      this.#rows = larger;
    }
    const last = this.#count === 0 ? -1 : this.#seqAt(this.#count - 1);
    const index = seq > last ? this.#count : this.#lowerBound(seq);
    assert.ok(
      index === this.#count || this.#seqAt(index) !== seq,
      `object ${seq} is known already`,
    );
    const at = index * STRIDE;
    this.#rows.copyWithin(at + STRIDE, at, this.#count * STRIDE);
    this.#count += 1;
    this.#rows[at] = seq;
    this.#rows[at + 3] = 0;
    this.#store(at, headerBytes, dataBytes, permanent);
  }

  #store(at: number, headerBytes: number, dataBytes: number, permanent: boolean): void {
    this.#rows[at + 1] = permanent ? -headerBytes : headerBytes;
    this.#rows[at + 2] = dataBytes;
  }

  /** Sets what is known only once an object is sealed. */
  seal(seq: number, headerBytes: number, dataBytes: number): void {
    this.#store(this.#row(seq), headerBytes, dataBytes, false);
  }

  /** Changes how many bytes of an object are live. */
  adjust(seq: number, bytes: number): void {
    const at = this.#row(seq) + 3;
    this.#rows[at] = (this.#rows[at] ?? 0) + bytes;
  }

  /** Takes an object out, which must have no live bytes; false if it was not there. */
  forget(seq: number): boolean {
    const index = this.#find(seq);
    if (index < 0) return false;
    assert.equal(this.#rows[index * STRIDE + 3], 0, `the map still needs object ${seq}`);
    this.#rows.copyWithin(index * STRIDE, (index + 1) * STRIDE, this.#count * STRIDE);
    this.#count -= 1;
    return true;
  }

  /** An object; null if it is not in the table. */
  get(seq: number): KnownObject | null {
    const index = this.#find(seq);
    return index < 0 ? null : this.#known(index);
  }

  #known(index: number): KnownObject {
    const at = index * STRIDE, header = this.#rows[at + 1] ?? 0;
    return {
      seq: this.#rows[at] ?? 0,
      headerBytes: Math.abs(header),
      dataBytes: this.#rows[at + 2] ?? 0,
      liveBytes: this.#rows[at + 3] ?? 0,
      permanent: header < 0,
    };
  }

  /** All objects, ascending. The table must not change meanwhile. */
  *[Symbol.iterator](): Generator<KnownObject> {
    for (let index = 0; index < this.#count; index += 1) yield this.#known(index);
  }

  /** A copy that does not change with this. */
  copy(): ObjectTable {
    const copy = new ObjectTable();
    copy.#rows = this.#rows.slice(0, Math.max(this.#count, 1) * STRIDE);
    copy.#count = this.#count;
    return copy;
  }
}
