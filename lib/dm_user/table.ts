/**
 * Device-mapper tables with targets of type `user`: `START SECTORS user START SECTORS NAME`, one line
 * a target, which follow one another without a gap. Words are parted by blanks; a backslash takes the
 * character behind it as it is.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";

/** One target of a table. */
export interface TableLine {
  /** First sector of the target within the dm device. */
  readonly start: number;
  /** Sectors of the target, at least 1. */
  readonly sectors: number;
  /** Name of the control device, `/dev/dm-user/NAME`. It may hold a slash. */
  readonly name: string;
}

function invalid(reason: string): BlockError {
  return new BlockError("EINVAL", `Cannot use the table: ${reason}`);
}

function words(line: string): string[] {
  return [...line.matchAll(/(?:\\.|[^\s\\])+/g)].map(([word]) => word.replace(/\\(.)/g, "$1"));
}

function sectorsOf(word: string | undefined, what: string): number {
  const value = word !== undefined && /^\d+$/.test(word) ? Number(word) : NaN;
  if (!Number.isSafeInteger(value)) {
    throw invalid(`its ${what} "${word ?? ""}" is no count of sectors`);
  }
  return value;
}

/**
 * The targets of a table. The first two arguments of a target are not parsed. Throws EINVAL: another
 * count of arguments than three, another type than `user`, a gap, no target at all.
 *
 * @example
 * ```ts
 * import { parseTable } from "./table.ts";
 * const [target] = parseTable("0 2048 user 0 2048 disk");
 * if (target?.name !== "disk" || target.sectors !== 2048) throw new Error("misread");
 * ```
 */
export function parseTable(text: string): TableLine[] {
  const lines: TableLine[] = [];
  let next = 0;
  for (const line of text.split("\n")) {
    const [first, count, type, ...rest] = words(line);
    if (first === undefined || first.startsWith("#")) continue;
    const start = sectorsOf(first, "start"), sectors = sectorsOf(count, "length");
    if (start !== next) throw invalid(`sector ${next} has to come next, not ${start}`);
    if (sectors === 0) throw invalid("a target has at least one sector");
    if (type !== "user") throw invalid(`target type "${type ?? ""}" is not "user"`);
    const name = rest[2];
    if (rest.length !== 3 || name === undefined) throw invalid("Invalid argument count");
    lines.push({ start, sectors, name });
    next = start + sectors;
  }
  if (lines.length === 0) throw invalid("it has no target");
  return lines;
}

/** The table line of one target, as `dmsetup create` takes it. */
export function formatTableLine({ start, sectors, name }: TableLine): string {
  const escaped = name.replace(/[\s\\#]/g, "\\$&");
  return `${start} ${sectors} user ${start} ${sectors} ${escaped}`;
}
