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
  /**
   * The part of `bytes` from `start` on, `length` bytes. Making such a view costs as much as reading a page,
   * so those of small parts are kept with the memory, and given again to whoever asks for the same.
   */
  part(start: number, length: number): Uint8Array<ArrayBuffer>;
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

/** Bytes of memory for each of which one view is kept at most. */
const PART_SHIFT = 10;

/** Memory of a class, and views of its parts. */
class Memory {
  readonly whole: Uint8Array<ArrayBuffer>;
  readonly #parts: Uint8Array<ArrayBuffer>[] = [];

  constructor(bytes: number) {
    this.whole = new Uint8Array(bytes);
  }

  part(start: number, length: number): Uint8Array<ArrayBuffer> {
    const slot = start >>> PART_SHIFT;
    const kept = this.#parts[slot];
    if (kept !== undefined && kept.byteOffset === start && kept.length === length) return kept;
    const part = this.whole.subarray(start, start + length);
    // An array without gaps is quick.
    while (this.#parts.length < slot) this.#parts.push(part);
    this.#parts[slot] = part;
    return part;
  }
}

class Lease implements PooledBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  #pool: BufferPool | null;
  readonly #memory: Memory;
  readonly #put: (memory: Memory) => void;

  constructor(pool: BufferPool, memory: Memory, length: number, put: (memory: Memory) => void) {
    this.#pool = pool;
    this.#memory = memory;
    this.#put = put;
    this.bytes = memory.whole.subarray(0, length);
  }

  part(start: number, length: number): Uint8Array<ArrayBuffer> {
    if (start < 0 || length < 0 || start + length > this.bytes.length) {
      throw new RangeError(`Cannot take ${length} bytes at ${start} of ${this.bytes.length}`);
    }
    return this.#memory.part(start, length);
  }

  release(): void {
    if (this.#pool === null) throw new Error("Cannot release a buffer: it was released before");
    this.#pool = null;
    this.#put(this.#memory);
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
  readonly #free: Memory[][] = [];
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
    let memory = list?.pop();
    if (memory === undefined) memory = new Memory(classBytes(index));
    else this.#figures[KEPT_BYTES_AT] = this.keptBytes - memory.whole.length;
    this.#figures[TAKEN_COUNT_AT] = this.takenCount + 1;
    this.#figures[TAKEN_BYTES_AT] = this.takenBytes + memory.whole.length;
    return new Lease(this, memory, length, this.#put);
  }

  readonly #put = (memory: Memory): void => {
    const { whole } = memory;
    this.#figures[TAKEN_COUNT_AT] = this.takenCount - 1;
    this.#figures[TAKEN_BYTES_AT] = this.takenBytes - whole.length;
    this.#keep(memory);
    if (this.#waiting.size === 0 || this.scarce) return;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const resume of waiting) resume();
  };

  #keep(memory: Memory): void {
    const { whole } = memory;
    if (this.#poison) {
      whole.fill(POISON);
      return;
    }
    if (this.keptBytes + whole.length > this.#keptBytesMax) return;
    const index = classOf(whole.length);
    (this.#free[index] ??= []).push(memory);
    this.#figures[KEPT_BYTES_AT] = this.keptBytes + whole.length;
  }
}
