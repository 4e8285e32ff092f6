/**
 * A row of numbers as a row of characters, for terminals.
 *
 * @module
 */

/** Heights from 0 to the largest, as block characters. */
const BLOCKS = "▁▂▃▄▅▆▇█";
/** The same for terminals and files that know ASCII alone: ink instead of height. */
const ASCII = "_.:-=+*#";

/** How a sparkline looks. */
export interface SparklineOptions {
  /** Characters; the numbers are averaged (or repeated) to fit. 1 or more. */
  readonly width: number;
  /** Only ASCII characters. False if not told. */
  readonly ascii?: boolean;
  /** "log" shows orders of magnitude, for latencies and sizes. "linear" if not told. */
  readonly scale?: "linear" | "log";
}

/**
 * A sparkline from 0 to the largest number. The lowest character is 0 (or, on a logarithmic scale,
 * nothing there), anything above it is at least the second. A number that is null was not measured and
 * shows as a blank. Empty if there are no numbers.
 *
 * @example
 * ```ts
 * import { sparkline } from "./sparkline.ts";
 * if (sparkline([0, 1, 4, 8], { width: 4 }) !== "▁▂▅█") throw new Error("differs");
 * ```
 */
export function sparkline(values: readonly (number | null)[], options: SparklineOptions): string {
  if (values.length === 0) return "";
  const { width, ascii = false, scale = "linear" } = options;
  const shown = resampled(values, width);
  const told = shown.filter((value) => value !== null && value > 0);
  const most = Math.max(0, ...told.map(Number)), least = Math.min(most, ...told.map(Number));
  const characters = ascii ? ASCII : BLOCKS;
  const steps = characters.length - 1;
  return shown.map((value) => {
    if (value === null) return " ";
    if (value <= 0) return characters.charAt(0);
    const share = scale === "linear" || least === most
      ? value / most
      : Math.log(value / least) / Math.log(most / least);
    return characters.charAt(Math.min(steps, Math.max(1, Math.ceil(share * steps))));
  }).join("");
}

/** `width` averages of the numbers, weighted by how much of each lies below a character. */
function resampled(values: readonly (number | null)[], width: number): (number | null)[] {
  const ratio = values.length / width;
  return Array.from({ length: width }, (_, column) => {
    const from = column * ratio, to = (column + 1) * ratio;
    let sum = 0, weight = 0;
    for (let at = Math.floor(from); at < Math.min(values.length, Math.ceil(to)); at += 1) {
      const value = values[at] ?? null;
      const share = Math.min(to, at + 1) - Math.max(from, at);
      if (value === null || share <= 0) continue;
      sum += value * share;
      weight += share;
    }
    return weight === 0 ? null : sum / weight;
  });
}
