/**
 * Chance for filters: that of the context, or, for a run that can be repeated, one that follows from
 * a seed (the SplitMix32 generator).
 *
 * @module
 */
import type { OpenContext } from "../../block/context.ts";

/** Gives a number from 0 up to, but not including, 1. */
export type Chance = () => number;

/** The chance of a filter: from `seed` (its low 32 bits) if there is one, else the context's. */
export function chanceOf({ random }: OpenContext, seed: number | undefined): Chance {
  if (seed === undefined) return () => random.uint32() / 2 ** 32;
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = state ^ (state >>> 16);
    mixed = Math.imul(mixed, 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
  };
}
