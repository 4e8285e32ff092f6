/**
 * Comparing two devices: reads only where at least one of them may hold data, and finds the first byte
 * that differs.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import type { Device } from "./device.ts";
import {
  ExtentCursor,
  inParallel,
  submitTo,
  Turns,
  type WalkOptions,
  walkSettings,
} from "./extent_walk.ts";
import type { PooledBuffer } from "./pool.ts";
import { makeRequest } from "./request.ts";

/** How far a comparison is. */
export interface CompareProgress {
  /** Bytes that are compared. */
  readonly bytesDone: number;
  /** Bytes to compare. */
  readonly bytesTotal: number;
}

/** How to compare. */
export interface CompareOptions extends WalkOptions {
  /** Bytes to compare, from the start; the size of the smaller device if left out. */
  readonly length?: number;
  /** Called after each piece. It must not throw. */
  readonly onProgress?: (progress: CompareProgress) => void;
}

/** What a comparison found. */
export interface CompareReport {
  /** Bytes that were asked about. */
  readonly bytesTotal: number;
  /** Bytes that were read of at least one side. */
  readonly bytesCompared: number;
  /** Bytes that both sides say are zeroes. */
  readonly bytesSkipped: number;
  /** Offset of the first byte that differs, or null. */
  readonly differenceAt: number | null;
  /** µs of the clock. */
  readonly elapsedUs: number;
}

interface Pair {
  readonly start: number;
  readonly end: number;
  /** Each side says that it reads as zeroes. */
  readonly zeroes: readonly [boolean, boolean];
}

/** The index of the first byte in which two arrays of the same length differ, or -1. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (Buffer.compare(a, b) === 0) return -1;
  let low = 0, high = a.length;
  while (high - low > 256) {
    const middle = (low + high) >>> 1;
    if (Buffer.compare(a.subarray(low, middle), b.subarray(low, middle)) === 0) low = middle;
    else high = middle;
  }
  while (low < high && a[low] === b[low]) low += 1;
  return low;
}

/** Both devices side by side, in pieces. */
async function* pairs(
  devices: readonly [Device, Device],
  total: number,
  options: CompareOptions,
): AsyncGenerator<Pair> {
  const { chunkBytes } = walkSettings(options);
  const turns = new Turns(options);
  const [a, b] = devices;
  const unit = Math.max(a.geometry.minimum, b.geometry.minimum);
  const left = new ExtentCursor(a, total), right = new ExtentCursor(b, total);
  for (let at = 0; at < total;) {
    const target = Math.min(total, at - at % chunkBytes + chunkBytes);
    const mine = await left.at(at, target), theirs = await right.at(at, target);
    const stop = Math.min(at + mine.length, at + theirs.length);
    // Reads have to be whole blocks on both sides; `at` is always a multiple of the larger ones.
    const whole = stop === total ? stop : stop - stop % unit;
    const zeroes: Pair["zeroes"] = whole > at ? [mine.zero, theirs.zero] : [false, false];
    const end = zeroes[0] && zeroes[1] ? whole : Math.min(target, whole > at ? whole : at + unit);
    await turns.next();
    yield { start: at, end, zeroes };
    at = end;
  }
}

/** One side of a piece, in a pooled buffer that ends with a whole block. */
async function fetchSide(device: Device, piece: Pair, zero: boolean): Promise<PooledBuffer> {
  const { start, end } = piece;
  const unit = device.geometry.minimum;
  const length = Math.ceil((end - start) / unit) * unit;
  const buffer = device.pool.take(length);
  try {
    if (zero) buffer.bytes.fill(0);
    else await submitTo(device, makeRequest("read", start, length, { data: buffer.bytes }));
    return buffer;
  } catch (error) {
    buffer.release();
    throw error;
  }
}

/** Compares one piece; gives the offset of the first difference in it, or null. */
async function comparePiece(a: Device, b: Device, piece: Pair): Promise<number | null> {
  const sides = await Promise.allSettled([
    fetchSide(a, piece, piece.zeroes[0]),
    fetchSide(b, piece, piece.zeroes[1]),
  ]);
  const [mine, theirs] = sides;
  try {
    if (mine.status === "rejected") throw mine.reason;
    if (theirs.status === "rejected") throw theirs.reason;
    const length = piece.end - piece.start;
    const index = firstDifference(
      mine.value.bytes.subarray(0, length),
      theirs.value.bytes.subarray(0, length),
    );
    return index < 0 ? null : piece.start + index;
  } finally {
    for (const side of sides) {
      if (side.status === "fulfilled") side.value.release();
    }
  }
}

/**
 * Compares two devices from their start. What both call zeroes is not read. Rejects with the
 * BlockError of a read that fails.
 */
export async function compareDevices(
  a: Device,
  b: Device,
  options: CompareOptions,
): Promise<CompareReport> {
  const startUs = options.clock.now();
  const smaller = Math.min(a.geometry.size, b.geometry.size);
  const bytesTotal = options.length ?? smaller;
  if (!Number.isSafeInteger(bytesTotal) || bytesTotal < 0 || bytesTotal > smaller) {
    throw new RangeError(`Cannot compare ${bytesTotal} bytes: the smaller device has ${smaller}`);
  }
  let bytesCompared = 0, bytesSkipped = 0;
  let differenceAt: number | null = null;
  const items = pairs([a, b], bytesTotal, options);
  await inParallel(items, walkSettings(options).depth, async (piece) => {
    const length = piece.end - piece.start;
    if (piece.zeroes[0] && piece.zeroes[1]) {
      bytesSkipped += length;
    } else {
      const found = await comparePiece(a, b, piece);
      bytesCompared += length;
      if (found !== null && (differenceAt === null || found < differenceAt)) differenceAt = found;
    }
    options.onProgress?.({ bytesDone: bytesCompared + bytesSkipped, bytesTotal });
    // Pieces come in order: none that begins later can hold the first difference.
    if (differenceAt !== null) await items.return(undefined);
  });
  const elapsedUs = Math.round(options.clock.now() - startUs);
  return { bytesTotal, bytesCompared, bytesSkipped, differenceAt, elapsedUs };
}
