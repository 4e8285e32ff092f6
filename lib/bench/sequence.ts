/**
 * The requests of a load, one after the other: what, where, how long. They follow from the settings and
 * the seed alone, never from time or from how requests end, so the same seed gives the same requests, and
 * what a disk has to hold after so many of them can be told without it.
 *
 * @module
 */
import { type SeededRandom, seededRandom } from "../testing/random.ts";
import { type BlockSize, unitOf } from "./block_sizes.ts";
import type { Pattern } from "./pattern.ts";
import { Zipf } from "./zipf.ts";

/** What requests are made from. */
export interface SequenceSettings {
  /** Bytes of the disk that are used, from its start; the largest block fits. */
  readonly size: number;
  /** Lengths, at least one. */
  readonly blockSizes: readonly BlockSize[];
  /** Places. */
  readonly pattern: Pattern;
  /** Share of the requests that read, 0 to 1; the others write. */
  readonly readShare: number;
  /** Where chance begins: a whole number, of which the low 32 bits count. */
  readonly seed: number;
}

/** Odd, so that multiplying by it (and by what is coprime to a count) scatters ranks: 2^53 over the golden ratio. */
const SCATTER = 5_566_755_282_872_655;

/** A number below `count` and coprime to it, so that multiples of it meet every place once. */
function strideOf(count: number): bigint {
  const isCoprime = (a: bigint, b: bigint): boolean => b === 0n ? a === 1n : isCoprime(b, a % b);
  const total = BigInt(count);
  for (let stride = BigInt(SCATTER) % total;; stride += 1n) {
    if (count === 1 || (stride > 0n && isCoprime(stride, total))) return stride;
  }
}

/** Chooses places in units. */
type Chooser = (places: number) => number;

/** The requests. After `next` the fields are those of the next request. */
export class Sequence {
  /** It writes. */
  writes = false;
  /** First byte. */
  offset = 0;
  /** Bytes. */
  length = 0;
  /** Requests so far: this one is the last of them. */
  count = 0;

  readonly #unit: number;
  readonly #units: number;
  readonly #sizes: readonly BlockSize[];
  readonly #bounds: readonly number[];
  readonly #readShare: number;
  readonly #random: SeededRandom;
  readonly #choose: Chooser | null;
  #nextUnit = 0;

  /** In front of the first request. Throws RangeError if no block fits. */
  constructor(settings: SequenceSettings) {
    const { size, blockSizes, pattern, readShare, seed } = settings;
    this.#unit = unitOf(blockSizes);
    this.#units = Math.floor(size / this.#unit);
    if (blockSizes.length === 0 || blockSizes.some(({ max }) => max > size)) {
      throw new RangeError(`Cannot make requests: a block does not fit ${size} bytes`);
    }
    this.#sizes = blockSizes;
    let sum = 0;
    this.#bounds = blockSizes.map(({ weight }) => sum += weight);
    this.#readShare = readShare;
    this.#random = seededRandom(seed);
    this.#choose = this.#chooserOf(pattern);
  }

  /** Goes on to the next request. */
  next(): void {
    this.count += 1;
    const { max, min } = this.#sizes.length === 1 ? this.#sizes[0] ?? NO_SIZE : this.#pickSize();
    const units = max === min
      ? max / this.#unit
      : (min + this.#random.below((max - min) / min + 1) * min) / this.#unit;
    this.writes = this.#readShare < 1 &&
      (this.#readShare <= 0 || this.#fraction() >= this.#readShare);
    const places = this.#units - units + 1;
    let place: number;
    if (this.#choose !== null) place = this.#choose(places);
    else {
      place = this.#nextUnit < places ? this.#nextUnit : 0;
      this.#nextUnit = place + units;
    }
    this.offset = place * this.#unit;
    this.length = units * this.#unit;
  }

  readonly #fraction = (): number => this.#random.uint32() / 2 ** 32;

  #pickSize(): BlockSize {
    const total = this.#bounds.at(-1) ?? 1;
    const drawn = this.#random.below(total);
    return this.#sizes[this.#bounds.findIndex((bound) => drawn < bound)] ?? NO_SIZE;
  }

  #chooserOf(pattern: Pattern): Chooser | null {
    const random = this.#random;
    switch (pattern.kind) {
      case "sequential":
        return null;
      case "random":
        return (places) => random.below(places);
      case "hot": {
        const hot = Math.max(1, Math.floor(this.#units * pattern.part));
        return (places) => {
          const inside = this.#fraction() < pattern.requests;
          if (inside || places <= hot) return random.below(Math.min(hot, places));
          return hot + random.below(places - hot);
        };
      }
      case "zipf": {
        const zipf = new Zipf(this.#units, pattern.exponent);
        const scatter = this.#scatter();
        return (places) => Math.min(scatter(zipf.rank(this.#fraction)), places - 1);
      }
    }
  }

  /** Frequent places are not to lie side by side: a permutation of all. */
  #scatter(): (rank: number) => number {
    const count = this.#units, stride = strideOf(count);
    const exact = count < 2 ** 26;
    if (!exact) return (rank) => Number(BigInt(rank) * stride % BigInt(count));
    const short = Number(stride);
    return (rank) => rank * short % count;
  }
}

const NO_SIZE: BlockSize = { min: 0, max: 0, weight: 1 };
