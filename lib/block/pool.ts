/**
 * The pool of I/O buffers. Buffers come in size classes, four to a doubling, so that a reply header
 * and a 4 KiB payload waste little; released ones are kept up to a bound. A buffer has one owner at a
 * time and its content is undefined when taken: whoever sends it fills it whole.
 *
 * @module
 */
import { POOL_KEPT_BYTES_MAX, POOL_PLENTY_BYTES_MAX } from "./limits.ts";

/** Bytes of the smallest class. */
const CLASS_BYTES_MIN = 1024;
const CLASS_SHIFT_MIN = 10;
/** What a released buffer is filled with when poisoning is on. */
const POISON = 0xdb;

/** A buffer that belongs to whoever took it, until it is released. */
export interface PooledBuffer {
  /** Exactly as many bytes as were asked for; their content is undefined at first. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Gives the buffer back; `bytes` must not be touched afterwards. A second call throws. */
  release(): void;
}

/** Settings of a pool. */
export interface BufferPoolOptions {
  /** Bytes of released buffers to keep; POOL_KEPT_BYTES_MAX if not told. */
  readonly keptBytesMax?: number;
  /** Bytes out above which memory is scarce; POOL_PLENTY_BYTES_MAX if not told. */
  readonly plentyBytesMax?: number;
  /** Where to count, for others to see: from `poolMemory`; memory of this thread alone if left out. */
  readonly memory?: SharedArrayBuffer;
  /** Overwrite released buffers and never give them out again, to find whoever still uses one. */
  readonly poison?: boolean;
}

/** What is known of the memory of a pool, or of several. */
export interface PoolFigures {
  /** Buffers that are out. */
  readonly takenCount: number;
  /** Bytes of the buffers that are out, slack of their classes included. */
  readonly takenBytes: number;
  /** Bytes of released buffers kept for later use. */
  readonly keptBytes: number;
  /** More is out than there should be, in one of the pools. */
  readonly scarce: boolean;
}

/** Where the figures of a pool are, and how many there are. */
const TAKEN_COUNT_AT = 0, TAKEN_BYTES_AT = 1, KEPT_BYTES_AT = 2, PLENTY_BYTES_AT = 3;
const POOL_FIGURES = 4;

/** Memory for the figures of a pool that another thread reads. */
export function poolMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(POOL_FIGURES * Float64Array.BYTES_PER_ELEMENT);
}

/** The figures of a pool in another thread, each as it was at some moment. `memory` is from `poolMemory`. */
export function sharedPoolFigures(memory: SharedArrayBuffer): PoolFigures {
  const figures = new Float64Array(memory);
  return {
    get takenCount(): number {
      return figures[TAKEN_COUNT_AT] ?? 0;
    },
    get takenBytes(): number {
      return figures[TAKEN_BYTES_AT] ?? 0;
    },
    get keptBytes(): number {
      return figures[KEPT_BYTES_AT] ?? 0;
    },
    get scarce(): boolean {
      return this.takenBytes > (figures[PLENTY_BYTES_AT] ?? 0);
    },
  };
}

/** The figures of several pools together. */
export function sumOfPools(pools: readonly PoolFigures[]): PoolFigures {
  const sum = (of: (pool: PoolFigures) => number): number =>
    pools.reduce((total, pool) => total + of(pool), 0);
  return {
    takenCount: sum((pool) => pool.takenCount),
    takenBytes: sum((pool) => pool.takenBytes),
    keptBytes: sum((pool) => pool.keptBytes),
    scarce: pools.some((pool) => pool.scarce),
  };
}

function classOf(length: number): number {
  if (length <= CLASS_BYTES_MIN) return 0;
  const shift = 31 - Math.clz32(length - 1);
  const quarter = ((length - 1) >>> (shift - 2)) & 3;
  return (shift - CLASS_SHIFT_MIN) * 4 + quarter + 1;
}

function classBytes(index: number): number {
  if (index === 0) return CLASS_BYTES_MIN;
  const shift = Math.floor((index - 1) / 4) + CLASS_SHIFT_MIN;
  const quarter = (index - 1) % 4;
  return 2 ** (shift - 2) * (5 + quarter);
}

