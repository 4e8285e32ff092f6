/**
 * The COPIED flags of the active L1 table and its L2 tables: set if, and only if, the refcount of what the
 * entry points to is exactly one. A wrong one makes a write go into a cluster that others share.
 *
 * @module
 */
import { COPIED_HIGH, entryOffset, isCopied } from "../format/entries.ts";
import { viewOf } from "../format/numbers.ts";
import { kindOf, readEntry } from "./l2_entry.ts";
import { forEachEntry, TABLE_CHUNK_BYTES } from "./references.ts";
import { breathe, type CheckState, hex, isHole, spend } from "./state.ts";

/** Tells the refcount of a cluster. */
export type RefcountOf = (cluster: number) => number;

/** What to do about flags: tell of those that are wrong, clear the dangerous ones, or set what is missing. */
export type CopiedWork = "find" | "clear" | "set";

/** Byte ranges of a table that were changed: the first and the end of the last. */
interface Changed {
  from: number;
  to: number;
}

/** The high half with the flag put right, or null if it is left as it is. */
function fixed(high: number, one: boolean, work: CopiedWork): number | null {
  if (isCopied(high) === one || work === "find" || one !== (work === "set")) return null;
  return (one ? high | COPIED_HIGH : high & ~COPIED_HIGH) >>> 0;
}

function flagsOfL2(
  state: CheckState,
  offset: number,
  refcountOf: RefcountOf,
  work: CopiedWork,
  times: number,
): number {
  const { cluster, entryBytes, file, findings, dataFile } = state;
  if (isHole(state, offset, cluster)) return 0;
  const bytes = new Uint8Array(cluster);
  file.read(bytes, offset);
  const view = viewOf(bytes);
  const changed: Changed = { from: cluster, to: 0 };
  let count = 0;
  for (let at = 0; at < cluster; at += entryBytes) {
    const entry = readEntry(view, at, entryBytes);
    const kind = kindOf(state, entry);
    if (kind !== "data" && kind !== "allocated zero") continue;
    const place = Math.floor(entryOffset(entry.high, entry.low) / cluster);
    const one = dataFile || refcountOf(place) === 1;
    if (isCopied(entry.high) === one) continue;
    if (work === "find") {
      const flag = one ? "lacks the COPIED flag" : "has the COPIED flag";
      findings.corruption(
        `Entry ${at / entryBytes} of the L2 table at ${hex(offset)} ${flag}, ` +
          `but cluster ${place} has refcount ${refcountOf(place)}`,
        times,
      );
      continue;
    }
    const high = fixed(entry.high, one, work);
    if (high === null) continue;
    view.setUint32(at, high);
    changed.from = Math.min(changed.from, at);
    changed.to = at + entryBytes;
    count += 1;
  }
  if (count > 0) file.write(bytes.subarray(changed.from, changed.to), offset + changed.from);
  return count;
}

/** An L1 entry to be written. */
interface L1Change {
  readonly index: number;
  readonly high: number;
  readonly low: number;
}

/** Writes changed entries of an L1 table, eight bytes each. */
export function writeL1Entries(
  state: CheckState,
  l1Offset: number,
  list: readonly L1Change[],
): void {
  for (const { index, high, low } of list) {
    const bytes = new Uint8Array(8);
    viewOf(bytes).setUint32(0, high);
    viewOf(bytes).setUint32(4, low);
    state.file.write(bytes, l1Offset + index * 8);
  }
}

/** The flags of the L1 table, in parts, so that no long list of changes is kept. */
async function flagsOfL1(
  state: CheckState,
  refcountOf: RefcountOf,
  work: CopiedWork,
): Promise<number> {
  const { header, cluster, findings } = state;
  let count = 0;
  for (let first = 0; first < header.l1Size; first += TABLE_CHUNK_BYTES / 8) {
    const entries = Math.min(TABLE_CHUNK_BYTES / 8, header.l1Size - first);
    const changes: L1Change[] = [];
    await forEachEntry(state, header.l1Offset + first * 8, entries, (at, high, low) => {
      const offset = entryOffset(high, low), index = first + at;
      if (offset === 0) return;
      const refcount = refcountOf(Math.floor(offset / cluster));
      if (isCopied(high) === (refcount === 1)) return;
      if (work === "find") {
        const flag = refcount === 1 ? "lacks the COPIED flag" : "has the COPIED flag";
        findings.corruption(
          `Entry ${index} of the L1 table ${flag}, but its L2 table has refcount ${refcount}`,
        );
      }
      const mended = fixed(high, refcount === 1, work);
      if (mended !== null) changes.push({ index, high: mended, low });
    });
    writeL1Entries(state, header.l1Offset, changes);
    count += changes.length;
  }
  return count;
}

/**
 * Goes through all COPIED flags of the active tables. Gives how many were changed; flags that are found
 * wrong, and not to be changed, are corruptions. L2 tables that lie on something else are not written to.
 */
export async function goThroughFlags(
  state: CheckState,
  refcountOf: RefcountOf,
  work: CopiedWork,
): Promise<number> {
  const { cluster, activeL2Tables, l2Tables, references, unaligned } = state;
  let count = await flagsOfL1(state, refcountOf, work);
  for (const index of activeL2Tables.clusters()) {
    await breathe(state);
    if (work !== "find" && references.get(index) !== l2Tables.get(index)) continue;
    count += flagsOfL2(state, index * cluster, refcountOf, work, activeL2Tables.get(index));
  }
  if (work !== "find") return count;
  for (const [offset, { active }] of unaligned) {
    spend(state, cluster / 8);
    if (active > 0) count += flagsOfL2(state, offset, refcountOf, work, active);
  }
  return count;
}
