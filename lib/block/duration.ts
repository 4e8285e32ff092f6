/**
 * Spans of time as people write them: `250us`, `10ms`, `1.5s`, `2min`, `1h`. A unit is needed, since a
 * bare number would be taken for another unit by half of its readers; only 0 needs none.
 *
 * @module
 */

/** Milliseconds of each unit. */
const UNITS: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1000,
  min: 60_000,
  h: 3.6e6,
};

const DURATION = /^([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(us|µs|ms|s|min|h)$/;

/**
 * The milliseconds that `text` stands for, or why it stands for none: a phrase that goes after a name.
 *
 * @example
 * ```ts
 * import { parseDuration } from "./duration.ts";
 * if (parseDuration("1.5s") !== 1500) throw new Error("1.5 s are 1500 ms");
 * ```
 */
export function parseDuration(text: string): number | { problem: string } {
  if (text.trim() === "0") return 0;
  const [, number = "", unit = ""] = DURATION.exec(text.trim()) ?? [];
  const factor = UNITS[unit.replace("µ", "u")];
  if (factor !== undefined) return Number(number) * factor;
  const shown = text.length > 40 ? `${text.slice(0, 40)}…` : text;
  return { problem: `must be a time such as 250us, 10ms, 1.5s or 2min, not "${shown}"` };
}

/** A span of time as one would type it: "1.5s", "10ms", "250us", "0". `parseDuration` reads it back. */
export function spellDuration(ms: number): string {
  if (ms === 0) return "0";
  if (ms < 1) return `${ms * 1000}us`;
  if (ms < 1000) return `${ms}ms`;
  if (ms < 60_000) return `${ms / 1000}s`;
  return `${ms / 60_000}min`;
}
