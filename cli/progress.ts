/**
 * A progress bar on standard error, only if that is a terminal: share, size, rate and time left in
 * one line of at most 80 columns. Off a terminal nothing is printed.
 *
 * @module
 */
import { styleText } from "node:util";
import { formatDuration, formatRate, formatSize } from "../lib/block/size.ts";
import { formatCount } from "../lib/trace/units.ts";
import type { CliIo } from "./io.ts";

/** Least time between two drawings, in ms. */
const REDRAW_MS = 100;
/** Widest line, in columns. */
const COLUMNS_MAX = 80;
/** Cells of the bar. */
const BAR_CELLS = 20;
/** The rate is that of about this time, in ms: steady, yet it follows a change. */
const RATE_MS = 3_000;

/** Draws how far something is. */
export interface Progress {
  /** `done` of `total` bytes (or ms, or requests) are done. Draws if the last time is long enough ago. */
  update(done: number, total: number): void;
  /** Removes the line. */
  clear(): void;
}

/** The rate of something, smoothed over about RATE_MS. */
class Rate {
  #bytesPerMs = 0;
  #lastDone = 0;
  #lastMs: number;

  constructor(nowMs: number) {
    this.#lastMs = nowMs;
  }

  /** Bytes per second, now that `done` bytes are done. */
  add(done: number, nowMs: number): number {
    const ms = nowMs - this.#lastMs;
    if (ms > 0) {
      const now = (done - this.#lastDone) / ms;
      const weight = this.#bytesPerMs === 0 ? 1 : 1 - Math.exp(-ms / RATE_MS);
      this.#bytesPerMs += (now - this.#bytesPerMs) * weight;
      this.#lastDone = done;
      this.#lastMs = nowMs;
    }
    return this.#bytesPerMs * 1000;
  }
}

/** What is counted: bytes, milliseconds of something that takes its time, or requests. */
export type ProgressUnit = "bytes" | "ms" | "requests";

const WHOLE: Readonly<Record<ProgressUnit, (total: number) => string>> = {
  bytes: formatSize,
  ms: formatDuration,
  requests: (total) => `${formatCount(total)} requests`,
};

/** The line for `done` of `total` bytes (or ms, or requests), without colour; at most `columns` wide. */
export function progressLine(
  what: string,
  done: number,
  total: number,
  bytesPerSecond: number,
  columns: number = COLUMNS_MAX,
  unit: ProgressUnit = "bytes",
): string {
  const share = total === 0 ? 1 : Math.min(1, done / total);
  const filled = Math.round(share * BAR_CELLS);
  const bar = "█".repeat(filled) + "░".repeat(BAR_CELLS - filled);
  const percent = `${Math.floor(share * 100)}%`.padStart(3);
  const left = bytesPerSecond > 0 ? (total - done) / bytesPerSecond * 1000 : null;
  const eta = left === null ? "" : `, ${formatDuration(Math.max(1000, left))} left`;
  const rate = bytesPerSecond <= 0 || unit === "ms"
    ? ""
    : unit === "bytes"
    ? `, ${formatRate(bytesPerSecond)}`
    : `, ${formatCount(bytesPerSecond)}/s`;
  const whole = WHOLE[unit](total);
  const line = `${what} ${bar} ${percent} of ${whole}${rate}${eta}`;
  return line.slice(0, Math.min(columns, COLUMNS_MAX) - 1);
}

const NO_PROGRESS: Progress = { update: () => {}, clear: () => {} };

/** A progress line for `what` ("copy", "verify"). `nowMs` is a monotonic clock. */
export function startProgress(
  io: CliIo,
  what: string,
  nowMs: () => number = () => performance.now(),
  unit: ProgressUnit = "bytes",
): Progress {
  if (!io.errIsTerminal) return NO_PROGRESS;
  const rate = new Rate(nowMs());
  let drawnMs = Number.NEGATIVE_INFINITY;
  return {
    update(done: number, total: number): void {
      const now = nowMs();
      if (now - drawnMs < REDRAW_MS) return;
      drawnMs = now;
      const line = progressLine(what, done, total, rate.add(done, now), io.columns, unit);
      const bar = /[█░]+/.exec(line)?.[0] ?? "";
      // Whether colours are wanted is told by `plain`: the stream checked here is another one.
      const shown = io.plain || bar === ""
        ? line
        : line.replace(bar, styleText("cyan", bar, { validateStream: false }));
      io.err(`\r${shown}\x1b[K`);
    },
    clear(): void {
      if (drawnMs > Number.NEGATIVE_INFINITY) io.err("\r\x1b[K");
    },
  };
}
