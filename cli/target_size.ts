/**
 * Names and sizes of dm targets on the command line: `NAME=SIZE`, in whole sectors.
 *
 * @module
 */
import { parseSize } from "../lib/block/size.ts";
import { targetNameProblem } from "../lib/block/spec.ts";
import { type Place, UsageError } from "../lib/block/usage_error.ts";
import { SECTOR_BYTES } from "../lib/dm_user/constants.ts";

/** Longest name that dmsetup takes. */
const DEVICE_NAME_BYTES_MAX = 127;

/** A target to be made. */
export interface NamedSize {
  readonly name: string;
  /** Bytes, whole sectors, at least one. */
  readonly size: number;
}

/** The size in bytes. Throws UsageError; `place` is where it stands. */
export function wholeSectors(size: string, place: Place): number {
  const bytes = parseSize(size);
  if (typeof bytes !== "number") throw new UsageError(`The size ${bytes.problem}`, place);
  if (bytes >= SECTOR_BYTES && bytes % SECTOR_BYTES === 0) return bytes;
  throw new UsageError(`The size must be whole sectors of ${SECTOR_BYTES} bytes`, place);
}

/** Throws UsageError if `name` cannot name a target; `place` is where it stands. */
export function checkTargetName(name: string, place: Place): void {
  const problem = targetNameProblem(name);
  if (problem !== null) throw new UsageError(`Cannot use "${name}": ${problem}`, place);
}

/**
 * Throws UsageError if `name` cannot name a control device: names of targets, parted by slashes.
 * `place` is where it stands.
 */
export function checkControlName(name: string, place: Place): void {
  for (const part of name.split("/")) {
    const problem = targetNameProblem(part);
    if (problem !== null) throw new UsageError(`Cannot use "${name}": ${problem}`, place);
  }
  if (name.length <= DEVICE_NAME_BYTES_MAX) return;
  throw new UsageError(
    `Cannot use "${name}": the name of a dm device has at most ${DEVICE_NAME_BYTES_MAX} characters`,
    place,
  );
}

/** Parses `NAME=SIZE`. Throws UsageError with the place of what is wrong. */
export function parseNamedSize(text: string): NamedSize {
  const equals = text.indexOf("=");
  if (equals < 0) {
    const place = { text, start: text.length, end: text.length };
    throw new UsageError(`Cannot use "${text}": write NAME=SIZE`, place);
  }
  const name = text.slice(0, equals);
  checkTargetName(name, { text, start: 0, end: equals });
  const place = { text, start: equals + 1, end: text.length };
  return { name, size: wholeSectors(text.slice(equals + 1), place) };
}
