/**
 * Repairs an image that was checked. The order is that of crash safety: entries that lead nowhere, COPIED
 * flags that allow too much, refcounts that are too low, the header's switch to new tables, refcounts that
 * are too high, COPIED flags that are missing, and at last the dirty and corrupt bits. A flush is between
 * any two of them.
 *
 * @module
 */
import {
  AUTOCLEAR_BITMAPS,
  AUTOCLEAR_KNOWN,
  INCOMPATIBLE_CORRUPT,
  INCOMPATIBLE_DIRTY,
  type QcowHeader,
} from "../format/header.ts";
import { encodeSnapshotTable, snapshotIncomplete } from "../format/snapshot_table.ts";
import { goThroughFlags } from "./copied.ts";
import { growOverTables, mendL1Entries, mendL2Entries } from "./mend.ts";
import { patchHeader } from "./patch_header.ts";
import { countReferences } from "./references.ts";
import { compareRefcounts, RefcountReader } from "./refcounts.ts";
import { FreeClusters, rebuildRefcounts, setRefcounts } from "./set_refcounts.ts";
import { type CheckState, refcountDue, startCheck } from "./state.ts";

/** What a repair has done. */
export interface RepairWork {
  /** COPIED flags that were put right. */
  readonly flags: number;
  /** What a human should know. */
  readonly notes: readonly string[];
}

/** True if the snapshot table has to be written again. */
export function snapshotTableDamaged({ header, snapshots }: CheckState): boolean {
  return snapshots.dropped > 0 || snapshots.extraCut > 0 ||
    (header.version === 3 && snapshots.snapshots.some(snapshotIncomplete));
}

/** Clears what a program that writes has to clear, before it writes anything else. */
async function beginWriting(state: CheckState, header: QcowHeader): Promise<QcowHeader> {
  const kept = state.badBitmaps ? AUTOCLEAR_KNOWN & ~AUTOCLEAR_BITMAPS : AUTOCLEAR_KNOWN;
  const autoclear = header.autoclear & kept;
  if (autoclear === header.autoclear) return header;
  const changed = {
    ...header,
    autoclear,
    bitmaps: (autoclear & AUTOCLEAR_BITMAPS) === 0n ? null : header.bitmaps,
  };
  patchHeader(state.file, changed);
  await state.file.flushAsync();
  return changed;
}

/** The same file looked at again. */
async function again(before: CheckState, header: QcowHeader): Promise<CheckState> {
  const state = startCheck(before.file, header, before.snapshots, before.context);
  await countReferences(state, "with refcounts");
  return state;
}

/** Clusters of the refcount table and its blocks, as far as they are in the file. */
function oldStructures(state: CheckState): (cluster: number) => boolean {
  const { header: { refcountTableOffset, refcountTableClusters }, cluster } = state;
  const first = refcountTableOffset / cluster;
  const reader = new RefcountReader(state);
  const blocks = new Set<number>();
  for (let index = 0; index < refcountTableClusters * cluster / 8; index += 1) {
    const place = reader.place(index);
    if (place > 0) blocks.add(place / cluster);
  }
  return (at) => (at >= first && at < first + refcountTableClusters) || blocks.has(at);
}

/** Stores the snapshots in a new place; the header does not lead there yet. */
function writeSnapshots(state: CheckState, header: QcowHeader, free: FreeClusters): QcowHeader {
  const { cluster, file, snapshots: { snapshots } } = state;
  if (snapshots.length === 0) return { ...header, snapshotCount: 0, snapshotsOffset: 0 };
  const bytes = encodeSnapshotTable(snapshots, header.size);
  const first = free.take(Math.ceil(bytes.length / cluster));
  file.write(bytes, first * cluster);
  return { ...header, snapshotCount: snapshots.length, snapshotsOffset: first * cluster };
}

