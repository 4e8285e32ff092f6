/**
 * Dirty bitmaps as a configuration names them: `NAME`, or `NAME:GRANULARITY`.
 *
 * @module
 */
import { parseSize } from "../block/size.ts";
import { type Place, UsageError } from "../block/usage_error.ts";
import { BITMAPS_MAX } from "../dirty_log/limits.ts";
import { bitmapNameProblem, granularityProblem } from "../dirty_log/target_bitmaps.ts";

/** A bitmap that a target is to have: made at the start if it is not there, and then all is marked. */
export interface BitmapConfig {
  /** Its name. */
  readonly name: string;
  /** Bytes; what the disk's size needs if left out. */
  readonly granularity?: number;
}

/** Parses `NAME` or `NAME:GRANULARITY`. Throws UsageError. */
export function parseBitmap(text: string, place: Place | null = null): BitmapConfig {
  const [name = "", size, ...more] = text.split(":");
  const refuse = (reason: string): UsageError =>
    new UsageError(`Cannot keep bitmap "${text}": ${reason}`, place);
  const problem = bitmapNameProblem(name);
  if (problem !== null) throw refuse(problem);
  if (more.length > 0) throw refuse("write NAME or NAME:GRANULARITY");
  return size === undefined ? { name } : { name, granularity: parseGranularity(size, refuse) };
}

/** Reads a granularity; `refuse` makes the error of one that cannot be. */
export function parseGranularity(text: string, refuse: (reason: string) => Error): number {
  const bytes = parseSize(text);
  if (typeof bytes !== "number") throw refuse(`its granularity ${bytes.problem}`);
  const problem = granularityProblem(bytes);
  if (problem !== null) throw refuse(problem);
  return bytes;
}

/** Checks the bitmaps of a target as a whole. Throws UsageError. */
export function checkBitmaps(
  target: string,
  bitmaps: readonly BitmapConfig[],
  folder: string | null,
): void {
  if (bitmaps.length === 0) return;
  const refuse = (reason: string): UsageError =>
    new UsageError(`Cannot keep bitmaps of target "${target}": ${reason}`);
  if (folder === null) throw refuse('there is no folder for them; add bitmaps = "DIR"');
  if (bitmaps.length > BITMAPS_MAX) throw refuse(`there are more than ${BITMAPS_MAX}`);
  const names = new Set(bitmaps.map(({ name }) => name));
  if (names.size < bitmaps.length) throw refuse("two have the same name");
}
