/**
 * Sizes as people write and read them. Units are powers of 1024, whatever the case of the letter:
 * `64k`, `1.5G`, `2TiB`, and `512s` for sectors of 512 bytes. A size that is not a whole number of
 * bytes is refused rather than rounded; arithmetic is exact, so nothing slips near 2^53.
 *
 * @module
 */
import { DEVICE_BYTES_MAX } from "./limits.ts";

/** Longest text of a size, in characters: bounds the arithmetic, not the user. */
const SIZE_LENGTH_MAX = 64;
/** A sector as the suffix `s` counts it, in bytes. */
const SECTOR_BYTES = 512n;
/** Unit letters in the order of their powers of 1024. */
const LETTERS = "bkmgtpe";
/** Names for output, in the same order. */
const UNITS: readonly string[] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

const SIZE = /^([0-9]+)(?:\.([0-9]+))?\s*(?:([kmgtpe])(i?b)?|([bs]))?$/i;

function unitBytes(suffix: string): bigint {
  const letter = suffix.toLowerCase();
  return letter === "s" ? SECTOR_BYTES : 1n << BigInt(10 * Math.max(0, LETTERS.indexOf(letter)));
}

/** Why `text` is no size, in words that go after the name of what it was given for. */
function notASize(text: string): { problem: string } {
  const shown = text.length > SIZE_LENGTH_MAX ? `${text.slice(0, SIZE_LENGTH_MAX)}…` : text;
  if (/^\s*-/.test(text)) return { problem: `must not be negative, as "${shown}" is` };
  return { problem: `must be a size such as 512, 64k or 1.5G, not "${shown}"` };
}

/**
 * The bytes that `text` stands for, 0 to 2^53 - 1, or why it stands for none: a phrase that goes
 * after a name ("must be a size such as …").
 *
 * @example
 * ```ts
 * import { parseSize } from "./size.ts";
 * if (parseSize("1.5k") !== 1536) throw new Error("1.5 KiB are 1536 bytes");
 * ```
 */
export function parseSize(text: string): number | { problem: string } {
  const match = text.length > SIZE_LENGTH_MAX ? null : SIZE.exec(text.trim());
  if (match === null) return notASize(text);
  const [, whole = "", fraction = "", letter = "", tail = "", plain = ""] = match;
  if (tail.toLowerCase() === "b") {
    const unit = letter.toUpperCase();
    return {
      problem: `must not be in ${unit}B, which has two meanings: write ${whole}${unit} or ` +
        `${whole}${unit}iB (powers of 1024)`,
    };
  }
  const scaled = BigInt(whole + fraction) * unitBytes(letter + plain);
  const divisor = 10n ** BigInt(fraction.length);
  if (scaled % divisor !== 0n) {
    return { problem: `must be a whole number of bytes, which "${text}" is not` };
  }
  const bytes = scaled / divisor;
  if (bytes > BigInt(DEVICE_BYTES_MAX)) {
    return { problem: `must be less than 8 PiB (2^53 bytes), not "${text}"` };
  }
  return Number(bytes);
}

/** The index of the largest unit of which `bytes` is at least one. */
function unitIndex(bytes: number): number {
  let index = 0;
  while (index < UNITS.length - 1 && bytes >= 1024 ** (index + 1)) index += 1;
  return index;
}

/**
 * A size for people: "1 GiB", "1.5 MiB", "513 B". Rounded to two decimals, so it may differ from
 * the exact figure; `spellSize` is exact.
 */
export function formatSize(bytes: number): string {
  let index = unitIndex(bytes);
  let rounded = Math.round((bytes / 1024 ** index) * 100) / 100;
  if (rounded >= 1024 && index < UNITS.length - 1) {
    index += 1;
    rounded = 1;
  }
  return `${rounded} ${UNITS[index] ?? ""}`;
}

/** A size as one would type it, exact and short: "1G", "64k", "513". `parseSize` reads it back. */
export function spellSize(bytes: number): string {
  let index = unitIndex(bytes);
  while (index > 0 && bytes % 1024 ** index !== 0) index -= 1;
  const letter = index === 0 ? "" : index === 1 ? "k" : LETTERS.charAt(index).toUpperCase();
  return `${bytes / 1024 ** index}${letter}`;
}

/** Bytes per second for people: "512 MiB/s". */
export function formatRate(bytesPerSecond: number): string {
  const rounded = bytesPerSecond < 10 * 1024 ? bytesPerSecond : roundToThreeDigits(bytesPerSecond);
  return `${formatSize(Math.round(rounded))}/s`;
}

/** Rates flicker: three digits of the unit are enough. */
function roundToThreeDigits(bytes: number): number {
  const unit = 1024 ** unitIndex(bytes);
  const value = bytes / unit;
  const decimals = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return Number(value.toFixed(decimals)) * unit;
}

/** A time span for people, from milliseconds: "850 ms", "12 s", "3 min 5 s", "2 h 10 min". */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
