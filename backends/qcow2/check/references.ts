/**
 * Counts the references to every cluster of a file: header, L1 and L2 tables of the disk and of all
 * snapshots, their clusters, snapshot table, bitmaps, refcount table and blocks. Each L2 table is read
 * once, however many snapshots share it, so time is bounded by what the file holds.
 *
 * @module
 */
import { toBlockError } from "../../../lib/block/errors.ts";
import type { BitmapEntry } from "../format/bitmap_directory.ts";
import {
  entryOffset,
  isCopied,
  l1ReservedSet,
  l2ReservedSet,
  refcountBlockOffset,
  refcountTableReservedSet,
  subclustersInvalid,
} from "../format/entries.ts";
import { viewOf } from "../format/numbers.ts";
import { CHECK_UNALIGNED_TABLES_MAX, L1_BYTES_MAX } from "../limits.ts";
import { readBitmaps } from "../read_tables.ts";
import { compressedRange, holdsData, kindOf, type L2Entry, readEntry } from "./l2_entry.ts";
import { breathe, type CheckState, hex, isHole, refcountDue, refer, spend } from "./state.ts";

/** Bytes of a long table that are read at once. */
export const TABLE_CHUNK_BYTES = 1 << 20;

/** Calls `see` with every entry that is not 0 of a table of 8-byte entries, part by part. */
export async function forEachEntry(
  state: CheckState,
  offset: number,
  entries: number,
  see: (index: number, high: number, low: number) => void,
): Promise<void> {
  const length = entries * 8;
  for (let at = 0; at < length; at += TABLE_CHUNK_BYTES) {
    const part = Math.min(TABLE_CHUNK_BYTES, length - at);
    await breathe(state, part);
    spend(state, part / 8);
    if (isHole(state, offset + at, part)) continue;
    const bytes = new Uint8Array(part);
    state.file.read(bytes, offset + at);
    const view = viewOf(bytes);
    for (let index = 0; index < part; index += 8) {
      const high = view.getUint32(index), low = view.getUint32(index + 4);
      if (high !== 0 || low !== 0) see((at + index) / 8, high, low);
    }
  }
}

/** Notes a reference to an L2 table, to be looked into later. */
function noteL2Table(state: CheckState, offset: number, times: number, active: boolean): void {
  const { cluster, unaligned } = state;
  if (offset % cluster === 0) {
    const index = offset / cluster;
    state.l2Tables.add(index, times);
    if (active) state.activeL2Tables.add(index, times);
    return;
  }
  const known = unaligned.get(offset);
  if (known === undefined && unaligned.size >= CHECK_UNALIGNED_TABLES_MAX) return;
  unaligned.set(offset, {
    times: (known?.times ?? 0) + times,
    active: (known?.active ?? 0) + (active ? times : 0),
  });
}

/** An L1 table, `times` of them at the same place. */
interface L1Table {
  readonly offset: number;
  readonly entries: number;
  readonly times: number;
  readonly active: boolean;
  readonly what: string;
}

async function countL1(state: CheckState, table: L1Table): Promise<void> {
  const { offset, entries, times, active, what } = table;
  if (entries === 0) return;
  spend(state, Math.ceil(entries * 8 / state.cluster));
  if (!refer(state, offset, entries * 8, times, what)) return;
  const ofTable = `An L2 table of ${what}`;
  await forEachEntry(state, offset, entries, (index, high, low) => {
    const { findings, cluster } = state;
    const l2Offset = entryOffset(high, low);
    if (l1ReservedSet(high, low)) {
      findings.corruption(`Entry ${index} of ${what} has reserved bits set`, times);
    }
    const there = refer(state, l2Offset, cluster, times, ofTable);
    if (l2Offset % cluster !== 0) {
      findings.corruption(
        `Entry ${index} of ${what} points to ${hex(l2Offset)}, which no cluster begins at`,
        times,
      );
    }
    if (there && l2Offset !== 0) noteL2Table(state, l2Offset, times, active);
  });
}

/** Problems of a compressed cluster; true if its place counts. */
function checkCompressed(state: CheckState, entry: L2Entry, where: string, times: number): boolean {
  const { findings } = state;
  if (isCopied(entry.high)) {
    findings.corruption(`${where} is compressed, but has the COPIED flag`, times);
  }
  if (state.dataFile) {
    findings.corruption(`${where} is compressed, which goes not with a data file`, times);
    return false;
  }
  if (entry.zeroes !== 0 || entry.allocated !== 0) {
    findings.corruption(`${where} is compressed, but has a bitmap of subclusters`, times);
    return false;
  }
  return true;
}

