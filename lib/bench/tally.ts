/**
 * What a load counts while it runs, and what it has to say at its end.
 *
 * @module
 */
import { type BlockError, type Errno, errnoText } from "../block/errors.ts";
import { Histogram, type Percentiles, percentiles } from "../block/statistics.ts";
import { FAULTS_TOLD_MAX } from "./limits.ts";
import type { StampFault } from "./stamps.ts";

/** Latencies are counted in steps of this part of a µs: memory answers in less than one. */
const STEPS_PER_US = 16;

/** What requests of one kind came to. */
export interface LoadFigures {
  /** Requests that are done, failed ones included. */
  readonly count: number;
  /** Bytes of those that succeeded. */
  readonly bytes: number;
  /** Requests that failed. */
  readonly errors: number;
  /** Requests a second. */
  readonly requestsPerSecond: number;
  /** Bytes a second. */
  readonly bytesPerSecond: number;
  /** Latencies: from when a request is submitted (with a rate: from when it was due) until it is done. */
  readonly latency: Percentiles;
}

/** A request that failed. */
export interface LoadFailure {
  /** What it was. */
  readonly operation: "read" | "write";
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** The error's name. */
  readonly errno: Errno;
  /** The error, in words. */
  readonly what: string;
}

/** What verifying has found. */
export interface VerifyReport {
  /** Blocks that were compared. */
  readonly checked: number;
  /** Bytes of a block. */
  readonly blockBytes: number;
  /** Blocks that were wrong. */
  readonly faultCount: number;
  /** The first FAULTS_TOLD_MAX of them. */
  readonly faults: readonly StampFault[];
}

/** The result of a load. */
export interface LoadReport {
  /** Time that it took, µs. */
  readonly durationUs: number;
  /** It was ended early. */
  readonly interrupted: boolean;
  /** Reads and writes together. */
  readonly total: LoadFigures;
  /** Reads. */
  readonly read: LoadFigures;
  /** Writes. */
  readonly write: LoadFigures;
  /** Requests by latency: upper bound in µs and count of each class that is not empty, ascending. */
  readonly histogram: readonly { readonly upperUs: number; readonly count: number }[];
  /** Failed requests by the error's name. */
  readonly errors: Readonly<Partial<Record<Errno, number>>>;
  /** The first FAULTS_TOLD_MAX failures. */
  readonly failures: readonly LoadFailure[];
  /** Requests by connection, in their order; one entry where there are no connections. */
  readonly connections: readonly number[];
  /** CPU time of this process for one request, µs; null if nobody measured it. */
  readonly cpuUsPerRequest: number | null;
  /** Null if nothing was to be verified. */
  readonly verify: VerifyReport | null;
}

/** One kind of requests. */
class Side {
  readonly latency = new Histogram();
  bytes = 0;
  errors = 0;

  figures(durationUs: number, latency: Histogram = this.latency): LoadFigures {
    const perSecond = durationUs > 0 ? 1e6 / durationUs : 0;
    return {
      ...{ count: latency.count, bytes: this.bytes, errors: this.errors },
      requestsPerSecond: latency.count * perSecond,
      bytesPerSecond: this.bytes * perSecond,
      latency: percentiles(latency, STEPS_PER_US),
    };
  }
}

/** Counts while a load runs. */
export class LoadTally {
  readonly #read = new Side();
  readonly #write = new Side();
  readonly #errors: Partial<Record<Errno, number>> = {};
  readonly #failures: LoadFailure[] = [];
  readonly #connections: number[];

  /** For so many connections. */
  constructor(connections: number) {
    this.#connections = Array.from({ length: connections }, () => 0);
  }

  /** Requests that are done. */
  get count(): number {
    return this.#read.latency.count + this.#write.latency.count;
  }

  /** A request is done, after so many µs. */
  done(writes: boolean, length: number, latencyUs: number, connection: number): void {
    const side = writes ? this.#write : this.#read;
    side.latency.record(latencyUs * STEPS_PER_US);
    side.bytes += length;
    this.#connections[connection] = (this.#connections[connection] ?? 0) + 1;
  }

  /** A request has failed, after so many µs. */
  failed(
    request: { readonly writes: boolean; readonly offset: number; readonly length: number },
    latencyUs: number,
    error: BlockError,
  ): void {
    const { writes, offset, length } = request;
    const side = writes ? this.#write : this.#read;
    side.latency.record(latencyUs * STEPS_PER_US);
    side.errors += 1;
    const { errno } = error;
    this.#errors[errno] = (this.#errors[errno] ?? 0) + 1;
    if (this.#failures.length >= FAULTS_TOLD_MAX) return;
    const operation = writes ? "write" : "read";
    const what = error.message === "" ? errnoText(errno) : error.message;
    this.#failures.push({ operation, offset, length, errno, what });
  }

  /** The report. */
  report(
    rest: Pick<LoadReport, "durationUs" | "interrupted" | "cpuUsPerRequest" | "verify">,
  ): LoadReport {
    const { durationUs } = rest;
    const all = new Side();
    all.latency.merge(this.#read.latency);
    all.latency.merge(this.#write.latency);
    all.bytes = this.#read.bytes + this.#write.bytes;
    all.errors = this.#read.errors + this.#write.errors;
    return {
      ...rest,
      total: all.figures(durationUs),
      read: this.#read.figures(durationUs),
      write: this.#write.figures(durationUs),
      histogram: [...all.latency.buckets()].map(({ upperUs, count }) => ({
        upperUs: upperUs / STEPS_PER_US,
        count,
      })),
      errors: this.#errors,
      failures: this.#failures,
      connections: this.#connections,
    };
  }
}
