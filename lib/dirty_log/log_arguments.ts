/**
 * The text of a CTR: length of the device, type of the log and its arguments, as the table line has
 * them.
 *
 * ```
 * LEN core REGION_SECTORS [sync|nosync] [block_on_error]
 * LEN disk PLACE REGION_SECTORS [sync|nosync] [block_on_error]
 * ```
 *
 * `clustered-core` and `clustered-disk` are the same under the names that volume managers use.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { REGION_SECTORS_MAX, REGION_SECTORS_MIN, REGIONS_MAX } from "./limits.ts";

/** How a log that has no bits of its own begins: `sync` dirty, `nosync` clean, `default` dirty. */
export type SyncWish = "default" | "sync" | "nosync";

/** A log as its table describes it. */
export interface LogArguments {
  /** The type as it was written. */
  readonly type: string;
  /** Where the bits are kept, or null if in memory alone. */
  readonly place: string | null;
  /** Length of the mirror, in sectors of 512 bytes. */
  readonly sectors: number;
  /** Length of a region, in sectors: a power of two. */
  readonly regionSectors: number;
  /** How many regions there are; the last one may be shorter. */
  readonly regions: number;
  /** What the table vouches for, or wants to be copied. */
  readonly sync: SyncWish;
  /** A write that cannot be logged waits until it can be; else the kernel hears of an error. */
  readonly blockOnError: boolean;
}

const CORE_TYPES: readonly string[] = ["core", "clustered-core"];
const DISK_TYPES: readonly string[] = ["disk", "clustered-disk"];

function refuse(reason: string): never {
  throw new BlockError("EINVAL", `Cannot make a log: ${reason}`);
}

function wholeNumber(word: string | undefined, what: string): number {
  const number = word !== undefined && /^\d{1,16}$/.test(word) ? Number(word) : Number.NaN;
  if (!Number.isSafeInteger(number)) refuse(`${what} "${word ?? ""}" is no whole number`);
  return number;
}

function checkRegionSectors(regionSectors: number, sectors: number): void {
  const powerOfTwo = regionSectors > 0 && Number.isInteger(Math.log2(regionSectors));
  if (
    powerOfTwo && regionSectors >= REGION_SECTORS_MIN && regionSectors <= REGION_SECTORS_MAX &&
    regionSectors <= sectors
  ) return;
  refuse(
    `the region size ${regionSectors} is no power of two from ${REGION_SECTORS_MIN} to ` +
      `${REGION_SECTORS_MAX} sectors that is at most the ${sectors} sectors of the mirror`,
  );
}

/**
 * Reads the text of a CTR. Throws EINVAL with the reason.
 *
 * @example
 * ```ts
 * import { parseLogArguments } from "./log_arguments.ts";
 * const { regions, sync } = parseLogArguments("32768 core 2048 nosync");
 * if (regions !== 16 || sync !== "nosync") throw new Error("not understood");
 * ```
 */
export function parseLogArguments(text: string): LogArguments {
  const [length, type = "", ...words] = text.trim().split(/\s+/);
  const sectors = wholeNumber(length, "the length");
  const isDisk = DISK_TYPES.includes(type);
  if (!isDisk && !CORE_TYPES.includes(type)) {
    refuse(`the type "${type}" is none of ${[...CORE_TYPES, ...DISK_TYPES].join(", ")}`);
  }
  const place = isDisk ? words.shift() ?? refuse("it has no device") : null;
  const regionSectors = wholeNumber(words.shift(), "the region size");
  checkRegionSectors(regionSectors, sectors);
  const regions = Math.ceil(sectors / regionSectors);
  if (regions > REGIONS_MAX) refuse(`it would have ${regions} regions, at most ${REGIONS_MAX}`);
  let sync: SyncWish = "default", blockOnError = false;
  for (const word of words) {
    if ((word === "sync" || word === "nosync") && sync === "default") sync = word;
    else if (word === "block_on_error" && !blockOnError) blockOnError = true;
    else refuse(`the word "${word}" is unknown or one too many`);
  }
  return { type, place, sectors, regionSectors, regions, sync, blockOnError };
}

/** Arguments as dm prints them in a table: type, number of arguments, arguments. */
export function formatLogArguments(log: LogArguments): string {
  const words = [
    ...(log.place === null ? [] : [log.place]),
    String(log.regionSectors),
    ...(log.sync === "default" ? [] : [log.sync]),
    ...(log.blockOnError ? ["block_on_error"] : []),
  ];
  return [log.type, words.length, ...words].join(" ");
}