/** Where an L2 entry is, for messages. */
interface EntryPlace {
  readonly table: number;
  index: number;
}

/** What `countL2Entry` gives for entries without a place of their own. */
const NOWHERE = -1, COMPRESSED = -2;

/** Counts one entry of an L2 table that is not all 0. Gives the place of its cluster. */
function countL2Entry(
  state: CheckState,
  entry: L2Entry,
  place: EntryPlace,
  times: number,
): number {
  const { findings, cluster } = state;
  const kind = kindOf(state, entry);
  const where = (): string => `Entry ${place.index} of the L2 table at ${hex(place.table)}`;
  if (kind === "compressed") {
    if (!checkCompressed(state, entry, where(), times)) return NOWHERE;
    const { offset, length } = compressedRange(state, entry);
    refer(state, offset, length, times, `The compressed data of ${where()}`);
    return COMPRESSED;
  }
  if (l2ReservedSet(entry.high, entry.low, false)) {
    findings.corruption(`${where()} has reserved bits set`, times);
  }
  if (kind === "unallocated") {
    if (entry.allocated !== 0) {
      findings.corruption(`${where()} has allocated subclusters, but no place`, times);
    }
    return NOWHERE;
  }
  if (kind === "zero") return NOWHERE;
  if (subclustersInvalid(entry.zeroes, entry.allocated)) {
    findings.corruption(`${where()} has subclusters that are both allocated and zero`, times);
  }
  const offset = entryOffset(entry.high, entry.low);
  if (offset % cluster !== 0) {
    const what = holdsData(state, entry, kind) ? "data" : "reserved space";
    findings.corruption(
      `${where()} has ${what} at ${hex(offset)}, which no cluster begins at`,
      times,
    );
  }
  if (!state.dataFile) {
    refer(state, offset, cluster, times, "A guest cluster");
  }
  return offset;
}

/** Counts an L2 table; gives the bytes that were read. */
function countL2(state: CheckState, offset: number, times: number, active: number): number {
  const { file, cluster, entryBytes, findings } = state;
  if (isHole(state, offset, cluster)) return 0;
  const bytes = new Uint8Array(cluster);
  file.read(bytes, offset);
  const view = viewOf(bytes);
  const words = new Uint32Array(bytes.buffer);
  const place: EntryPlace = { table: offset, index: 0 };
  let expected = 0;
  for (let at = 0; at < cluster; at += entryBytes) {
    const word = at / 4;
    if (words[word] === 0 && words[word + 1] === 0 && (entryBytes === 8 || words[word + 3] === 0)) {
      continue;
    }
    place.index = at / entryBytes;
    const host = countL2Entry(state, readEntry(view, at, entryBytes), place, times);
    if (host === NOWHERE || active === 0) continue;
    findings.allocated += active;
    if (host === COMPRESSED) {
      findings.compressed += active;
      findings.fragmented += active;
      continue;
    }
    if (expected !== 0 && host !== expected) findings.fragmented += active;
    expected = host + cluster;
  }
  return cluster;
}

async function countL2Tables(state: CheckState): Promise<void> {
  const { cluster, l2Tables, activeL2Tables } = state;
  for (const index of l2Tables.clusters()) {
    state.context.progress(Math.min(index * cluster, state.fileBytes), state.fileBytes);
    const times = l2Tables.get(index), active = activeL2Tables.get(index);
    await breathe(state, countL2(state, index * cluster, times, active));
  }
  for (const [offset, { times, active }] of state.unaligned) {
    spend(state, cluster / 8);
    await breathe(state, countL2(state, offset, times, active));
  }
}

