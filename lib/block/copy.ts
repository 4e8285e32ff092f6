/**
 * Copying one device to another, all of it or what has changed, sparsely: what the source calls zeroes is not read, what reads as
 * zeroes is not written but zeroed, or passed over where the destination is zero already. Memory is
 * bounded by depth times piece.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { compareDevices, type CompareReport } from "./compare.ts";
import type { BitmapRun } from "./bitmaps.ts";
import type { Device } from "./device.ts";
import { BlockError } from "./errors.ts";
import {
  cutUp,
  ExtentCursor,
  inParallel,
  type Run,
  submitTo,
  Turns,
  type WalkOptions,
  walkSettings,
} from "./extent_walk.ts";
import { COPY_ZERO_BLOCK_BYTES, COPY_ZERO_BYTES, ZERO_CHUNK_BYTES } from "./limits.ts";
import { FLAG_MAY_TRIM, makeRequest } from "./request.ts";

export {
  compareDevices,
  type CompareOptions,
  type CompareProgress,
  type CompareReport,
} from "./compare.ts";
export type { WalkOptions } from "./extent_walk.ts";

/** How far a copy is. Byte counts are of the source's range. */
export interface CopyProgress {
  /** What is being done. */
  readonly phase: "copy" | "verify";
  /** Bytes of this phase that are done. */
  readonly bytesDone: number;
  /** Bytes of this phase. */
  readonly bytesTotal: number;
}

/** Tells what has changed on a source, a dirty bitmap for instance. */
export interface ChangeSource {
  /** Runs from `offset` on: at least one, maybe not all of the range, the last one may reach further. */
  runs(offset: number, length: number): Promise<readonly BitmapRun[]>;
}

/** How to copy. */
export interface CopyOptions extends WalkOptions {
  /** Leave and make holes; true if left out. False writes all data and allocates all zeroes. */
  readonly sparse?: boolean;
  /**
   * Runs of at least this many zero bytes in data become holes: a power of two, raised to the
   * destination's minimum block. 0 looks for none. COPY_ZERO_BLOCK_BYTES if left out. Only if sparse.
   */
  readonly zeroBlockBytes?: number;
  /**
   * Unit in which the destination keeps things, in bytes (the clusters of an image): data is written
   * in whole ones, and only whole ones are looked at for zeroes. A power of two; raised to the
   * destination's minimum block, which it is if left out.
   */
  readonly unitBytes?: number;
  /** The destination reads as zeroes all over: zeroes need no work. Only if sparse. */
  readonly destinationIsZero?: boolean;
  /** Copy what has changed and nothing else, zeroes included; all if left out. */
  readonly changes?: ChangeSource;
  /** Compare both afterwards, all of both; a difference is an error. */
  readonly verify?: boolean;
  /** Called after each piece. It must not throw. */
  readonly onProgress?: (progress: CopyProgress) => void;
}

/** What a copy did. */
export interface CopyReport {
  /** Bytes of the source. Read, written, zeroed and skipped are shares of it, padding aside. */
  readonly bytesTotal: number;
  /** Bytes that were read of the source. */
  readonly bytesRead: number;
  /** Bytes that were written to the destination. */
  readonly bytesWritten: number;
  /** Bytes that were zeroed at the destination without being written. */
  readonly bytesZeroed: number;
  /** Bytes that are zeroes at the destination without any work. */
  readonly bytesSkipped: number;
  /** Bytes that were not copied since they have not changed; 0 if all was to be copied. */
  readonly bytesUnchanged: number;
  /** Bytes of the destination behind the copy: they are as they were. */
  readonly bytesBeyond: number;
  /** µs of the clock, verification not included. */
  readonly elapsedUs: number;
  /** The comparison, if there was one; it found no difference. */
  readonly verified: CompareReport | null;
}

function checkSides(source: Device, destination: Device): void {
  const from = source.geometry, to = destination.geometry;
  const what = `Cannot copy ${source.name} to ${destination.name}`;
  if (to.readOnly) throw new BlockError("EROFS", `${what}: the destination is read-only`);
  if (to.size < from.size) {
    throw new BlockError(
      "ENOSPC",
      `${what}: the destination has ${to.size} bytes, the source ${from.size}`,
    );
  }
}

function checkUnits(zeroBlockBytes: number, unitBytes: number): void {
  if (zeroBlockBytes !== 0 && !Number.isInteger(Math.log2(zeroBlockBytes))) {
    throw new RangeError(
      `Cannot look for runs of ${zeroBlockBytes} zeroes: a power of two, or 0, is possible`,
    );
  }
  if (Number.isInteger(Math.log2(unitBytes))) return;
  throw new RangeError(`Cannot copy in units of ${unitBytes} bytes: a power of two is possible`);
}

