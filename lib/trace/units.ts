/**
 * Numbers of traces as people read them: short, with the unit that fits.
 *
 * @module
 */

const TIME_UNITS: readonly (readonly [us: number, name: string])[] = [
  [1e6, "s"],
  [1e3, "ms"],
  [1, "µs"],
  [1e-3, "ns"],
];
const COUNT_UNITS: readonly (readonly [count: number, name: string])[] = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
/** Counts below are shown whole. */
const WHOLE_COUNT_MAX = 9_999;

/** A number rounded to three digits, without zeroes at its end. */
function threeDigits(value: number): string {
  const size = Math.abs(value);
  if (size >= 100) return String(Math.round(value));
  return String(Number(value.toFixed(size >= 10 ? 1 : 2)));
}

/** A short span of time: "250 µs", "1.5 ms", "2.31 s". `us` is 0 or more. */
export function formatUs(us: number): string {
  if (us === 0) return "0 µs";
  const [unit, name] = TIME_UNITS.find(([each]) => us >= each * 0.9995) ?? [1e-3, "ns"];
  return `${threeDigits(us / unit)} ${name}`;
}

/** A count or a decimal rate: "512", "12.3 k", "4.56 M". */
export function formatCount(count: number): string {
  if (Math.abs(count) <= WHOLE_COUNT_MAX) {
    return Math.abs(count) < 100 ? threeDigits(count) : String(Math.round(count));
  }
  const [unit, name] = COUNT_UNITS.find(([each]) => Math.abs(count) >= each * 0.9995) ?? [1, ""];
  return `${threeDigits(count / unit)} ${name}`;
}