async function countSnapshots(state: CheckState): Promise<void> {
  const { findings, cluster, header, snapshots: { snapshots, bytes } } = state;
  if (state.dataFile && snapshots.length > 0) {
    findings.corruption(`There are ${snapshots.length} snapshots in an image with a data file`);
  }
  const tables = new Map<string, L1Table>();
  for (const { name, l1Offset: offset, l1Size: entries } of snapshots) {
    const what = `the L1 table of snapshot "${name}"`;
    if (offset % cluster !== 0 || offset > Number.MAX_SAFE_INTEGER - L1_BYTES_MAX) {
      findings.corruption(`The snapshot "${name}" has its L1 table at ${hex(offset)}`);
    } else if (entries * 8 > L1_BYTES_MAX) {
      findings.corruption(`The snapshot "${name}" has an L1 table of ${entries} entries`);
    } else {
      // Snapshots that share a table, which is damage, are counted in one go.
      const key = `${offset}:${entries}`;
      const times = (tables.get(key)?.times ?? 0) + 1;
      tables.set(key, { offset, entries, times, active: false, what });
    }
  }
  for (const table of tables.values()) await countL1(state, table);
  refer(state, header.snapshotsOffset, bytes, 1, "The snapshot table");
}

function bitmapsOf(state: CheckState): readonly BitmapEntry[] {
  try {
    return readBitmaps(state.file, state.header);
  } catch (error) {
    state.findings.corruption(toBlockError(error).message);
    state.badBitmaps = true;
    return [];
  }
}

async function countBitmaps(state: CheckState): Promise<void> {
  const { header: { bitmaps }, findings, cluster } = state;
  if (bitmaps === null) return;
  const { directoryOffset, directoryBytes } = bitmaps;
  refer(state, directoryOffset, directoryBytes, 1, "The bitmap directory");
  for (const { name, tableOffset, tableEntries } of bitmapsOf(state)) {
    spend(state, Math.ceil(tableEntries * 8 / cluster));
    if (!refer(state, tableOffset, tableEntries * 8, 1, `The table of bitmap "${name}"`)) {
      state.badBitmaps = true;
      continue;
    }
    await forEachEntry(state, tableOffset, tableEntries, (index, high, low) => {
      const offset = entryOffset(high, low);
      const reserved = (high & 0xff00_0000) !== 0 || (low & (offset === 0 ? 0x1fe : 0x1ff)) !== 0;
      if (reserved || offset % cluster !== 0) {
        findings.corruption(`Entry ${index} of the table of bitmap "${name}" is damaged`);
        state.badBitmaps = true;
      } else if (
        offset !== 0 && !refer(state, offset, cluster, 1, `A cluster of bitmap "${name}"`)
      ) {
        state.badBitmaps = true;
      }
    });
  }
}

async function countRefcountBlocks(state: CheckState): Promise<void> {
  const { header, cluster, findings } = state;
  const { refcountTableOffset, refcountTableClusters } = header;
  const entries = refcountTableClusters * cluster / 8;
  if (!refer(state, refcountTableOffset, entries * 8, 1, "The refcount table")) {
    state.rebuild = true;
  }
  await forEachEntry(state, refcountTableOffset, entries, (index, high, low) => {
    const offset = refcountBlockOffset(high, low);
    const what = `Refcount block ${index}`;
    if (refcountTableReservedSet(low)) {
      findings.corruption(`${what} has reserved bits set in its entry of the refcount table`);
      state.rebuild = true;
    } else if (offset % cluster !== 0) {
      findings.corruption(`${what} is at ${hex(offset)}, which no cluster begins at`);
      state.rebuild = true;
    } else if (offset / cluster >= state.clusters) {
      findings.corruption(`${what} is at ${hex(offset)}, past the end of the file`);
      state.rebuild = true;
    } else if (offset !== 0) {
      refer(state, offset, cluster, 1, what);
      const count = refcountDue(state, offset / cluster);
      if (count !== 1) {
        findings.corruption(`${what} at ${hex(offset)} is referred to ${count} times`);
        state.rebuild = true;
      }
    }
  });
}

/**
 * Counts all references of an image; what is wrong goes to `state.findings`. Refcount table and blocks
 * are left out for a rebuild: they are going to be elsewhere.
 */
export async function countReferences(
  state: CheckState,
  refcounts: "with refcounts" | "without refcounts",
): Promise<void> {
  const { header, cluster } = state;
  refer(state, 0, cluster, 1, "The header");
  await countL1(state, {
    offset: header.l1Offset,
    entries: header.l1Size,
    times: 1,
    active: true,
    what: "the L1 table",
  });
  await countSnapshots(state);
  await countL2Tables(state);
  await countBitmaps(state);
  if (refcounts === "with refcounts") await countRefcountBlocks(state);
}