/** New refcount structures, and a new snapshot table if the old one is damaged. Gives all references. */
async function rebuild(before: CheckState, begun: QcowHeader): Promise<CheckState> {
  const damaged = snapshotTableDamaged(before);
  const state = await countedWithout(before, damaged);
  const taken = oldStructures(before);
  const oldTable = before.header.snapshotsOffset / before.cluster;
  const oldTableEnd = Math.ceil(
    (before.header.snapshotsOffset + before.snapshots.bytes) / before.cluster,
  );
  const free = new FreeClusters(
    state,
    (at) => taken(at) || (damaged && at >= oldTable && at < oldTableEnd),
  );
  const header = damaged ? writeSnapshots(state, begun, free) : begun;
  await rebuildRefcounts(state, header, free);
  return state;
}

/** References without those of refcount structures, and of the snapshot table if that is replaced. */
async function countedWithout(before: CheckState, snapshotTable: boolean): Promise<CheckState> {
  const snapshots = snapshotTable ? { ...before.snapshots, bytes: 0 } : before.snapshots;
  const state = startCheck(before.file, before.header, snapshots, before.context);
  await countReferences(state, "without refcounts");
  return state;
}

/** True if the refcount table lies on something else. */
function tableShared({ header, cluster, references }: CheckState): boolean {
  const first = header.refcountTableOffset / cluster;
  for (let at = 0; at < header.refcountTableClusters; at += 1) {
    if (references.get(first + at) > 1) return true;
  }
  return false;
}

async function repairAll(found: CheckState, begun: QcowHeader): Promise<RepairWork> {
  const notes: string[] = [];
  let state = found;
  let changed = growOverTables(state, notes);
  if (changed) state = await again(state, begun);
  for (const mend of [mendL1Entries, mendL2Entries]) {
    changed = await mend(state, notes) > 0;
    await state.file.flushAsync();
    if (changed || begun !== state.header) state = await again(state, begun);
  }
  const reader = new RefcountReader(state);
  await findUnplaced(state, reader);
  let flags = await goThroughFlags(state, (cluster) => refcountDue(state, cluster), "clear");
  await state.file.flushAsync();
  if (state.rebuild || tableShared(state) || snapshotTableDamaged(state)) {
    state = await rebuild(state, begun);
    notes.push("The refcount table was made anew");
  } else {
    await setRefcounts(state, reader, "all");
  }
  flags += await goThroughFlags(state, (cluster) => refcountDue(state, cluster), "set");
  await state.file.flushAsync();
  return { flags, notes };
}

/** Asks for a rebuild if something in use has no refcount block. */
async function findUnplaced(state: CheckState, reader: RefcountReader): Promise<void> {
  await compareRefcounts(state, reader, (_cluster, stored, counted) => {
    if (stored === 0 && counted > 0) state.rebuild = true;
  });
}

async function repairLeaks(state: CheckState): Promise<RepairWork> {
  // Refcounts in a structure that is not sound may be anything, guest data even.
  if (state.rebuild) {
    return { flags: 0, notes: ["Leaks are not repaired: the refcount table is damaged"] };
  }
  await setRefcounts(state, new RefcountReader(state), "leaks");
  if (state.findings.corruptions > 0) return { flags: 0, notes: [] };
  const due = (cluster: number): number => refcountDue(state, cluster);
  const flags = await goThroughFlags(state, due, "clear") + await goThroughFlags(state, due, "set");
  await state.file.flushAsync();
  return { flags, notes: [] };
}

/** Repairs what a check, whose state this is, has found. Check again afterwards. */
export async function repairImage(found: CheckState, repair: "leaks" | "all"): Promise<RepairWork> {
  const begun = await beginWriting(found, found.header);
  return repair === "all" ? await repairAll(found, begun) : await repairLeaks(found);
}

/** Clears the dirty and corrupt bits of an image that was found sound, durably. */
export async function markSound({ file, header }: CheckState): Promise<void> {
  const incompatible = header.incompatible & ~(INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT);
  if (incompatible === header.incompatible) return;
  patchHeader(file, { ...header, incompatible });
  await file.flushAsync();
}
