/**
 * What can be wrong with one L2 entry, and how it is put right.
 *
 * @module
 */
import {
  compressedBytes,
  compressedOffset,
  COPIED_HIGH,
  entryOffset,
  isCompressed,
  isCopied,
  l2ReservedSet,
  ZERO_LOW,
} from "../format/entries.ts";
import type { CheckState } from "./state.ts";

/** The parts of an entry; the bitmap is 0 without extended entries. */
export interface L2Entry {
  /** Bits 32 to 63. */
  readonly high: number;
  /** Bits 0 to 31. */
  readonly low: number;
  /** Subclusters that read as zeroes. */
  readonly zeroes: number;
  /** Subclusters that are allocated. */
  readonly allocated: number;
}

/** What kind of cluster an entry stands for. */
export type ClusterKind = "compressed" | "data" | "allocated zero" | "zero" | "unallocated";

/** The entry at byte `at` of a table. */
export function readEntry(view: DataView, at: number, entryBytes: number): L2Entry {
  const extended = entryBytes === 16;
  return {
    high: view.getUint32(at),
    low: view.getUint32(at + 4),
    zeroes: extended ? view.getUint32(at + 8) : 0,
    allocated: extended ? view.getUint32(at + 12) : 0,
  };
}

/** Stores an entry at byte `at` of a table. */
export function writeEntry(view: DataView, at: number, entryBytes: number, entry: L2Entry): void {
  view.setUint32(at, entry.high);
  view.setUint32(at + 4, entry.low);
  if (entryBytes !== 16) return;
  view.setUint32(at + 8, entry.zeroes);
  view.setUint32(at + 12, entry.allocated);
}

/** The kind of cluster. */
export function kindOf(state: CheckState, { high, low }: L2Entry): ClusterKind {
  if (isCompressed(high)) return "compressed";
  const somewhere = entryOffset(high, low) !== 0;
  if ((low & ZERO_LOW) !== 0 && state.entryBytes === 8) {
    return somewhere ? "allocated zero" : "zero";
  }
  // With a data file the first cluster of it is a place like any other.
  return somewhere || (state.dataFile && isCopied(high)) ? "data" : "unallocated";
}

/** True if any part of the cluster is read from where the entry points to. */
export function holdsData(state: CheckState, entry: L2Entry, kind: ClusterKind): boolean {
  if (kind === "compressed") return true;
  return kind === "data" && (state.entryBytes === 8 || entry.allocated !== 0);
}

/** Where a compressed cluster is, and how long. */
export function compressedRange(
  state: CheckState,
  { high, low }: L2Entry,
): { readonly offset: number; readonly length: number } {
  const { clusterBits } = state.header;
  return {
    offset: compressedOffset(high, low, clusterBits),
    length: compressedBytes(high, low, clusterBits),
  };
}

/** True if the cluster is not where the file is, or begins within a cluster. */
export function isLost(state: CheckState, entry: L2Entry, kind: ClusterKind): boolean {
  if (kind === "compressed") {
    const { offset, length } = compressedRange(state, entry);
    return state.dataFile || offset + length - state.fileBytes >= state.cluster;
  }
  if (kind !== "data" && kind !== "allocated zero") return false;
  const offset = entryOffset(entry.high, entry.low);
  if (offset % state.cluster !== 0) return true;
  return !state.dataFile && offset + state.cluster - state.fileBytes >= state.cluster;
}

/** An entry that reads as zeroes where `entry` had data; the backing file must not show through. */
function zeroed(state: CheckState, entry: L2Entry): L2Entry {
  if (state.entryBytes === 16) {
    // A compressed cluster has no bitmap: all of it was data.
    const data = isCompressed(entry.high) ? 0xffff_ffff : entry.allocated;
    return { high: 0, low: 0, zeroes: (entry.zeroes | data) >>> 0, allocated: 0 };
  }
  return { high: 0, low: state.header.version === 2 ? 0 : ZERO_LOW, zeroes: 0, allocated: 0 };
}

/** An entry that is put right. */
export interface MendedEntry {
  /** The new entry. */
  readonly entry: L2Entry;
  /** What of the guest's data could not be found any more, and reads as zeroes now. */
  readonly lost: boolean;
}

/** Puts an entry right; null if nothing is wrong with it, or nothing can be done. COPIED flags are not looked at. */
export function mendEntry(state: CheckState, found: L2Entry): MendedEntry | null {
  const kind = kindOf(state, found);
  if (isLost(state, found, kind)) {
    // Version 2 cannot say "zeroes", and old data of a backing file would be worse than none.
    if (state.header.version === 2 && state.header.backingFile !== null) return null;
    return { entry: zeroed(state, found), lost: holdsData(state, found, kind) };
  }
  let { high, low, zeroes, allocated } = found;
  if (kind === "compressed") {
    high = (high & ~COPIED_HIGH) >>> 0;
    zeroes = 0;
    allocated = 0;
  } else {
    if (l2ReservedSet(high, low, false)) {
      high = (high & ~0x3f00_0000) >>> 0;
      low = (low & ~0x1fe) >>> 0;
    }
    if (kind === "unallocated") allocated = 0;
    // Both bits: what was written is kept.
    zeroes = (zeroes & ~allocated) >>> 0;
  }
  const same = high === found.high && low === found.low && zeroes === found.zeroes &&
    allocated === found.allocated;
  return same ? null : { entry: { high, low, zeroes, allocated }, lost: false };
}
