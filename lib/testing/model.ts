/**
 * What a device ought to hold, as far as the test knows: blocks of plain bytes with a mask that says
 * which of them are known. Nothing is known at first and after a trim; what is not known is not compared.
 *
 * @module
 */
import assert from "node:assert/strict";
import { expectBytes } from "./bytes.ts";

const BLOCK_BYTES = 4096;
/** Longest range that becomes known through being zeroed. */
const ZERO_BYTES_MAX: number = 2 ** 20;

interface Block {
  readonly bytes: Uint8Array;
  /** 1 where the byte is known. */
  readonly known: Uint8Array;
}

/** Content that writes do not change; fills `into` with what is at `offset`. */
export type FixedContent = (into: Uint8Array, offset: number) => void;

/** The expected content of a device. */
export class Model {
  readonly #blocks = new Map<number, Block>();
  readonly #fixed: FixedContent | null;

  /** Knows nothing, or everything if the content is fixed. */
  constructor(fixed: FixedContent | null) {
    this.#fixed = fixed;
  }

  /** `bytes` are at `offset` from now on. */
  write(bytes: Uint8Array, offset: number): void {
    this.#visit(offset, bytes.length, true, (block, start, end, at) => {
      block.bytes.set(bytes.subarray(at, at + end - start), start);
      block.known.fill(1, start, end);
    });
  }

  /** A range is zero from now on. Of one as large as a device only what was known stays known. */
  zero(offset: number, length: number): void {
    if (length > ZERO_BYTES_MAX) {
      this.#visitKnown(offset, length, (block, start, end) => {
        block.bytes.fill(0, start, end);
        block.known.fill(1, start, end);
      });
      return;
    }
    this.#visit(offset, length, true, (block, start, end) => {
      block.bytes.fill(0, start, end);
      block.known.fill(1, start, end);
    });
  }

  /** A range may hold anything from now on. Its length may be as large as the device. */
  forget(offset: number, length: number): void {
    this.#visitKnown(offset, length, (block, start, end) => block.known.fill(0, start, end));
  }

  /** What a range ought to read as; bytes that are not known are taken from `actual`. */
  expected(actual: Uint8Array, offset: number): Uint8Array {
    const expected = actual.slice();
    if (this.#fixed !== null) {
      this.#fixed(expected, offset);
      return expected;
    }
    this.#visit(offset, actual.length, false, (block, start, end, at) => {
      const unknown = block.known.indexOf(0, start);
      if (unknown < 0 || unknown >= end) {
        expected.set(block.bytes.subarray(start, end), at);
        return;
      }
      for (let inBlock = start; inBlock < end; inBlock += 1) {
        if (block.known[inBlock] === 1) {
          expected[at + inBlock - start] = block.bytes[inBlock] ?? 0;
        }
      }
    });
    return expected;
  }

  /** Fails if `actual`, read at `offset`, is not as expected. */
  compare(actual: Uint8Array, offset: number, after: string): void {
    expectBytes(actual, this.expected(actual, offset), offset, after);
  }

  /** Fails if anything but zero ought to be in a range that is said to be zero. */
  compareZero(offset: number, length: number): void {
    if (this.#fixed !== null) return;
    this.#visitKnown(offset, length, (block, start, end, base) => {
      for (let at = start; at < end; at += 1) {
        if (block.known[at] === 1 && block.bytes[at] !== 0) {
          assert.fail(`extents calls offset ${base + at} zero, where other data was written`);
        }
      }
    });
  }

  /** The runs of blocks of which something is known, in order, each at most `lengthMax` bytes. */
  knownRuns(lengthMax: number): { offset: number; length: number }[] {
    const runs: { offset: number; length: number }[] = [];
    for (const index of [...this.#blocks.keys()].sort((a, b) => a - b)) {
      const last = runs.at(-1);
      const offset = index * BLOCK_BYTES;
      if (
        last !== undefined && last.offset + last.length === offset &&
        last.length + BLOCK_BYTES <= lengthMax
      ) {
        last.length += BLOCK_BYTES;
      } else {
        runs.push({ offset, length: BLOCK_BYTES });
      }
    }
    return runs;
  }

  #visitKnown(
    offset: number,
    length: number,
    each: (block: Block, start: number, end: number, base: number) => void,
  ): void {
    for (const [index, block] of this.#blocks) {
      const base = index * BLOCK_BYTES;
      const start = Math.max(offset - base, 0), end = Math.min(offset + length - base, BLOCK_BYTES);
      if (start < end) each(block, start, end, base);
    }
  }

  #visit(
    offset: number,
    length: number,
    make: boolean,
    each: (block: Block, start: number, end: number, at: number) => void,
  ): void {
    for (let at = 0; at < length;) {
      const index = Math.floor((offset + at) / BLOCK_BYTES);
      const start = offset + at - index * BLOCK_BYTES;
      const end = Math.min(BLOCK_BYTES, start + length - at);
      let block = this.#blocks.get(index);
      if (block === undefined && make) {
        block = { bytes: new Uint8Array(BLOCK_BYTES), known: new Uint8Array(BLOCK_BYTES) };
        this.#blocks.set(index, block);
      }
      if (block !== undefined) each(block, start, end, at);
      at += end - start;
    }
  }
}
