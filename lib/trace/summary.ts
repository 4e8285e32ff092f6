/**
 * What a trace is, in figures: one pass in bounded memory, whatever its length. Percentiles are those of
 * Histogram: whole µs, at most 12 % too large.
 *
 * @module
 */
import { type Operation, OPERATIONS } from "../block/request.ts";
import { formatRate, formatSize } from "../block/size.ts";
import { Histogram } from "../block/statistics.ts";
import { BinAxis, BinHistograms, BinNumbers, type BinRange } from "./bins.ts";
import type { CompleteEvent, SubmitEvent } from "./event.ts";
import { CONNECTIONS_MAX, SUMMARY_TIME_BINS } from "./limits.ts";
import { type Percentiles, percentiles } from "../block/statistics.ts";
import {
  followRequests,
  type RequestCounts,
  type RequestObserver,
  type Started,
} from "./requests.ts";
import type { TraceSource } from "./source.ts";
import { sparkline, type SparklineOptions } from "./sparkline.ts";
import { formatCount, formatUs } from "./units.ts";

/** Requests of one length class. */
export interface SizeClass {
  /** A power of two (or 0): the lengths are above half of it and not above it, in bytes. */
  readonly upToBytes: number;
  /** How many. */
  readonly count: number;
}

/** The figures of one operation. */
export interface OperationSummary {
  /** Requests. */
  readonly count: number;
  /** Bytes that were asked for. */
  readonly bytes: number;
  /** The shortest request, bytes. */
  readonly lengthMin: number;
  /** The longest request, bytes. */
  readonly lengthMax: number;
  /** Requests by length, ascending. */
  readonly sizes: readonly SizeClass[];
  /** Requests that begin where the one of the same operation before them ended. */
  readonly sequential: number;
  /** Requests whose completion tells an error. */
  readonly errors: number;
  /** Times from submission to completion, of requests whose completion the trace has. */
  readonly latency: Percentiles;
}

/** Figures over time, in bins of equal width. Rates are a second's. */
export interface TimeSeries {
  /** Where the first bin begins, µs of the trace. */
  readonly startUs: number;
  /** Width of each bin, µs: a power of two. */
  readonly widthUs: number;
  /** Requests submitted a second. */
  readonly requestsPerS: readonly number[];
  /** Bytes of reads submitted a second. */
  readonly readBytesPerS: readonly number[];
  /** Bytes of writes submitted a second. */
  readonly writeBytesPerS: readonly number[];
  /** Median latency of what was completed in the bin, µs; null where nothing was. */
  readonly latencyP50Us: readonly (number | null)[];
  /** 99th percentile of the same, µs. */
  readonly latencyP99Us: readonly (number | null)[];
  /** Most requests in flight at once; 0 where nothing was submitted. */
  readonly depthMax: readonly number[];
}

/** The figures of a trace. */
export interface TraceSummary extends RequestCounts {
  /** Requests of all operations. */
  readonly requests: number;
  /** Time of the earliest event, µs; 0 if there is none. */
  readonly firstUs: number;
  /** Time of the latest event, µs; 0 if there is none. */
  readonly lastUs: number;
  /** Operations that occur, in the order of OPERATIONS. */
  readonly operations: Partial<Record<Operation, OperationSummary>>;
  /** Different connections; CONNECTIONS_MAX stands for that many or more. */
  readonly connections: number;
  /** First byte that any request touches; 0 if none does. */
  readonly offsetMin: number;
  /** First byte behind all that any request touches; 0 if none does. */
  readonly offsetEnd: number;
  /** Most requests in flight at once; 0 if the trace does not tell completions. */
  readonly depthMax: number;
  /** Events that have a digest. */
  readonly digests: number;
  /** Events that have their data. */
  readonly payloads: number;
  /** The same over time. */
  readonly series: TimeSeries;
}

/** The size class of a length: the least power of two that is not below it; 0 for 0. */
export function sizeClassOf(length: number): number {
  if (length <= 1) return length;
  // Exact also beyond 2^31, where clz32 alone would not do.
  const high = Math.floor((length - 1) / 2 ** 31);
  return high > 0 ? 2 ** (31 + 32 - Math.clz32(high)) : 2 ** (32 - Math.clz32(length - 1));
}

class OperationTally {
  count = 0;
  bytes = 0;
  lengthMin = Number.POSITIVE_INFINITY;
  lengthMax = 0;
  sequential = 0;
  errors = 0;
  readonly latency = new Histogram();
  readonly sizes = new Map<number, number>();
  #next = -1;

