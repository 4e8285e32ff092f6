/**
 * Chance that repeats itself: the same seed gives the same numbers on every machine. The generator is
 * xoshiro128** of Blackman and Vigna; its state is filled by a multiplicative hash of the seed.
 *
 * @module
 */
import type { Random } from "../block/context.ts";

/** A seeded source of chance. */
export interface SeededRandom extends Random {
  /** A whole number from 0 to `bound` - 1; `bound` is 1 to 2^53. */
  below(bound: number): number;
  /** One of the items, of which there has to be one. */
  pick<T>(items: readonly T[]): T;
  /** True once in `n` times. */
  oneIn(n: number): boolean;
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}

/** A hash of a text, for seeds: 0 to 2^32 - 1. */
export function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) {
    hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  }
  return hash >>> 0;
}

/**
 * Makes a source of chance from a seed (a whole number; its low 32 bits count).
 *
 * @example
 * ```ts
 * import { seededRandom } from "./random.ts";
 * if (seededRandom(7).uint32() !== seededRandom(7).uint32()) throw new Error("differs");
 * ```
 */
export function seededRandom(seed: number): SeededRandom {
  let mixed = seed >>> 0;
  const mix = (): number => {
    mixed = (mixed + 0x9e3779b9) >>> 0;
    let value = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    value = Math.imul(value ^ (value >>> 15), 0x735a2d97);
    return value ^ (value >>> 15);
  };
  let a = mix(), b = mix(), c = mix(), d = mix();

  const uint32 = (): number => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9);
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotate(d, 11);
    return result >>> 0;
  };
  const below = (bound: number): number => {
    const fraction = (uint32() * 2 ** 21 + (uint32() >>> 11)) / 2 ** 53;
    return Math.floor(fraction * bound);
  };
  return {
    uint32,
    below,
    oneIn: (n) => below(n) === 0,
    pick: <T>(items: readonly T[]): T => {
      for (const item of items.slice(below(items.length))) return item;
      throw new RangeError("Cannot pick: there are no items");
    },
    fill: (into) => {
      const view = new DataView(into.buffer, into.byteOffset, into.length);
      const words = into.length - into.length % 4;
      for (let at = 0; at < words; at += 4) view.setUint32(at, uint32(), true);
      for (let at = words; at < into.length; at += 1) into[at] = uint32();
    },
  };
}