/** One copy under way. */
class Copy {
  bytesRead = 0;
  bytesWritten = 0;
  bytesZeroed = 0;
  bytesSkipped = 0;

  readonly #source: Device;
  readonly #destination: Device;
  readonly #options: CopyOptions;
  readonly #total: number;
  /** Bytes that are to be copied; known when the copy begins. */
  #planned = 0;
  readonly #sparse: boolean;
  readonly #skipZeroes: boolean;
  /** The destination's minimum block. */
  readonly #block: number;
  /** What data is written in whole ones of, but for the end of the source. */
  readonly #unit: number;
  readonly #zeroBlock: number;
  /** Zeroes, to compare with. */
  readonly #zeroes: Uint8Array;

  constructor(source: Device, destination: Device, options: CopyOptions) {
    const { sparse = true, zeroBlockBytes = COPY_ZERO_BLOCK_BYTES, unitBytes = 1 } = options;
    checkUnits(zeroBlockBytes, unitBytes);
    this.#source = source;
    this.#destination = destination;
    this.#options = options;
    this.#total = source.geometry.size;
    this.#sparse = sparse;
    // What has changed to zeroes was something else before.
    this.#skipZeroes = sparse && (options.destinationIsZero ?? false) &&
      options.changes === undefined;
    this.#block = destination.geometry.minimum;
    this.#unit = Math.max(unitBytes, this.#block);
    this.#zeroBlock = sparse && zeroBlockBytes > 0 ? Math.max(zeroBlockBytes, this.#unit) : 0;
    this.#zeroes = new Uint8Array(this.#zeroBlock);
  }

  /** Bytes that were left out. */
  get bytesUnchanged(): number {
    return this.#total - this.#planned;
  }