  add(offset: number, length: number): void {
    this.count += 1;
    this.bytes += length;
    this.lengthMin = Math.min(this.lengthMin, length);
    this.lengthMax = Math.max(this.lengthMax, length);
    if (offset === this.#next) this.sequential += 1;
    this.#next = length === 0 ? -1 : offset + length;
    const size = sizeClassOf(length);
    this.sizes.set(size, (this.sizes.get(size) ?? 0) + 1);
  }

  summary(): OperationSummary {
    const { count, bytes, lengthMin, lengthMax, sequential, errors } = this;
    const sizes = [...this.sizes].map(([upToBytes, count]) => ({ upToBytes, count }));
    sizes.sort((one, other) => one.upToBytes - other.upToBytes);
    const latency = percentiles(this.latency);
    return { count, bytes, lengthMin, lengthMax, sizes, sequential, errors, latency };
  }
}

/** Counts while a trace is read: an observer for `followRequests`. */
export class SummaryTally implements RequestObserver {
  #firstUs = Number.POSITIVE_INFINITY;
  #lastUs = Number.NEGATIVE_INFINITY;
  #offsetMin = Number.POSITIVE_INFINITY;
  #offsetEnd = 0;
  #depthMax = 0;
  #digests = 0;
  #payloads = 0;
  readonly #operations = new Map<Operation, OperationTally>();
  readonly #connections = new Set<number>();
  readonly #axis = new BinAxis(SUMMARY_TIME_BINS, 1);
  readonly #requests = this.#axis.follow(new BinNumbers(SUMMARY_TIME_BINS, "sum"));
  readonly #read = this.#axis.follow(new BinNumbers(SUMMARY_TIME_BINS, "sum"));
  readonly #written = this.#axis.follow(new BinNumbers(SUMMARY_TIME_BINS, "sum"));
  readonly #depth = this.#axis.follow(new BinNumbers(SUMMARY_TIME_BINS, "largest"));
  readonly #latency = this.#axis.follow(new BinHistograms());

