/**
 * Ranges seen in blocks: whole blocks, and the parts of blocks at their ends. The last block of a
 * device ends with the device and counts as whole.
 *
 * @module
 */
import { BlockError } from "../../block/errors.ts";
import type { Geometry } from "../../block/types.ts";

/** A part of a range: a part of one block, or whole blocks in a row. All figures but `whole` are bytes. */
export interface Piece {
  /** Where it begins on the device. */
  readonly offset: number;
  /** Its length. */
  readonly length: number;
  /** It is made of whole blocks. */
  readonly whole: boolean;
}

/** A range in bytes. */
export interface Span {
  readonly offset: number;
  readonly length: number;
}

/** A range with all of the blocks that it touches. */
export function outward(offset: number, length: number, block: number, size: number): Span {
  const start = offset - offset % block;
  const end = Math.min(Math.ceil((offset + length) / block) * block, size);
  return { offset: start, length: end - start };
}

/** Cuts a range into at most three pieces: a part of a block, whole blocks, a part of a block. */
export function cutAtBlocks(offset: number, length: number, block: number, size: number): Piece[] {
  const end = offset + length;
  const bodyStart = Math.ceil(offset / block) * block;
  const bodyEnd = end === size ? end : end - end % block;
  if (bodyStart > bodyEnd) return [{ offset, length, whole: false }];
  const pieces: Piece[] = [];
  const add = (from: number, to: number, whole: boolean): void => {
    if (from < to) pieces.push({ offset: from, length: to - from, whole });
  };
  add(offset, bodyStart, false);
  add(bodyStart, bodyEnd, true);
  add(bodyEnd, end, false);
  return pieces;
}

/** Fails with EINVAL unless a filter can work in blocks of `block` bytes above `geometry`. */
export function checkBlock(block: number, max: number, geometry: Geometry, filter: string): void {
  const { minimum, maximum } = geometry;
  const refuse = (reason: string): never => {
    throw new BlockError(
      "EINVAL",
      `Cannot use filter ${filter} with blocks of ${block}: ${reason}`,
    );
  };
  if (block < 1 || !Number.isInteger(Math.log2(block))) refuse("a power of two is needed");
  if (block > max) refuse(`at most ${max} bytes are possible`);
  if (block < minimum) refuse(`the device below has blocks of ${minimum} bytes`);
  if (block > maximum) refuse(`the device below takes at most ${maximum} bytes at a time`);
}
