/**
 * `partition`: one partition of the disk below, from its MBR or GPT, which is read once.
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import { choiceOption, countOption, optionSchema } from "../block/options.ts";
import type { Backend, FilterType, Opened } from "../block/types.ts";
import { outward } from "./shared/blocks.ts";
import { GPT_ENTRIES_MAX } from "./shared/limits.ts";
import {
  type Partition,
  type PartitionTable,
  readPartitionTable,
} from "./shared/partition_table.ts";
import { windowOn } from "./shared/window.ts";

const TABLES = ["auto", "mbr", "gpt"] as const;
const SECTORS = ["auto", "512", "4096"] as const;

/** Options of partition. */
export interface PartitionOptions {
  /** The partition's number, from 1; the logical ones of an MBR begin with 5. */
  readonly number: number;
  /** Kind of the table. */
  readonly table: typeof TABLES[number];
  /** Bytes of a sector. */
  readonly sector: typeof SECTORS[number];
}

/** Reads any range, whatever the smallest I/O of the device. */
async function readBytes(backend: Backend, offset: number, length: number): Promise<Uint8Array> {
  const { minimum, size, maximum } = backend.geometry;
  const span = outward(offset, length, minimum, size);
  const bytes = new Uint8Array(span.length);
  for (let at = 0; at < bytes.length; at += maximum) {
    await backend.read(bytes.subarray(at, at + maximum), span.offset + at);
  }
  return bytes.subarray(offset - span.offset, offset - span.offset + length);
}

function find({ kind, partitions }: PartitionTable, number: number): Partition {
  const found = partitions.find((partition) => partition.number === number);
  if (found !== undefined) return found;
  const list = partitions.map((partition) => partition.number).join(", ");
  throw new BlockError(
    "EINVAL",
    `Cannot use partition ${number}: the ${kind.toUpperCase()} has ` +
      (list === "" ? "no partitions" : `these: ${list}`),
  );
}

async function open(
  backend: Backend,
  { number, table: kind, sector }: PartitionOptions,
  { log }: OpenContext,
): Promise<Opened> {
  const disk = {
    size: backend.geometry.size,
    read: (offset: number, length: number) => readBytes(backend, offset, length),
  };
  const sectors = sector === "auto" ? [512, 4096] : [Number(sector)];
  const table = await readPartitionTable(disk, { kind, sectors });
  for (const warning of table.warnings) log.warn(`Partition table: ${warning}`);
  const { start, size, type, name } = find(table, number);
  const describe = (): Record<string, string | number> => ({
    table: table.kind,
    partition: number,
    start,
    type,
    ...(name === "" ? {} : { name }),
  });
  if (size < 1) {
    throw new BlockError("EINVAL", `Cannot use partition ${number}: it ends before it begins`);
  }
  return {
    backend: windowOn(backend, start, size, `partition ${number}`),
    management: { describe },
  };
}

/** The filter. */
export const partition: FilterType<PartitionOptions> = {
  name: "partition",
  summary: "one partition of the disk below, from its MBR or GPT",
  options: optionSchema<PartitionOptions>({
    number: countOption({
      summary: "the partition; logical ones of an MBR begin with 5",
      min: 1,
      max: GPT_ENTRIES_MAX,
    }),
    table: choiceOption(TABLES, { summary: "kind of the table", default: "auto" }),
    sector: choiceOption(SECTORS, { summary: "bytes of a sector", default: "auto" }),
  }),
  open,
};
