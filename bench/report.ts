/**
 * Results of a benchmark as text: medians, their spread, and ratios to the first server.
 *
 * @module
 */
import type { Load, Measurement } from "./load.ts";

/** All runs of one load, by the name of the server. */
export interface Result {
  readonly load: Load;
  readonly runs: ReadonlyMap<string, readonly Measurement[]>;
}

/** Median and range of some numbers. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Median and range; of an even number of values the lower of the middle two. */
export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (index: number): number => sorted[index] ?? NaN;
  return {
    median: at((sorted.length - 1) >> 1),
    min: at(0),
    max: at(sorted.length - 1),
  };
}

function spreadOf(runs: readonly Measurement[], field: keyof Measurement): Spread {
  return spread(runs.map((run) => run[field]));
}

/** One load as plain data, for `--json`. */
export function resultData({ load, runs }: Result): Record<string, unknown> {
  const servers = [...runs].map(([name, each]) => [name, {
    requestsPerSecond: spreadOf(each, "requestsPerSecond"),
    cpuUsPerRequest: spreadOf(each, "cpuUs"),
    latencyUs99: spreadOf(each, "latencyUs99"),
    runs: each,
  }]);
  return { load, servers: Object.fromEntries(servers) };
}

function number(value: number): string {
  return value >= 1000 ? `${(value / 1000).toFixed(1)}k` : value.toFixed(value < 100 ? 1 : 0);
}

const COLUMNS = ["load", "server", "req/s", "(min–max)", "ratio", "CPU µs/req", "ratio", "p99 µs"];
const WIDTHS = [32, 10, 9, 17, 7, 11, 7, 9] as const;

function row(cells: readonly string[]): string {
  const padded = cells.map((cell, index) => {
    const width = WIDTHS[index] ?? 0;
    return index < 2 ? cell.padEnd(width) : cell.padStart(width);
  });
  return padded.join(" ").trimEnd() + "\n";
}

/** The heading of the table. */
export function tableHead(): string {
  return row(COLUMNS) + "-".repeat(WIDTHS.reduce((sum, width) => sum + width + 1, 0)) + "\n";
}

/**
 * One load as lines of the table. The ratios in another server's line are this server's (the first
 * one's) figure over that server's: above 1 in the first column and below 1 in the second is good.
 */
export function tableRows({ load, runs }: Result): string {
  const [first] = runs.values();
  let text = "";
  for (const [name, each] of runs) {
    const rate = spreadOf(each, "requestsPerSecond"), cpu = spreadOf(each, "cpuUs");
    const ratio = (field: keyof Measurement): string => {
      if (first === undefined || first === each) return "";
      return (spreadOf(first, field).median / spreadOf(each, field).median).toFixed(2);
    };
    text += row([
      text === "" ? load.name : "",
      name,
      number(rate.median),
      `${number(rate.min)}–${number(rate.max)}`,
      ratio("requestsPerSecond"),
      cpu.median.toFixed(2),
      ratio("cpuUs"),
      number(spreadOf(each, "latencyUs99").median),
    ]);
  }
  return text;
}