class Lease implements PooledBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  #pool: BufferPool | null;
  readonly #whole: Uint8Array<ArrayBuffer>;
  readonly #put: (whole: Uint8Array<ArrayBuffer>) => void;

  constructor(
    pool: BufferPool,
    whole: Uint8Array<ArrayBuffer>,
    length: number,
    put: (whole: Uint8Array<ArrayBuffer>) => void,
  ) {
    this.#pool = pool;
    this.#whole = whole;
    this.#put = put;
    this.bytes = whole.subarray(0, length);
  }

  release(): void {
    if (this.#pool === null) throw new Error("Cannot release a buffer: it was released before");
    this.#pool = null;
    this.#put(this.#whole);
  }
}

/**
 * Keeps released buffers for later use.
 *
 * @example
 * ```ts
 * import { BufferPool } from "./pool.ts";
 * const pool = new BufferPool();
 * const buffer = pool.take(4096);
 * buffer.bytes.fill(0);
 * buffer.release();
 * if (pool.takenCount !== 0) throw new Error("leak");
 * ```
 */
export class BufferPool implements PoolFigures {
  readonly #free: Uint8Array<ArrayBuffer>[][] = [];
  readonly #keptBytesMax: number;
  readonly #plentyBytesMax: number;
  readonly #poison: boolean;
  readonly #waiting = new Set<() => void>();
  readonly #figures: Float64Array;

  /** Makes an empty pool. */
  constructor(options: BufferPoolOptions = {}) {
    this.#keptBytesMax = options.keptBytesMax ?? POOL_KEPT_BYTES_MAX;
    this.#plentyBytesMax = options.plentyBytesMax ?? POOL_PLENTY_BYTES_MAX;
    this.#poison = options.poison ?? false;
    const { memory } = options;
    this.#figures = memory === undefined
      ? new Float64Array(POOL_FIGURES)
      : new Float64Array(memory);
    this.#figures[PLENTY_BYTES_AT] = this.#plentyBytesMax;
  }

  /** Buffers that are out. */
  get takenCount(): number {
    return this.#figures[TAKEN_COUNT_AT] ?? 0;
  }

  /** Bytes of the buffers that are out, slack of their classes included. */
  get takenBytes(): number {
    return this.#figures[TAKEN_BYTES_AT] ?? 0;
  }

  /** Bytes of released buffers kept for later use. */
  get keptBytes(): number {
    return this.#figures[KEPT_BYTES_AT] ?? 0;
  }

  /**
   * More is out than there should be. Buffers are given all the same, since work that was begun has to
   * end; but what can wait should not be begun.
   */
  get scarce(): boolean {
    return this.takenBytes > this.#plentyBytesMax;
  }

  /** Calls `resume` once, as soon as memory is not scarce any more, from within a `release`. */
  awaitPlenty(resume: () => void): void {
    this.#waiting.add(resume);
  }

  /** Forgets what `awaitPlenty` was told, if it has not come to pass. */
  forget(resume: () => void): void {
    this.#waiting.delete(resume);
  }

  /** Gives a buffer of exactly `length` bytes (0 to 2^30). Its content is undefined. */
  take(length: number): PooledBuffer {
    if (!Number.isInteger(length) || length < 0 || length > 2 ** 30) {
      throw new RangeError(`Cannot take a buffer of ${length} bytes: 0 to 2^30 are possible`);
    }
    const index = classOf(length);
    const list = this.#free[index];
    let whole = list?.pop();
    if (whole === undefined) whole = new Uint8Array(classBytes(index));
    else this.#figures[KEPT_BYTES_AT] = this.keptBytes - whole.length;
    this.#figures[TAKEN_COUNT_AT] = this.takenCount + 1;
    this.#figures[TAKEN_BYTES_AT] = this.takenBytes + whole.length;
    return new Lease(this, whole, length, this.#put);
  }

  readonly #put = (whole: Uint8Array<ArrayBuffer>): void => {
    this.#figures[TAKEN_COUNT_AT] = this.takenCount - 1;
    this.#figures[TAKEN_BYTES_AT] = this.takenBytes - whole.length;
    this.#keep(whole);
    if (this.#waiting.size === 0 || this.scarce) return;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const resume of waiting) resume();
  };

  #keep(whole: Uint8Array<ArrayBuffer>): void {
    if (this.#poison) {
      whole.fill(POISON);
      return;
    }
    if (this.keptBytes + whole.length > this.#keptBytesMax) return;
    const index = classOf(whole.length);
    (this.#free[index] ??= []).push(whole);
    this.#figures[KEPT_BYTES_AT] = this.keptBytes + whole.length;
  }
}
