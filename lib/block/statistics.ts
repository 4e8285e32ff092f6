/**
 * Counters and latency histograms of a Device, one set for each operation. Histograms are
 * log-linear: exact below 8 µs, then eight buckets to a doubling (12 % wide), up to 2^31 µs.
 *
 * All figures lie in one piece of memory, one 64-bit float each. One thread counts; if the memory is
 * shared others may read meanwhile, and see each figure as it was at some moment.
 *
 * @module
 */
import { type Operation, OPERATIONS } from "./request.ts";

/** Sub-buckets to a doubling, as a power of two. */
const SUB_BITS = 3;
const SUB = 1 << SUB_BITS;
/** Buckets for 0 to 2^31 - 1 µs. */
const BUCKETS = (31 - SUB_BITS + 1) * SUB;

function bucketOf(latencyUs: number): number {
  const us = latencyUs <= 0 ? 0 : latencyUs >= 2 ** 31 ? 2 ** 31 - 1 : latencyUs | 0;
  if (us < SUB) return us;
  const exponent = 31 - Math.clz32(us);
  return (exponent - SUB_BITS + 1) * SUB + ((us >> (exponent - SUB_BITS)) & (SUB - 1));
}

function bucketUpperUs(index: number): number {
  if (index < SUB) return index;
  const exponent = Math.floor(index / SUB) + SUB_BITS - 1;
  const step = 2 ** (exponent - SUB_BITS);
  return 2 ** exponent + (index % SUB + 1) * step - 1;
}

/** What was counted of one operation. Latencies in µs, from entering the Device to completion. */
export interface OperationSnapshot {
  /** Requests that are done, failed ones included. */
  readonly count: number;
  /** Requests that failed. */
  readonly errors: number;
  /** Bytes of the requests that succeeded. */
  readonly bytes: number;
  /** Sum of all latencies, µs. */
  readonly latencyTotalUs: number;
  /** Largest latency, µs. */
  readonly latencyMaxUs: number;
  /** 50th percentile, µs: an upper bound at most 12 % too large. 0 if nothing was counted. */
  readonly latencyP50Us: number;
  /** 99th percentile, µs. */
  readonly latencyP99Us: number;
  /** 99.9th percentile, µs. */
  readonly latencyP999Us: number;
}

/** Where the figures of a histogram are, and how many there are. */
const COUNT_AT = 0, TOTAL_AT = 1, MAX_AT = 2, BUCKETS_AT = 3;
const HISTOGRAM_FIGURES = BUCKETS_AT + BUCKETS;

/** A histogram of latencies in µs. */
export class Histogram {
  readonly #figures: Float64Array;

  /** `figures` are zero, or those of another view of the same histogram; memory of its own if left out. */
  constructor(figures: Float64Array = new Float64Array(HISTOGRAM_FIGURES)) {
    this.#figures = figures;
  }

  /** Counts one value. */
  record(latencyUs: number): void {
    const figures = this.#figures;
    const index = BUCKETS_AT + bucketOf(latencyUs);
    figures[index] = (figures[index] ?? 0) + 1;
    figures[COUNT_AT] = (figures[COUNT_AT] ?? 0) + 1;
    figures[TOTAL_AT] = (figures[TOTAL_AT] ?? 0) + latencyUs;
    if (latencyUs > (figures[MAX_AT] ?? 0)) figures[MAX_AT] = latencyUs;
  }

  /** Counts all values of another histogram too. */
  merge(other: Histogram): void {
    const maxUs = Math.max(this.maxUs, other.maxUs);
    const figures = this.#figures;
    for (let index = 0; index < HISTOGRAM_FIGURES; index += 1) {
      figures[index] = (figures[index] ?? 0) + (other.#figures[index] ?? 0);
    }
    figures[MAX_AT] = maxUs;
  }

  /** Values counted. */
  get count(): number {
    return this.#figures[COUNT_AT] ?? 0;
  }

  /** Sum of the values, µs. */
  get totalUs(): number {
    return this.#figures[TOTAL_AT] ?? 0;
  }

  /** Largest value, µs. */
  get maxUs(): number {
    return this.#figures[MAX_AT] ?? 0;
  }

  /** The value that `fraction` (0 to 1) of all values do not exceed, as the upper bound of its bucket, µs. */
  percentileUs(fraction: number): number {
    let rest = Math.ceil(this.count * fraction);
    if (rest === 0) return 0;
    for (let index = 0; index < BUCKETS; index += 1) {
      rest -= this.#figures[BUCKETS_AT + index] ?? 0;
      if (rest <= 0) return Math.min(bucketUpperUs(index), Math.ceil(this.maxUs));
    }
    return Math.ceil(this.maxUs);
  }

  /** Upper bound in µs and count of each bucket that is not empty, in ascending order. */
  *buckets(): Generator<{ upperUs: number; count: number }> {
    for (let index = 0; index < BUCKETS; index += 1) {
      const count = this.#figures[BUCKETS_AT + index] ?? 0;
      if (count > 0) yield { upperUs: bucketUpperUs(index), count };
    }
  }
}

/** Percentiles of times in µs; upper bounds at most 12 % too large. All 0 if nothing was counted. */
export interface Percentiles {
  /** Values that were counted. */
  readonly count: number;
  /** Half of the values are not larger. */
  readonly p50Us: number;
  /** 90 of 100 are not larger. */
  readonly p90Us: number;
  /** 99 of 100 are not larger. */
  readonly p99Us: number;
  /** 999 of 1000 are not larger. */
  readonly p999Us: number;
  /** The largest. */
  readonly maxUs: number;
}

/** The percentiles of a histogram, whose values are µs, or so many steps a µs. */
export function percentiles(histogram: Histogram, stepsPerUs = 1): Percentiles {
  return {
    count: histogram.count,
    p50Us: histogram.percentileUs(0.5) / stepsPerUs,
    p90Us: histogram.percentileUs(0.9) / stepsPerUs,
    p99Us: histogram.percentileUs(0.99) / stepsPerUs,
    p999Us: histogram.percentileUs(0.999) / stepsPerUs,
    maxUs: Math.ceil(histogram.maxUs) / stepsPerUs,
  };
}

/** Where the figures of an operation are, and how many there are. */
const ERRORS_AT = 0, BYTES_AT = 1, LATENCY_AT = 2;
const OPERATION_FIGURES = LATENCY_AT + HISTOGRAM_FIGURES;

/** The counters of one operation. */
export class OperationCounters {
  /** Latencies, whose count is the count of requests. */
  readonly latency: Histogram;
  readonly #figures: Float64Array;

