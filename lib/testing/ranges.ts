/**
 * The ranges of a device where mistakes live: its ends, its middle, both sides of the boundaries that
 * pages, clusters and 32-bit numbers have.
 *
 * @module
 */
import type { Geometry } from "../block/types.ts";

/** A run of bytes of a device. */
export interface Range {
  /** Bytes from its start. */
  readonly offset: number;
  /** Bytes, at least 1. */
  readonly length: number;
}

/** Page, cluster and number boundaries, in bytes. */
const BOUNDARIES: readonly number[] = [
  512,
  4096,
  2 ** 15,
  2 ** 16,
  2 ** 20,
  2 ** 21,
  2 ** 25,
  2 ** 31,
  2 ** 32,
  2 ** 35,
  2 ** 45,
];

/** A size in whole units of the smallest I/O, at least one. */
export function alignDown(value: number, minimum: number): number {
  return value - value % minimum;
}

/** A range cut to the device and to whole units; null if nothing is left. */
export function fit(geometry: Geometry, offset: number, length: number): Range | null {
  const { size, minimum } = geometry;
  const start = alignDown(Math.max(offset, 0), minimum);
  const end = Math.min(start + Math.max(alignDown(length, minimum), minimum), size);
  return start < end ? { offset: start, length: end - start } : null;
}

function unique(ranges: readonly (Range | null)[]): Range[] {
  const seen = new Map<string, Range>();
  for (const range of ranges) {
    if (range !== null) seen.set(`${range.offset}+${range.length}`, range);
  }
  return [...seen.values()];
}

/** First, middle and last units and blocks. */
export function cornerRanges(geometry: Geometry): Range[] {
  const { size, minimum, preferred } = geometry;
  const middle = Math.floor(size / 2);
  const lengths = [minimum, 3 * minimum, preferred];
  return unique(lengths.flatMap((length) => [
    fit(geometry, 0, length),
    fit(geometry, minimum, length),
    fit(geometry, middle, length),
    fit(geometry, size - alignDown(length, minimum), length),
  ]));
}

/** Short ranges before, on and across each boundary that the device has. */
export function boundaryRanges(geometry: Geometry): Range[] {
  const { size, minimum } = geometry;
  const inside = [...BOUNDARIES, geometry.preferred].filter((boundary) => boundary <= size);
  return unique(inside.flatMap((boundary) => [
    fit(geometry, boundary - minimum, minimum),
    fit(geometry, boundary, minimum),
    fit(geometry, boundary - minimum, 2 * minimum),
    fit(geometry, boundary - 3 * minimum, 700),
    fit(geometry, boundary - 512, 1024 + minimum),
  ]));
}

/** A few ranges of some size for verbs that work on whole pages: unaligned, aligned, spanning many. */
export function wideRanges(geometry: Geometry): Range[] {
  const { size, minimum, preferred } = geometry;
  const page = Math.max(2 ** 16, preferred);
  return unique([
    fit(geometry, 0, page),
    fit(geometry, minimum, page),
    fit(geometry, page - minimum, 2 * minimum),
    fit(geometry, page / 2, 2 * page),
    fit(geometry, page, 3 * page),
    fit(geometry, 3 * page + minimum, 2 * page - 2 * minimum),
    fit(geometry, size - alignDown(page + minimum, minimum), page + minimum),
  ]);
}
