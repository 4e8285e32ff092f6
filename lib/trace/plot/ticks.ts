/**
 * Where the ticks of an axis are and what is written at them: round numbers in the unit that fits, few
 * enough to be read.
 *
 * @module
 */
import { formatSize } from "../../block/size.ts";
import { formatCount, formatUs } from "../units.ts";

/** A tick of an axis. */
export interface Tick {
  /** Where, in the unit of the axis. */
  readonly value: number;
  /** What is written there; empty for a line without text. */
  readonly label: string;
}

const SECOND = 1e6, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;

/** Steps from a minute on: those that clocks have. */
const CLOCK_STEPS: readonly number[] = [
  ...[1, 2, 5, 10, 20, 30].map((count) => count * MINUTE),
  ...[1, 2, 3, 6, 12].map((count) => count * HOUR),
];

/** The least of 1, 2 and 5 times a power of ten that is not below `least`. */
function decimalStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * 0.999_999) ??
    10 * power;
}

const COUNT_NAMES: Readonly<Record<number, string>> = { 1000: " k", 1e6: " M", 1e9: " G" };

function multiples(from: number, to: number, step: number): number[] {
  const values: number[] = [];
  for (let index = Math.ceil(from / step); index * step <= to; index += 1) {
    values.push(index * step);
  }
  return values;
}

function twoDigits(value: number): string {
  return String(value).padStart(2, "0");
}

/** Digits behind the point that a multiple of `step` needs. */
function decimals(step: number): number {
  return Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
}

function clockLabel(us: number, step: number): string {
  const sign = us < 0 ? "-" : "", size = Math.abs(us);
  if (step >= DAY) return `${sign}${Math.round(size / DAY)} d`;
  const minutes = Math.round(size / MINUTE);
  if (size < HOUR && step < HOUR) return `${sign}${minutes} min`;
  return `${sign}${Math.floor(minutes / 60)}:${twoDigits(minutes % 60)} h`;
}

/** Ticks of an axis of time in µs, about `count` of them. */
export function timeTicks(from: number, to: number, count: number): Tick[] {
  const least = (to - from) / count;
  const step = least > 30 * SECOND
    ? CLOCK_STEPS.find((each) => each >= least) ?? decimalStep(least / DAY) * DAY
    : least > 10 * SECOND
    ? [20 * SECOND, 30 * SECOND].find((each) => each >= least) ?? MINUTE
    : decimalStep(least);
  const most = Math.max(Math.abs(from), Math.abs(to));
  const [unit, name] = most < 1000 ? [1, "µs"] : most < SECOND ? [1000, "ms"] : [SECOND, "s"];
  return multiples(from, to, step).map((value) => ({
    value,
    label: step >= MINUTE
      ? clockLabel(value, step)
      : `${(value / unit).toFixed(decimals(step / unit))} ${name}`,
  }));
}

/** Ticks of an axis of offsets in bytes: multiples of a power of two, at most `count` of them. */
export function offsetTicks(from: number, to: number, count: number): Tick[] {
  let step = 512;
  while ((to - from) / step > count) step *= 2;
  const values = multiples(from, to, step);
  const labels = values.map(formatSize);
  if (new Set(labels).size === labels.length) {
    return values.map((value, index) => ({ value, label: labels[index] ?? "" }));
  }
  // Close together and far from the beginning: told by their distance from the first.
  const [base = 0] = values;
  return values.map((value) => ({
    value,
    label: value === base ? formatSize(base) : `+${formatSize(value - base)}`,
  }));
}

/** Ticks from 0 on for counts and decimal rates; `suffix` follows each number. */
export function countTicks(to: number, count: number, suffix = ""): Tick[] {
  const step = Math.max(suffix === "" ? 1 : 0, decimalStep(Math.max(to, 1e-9) / count));
  const values = multiples(0, to, step), most = values.at(-1) ?? 0;
  // All in one unit, as far as it goes: 5 k below 10 k.
  const unit = most >= 1e9 ? 1e9 : most >= 1e6 ? 1e6 : most > 9_999 ? 1000 : 1;
  return values.map((value) => {
    const name = value === 0 ? "" : COUNT_NAMES[unit] ?? "";
    return { value, label: `${formatCount(value / unit)}${name}${suffix}` };
  });
}

/** Ticks from 0 on for bytes and bytes a second: round numbers of a binary unit. */
export function byteTicks(to: number, count: number, suffix = ""): Tick[] {
  const least = Math.max(1, to / count);
  const unit = 1024 ** Math.floor(Math.log2(least) / 10);
  const rounded = decimalStep(least / unit);
  const step = rounded > 500 ? 1024 * unit : rounded * unit;
  return multiples(0, to, step).map((value) => ({ value, label: `${formatSize(value)}${suffix}` }));
}

/** The decades that hold latencies from `from` to `to` µs (above 0): where a logarithmic axis begins and ends. */
export function decades(from: number, to: number): readonly [from: number, to: number] {
  const low = 10 ** Math.floor(Math.log10(from) + 1e-9);
  return [low, Math.max(low * 10, 10 ** Math.ceil(Math.log10(to) - 1e-9))];
}

/** Ticks of a logarithmic axis between two powers of ten, µs; few decades have 2 and 5 as well. */
export function latencyTicks(from: number, to: number): Tick[] {
  const count = Math.round(Math.log10(to / from));
  const factors = count <= 2 ? [1, 2, 5] : [1];
  const every = Math.ceil(count / 6);
  const ticks: Tick[] = [];
  for (let index = 0; index <= count; index += 1) {
    for (const factor of factors) {
      const value = from * 10 ** index * factor;
      if (value > to * 1.001) continue;
      ticks.push({ value, label: index % every === 0 ? formatUs(value) : "" });
    }
  }
  return ticks;
}