  /** As for Histogram. */
  constructor(figures: Float64Array = new Float64Array(OPERATION_FIGURES)) {
    this.#figures = figures;
    this.latency = new Histogram(figures.subarray(LATENCY_AT));
  }

  /** Requests that failed. */
  get errors(): number {
    return this.#figures[ERRORS_AT] ?? 0;
  }

  /** Bytes of the requests that succeeded. */
  get bytes(): number {
    return this.#figures[BYTES_AT] ?? 0;
  }

  /** Counts one request that is done. */
  record(bytes: number, latencyUs: number, failed: boolean): void {
    this.latency.record(latencyUs);
    const figures = this.#figures;
    if (failed) figures[ERRORS_AT] = this.errors + 1;
    else figures[BYTES_AT] = this.bytes + bytes;
  }

  /** Plain data for display. */
  snapshot(): OperationSnapshot {
    return {
      count: this.latency.count,
      errors: this.errors,
      bytes: this.bytes,
      latencyTotalUs: this.latency.totalUs,
      latencyMaxUs: this.latency.maxUs,
      latencyP50Us: this.latency.percentileUs(0.5),
      latencyP99Us: this.latency.percentileUs(0.99),
      latencyP999Us: this.latency.percentileUs(0.999),
    };
  }
}

/** Where the figures of the Device as a whole are, and how many there are. */
const IN_FLIGHT_AT = 0;
const DEVICE_FIGURES = 1;

/** Memory for the figures of a Device that another thread reads. */
export function statisticsMemory(): SharedArrayBuffer {
  const figures = DEVICE_FIGURES + OPERATIONS.length * OPERATION_FIGURES;
  return new SharedArrayBuffer(figures * Float64Array.BYTES_PER_ELEMENT);
}

/** The counters of a Device. */
export class Statistics {
  /** Counters of read. */
  readonly read: OperationCounters;
  /** Counters of write. */
  readonly write: OperationCounters;
  /** Counters of flush. */
  readonly flush: OperationCounters;
  /** Counters of trim. */
  readonly trim: OperationCounters;
  /** Counters of zero. */
  readonly zero: OperationCounters;
  /** Counters of cache. */
  readonly cache: OperationCounters;
  /** Counters of extents. */
  readonly extents: OperationCounters;
  readonly #figures: Float64Array;

  /** `memory` is from `statisticsMemory`; memory of this thread alone if left out. */
  constructor(memory?: SharedArrayBuffer) {
    const figures = this.#figures = memory === undefined
      ? new Float64Array(DEVICE_FIGURES + OPERATIONS.length * OPERATION_FIGURES)
      : new Float64Array(memory);
    const countersOf = (operation: Operation): OperationCounters => {
      const at = DEVICE_FIGURES + OPERATIONS.indexOf(operation) * OPERATION_FIGURES;
      return new OperationCounters(figures.subarray(at, at + OPERATION_FIGURES));
    };
    this.read = countersOf("read");
    this.write = countersOf("write");
    this.flush = countersOf("flush");
    this.trim = countersOf("trim");
    this.zero = countersOf("zero");
    this.cache = countersOf("cache");
    this.extents = countersOf("extents");
  }

  /** Requests that have entered the Device and are not done; the Device alone sets it. */
  get inFlight(): number {
    return this.#figures[IN_FLIGHT_AT] ?? 0;
  }

  set inFlight(count: number) {
    this.#figures[IN_FLIGHT_AT] = count;
  }

  /** Plain data for display, by operation. */
  snapshot(): Record<Operation, OperationSnapshot> {
    return {
      read: this.read.snapshot(),
      write: this.write.snapshot(),
      flush: this.flush.snapshot(),
      trim: this.trim.snapshot(),
      zero: this.zero.snapshot(),
      cache: this.cache.snapshot(),
      extents: this.extents.snapshot(),
    };
  }

  /** Requests that failed, of any operation. */
  get errors(): number {
    return OPERATIONS.reduce((sum, operation) => sum + this[operation].errors, 0);
  }
}
