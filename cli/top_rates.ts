/**
 * Rates from counters that somebody else refreshes about once a second: how much was done between two
 * refreshes, divided by the time between them and not by that between two looks. Pure.
 *
 * @module
 */
import type { ShownStatistics } from "../lib/daemon/control_client.ts";

/** The daemon refreshes its counters so often, in ms. */
const REFRESH_MS = 1_000;
/** A refresh that is this late, in ms, does not come: nothing is being done. */
const LATE_MS = 1_500;

/** What a target does. */
export interface Rates {
  /** Operations a second. */
  readonly iops: number;
  /** Bytes read a second. */
  readonly readBytesPerSecond: number;
  /** Bytes written a second. */
  readonly writeBytesPerSecond: number;
  /** Mean latency, µs; null if nothing was done. */
  readonly latencyUs: number | null;
}

/** A target that does nothing. */
export const IDLE: Rates = {
  iops: 0,
  readBytesPerSecond: 0,
  writeBytesPerSecond: 0,
  latencyUs: null,
};

interface Totals {
  readonly count: number;
  readonly readBytes: number;
  readonly writeBytes: number;
  readonly latencyUs: number;
}

const NOTHING: Totals = { count: 0, readBytes: 0, writeBytes: 0, latencyUs: 0 };

function totalsOf({ operations }: ShownStatistics): Totals {
  const all = Object.values(operations);
  return {
    count: all.reduce((sum, { count }) => sum + count, 0),
    readBytes: operations["read"]?.bytes ?? 0,
    writeBytes: operations["write"]?.bytes ?? 0,
    latencyUs: all.reduce((sum, { latencyTotalUs }) => sum + latencyTotalUs, 0),
  };
}

/** Follows one target. */
export class RateMeter {
  #totals: Totals | null = null;
  /** When the counters were as in #totals. */
  #atMs = 0;
  #rates = IDLE;

  /**
   * Takes what is shown at `nowMs` and gives the rates. `refreshedMs` is when the counters were last seen
   * to change. The first look gives no rates: IDLE.
   */
  look(statistics: ShownStatistics, refreshedMs: number, nowMs: number): Rates {
    const totals = totalsOf(statistics);
    const before = this.#totals;
    if (before === null) {
      this.#totals = totals;
      this.#atMs = nowMs;
      return IDLE;
    }
    if (totals.count === before.count) {
      if (nowMs - this.#atMs < LATE_MS) return this.#rates;
      this.#atMs = nowMs;
      return this.#rates = IDLE;
    }
    // A target that was closed and opened again counts from 0.
    const from = totals.count < before.count ? NOTHING : before;
    const seconds = Math.max(REFRESH_MS, refreshedMs - this.#atMs) / 1000;
    const count = totals.count - from.count;
    this.#totals = totals;
    this.#atMs = Math.max(this.#atMs, refreshedMs);
    return this.#rates = {
      iops: count / seconds,
      readBytesPerSecond: Math.max(0, totals.readBytes - from.readBytes) / seconds,
      writeBytesPerSecond: Math.max(0, totals.writeBytes - from.writeBytes) / seconds,
      latencyUs: Math.max(0, totals.latencyUs - from.latencyUs) / count,
    };
  }
}

const LEVELS = "▁▂▃▄▅▆▇█";

/**
 * A line of `cells` characters for the last values, scaled to the largest of them; blanks where there
 * was none, the lowest level for 0.
 */
export function sparkline(values: readonly (number | null)[], cells: number): string {
  const shown = values.slice(-cells);
  const most = Math.max(0, ...shown.map((value) => value ?? 0));
  const line = shown.map((value) => {
    if (value === null) return " ";
    const level = most === 0 ? 0 : Math.ceil(value / most * LEVELS.length) - 1;
    return LEVELS.charAt(Math.max(0, level));
  });
  return line.join("").padStart(cells);
}
