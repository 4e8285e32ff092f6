/**
 * Counters and latency histograms of a Device, one set for each operation. Histograms are
 * log-linear: exact below 8 µs, then eight buckets to a doubling (12 % wide), up to 2^31 µs.
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

/** A histogram of latencies in µs. */
export class Histogram {
  readonly #buckets = new Float64Array(BUCKETS);
  #count = 0;
  #totalUs = 0;
  #maxUs = 0;

  /** Counts one value. */
  record(latencyUs: number): void {
    const index = bucketOf(latencyUs);
    this.#buckets[index] = (this.#buckets[index] ?? 0) + 1;
    this.#count += 1;
    this.#totalUs += latencyUs;
    if (latencyUs > this.#maxUs) this.#maxUs = latencyUs;
  }

  /** Counts all values of another histogram too. */
  merge(other: Histogram): void {
    for (let index = 0; index < BUCKETS; index += 1) {
      this.#buckets[index] = (this.#buckets[index] ?? 0) + (other.#buckets[index] ?? 0);
    }
    this.#count += other.#count;
    this.#totalUs += other.#totalUs;
    this.#maxUs = Math.max(this.#maxUs, other.#maxUs);
  }

  /** Values counted. */
  get count(): number {
    return this.#count;
  }

  /** Sum of the values, µs. */
  get totalUs(): number {
    return this.#totalUs;
  }

  /** Largest value, µs. */
  get maxUs(): number {
    return this.#maxUs;
  }

  /** The value that `fraction` (0 to 1) of all values do not exceed, as the upper bound of its bucket, µs. */
  percentileUs(fraction: number): number {
    let rest = Math.ceil(this.#count * fraction);
    if (rest === 0) return 0;
    for (let index = 0; index < BUCKETS; index += 1) {
      rest -= this.#buckets[index] ?? 0;
      if (rest <= 0) return Math.min(bucketUpperUs(index), Math.ceil(this.#maxUs));
    }
    return Math.ceil(this.#maxUs);
  }

  /** Upper bound in µs and count of each bucket that is not empty, in ascending order. */
  *buckets(): Generator<{ upperUs: number; count: number }> {
    for (let index = 0; index < BUCKETS; index += 1) {
      const count = this.#buckets[index] ?? 0;
      if (count > 0) yield { upperUs: bucketUpperUs(index), count };
    }
  }
}

/** The counters of one operation. */
export class OperationCounters {
  /** Requests that failed. */
  errors = 0;
  /** Bytes of the requests that succeeded. */
  bytes = 0;
  /** Latencies, whose count is the count of requests. */
  readonly latency: Histogram = new Histogram();

  /** Counts one request that is done. */
  record(bytes: number, latencyUs: number, failed: boolean): void {
    this.latency.record(latencyUs);
    if (failed) this.errors += 1;
    else this.bytes += bytes;
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

/** The counters of a Device. */
export class Statistics {
  /** Counters of read. */
  readonly read: OperationCounters = new OperationCounters();
  /** Counters of write. */
  readonly write: OperationCounters = new OperationCounters();
  /** Counters of flush. */
  readonly flush: OperationCounters = new OperationCounters();
  /** Counters of trim. */
  readonly trim: OperationCounters = new OperationCounters();
  /** Counters of zero. */
  readonly zero: OperationCounters = new OperationCounters();
  /** Counters of cache. */
  readonly cache: OperationCounters = new OperationCounters();
  /** Counters of extents. */
  readonly extents: OperationCounters = new OperationCounters();

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
