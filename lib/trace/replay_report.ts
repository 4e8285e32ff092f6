/**
 * What a replay has to say at its end: how fast, how late, how it compares with the recording.
 *
 * @module
 */
import type { Errno } from "../block/errors.ts";
import { type Operation, OPERATIONS } from "../block/request.ts";
import { Histogram, type Percentiles, percentiles } from "../block/statistics.ts";
import { MISMATCHES_TOLD_MAX } from "./limits.ts";

/** What is compared for one operation. */
export interface OperationReport {
  /** Requests that were replayed. */
  readonly count: number;
  /** Bytes of those that succeeded. */
  readonly bytes: number;
  /** Requests that failed. */
  readonly errors: number;
  /** Latencies of the replay. */
  readonly achieved: Percentiles;
  /** Latencies of the recording, for requests whose completion it has. */
  readonly recorded: Percentiles;
}

/** A read that gave something else than the recording, or a request that ended otherwise or failed. */
export interface Mismatch {
  /** The request in the trace. */
  readonly id: number;
  /** What it was. */
  readonly operation: Operation;
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** What differs. */
  readonly what: string;
}

/** The result of a replay. */
export interface ReplayReport {
  /** Requests that were replayed. */
  readonly requests: number;
  /** Time that it took, µs. */
  readonly durationUs: number;
  /** Time that the recording took, at the speed that was asked for; 0 for "max". */
  readonly plannedUs: number;
  /** How much later than planned requests were submitted; empty for "max". */
  readonly lag: Percentiles;
  /** Operations that occurred. */
  readonly operations: Partial<Record<Operation, OperationReport>>;
  /** Reads whose data were compared with the recording. */
  readonly verified: number;
  /** Reads that could not be compared, because the trace does not say what they gave. */
  readonly unverifiable: number;
  /** Requests that ended otherwise than recorded. */
  readonly mismatchCount: number;
  /** The first MISMATCHES_TOLD_MAX of them. */
  readonly mismatches: readonly Mismatch[];
  /** Requests that failed although the recording does not say that they did. */
  readonly failureCount: number;
  /** The first MISMATCHES_TOLD_MAX of them. */
  readonly failures: readonly Mismatch[];
  /** Requests that do not fit the device and were left out. */
  readonly skipped: number;
}

class OperationTally {
  bytes = 0;
  errors = 0;
  readonly achieved = new Histogram();
  readonly recorded = new Histogram();
}

/** Counts while a replay runs. */
export class ReplayTally {
  /** Requests submitted. */
  requests = 0;
  /** See ReplayReport. */
  verified = 0;
  /** See ReplayReport. */
  unverifiable = 0;
  /** See ReplayReport. */
  skipped = 0;
  /** See ReplayReport. */
  mismatchCount = 0;
  /** See ReplayReport. */
  failureCount = 0;
  readonly #lag = new Histogram();
  readonly #operations = new Map<Operation, OperationTally>();
  readonly #mismatches: Mismatch[] = [];
  readonly #failures: Mismatch[] = [];

  /** A request was submitted so much later than planned. */
  late(us: number): void {
    this.#lag.record(Math.max(0, us));
  }

  /** A request is done. */
  done(operation: Operation, length: number, latencyUs: number, errno: Errno | null): void {
    const tally = this.#of(operation);
    tally.achieved.record(latencyUs);
    if (errno === null) tally.bytes += length;
    else tally.errors += 1;
  }

  /** How long the same took when it was recorded. */
  recorded(operation: Operation, latencyUs: number): void {
    this.#of(operation).recorded.record(latencyUs);
  }

  /** A request ended otherwise than recorded. */
  mismatch(mismatch: Mismatch): void {
    this.mismatchCount += 1;
    if (this.#mismatches.length < MISMATCHES_TOLD_MAX) this.#mismatches.push(mismatch);
  }

  /** A request failed, which the recording does not say of it. */
  failure(failure: Mismatch): void {
    this.failureCount += 1;
    if (this.#failures.length < MISMATCHES_TOLD_MAX) this.#failures.push(failure);
  }

  /** The report. */
  report(durationUs: number, plannedUs: number): ReplayReport {
    const operations: Partial<Record<Operation, OperationReport>> = {};
    for (const operation of OPERATIONS) {
      const tally = this.#operations.get(operation);
      if (tally === undefined) continue;
      operations[operation] = {
        count: tally.achieved.count,
        bytes: tally.bytes,
        errors: tally.errors,
        achieved: percentiles(tally.achieved),
        recorded: percentiles(tally.recorded),
      };
    }
    const { requests, verified, unverifiable, skipped, mismatchCount, failureCount } = this;
    return {
      ...{ requests, durationUs, plannedUs, lag: percentiles(this.#lag), operations },
      ...{ verified, unverifiable, mismatchCount, mismatches: this.#mismatches, skipped },
      ...{ failureCount, failures: this.#failures },
    };
  }

  #of(operation: Operation): OperationTally {
    let tally = this.#operations.get(operation);
    if (tally === undefined) this.#operations.set(operation, tally = new OperationTally());
    return tally;
  }
}
