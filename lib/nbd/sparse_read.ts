/**
 * How a read with holes in it is cut into pieces: data pieces and pieces that are zeroes. Pure; used
 * where structured replies may be fragmented.
 *
 * @module
 */
import type { Extent } from "../block/types.ts";
import { SPARSE_HOLE_BYTES_MIN, SPARSE_PIECES_MAX } from "./limits.ts";

/** A part of a read. */
export interface Piece {
  /** From the start of the device, in bytes. */
  readonly offset: number;
  /** Bytes. */
  length: number;
  /** Zeroes: only the length is sent. */
  readonly hole: boolean;
}

/**
 * Cuts [offset, offset + length) along its extents, which begin at `offset` and may stop short or
 * reach further. Null if it is better read as a whole: no hole that is worth it, or too many pieces.
 */
export function cutRead(
  extents: readonly Extent[],
  offset: number,
  length: number,
): Piece[] | null {
  const pieces: Piece[] = [];
  const end = offset + length;
  let at = offset;
  let holes = false;
  const add = (count: number, hole: boolean): void => {
    const last = pieces[pieces.length - 1];
    if (last !== undefined && last.hole === hole) last.length += count;
    else pieces.push({ offset: at, length: count, hole });
    at += count;
    holes ||= hole;
  };
  for (const run of zeroRuns(extents)) {
    if (at >= end || pieces.length > SPARSE_PIECES_MAX) break;
    const count = Math.min(run.length, end - at);
    add(count, run.zero && (count >= SPARSE_HOLE_BYTES_MIN || count === length));
  }
  if (at < end) add(end - at, false);
  return holes && pieces.length <= SPARSE_PIECES_MAX ? pieces : null;
}

interface ZeroRun {
  readonly length: number;
  readonly zero: boolean;
}

/** Extents without what does not matter here: neighbours that read alike are one. */
function* zeroRuns(extents: readonly Extent[]): Generator<ZeroRun> {
  let length = 0;
  let zero = false;
  for (const extent of extents) {
    if (extent.zero !== zero && length > 0) {
      yield { length, zero };
      length = 0;
    }
    zero = extent.zero;
    length += extent.length;
  }
  if (length > 0) yield { length, zero };
}
