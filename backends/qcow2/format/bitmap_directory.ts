/**
 * The bitmap directory: docs/interop/qcow2.rst of QEMU, section "Bitmaps". The content of bitmaps is not
 * looked at: this program lists them, keeps them, or drops them.
 *
 * @module
 */
import {
  BITMAP_BYTES_MAX,
  BITMAP_GRANULARITY_BITS_MAX,
  BITMAP_GRANULARITY_BITS_MIN,
  BITMAP_NAME_BYTES_MAX,
  BITMAP_TABLE_ENTRIES_MAX,
} from "../limits.ts";
import { badImage, decodeText, getU64, roundUp8, setU64, viewOf } from "./numbers.ts";

/** Bytes of the fixed part of an entry. */
const ENTRY_BYTES = 24;
/** Flag: it was not saved, and is not to be trusted. */
export const BITMAP_IN_USE = 1;
/** Flag: it follows all writes from the first on. */
export const BITMAP_AUTO = 2;
const KNOWN_FLAGS = 3;
/** The only type: a dirty tracking bitmap. */
const DIRTY_TRACKING = 1;

/** One bitmap of an image. Change it by making a copy with a spread. */
export interface BitmapEntry {
  /** Its name, unique in the image. */
  readonly name: string;
  /** Where its table is in the file, bytes, a multiple of the cluster size. */
  readonly tableOffset: number;
  /** Entries of its table, each of 8 bytes, one for each cluster of bits. */
  readonly tableEntries: number;
  /** BITMAP_IN_USE, BITMAP_AUTO. */
  readonly flags: number;
  /** A bit stands for 2 to this power bytes of the disk: 9 to 31. */
  readonly granularityBits: number;
}

function checkEntry(entry: BitmapEntry, extraBytes: number, cluster: number): string | null {
  const { tableOffset, tableEntries, flags, granularityBits } = entry;
  if (extraBytes !== 0) return "has extra data, which is not supported";
  if (tableEntries === 0 || tableEntries > BITMAP_TABLE_ENTRIES_MAX) {
    return `has a table of ${tableEntries} entries, not 1 to ${BITMAP_TABLE_ENTRIES_MAX}`;
  }
  if (tableEntries * cluster > BITMAP_BYTES_MAX) {
    return `has ${tableEntries * cluster} bytes (limit: ${BITMAP_BYTES_MAX})`;
  }
  if (
    tableOffset === 0 || tableOffset % cluster !== 0 || tableOffset > Number.MAX_SAFE_INTEGER / 2
  ) {
    return `has its table at ${tableOffset}, which no cluster can begin at`;
  }
  if ((flags & ~KNOWN_FLAGS) !== 0) return `has unknown flags 0x${flags.toString(16)}`;
  if (
    granularityBits < BITMAP_GRANULARITY_BITS_MIN || granularityBits > BITMAP_GRANULARITY_BITS_MAX
  ) return `has a granularity of 2^${granularityBits} bytes`;
  return null;
}

/** Throws EINVAL if there is no room for `length` bytes from `at` on. */
function need(bytes: Uint8Array, at: number, length: number, path: string): void {
  if (at + length > bytes.length) throw badImage(path, "its bitmap directory ends within an entry");
}

/**
 * The `count` bitmaps that the directory (its bytes, whole) lists. Throws EINVAL for damage and for what
 * QEMU does not take either: extra data, other types, names past 1023 bytes or there twice.
 */
export function decodeBitmapDirectory(
  bytes: Uint8Array,
  count: number,
  clusterBytes: number,
  path: string,
): BitmapEntry[] {
  const entries: BitmapEntry[] = [];
  const view = viewOf(bytes);
  const names = new Set<string>();
  let at = 0;
  for (let index = 0; index < count; index += 1) {
    const what = `bitmap ${index + 1}`;
    need(bytes, at, ENTRY_BYTES, path);
    const nameBytes = view.getUint16(at + 18), extraBytes = view.getUint32(at + 20);
    const nameAt = at + ENTRY_BYTES + extraBytes;
    need(bytes, nameAt, nameBytes, path);
    if (nameBytes === 0 || nameBytes > BITMAP_NAME_BYTES_MAX) {
      throw badImage(
        path,
        `${what} has a name of ${nameBytes} bytes, not 1 to ${BITMAP_NAME_BYTES_MAX}`,
      );
    }
    const type = view.getUint8(at + 16);
    if (type !== DIRTY_TRACKING) throw badImage(path, `${what} is of unknown type ${type}`);
    const entry: BitmapEntry = {
      name: decodeText(bytes.subarray(nameAt, nameAt + nameBytes), path, `the name of ${what}`),
      tableOffset: getU64(view, at),
      tableEntries: view.getUint32(at + 8),
      flags: view.getUint32(at + 12),
      granularityBits: view.getUint8(at + 17),
    };
    const problem = checkEntry(entry, extraBytes, clusterBytes);
    if (problem !== null) throw badImage(path, `bitmap "${entry.name}" ${problem}`);
    if (names.has(entry.name)) throw badImage(path, `two bitmaps are called "${entry.name}"`);
    names.add(entry.name);
    entries.push(entry);
    at += roundUp8(ENTRY_BYTES + extraBytes + nameBytes);
  }
  if (at !== bytes.length) throw badImage(path, "its bitmap directory is longer than its entries");
  return entries;
}

/** A bitmap directory of these entries, whose names have at most 1023 bytes. */
export function encodeBitmapDirectory(entries: readonly BitmapEntry[]): Uint8Array {
  const names = entries.map(({ name }) => new TextEncoder().encode(name));
  const length = names.reduce((sum, name) => sum + roundUp8(ENTRY_BYTES + name.length), 0);
  const bytes = new Uint8Array(length);
  const view = viewOf(bytes);
  let at = 0;
  entries.forEach((entry, index) => {
    const name = names[index] ?? new Uint8Array();
    setU64(view, at, entry.tableOffset);
    view.setUint32(at + 8, entry.tableEntries);
    view.setUint32(at + 12, entry.flags);
    view.setUint8(at + 16, DIRTY_TRACKING);
    view.setUint8(at + 17, entry.granularityBits);
    view.setUint16(at + 18, name.length);
    bytes.set(name, at + ENTRY_BYTES);
    at += roundUp8(ENTRY_BYTES + name.length);
  });
  return bytes;
}
