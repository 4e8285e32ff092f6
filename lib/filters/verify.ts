/**
 * `verify`: remembers a checksum of every block that is written and checks it when the block is read.
 * A checksum is the first 64 bits of SHA-256, so that storage which returns other data of the right
 * form, an old version or another block, is found out as surely as a flipped bit.
 *
 * @module
 */
import { hash } from "node:crypto";
import { BlockError } from "../block/errors.ts";
import { chain, oneByOne } from "../block/maybe.ts";
import { optionSchema, sizeOption } from "../block/options.ts";
import type { OpenContext } from "../block/context.ts";
import { RangeLocks } from "../block/range_locks.ts";
import type { Backend, FilterType, Maybe, Opened } from "../block/types.ts";
import { checkBlock, cutAtBlocks, outward, type Piece } from "./shared/blocks.ts";
import {
  BLOCK_BYTES_MAX,
  BLOCK_BYTES_MIN,
  VERIFY_BYTES,
  VERIFY_ZERO_BLOCKS_MAX,
} from "./shared/limits.ts";
import { type Next, nextOf, type Verbs, wrap } from "./shared/wrap.ts";

/** Options of verify, in bytes. */
export interface VerifyOptions {
  /** What has one checksum: a power of two. */
  readonly block: number;
  /** Memory for checksums; past it blocks are not remembered. */
  readonly limit: number;
}

/** Blocks whose checksums are kept together. */
const CHUNK_BLOCKS = 1024;
const CHUNK_BYTES: number = CHUNK_BLOCKS * 8;

/** A checksum: two words, both 0 for none. */
type Sum = readonly [high: number, low: number];

function sumOf(bytes: Uint8Array): Sum {
  const hex = hash("sha256", bytes, "hex");
  const high = Number.parseInt(hex.slice(0, 8), 16);
  const low = Number.parseInt(hex.slice(8, 16), 16);
  return high === 0 && low === 0 ? [0, 1] : [high, low];
}

function show([high, low]: Sum): string {
  return [high, low].map((word) => word.toString(16).padStart(8, "0")).join("");
}

/** The checksums of a device, in chunks that exist where there are some. */
class Sums {
  readonly #chunks = new Map<number, Uint32Array>();
  readonly #chunksMax: number;
  readonly #full: () => void;
  /** Blocks that were not remembered for want of memory. */
  unremembered = 0;

  constructor(limit: number, full: () => void) {
    this.#chunksMax = Math.max(1, Math.floor(limit / CHUNK_BYTES));
    this.#full = full;
  }

  get bytes(): number {
    return this.#chunks.size * CHUNK_BYTES;
  }

  get(block: number): Sum | null {
    const chunk = this.#chunks.get(Math.floor(block / CHUNK_BLOCKS));
    const at = block % CHUNK_BLOCKS * 2;
    const high = chunk?.[at] ?? 0, low = chunk?.[at + 1] ?? 0;
    return high === 0 && low === 0 ? null : [high, low];
  }

  set(block: number, [high, low]: Sum): void {
    const number = Math.floor(block / CHUNK_BLOCKS);
    let chunk = this.#chunks.get(number);
    if (chunk === undefined) {
      if (this.#chunks.size >= this.#chunksMax) {
        if (this.unremembered === 0) this.#full();
        this.unremembered += 1;
        return;
      }
      chunk = new Uint32Array(CHUNK_BLOCKS * 2);
      this.#chunks.set(number, chunk);
    }
    chunk.set([high, low], block % CHUNK_BLOCKS * 2);
  }

  /** Forgets the blocks from `first` up to `last`, which may be far more than there are. */
  forget(first: number, last: number): void {
    const from = Math.floor(first / CHUNK_BLOCKS), to = Math.floor((last - 1) / CHUNK_BLOCKS);
    const numbers = to - from < this.#chunks.size
      ? Array.from({ length: to - from + 1 }, (_, index) => from + index)
      : [...this.#chunks.keys()].filter((number) => number >= from && number <= to);
    for (const number of numbers) {
      const base = number * CHUNK_BLOCKS;
      if (first <= base && last >= base + CHUNK_BLOCKS) this.#chunks.delete(number);
      else {
        this.#chunks.get(number)?.fill(
          0,
          Math.max(first - base, 0) * 2,
          Math.min(last - base, CHUNK_BLOCKS) * 2,
        );
      }
    }
  }
}

/** A device whose blocks are checked. */
class Verifier {
  readonly #next: Next;
  readonly #block: number;
  readonly #sums: Sums;
  readonly #locks = new RangeLocks();
  /** Blocks that were not what was written. */
  mismatches = 0;

  constructor(next: Next, block: number, sums: Sums) {
    this.#next = next;
    this.#block = block;
    this.#sums = sums;
  }

