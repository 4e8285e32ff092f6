/**
 * Partition tables: MBR with primary and logical partitions, and GPT.
 *
 * MBR: the four entries at byte 446 of sector 0, signature 55 AA at byte 510. An extended partition
 * holds a chain of such sectors: in each, the first entry is a logical partition, counted from that
 * sector, and the second the next link, counted from the start of the extended partition.
 *
 * GPT: the UEFI specification, section "GUID Partition Table (GPT) Disk Layout". Header and entries
 * have CRCs; if those of the primary header are wrong, the backup in the last sector is used.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { BlockError } from "../../block/errors.ts";
import { GPT_ENTRIES_MAX, GPT_ENTRY_BYTES_MAX, LOGICAL_PARTITIONS_MAX } from "./limits.ts";

/** A partition. Start and size are bytes. */
export interface Partition {
  /** Its number, from 1; logical ones of an MBR from 5. */
  readonly number: number;
  readonly start: number;
  readonly size: number;
  /** Its type: "0x83", or a GUID. */
  readonly type: string;
  /** Its name; empty if the table has none. */
  readonly name: string;
}

/** A partition table. */
export interface PartitionTable {
  /** Its kind. */
  readonly kind: "mbr" | "gpt";
  /** Bytes of a sector. */
  readonly sector: number;
  /** The partitions in use, by number. */
  readonly partitions: readonly Partition[];
  /** What is wrong with it although it can be used; empty if nothing is. */
  readonly warnings: readonly string[];
}

/** Gives the bytes of a range of the disk. */
export type ReadBytes = (offset: number, length: number) => Promise<Uint8Array>;

/** A disk whose table is looked for. */
export interface Disk {
  readonly read: ReadBytes;
  /** Bytes. */
  readonly size: number;
}

const MBR_BYTES = 512;
const TYPE_PROTECTIVE = 0xee;
const TYPES_EXTENDED: readonly number[] = [0x05, 0x0f, 0x85];
const GPT_HEADER_BYTES = 92;
const GPT_SIGNATURE = "EFI PART";

function bad(reason: string): BlockError {
  return new BlockError("EINVAL", `Cannot use the partition table: ${reason}`);
}

interface MbrEntry {
  readonly type: number;
  /** Sectors. */
  readonly start: number;
  readonly count: number;
}

/** The four entries of an MBR or of a link of the chain; null if it has no signature. */
function mbrEntries(bytes: Uint8Array): MbrEntry[] | null {
  if (bytes[510] !== 0x55 || bytes[511] !== 0xaa) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return [446, 462, 478, 494].map((at) => ({
    type: view.getUint8(at + 4),
    start: view.getUint32(at + 8, true),
    count: view.getUint32(at + 12, true),
  }));
}

function mbrPartition(number: number, entry: MbrEntry, base: number, sector: number): Partition {
  return {
    number,
    start: (base + entry.start) * sector,
    size: entry.count * sector,
    type: `0x${entry.type.toString(16).padStart(2, "0")}`,
    name: "",
  };
}

const isUsed = ({ type, count }: MbrEntry): boolean => type !== 0 && count !== 0;
const isExtended = ({ type }: MbrEntry): boolean => TYPES_EXTENDED.includes(type);

/** The logical partitions in an extended one that begins at sector `base`. */
async function logicalPartitions(
  disk: Disk,
  base: number,
  sector: number,
  warnings: string[],
): Promise<Partition[]> {
  const found: Partition[] = [];
  const seen = new Set<number>();
  let link: number | null = base;
  while (link !== null) {
    if (seen.has(link) || found.length >= LOGICAL_PARTITIONS_MAX) {
      throw bad(`the chain of logical partitions does not end at sector ${link}`);
    }
    seen.add(link);
    if (link * sector + MBR_BYTES > disk.size) {
      warnings.push(`the chain of logical partitions leaves the disk, at sector ${link}`);
      break;
    }
    const entries = mbrEntries(await disk.read(link * sector, MBR_BYTES));
    const [first, second] = entries ?? [];
    if (first === undefined || second === undefined) {
      warnings.push(`the chain of logical partitions is broken, at sector ${link}`);
      break;
    }
    if (isUsed(first)) found.push(mbrPartition(5 + found.length, first, link, sector));
    link = isUsed(second) && isExtended(second) ? base + second.start : null;
  }
  return found;
}

async function readMbr(
  disk: Disk,
  entries: readonly MbrEntry[],
  sector: number,
): Promise<PartitionTable> {
  const partitions: Partition[] = [], logical: Partition[] = [];
  const warnings: string[] = [];
  for (const [index, entry] of entries.entries()) {
    if (!isUsed(entry)) continue;
    if (isExtended(entry)) {
      logical.push(...await logicalPartitions(disk, entry.start, sector, warnings));
    } else {
      partitions.push(mbrPartition(index + 1, entry, 0, sector));
    }
  }
  return { kind: "mbr", sector, partitions: [...partitions, ...logical], warnings };
}

interface GptHeader {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly backupLba: number;
  readonly entriesLba: number;
  readonly count: number;
  readonly entryBytes: number;
  readonly entriesCrc: number;
}