  async run(): Promise<void> {
    for await (const [start, end] of this.#ranges()) this.#planned += end - start;
    await inParallel(this.#pieces(), walkSettings(this.#options).depth, async (piece) => {
      if (piece.zero) await this.#zero(piece.offset, piece.length);
      else await this.#copy(piece.offset, piece.length);
      this.#options.onProgress?.({
        phase: "copy",
        bytesDone: this.bytesWritten + this.bytesZeroed + this.bytesSkipped,
        bytesTotal: this.#planned,
      });
    });
    await submitTo(this.#destination, makeRequest("flush"));
  }

  /** What data is read and written in whole ones of, but for the end of the source. */
  get #blocks(): number {
    return Math.max(this.#source.geometry.minimum, this.#unit);
  }

  /** The parts of the source that are to be copied, in order, in whole blocks of both sides. */
  async *#ranges(): AsyncGenerator<readonly [start: number, end: number]> {
    const { changes } = this.#options;
    const unit = this.#blocks, total = this.#total;
    let start = 0, end = changes === undefined ? total : 0;
    for (let at = end; at < total;) {
      for (const { length, dirty } of await changes?.runs(at, total - at) ?? []) {
        const first = at - at % unit;
        at = Math.min(total, at + length);
        if (!dirty || at === first) continue;
        if (first > end || end === 0) {
          if (end > start) yield [start, end];
          start = first;
        }
        end = Math.min(total, Math.ceil(at / unit) * unit);
      }
    }
    if (end > start) yield [start, end];
  }

  /** What is to be copied, in pieces that begin and, but for the last one, end with whole blocks. */
  async *#pieces(): AsyncGenerator<Run> {
    const turns = new Turns(this.#options);
    const cursor = new ExtentCursor(this.#source, this.#total);
    for await (const [start, end] of this.#ranges()) {
      for await (const piece of this.#piecesOf(start, end, cursor)) {
        await turns.next();
        yield piece;
      }
    }
  }

  async *#piecesOf(from: number, to: number, cursor: ExtentCursor): AsyncGenerator<Run> {
    const unit = this.#blocks;
    const chunkBytes = Math.max(walkSettings(this.#options).chunkBytes, unit);
    const zeroBytes = this.#destination.features.zero ? COPY_ZERO_BYTES : ZERO_CHUNK_BYTES;
    for (let at = from; at < to;) {
      const target = Math.min(to, at - at % chunkBytes + chunkBytes);
      const run = await cursor.at(at, target);
      const stop = Math.min(to, at + run.length);
      const whole = stop === this.#total ? stop : stop - stop % unit;
      const zero = run.zero && whole > at;
      const end = zero ? whole : Math.min(target, Math.ceil(stop / unit) * unit);
      for (const [start, cut] of cutUp(at, end, zero ? zeroBytes : chunkBytes)) {
        yield { offset: start, length: cut - start, zero };
      }
      at = end;
    }
  }

  /** Bytes up to the end of the destination's block: behind the source's end they are zeroes. */
  #padded(length: number): number {
    return Math.ceil(length / this.#block) * this.#block;
  }

  async #zero(offset: number, length: number): Promise<void> {
    if (this.#skipZeroes) {
      this.bytesSkipped += length;
      return;
    }
    const flags = this.#sparse ? FLAG_MAY_TRIM : 0;
    const request = makeRequest("zero", offset, this.#padded(length), { flags });
    await submitTo(this.#destination, request);
    this.bytesZeroed += length;
  }

  async #copy(offset: number, length: number): Promise<void> {
    const buffer = this.#destination.pool.take(this.#padded(length));
    try {
      const { bytes } = buffer;
      const data = bytes.subarray(0, length);
      await submitTo(this.#source, makeRequest("read", offset, length, { data }));
      this.bytesRead += length;
      bytes.fill(0, length);
      for (const run of this.#runs(bytes, offset)) {
        const share = Math.min(run.length, offset + length - run.offset);
        if (run.zero) {
          await this.#zero(run.offset, share);
          continue;
        }
        const start = run.offset - offset;
        const part = bytes.subarray(start, start + run.length);
        const request = makeRequest("write", run.offset, run.length, { data: part });
        await submitTo(this.#destination, request);
        this.bytesWritten += share;
      }
    } finally {
      buffer.release();
    }
  }

  /** Zeroes and data in a piece that was read from `offset`. */
  *#runs(bytes: Uint8Array, offset: number): Generator<Run> {
    if (this.#zeroBlock === 0) {
      yield { offset, length: bytes.length, zero: false };
      return;
    }
    let start = offset;
    let zero: boolean | null = null;
    for (const [at, end] of cutUp(offset, offset + bytes.length, this.#zeroBlock)) {
      const isZero = this.#isZero(bytes, at - offset, end - offset);
      if (zero !== null && isZero !== zero) {
        yield { offset: start, length: at - start, zero };
        start = at;
      }
      zero = isZero;
    }
    if (zero !== null) yield { offset: start, length: offset + bytes.length - start, zero };
  }

  #isZero(bytes: Uint8Array, start: number, end: number): boolean {
    // Data gives itself away in its first byte, most of the time.
    if (bytes[start] !== 0) return false;
    return Buffer.compare(bytes.subarray(start, end), this.#zeroes.subarray(0, end - start)) === 0;
  }
}

async function verifyCopy(
  source: Device,
  destination: Device,
  options: CopyOptions,
): Promise<CompareReport> {
  const { onProgress } = options;
  const report = await compareDevices(source, destination, {
    ...options,
    length: source.geometry.size,
    onProgress: (progress) => onProgress?.({ phase: "verify", ...progress }),
  });
  if (report.differenceAt !== null) {
    throw new BlockError(
      "EIO",
      `Cannot verify the copy: ${destination.name} differs from ${source.name} at byte ` +
        `${report.differenceAt}`,
    );
  }
  return report;
}

/**
 * Copies all of `source` to the start of `destination`, flushes it and, if asked to, compares both.
 *
 * A destination that is larger keeps what is behind the copy, except that a block of it which the
 * source's end cuts in two is filled up with zeroes. Rejects with BlockError: ENOSPC or EROFS, before
 * anything is written, if the destination is too small or read-only; EIO if the comparison finds a
 * difference; and what a request failed with. After a failure nothing is in flight any more.
 *
 * @example
 * ```ts
 * import { copyDevice } from "./copy.ts";
 * import { Device } from "./device.ts";
 * import { memory } from "../../backends/memory.ts";
 * import { testClock as clock, testContext } from "../testing/mod.ts";
 *
 * const open = async (name: string) => {
 *   const context = testContext();
 *   const { backend } = await memory.open({ size: 2 ** 20, limit: 2 ** 30 }, context);
 *   return new Device(backend, { name, clock, log: context.log });
 * };
 * await using source = await open("source");
 * await using destination = await open("destination");
 * const report = await copyDevice(source, destination, { clock, destinationIsZero: true });
 * if (report.bytesSkipped !== 2 ** 20) throw new Error("an empty disk is one hole");
 * ```
 */
export async function copyDevice(
  source: Device,
  destination: Device,
  options: CopyOptions,
): Promise<CopyReport> {
  walkSettings(options);
  checkSides(source, destination);
  const startUs = options.clock.now();
  const copy = new Copy(source, destination, options);
  await copy.run();
  const elapsedUs = Math.round(options.clock.now() - startUs);
  const verified = options.verify === true ? await verifyCopy(source, destination, options) : null;
  const { bytesRead, bytesWritten, bytesZeroed, bytesSkipped } = copy;
  const bytesTotal = source.geometry.size;
  return {
    bytesTotal,
    bytesRead,
    bytesWritten,
    bytesZeroed,
    bytesSkipped,
    bytesUnchanged: copy.bytesUnchanged,
    bytesBeyond: destination.geometry.size - bytesTotal,
    elapsedUs,
    verified,
  };
}