  verbs(): Partial<Verbs> {
    const next = this.#next;
    return {
      read: (into, offset) => this.#read(into, offset),
      write: (from, offset, options) =>
        this.#change(offset, from.length, () => next.write(from, offset, options), from),
      zero: (offset, length, options) =>
        this.#zero(offset, length, () => {
          return next.zero(offset, length, options);
        }),
      trim: (offset, length, options) =>
        this.#alone(offset, length, () => {
          this.#forget(offset, length);
          return next.trim(offset, length, options);
        }),
      resize: (size) => {
        // The last block is another one if it was cut off or grows.
        this.#forget(Math.min(size, next.geometry.size), Infinity);
        return next.resize(size);
      },
    };
  }

  #cut(offset: number, length: number): Piece[] {
    return cutAtBlocks(offset, length, this.#block, this.#next.geometry.size);
  }

  #alone(offset: number, length: number, work: () => Maybe<void>): Maybe<void> {
    const whole = outward(offset, length, this.#block, this.#next.geometry.size);
    return this.#locks.run(whole.offset, whole.length, "exclusive", work);
  }

  #forget(offset: number, length: number): void {
    this.#sums.forget(
      Math.floor(offset / this.#block),
      Math.ceil((offset + length) / this.#block),
    );
  }

  #read(into: Uint8Array, offset: number): Maybe<void> {
    const whole = outward(offset, into.length, this.#block, this.#next.geometry.size);
    return this.#locks.run(
      whole.offset,
      whole.length,
      "shared",
      () =>
        oneByOne(this.#cut(offset, into.length), (piece) => {
          const start = piece.offset - offset;
          const part = into.subarray(start, start + piece.length);
          if (piece.whole) {
            return chain(
              this.#next.read(part, piece.offset),
              () => this.#check(part, piece.offset),
            );
          }
          return chain(this.#readAround(piece), ({ bytes, at }) => {
            part.set(bytes.subarray(at, at + piece.length));
          });
        }),
    );
  }

  /** The block around a piece of one, checked. */
  #readAround(piece: Piece): Maybe<{ bytes: Uint8Array; number: number; at: number }> {
    const whole = outward(piece.offset, piece.length, this.#block, this.#next.geometry.size);
    const bytes = new Uint8Array(whole.length);
    return chain(this.#next.read(bytes, whole.offset), () => {
      this.#check(bytes, whole.offset);
      return { bytes, number: whole.offset / this.#block, at: piece.offset - whole.offset };
    });
  }

  /** Checks whole blocks that were read at `offset`. */
  #check(bytes: Uint8Array, offset: number): void {
    for (let at = 0; at < bytes.length; at += this.#block) {
      const expected = this.#sums.get((offset + at) / this.#block);
      if (expected === null) continue;
      const found = sumOf(bytes.subarray(at, at + this.#block));
      if (found[0] === expected[0] && found[1] === expected[1]) continue;
      this.mismatches += 1;
      throw new BlockError(
        "EIO",
        `Cannot read the block of ${Math.min(this.#block, bytes.length - at)} bytes at ` +
          `${offset + at}: it is not what was written there, its checksum is ${show(found)}, ` +
          `not ${show(expected)}`,
      );
    }
  }

  /** Changes a range to `content`, zeroes if there is none; the blocks are known once that is done. */
  #change(
    offset: number,
    length: number,
    work: () => Maybe<void>,
    content?: Uint8Array,
  ): Maybe<void> {
    return this.#alone(offset, length, () => {
      const sums = new Map<number, Sum>();
      const prepared = oneByOne(
        this.#cut(offset, length),
        (piece) => this.#foresee(piece, content?.subarray(piece.offset - offset), sums),
      );
      const change = (): Maybe<void> => {
        // What is there if the call fails, nobody knows.
        this.#forget(offset, length);
        return work();
      };
      return chain(chain(prepared, change), () => {
        for (const [block, sum] of sums) this.#sums.set(block, sum);
      });
    });
  }

  /** The checksums that the blocks of a piece are going to have. */
  #foresee(piece: Piece, content: Uint8Array | undefined, sums: Map<number, Sum>): Maybe<void> {
    if (!piece.whole) {
      return chain(this.#readAround(piece), ({ bytes, number, at }) => {
        if (content === undefined) bytes.fill(0, at, at + piece.length);
        else bytes.set(content.subarray(0, piece.length), at);
        sums.set(number, sumOf(bytes));
      });
    }
    const zeroes = content === undefined ? new Uint8Array(this.#block) : null;
    const zeroSum = zeroes === null ? null : sumOf(zeroes);
    for (let at = 0; at < piece.length; at += this.#block) {
      const length = Math.min(this.#block, piece.length - at);
      const number = (piece.offset + at) / this.#block;
      const sum = content !== undefined
        ? sumOf(content.subarray(at, at + length))
        : zeroSum !== null && length === this.#block
        ? zeroSum
        : sumOf(new Uint8Array(length));
      sums.set(number, sum);
    }
    return undefined;
  }

  #zero(offset: number, length: number, work: () => Maybe<void>): Maybe<void> {
    if (length <= VERIFY_ZERO_BLOCKS_MAX * this.#block) return this.#change(offset, length, work);
    return this.#alone(offset, length, () => {
      this.#forget(offset, length);
      return work();
    });
  }
}

function open(backend: Backend, options: VerifyOptions, context: OpenContext): Opened {
  const { block, limit } = options;
  if (block < BLOCK_BYTES_MIN) {
    throw new BlockError(
      "EINVAL",
      `Cannot use filter verify with blocks of ${block}: at least ${BLOCK_BYTES_MIN} bytes are needed`,
    );
  }
  checkBlock(block, BLOCK_BYTES_MAX, backend.geometry, "verify");
  const sums = new Sums(limit, () =>
    context.log.warn(
      `The filter verify has used its limit of ${limit} bytes: new blocks go unchecked`,
    ));
  const verifier = new Verifier(nextOf(backend), block, sums);
  const describe = (): Record<string, number> => ({
    mismatches: verifier.mismatches,
    memory: sums.bytes,
    unremembered: sums.unremembered,
  });
  return { backend: wrap(backend, { verbs: verifier.verbs() }), management: { describe } };
}

/** The filter. */
export const verify: FilterType<VerifyOptions> = {
  name: "verify",
  summary: "checks on reading that blocks are as they were written",
  options: optionSchema<VerifyOptions>({
    block: sizeOption({ summary: "what has one checksum: a power of two", default: 4096 }),
    limit: sizeOption({ summary: "memory for checksums, 8 bytes a block", default: VERIFY_BYTES }),
  }),
  open: (next, options, context) => Promise.try(open, next, options, context),
};