/** The header at sector `lba`, or why there is none. */
async function gptHeader(disk: Disk, lba: number, sector: number): Promise<GptHeader | string> {
  if (lba < 1 || !Number.isSafeInteger(lba * sector) || (lba + 1) * sector > disk.size) {
    return "it would not be on the disk";
  }
  const bytes = await disk.read(lba * sector, sector);
  if (new TextDecoder().decode(bytes.subarray(0, 8)) !== GPT_SIGNATURE) return "no signature";
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = view.getUint32(12, true);
  if (length < GPT_HEADER_BYTES || length > sector) return `a length of ${length}`;
  const stored = view.getUint32(16, true);
  const checked = bytes.slice(0, length);
  checked.fill(0, 16, 20);
  if (crc32(checked) !== stored) return "a wrong checksum";
  if (Number(view.getBigUint64(24, true)) !== lba) return "it says that it is elsewhere";
  return {
    bytes,
    view,
    backupLba: Number(view.getBigUint64(32, true)),
    entriesLba: Number(view.getBigUint64(72, true)),
    count: view.getUint32(80, true),
    entryBytes: view.getUint32(84, true),
    entriesCrc: view.getUint32(88, true),
  };
}

/** A GUID as it is written, from its mixed-endian bytes. */
function guid(bytes: Uint8Array): string {
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  const hex = order.map((at) => (bytes[at] ?? 0).toString(16).padStart(2, "0")).join("");
  return [[0, 8], [8, 12], [12, 16], [16, 20], [20, 32]].map(([from, to]) => hex.slice(from, to))
    .join("-");
}

/** The entries of a header, or what is wrong with them. */
async function gptEntries(
  disk: Disk,
  header: GptHeader,
  sector: number,
): Promise<Partition[] | string> {
  const { count, entryBytes, entriesLba, entriesCrc } = header;
  if (count > GPT_ENTRIES_MAX) return `${count} entries, ${GPT_ENTRIES_MAX} are possible`;
  if (entryBytes < 128 || entryBytes > GPT_ENTRY_BYTES_MAX || entryBytes % 8 !== 0) {
    return `entries of ${entryBytes} bytes`;
  }
  const offset = entriesLba * sector;
  if (!Number.isSafeInteger(offset) || offset > disk.size - count * entryBytes) {
    return "its entries would not be on the disk";
  }
  const bytes = await disk.read(offset, count * entryBytes);
  if (crc32(bytes) !== entriesCrc) return "a wrong checksum of its entries";
  const found: Partition[] = [];
  for (let index = 0; index < count; index += 1) {
    const entry = bytes.subarray(index * entryBytes, (index + 1) * entryBytes);
    if (entry.subarray(0, 16).every((byte) => byte === 0)) continue;
    const view = new DataView(entry.buffer, entry.byteOffset, entry.length);
    const first = Number(view.getBigUint64(32, true)), last = Number(view.getBigUint64(40, true));
    const name = new TextDecoder("utf-16le").decode(entry.subarray(56, 128)).split("\0", 1)[0] ??
      "";
    found.push({
      number: index + 1,
      start: first * sector,
      size: (last - first + 1) * sector,
      type: guid(entry),
      name,
    });
  }
  return found;
}

/** The GPT whose header is at `lba`, or what is wrong with it. */
async function gptAt(disk: Disk, lba: number, sector: number): Promise<Partition[] | string> {
  const header = await gptHeader(disk, lba, sector);
  return typeof header === "string" ? header : await gptEntries(disk, header, sector);
}

/** Where the backup of a GPT is: where the primary header says, if it can be read, else at the end. */
async function backupLba(disk: Disk, sector: number): Promise<number> {
  const primary = await gptHeader(disk, 1, sector);
  return typeof primary === "string" ? Math.floor(disk.size / sector) - 1 : primary.backupLba;
}

async function readGpt(disk: Disk, sectors: readonly number[]): Promise<PartitionTable> {
  const reasons: string[] = [];
  for (const sector of sectors) {
    const partitions = await gptAt(disk, 1, sector);
    if (typeof partitions !== "string") return { kind: "gpt", sector, partitions, warnings: [] };
    reasons.push(`${partitions} (sectors of ${sector})`);
  }
  for (const sector of sectors) {
    const lba = await backupLba(disk, sector);
    const partitions = await gptAt(disk, lba, sector);
    if (typeof partitions === "string") continue;
    const reason = reasons[sectors.indexOf(sector)] ?? "";
    const warnings = [`the primary GPT cannot be used, the backup at sector ${lba} is: ${reason}`];
    return { kind: "gpt", sector, partitions, warnings };
  }
  throw bad(`the GPT has no good header: ${reasons.join("; ")}; nor has its backup`);
}

/** What to look for. */
export interface TableSearch {
  readonly kind: "auto" | "mbr" | "gpt";
  /** Sector sizes that are possible, in bytes, the likelier one first. */
  readonly sectors: readonly number[];
}

/** Reads the partition table of a disk. Errno: EINVAL if there is none that can be used. */
export async function readPartitionTable(disk: Disk, search: TableSearch): Promise<PartitionTable> {
  if (disk.size < MBR_BYTES) throw bad("the disk is too small for one");
  const entries = mbrEntries(await disk.read(0, MBR_BYTES));
  const protective = entries?.some(({ type }) => type === TYPE_PROTECTIVE) ?? false;
  if (search.kind === "gpt" || (search.kind === "auto" && protective)) {
    return await readGpt(disk, search.sectors);
  }
  if (entries === null) {
    throw bad("there is no MBR; say table=gpt if there is a GPT without one");
  }
  return await readMbr(disk, entries, search.sectors[0] ?? MBR_BYTES);
}