  /** See RequestObserver. */
  submitted(event: SubmitEvent, depth: number): void {
    const { operation, offset, length, connection } = event;
    const slot = this.#seen(event);
    let tally = this.#operations.get(operation);
    if (tally === undefined) this.#operations.set(operation, tally = new OperationTally());
    tally.add(offset, length);
    this.#requests.put(slot, 1);
    if (operation === "read") this.#read.put(slot, length);
    else if (operation === "write") this.#written.put(slot, length);
    this.#depth.put(slot, depth);
    this.#depthMax = Math.max(this.#depthMax, depth);
    if (this.#connections.size < CONNECTIONS_MAX) this.#connections.add(connection);
    if (length === 0) return;
    this.#offsetMin = Math.min(this.#offsetMin, offset);
    this.#offsetEnd = Math.max(this.#offsetEnd, offset + length);
  }

  /** See RequestObserver. */
  completed(event: CompleteEvent, started: Started): void {
    const slot = this.#seen(event);
    const latencyUs = Math.max(0, event.timeUs - started.timeUs);
    const tally = this.#operations.get(started.operation);
    tally?.latency.record(latencyUs);
    if (tally !== undefined && event.errno !== null) tally.errors += 1;
    this.#latency.put(slot, latencyUs);
  }

  /** The figures of what was seen so far. */
  summary(counts: RequestCounts): TraceSummary {
    const operations: Partial<Record<Operation, OperationSummary>> = {};
    let requests = 0;
    for (const operation of OPERATIONS) {
      const tally = this.#operations.get(operation);
      if (tally === undefined) continue;
      operations[operation] = tally.summary();
      requests += tally.count;
    }
    const isEmpty = this.#firstUs > this.#lastUs, isNowhere = this.#offsetEnd === 0;
    return {
      ...counts,
      requests,
      firstUs: isEmpty ? 0 : this.#firstUs,
      lastUs: isEmpty ? 0 : this.#lastUs,
      operations,
      connections: this.#connections.size,
      offsetMin: isNowhere ? 0 : this.#offsetMin,
      offsetEnd: this.#offsetEnd,
      depthMax: this.#depthMax,
      digests: this.#digests,
      payloads: this.#payloads,
      series: this.#series(),
    };
  }

  #seen({ timeUs, digest, payload }: SubmitEvent | CompleteEvent): number {
    if (timeUs < this.#firstUs) this.#firstUs = timeUs;
    if (timeUs > this.#lastUs) this.#lastUs = timeUs;
    if (digest !== null) this.#digests += 1;
    if (payload !== null) this.#payloads += 1;
    return this.#axis.slotOf(timeUs);
  }

  #series(): TimeSeries {
    const range = this.#axis.used;
    const rates = (numbers: BinNumbers): number[] =>
      perSecond(numbers.of(range), range, this.#firstUs, this.#lastUs);
    const latency = this.#latency.of(range);
    return {
      startUs: range.start,
      widthUs: range.width,
      requestsPerS: rates(this.#requests),
      readBytesPerS: rates(this.#read),
      writeBytesPerS: rates(this.#written),
      latencyP50Us: latency.map((each) => each?.percentileUs(0.5) ?? null),
      latencyP99Us: latency.map((each) => each?.percentileUs(0.99) ?? null),
      depthMax: this.#depth.of(range),
    };
  }
}

/**
 * Amounts of bins of time as rates. The first bin and the last are measured by the part of them that
 * the trace covers, but by half of them at least: a request at the very edge is no peak. A trace of one
 * moment has no rates: they are 0.
 */
export function perSecond(
  amounts: readonly number[],
  range: BinRange,
  firstUs: number,
  lastUs: number,
): number[] {
  if (lastUs <= firstUs) return amounts.map(() => 0);
  return amounts.map((amount, index) => {
    const from = Math.max(range.start + index * range.width, firstUs);
    const to = Math.min(range.start + (index + 1) * range.width, lastUs);
    return amount * 1e6 / Math.max(to - from, range.width / 2);
  });
}

/** Reads a trace to its end. Throws TraceError. What is wrong with it is in `source.notes` then. */
export async function summarize(source: TraceSource): Promise<TraceSummary> {
  const tally = new SummaryTally();
  return tally.summary(await followRequests(source, [tally]));
}

/** A sparkline with what it shows. */
export interface SparkRow {
  /** What is shown: at most 14 characters. */
  readonly label: string;
  /** The sparkline, over the time of the trace or over lengths. */
  readonly line: string;
  /** What the largest of it means: "up to 12.3 k/s". */
  readonly scale: string;
}

/**
 * The sparklines of a trace: requests, bytes read and written, latency, requests in flight over time,
 * and the lengths of requests. What does not occur, or is not told by the trace, has no row.
 */
export function sparkRows(
  summary: TraceSummary,
  options: Pick<SparklineOptions, "width" | "ascii">,
): SparkRow[] {
  const { series } = summary;
  const row = (
    label: string,
    values: readonly (number | null)[],
    format: (value: number) => string,
    scale: "linear" | "log" = "linear",
  ): SparkRow[] => {
    const told = values.filter((value) => value !== null && value > 0).map(Number);
    if (told.length === 0) return [];
    const most = format(Math.max(...told));
    const range = scale === "log" ? `${format(Math.min(...told))} to ${most}` : `up to ${most}`;
    return [{ label, line: sparkline(values, { ...options, scale }), scale: range }];
  };
  return [
    ...row("requests", series.requestsPerS, (value) => `${formatCount(value)}/s`),
    ...row("read", series.readBytesPerS, formatRate),
    ...row("written", series.writeBytesPerS, formatRate),
    ...row("latency p50", series.latencyP50Us, formatUs, "log"),
    ...row("latency p99", series.latencyP99Us, formatUs, "log"),
    ...row("in flight", series.depthMax, formatCount),
    ...lengthRow(summary, options),
  ];
}

/** The lengths of all requests, one character for each power of two between the shortest and longest. */
function lengthRow(
  { operations }: TraceSummary,
  options: Pick<SparklineOptions, "width" | "ascii">,
): SparkRow[] {
  const counts = new Map<number, number>();
  for (const each of Object.values(operations)) {
    for (const { upToBytes, count } of each.sizes) {
      if (upToBytes > 0) counts.set(upToBytes, (counts.get(upToBytes) ?? 0) + count);
    }
  }
  if (counts.size === 0) return [];
  const least = Math.min(...counts.keys()), most = Math.max(...counts.keys());
  const values: number[] = [];
  for (let size = least; size <= most; size *= 2) values.push(counts.get(size) ?? 0);
  const line = sparkline(values, { ...options, width: Math.min(options.width, values.length) });
  const range = least === most ? formatSize(most) : `${formatSize(least)} to ${formatSize(most)}`;
  return [{ label: "lengths", line, scale: range }];
}
