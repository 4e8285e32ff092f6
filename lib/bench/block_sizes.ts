/**
 * The lengths of requests: one size, several with weights, ranges. As text `4k`, `4k:70,64k:30`,
 * `4k-64k`.
 *
 * @module
 */
import { parseSize, spellSize } from "../block/size.ts";
import { LOAD_BLOCK_BYTES_MAX, LOAD_BLOCK_KINDS_MAX, LOAD_WEIGHT_MAX } from "./limits.ts";

/** One size, or a range of sizes. Bytes. */
export interface BlockSize {
  /** The smallest. */
  readonly min: number;
  /** The largest; the same for a single size. */
  readonly max: number;
  /** How often it is chosen, relative to the others: above 0. */
  readonly weight: number;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** The largest length of which all sizes are multiples, in bytes: offsets are multiples of it as well. */
export function unitOf(sizes: readonly BlockSize[]): number {
  return sizes.reduce(
    (unit, { min, max }) => greatestCommonDivisor(greatestCommonDivisor(unit, min), max),
    0,
  );
}

/** The largest size, in bytes. */
export function largestOf(sizes: readonly BlockSize[]): number {
  return Math.max(...sizes.map(({ max }) => max));
}

function parseBytes(text: string): number | { problem: string } {
  const bytes = parseSize(text);
  if (typeof bytes !== "number") return bytes;
  if (bytes >= 1 && bytes <= LOAD_BLOCK_BYTES_MAX) return bytes;
  return { problem: `must be 1 byte to ${spellSize(LOAD_BLOCK_BYTES_MAX)}, not "${text}"` };
}

function parseOne(text: string): BlockSize | { problem: string } {
  const [range = "", weightText, ...more] = text.split(":");
  const weight = weightText === undefined
    ? 1
    : /^\d{1,7}$/.test(weightText)
    ? Number(weightText)
    : 0;
  if (more.length > 0 || weight < 1 || weight > LOAD_WEIGHT_MAX) {
    return { problem: `must have a weight from 1 to ${LOAD_WEIGHT_MAX} behind ":" in "${text}"` };
  }
  const [first = "", second, ...rest] = range.split("-");
  if (rest.length > 0) return { problem: `must be a size or MIN-MAX, not "${range}"` };
  const min = parseBytes(first);
  if (typeof min !== "number") return min;
  const max = second === undefined ? min : parseBytes(second);
  if (typeof max !== "number") return max;
  if (max < min) return { problem: `must be MIN-MAX with MIN first, not "${range}"` };
  if (max % min !== 0) {
    return { problem: `must be MIN-MAX with MAX a multiple of MIN, not "${range}"` };
  }
  return { min, max, weight };
}

/** The sizes that `text` stands for, or why it stands for none: a phrase that goes after a name. */
export function parseBlockSizes(text: string): BlockSize[] | { problem: string } {
  const parts = text.split(",");
  if (parts.length > LOAD_BLOCK_KINDS_MAX) {
    return { problem: `must have at most ${LOAD_BLOCK_KINDS_MAX} sizes, not ${parts.length}` };
  }
  const sizes: BlockSize[] = [];
  for (const part of parts) {
    const size = parseOne(part.trim());
    if ("problem" in size) return size;
    sizes.push(size);
  }
  return sizes;
}

/** Sizes as one would type them; `parseBlockSizes` reads them back. */
export function spellBlockSizes(sizes: readonly BlockSize[]): string {
  const weighted = sizes.some(({ weight }) => weight !== 1);
  return sizes.map(({ min, max, weight }) =>
    spellSize(min) + (max === min ? "" : `-${spellSize(max)}`) + (weighted ? `:${weight}` : "")
  ).join(",");
}
