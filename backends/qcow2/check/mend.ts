/**
 * Puts entries of L1 and L2 tables right, the first step of a repair. References only become fewer by
 * that, so that a crash meanwhile leaves leaks and nothing worse. What points nowhere becomes zeroes,
 * which is what is read there anyway; a table that lies on another one is left alone.
 *
 * @module
 */
import { COPIED_HIGH, entryHigh, entryLow, entryOffset } from "../format/entries.ts";
import { viewOf } from "../format/numbers.ts";
import { CHECK_MESSAGES_MAX, L1_BYTES_MAX, REPAIR_GROWTH_BYTES_MAX } from "../limits.ts";
import { writeL1Entries } from "./copied.ts";
import { mendEntry, readEntry, writeEntry } from "./l2_entry.ts";
import { forEachEntry, TABLE_CHUNK_BYTES } from "./references.ts";
import { FreeClusters } from "./set_refcounts.ts";
import { breathe, type CheckState, hex, isHole } from "./state.ts";

/** An L1 table to be mended. */
interface Table {
  readonly offset: number;
  readonly entries: number;
  readonly what: string;
}

/** Tells something, as long as that is read by anyone. */
function note(notes: string[], message: string): void {
  if (notes.length < CHECK_MESSAGES_MAX) notes.push(message);
}

/** L1 tables that can be where they are said to be, the active one first. */
function l1Tables(state: CheckState): Table[] {
  const { header, cluster, snapshots: { snapshots } } = state;
  const active = { offset: header.l1Offset, entries: header.l1Size, what: "the L1 table" };
  const others = snapshots.map(({ name, l1Offset: offset, l1Size: entries }) => ({
    offset,
    entries,
    what: `the L1 table of snapshot "${name}"`,
  }));
  return [active, ...others].filter(({ offset, entries }) =>
    offset % cluster === 0 && entries > 0 && entries * 8 <= L1_BYTES_MAX &&
    offset <= Number.MAX_SAFE_INTEGER - L1_BYTES_MAX
  );
}

/**
 * A file that was cut: tables past its end are read as zeroes, so it is made longer by a hole until they
 * are in it. Gives true if it was.
 */
export function growOverTables(state: CheckState, notes: string[]): boolean {
  const { file, fileBytes, header, snapshots } = state;
  const ends = l1Tables(state).map(({ offset, entries }) => offset + entries * 8);
  if (snapshots.bytes > 0) ends.push(header.snapshotsOffset + snapshots.bytes);
  const end = Math.max(...ends.filter((each) => each <= fileBytes + REPAIR_GROWTH_BYTES_MAX), 0);
  if (end <= fileBytes || file.isBlockDevice) return false;
  file.truncate(end);
  note(notes, "The file ended before its tables: what was there is lost, and reads as zeroes");
  return true;
}

/** L2 tables that were copied to a place of their own: old offset to new. */
type Moved = ReadonlyMap<number, number>;

/** The entry of an L1 table as it has to be: offset 0 if it leads nowhere. */
function mendedL1(
  state: CheckState,
  moved: Moved,
  high: number,
  low: number,
): { high: number; low: number } {
  const { cluster, fileBytes } = state;
  const offset = entryOffset(high, low);
  const place = moved.get(offset);
  if (place !== undefined) return { high: entryHigh(place, false), low: entryLow(place, false) };
  if (offset === 0 || offset % cluster !== 0 || offset >= fileBytes) return { high: 0, low: 0 };
  return {
    high: (high & (COPIED_HIGH | 0x00ff_ffff)) >>> 0,
    low: (low & 0xffff_fe00) >>> 0,
  };
}

async function mendL1(
  state: CheckState,
  { offset, entries, what }: Table,
  moved: Moved,
  notes: string[],
): Promise<number> {
  let count = 0;
  for (let first = 0; first < entries; first += TABLE_CHUNK_BYTES / 8) {
    const changes: { index: number; high: number; low: number }[] = [];
    const part = Math.min(TABLE_CHUNK_BYTES / 8, entries - first);
    await forEachEntry(state, offset + first * 8, part, (at, high, low) => {
      const mended = mendedL1(state, moved, high, low);
      if (mended.high === high && mended.low === low) return;
      if (mended.high === 0 && mended.low === 0) {
        note(notes, `Entry ${first + at} of ${what} led nowhere, and is empty now`);
      }
      changes.push({ index: first + at, ...mended });
    });
    writeL1Entries(state, offset, changes);
    count += changes.length;
  }
  return count;
}

function mendL2(state: CheckState, offset: number, notes: string[]): number {
  const { cluster, entryBytes, file } = state;
  if (isHole(state, offset, cluster)) return 0;
  const bytes = new Uint8Array(cluster);
  file.read(bytes, offset);
  const view = viewOf(bytes);
  let from = cluster, to = 0, count = 0;
  for (let at = 0; at < cluster; at += entryBytes) {
    const mended = mendEntry(state, readEntry(view, at, entryBytes));
    if (mended === null) continue;
    if (mended.lost) {
      note(
        notes,
        `Entry ${at / entryBytes} of the L2 table at ${hex(offset)} led nowhere, and is zeroes now`,
      );
    }
    writeEntry(view, at, entryBytes, mended.entry);
    from = Math.min(from, at);
    to = at + entryBytes;
    count += 1;
  }
  if (count > 0) file.write(bytes.subarray(from, to), offset + from);
  return count;
}

/**
 * Copies L2 tables that lie on something else, on guest data perhaps, to places of their own, so that
 * they can be written to.
 */
async function moveShared(state: CheckState): Promise<Moved> {
  const { cluster, file, fileBytes, l2Tables, references } = state;
  const moved = new Map<number, number>();
  const free = new FreeClusters(state, (at) => at * cluster < fileBytes);
  for (const index of l2Tables.clusters()) {
    await breathe(state);
    if (references.get(index) === l2Tables.get(index)) continue;
    const bytes = new Uint8Array(cluster);
    file.read(bytes, index * cluster);
    const place = free.take(1) * cluster;
    file.write(bytes, place);
    moved.set(index * cluster, place);
  }
  if (moved.size > 0) await file.flushAsync();
  return moved;
}

/** Mends all L1 tables; gives how many entries were changed. */
async function mendL1Tables(state: CheckState, moved: Moved, notes: string[]): Promise<number> {
  const { cluster, header, references } = state;
  let count = 0;
  for (const table of l1Tables(state)) {
    // The active table is what the disk is made of. Another that lies on something else is damage itself.
    const alone = references.get(table.offset / cluster) === 1;
    if (!alone && table.offset !== header.l1Offset) continue;
    count += await mendL1(state, table, moved, notes);
  }
  return count;
}

/** L1 entries that lead nowhere are emptied; gives how many were changed. Count again afterwards. */
export async function mendL1Entries(state: CheckState, notes: string[]): Promise<number> {
  return await mendL1Tables(state, await moveShared(state), notes);
}

/**
 * Mends all L2 tables of a state whose references were counted after L1 entries were mended; gives how
 * many entries were changed, and adds to `notes` what is lost. Count again afterwards.
 */
export async function mendL2Entries(state: CheckState, notes: string[]): Promise<number> {
  const { cluster, l2Tables, references } = state;
  let count = 0;
  for (const index of l2Tables.clusters()) {
    await breathe(state);
    if (references.get(index) !== l2Tables.get(index)) continue;
    count += mendL2(state, index * cluster, notes);
  }
  return count;
}
