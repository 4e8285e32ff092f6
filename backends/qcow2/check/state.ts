/**
 * What all parts of a check share: the file, its header and tables, the references that were counted.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import type { ImageContext } from "../../../lib/block/image.ts";
import type { RawFile } from "../../../lib/sys/file_access.ts";
import { type RefcountCodec, refcountCodec } from "../format/entries.ts";
import {
  clusterBytes,
  hasDataFile,
  hasExtendedL2,
  l2Entries,
  type QcowHeader,
} from "../format/header.ts";
import type { SnapshotTable } from "../format/snapshot_table.ts";
import { CHECK_CLUSTERS_MAX, CHECK_ENTRIES_MAX, CHECK_MEMORY_BYTES_MAX } from "../limits.ts";
import { Findings } from "./findings.ts";
import { MemoryBudget, ReferenceMap } from "./reference_map.ts";

/** Bytes of tables between two looks at the abort signal. */
const BREATH_BYTES = 4 * 1024 * 1024;
/** What a step counts for that reads nothing, bytes. */
const STEP_BYTES = 1024;

/** A check, or one pass of a repair, of one file. */
export interface CheckState {
  /** The file. */
  readonly file: RawFile;
  /** Its header. */
  readonly header: QcowHeader;
  /** Its snapshots, as far as they could be read. */
  readonly snapshots: SnapshotTable;
  /** Bytes of a cluster. */
  readonly cluster: number;
  /** Bytes of an L2 entry: 8 or 16. */
  readonly entryBytes: number;
  /** Entries of an L2 table. */
  readonly l2Entries: number;
  /** Guest data is in another file. */
  readonly dataFile: boolean;
  /** Refcounts of the image. */
  readonly refcounts: RefcountCodec;
  /** Bytes of the file when the check began. */
  readonly fileBytes: number;
  /** References to each cluster of the file. */
  readonly references: ReferenceMap;
  /** References to L2 tables, by cluster. */
  readonly l2Tables: ReferenceMap;
  /** References to L2 tables from the active L1 table, by cluster. */
  readonly activeL2Tables: ReferenceMap;
  /** L2 tables that begin within a cluster: offset to references, those from the active L1 table last. */
  readonly unaligned: Map<number, { times: number; active: number }>;
  /** What was found. */
  readonly findings: Findings;
  /** Refcounts cannot be set one by one: table and blocks have to be made anew. */
  rebuild: boolean;
  /** The bitmaps cannot be read. */
  badBitmaps: boolean;
  /** Clusters of the file, and one more if something refers to a part of it. */
  clusters: number;
  /** Entries looked at so far. */
  work: number;
  /** The run of data, or hole, of the file that was looked at last. */
  run: { readonly start: number; readonly end: number; readonly hole: boolean };
  /** Bytes of tables looked at since others could run. */
  unbreathed: number;
  /** Clock, abort signal, progress. */
  readonly context: ImageContext;
}

/** Begins a check. Throws EFBIG for a file of too many clusters. */
export function startCheck(
  file: RawFile,
  header: QcowHeader,
  snapshots: SnapshotTable,
  context: ImageContext,
): CheckState {
  context.signal.throwIfAborted();
  const cluster = clusterBytes(header);
  const fileBytes = file.size();
  const clusters = Math.ceil(fileBytes / cluster);
  if (clusters > CHECK_CLUSTERS_MAX) {
    throw new BlockError(
      "EFBIG",
      `Cannot check ${file.path}: it has ${clusters} clusters (limit: ${CHECK_CLUSTERS_MAX})`,
    );
  }
  const budget = new MemoryBudget(file.path, CHECK_MEMORY_BYTES_MAX);
  return {
    file,
    header,
    snapshots,
    cluster,
    entryBytes: hasExtendedL2(header) ? 16 : 8,
    l2Entries: l2Entries(header),
    dataFile: hasDataFile(header),
    refcounts: refcountCodec(header.refcountOrder),
    fileBytes,
    references: new ReferenceMap(budget),
    l2Tables: new ReferenceMap(budget),
    activeL2Tables: new ReferenceMap(budget),
    unaligned: new Map(),
    findings: new Findings(),
    rebuild: false,
    badBitmaps: false,
    clusters,
    work: 0,
    run: { start: 0, end: 0, hole: false },
    unbreathed: 0,
    context,
  };
}

/** Accounts for `entries` looked at. Throws EFBIG if that would never end. */
export function spend(state: CheckState, entries: number): void {
  state.work += entries;
  if (state.work <= CHECK_ENTRIES_MAX) return;
  throw new BlockError(
    "EFBIG",
    `Cannot check ${state.file.path}: its tables have more than ${CHECK_ENTRIES_MAX} entries`,
  );
}

/** Now and then, after so many bytes read, lets others run, and gives up if the context says so. */
export async function breathe(state: CheckState, bytes: number = STEP_BYTES): Promise<void> {
  state.unbreathed += Math.max(bytes, STEP_BYTES);
  if (state.unbreathed < BREATH_BYTES) return;
  state.unbreathed = 0;
  state.context.signal.throwIfAborted();
  await state.context.clock.sleep(0);
}

/** A number as messages show offsets. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/**
 * Counts `times` references to the clusters of a range. What ends a cluster or more behind the file is a
 * corruption, and not counted: then it gives false. The last cluster of a file may be there in part.
 */
export function refer(
  state: CheckState,
  offset: number,
  length: number,
  times: number,
  what: string,
): boolean {
  const { cluster, findings, refcounts, references } = state;
  if (length <= 0) return true;
  if (offset + length - state.fileBytes >= cluster) {
    findings.corruption(
      `${what} at ${hex(offset)} (${length} bytes) is past the end of the file`,
      times,
    );
    return false;
  }
  const last = Math.floor((offset + length - 1) / cluster);
  for (let at = Math.floor(offset / cluster); at <= last; at += 1) {
    const before = references.add(at, times);
    const over = Math.max(0, before + times - Math.max(before, refcounts.max));
    if (over > 0) {
      findings.corruption(
        `Cluster ${at} is referred to more often than a refcount can tell (${refcounts.max} times)`,
        over,
      );
    }
    if (at >= state.clusters) state.clusters = at + 1;
  }
  return true;
}

/** The refcount that a cluster should have. */
export function refcountDue({ references, refcounts }: CheckState, cluster: number): number {
  return Math.min(references.get(cluster), refcounts.max);
}

/** True if the file has nothing but a hole there: it reads as zeroes, without being read. */
export function isHole(state: CheckState, offset: number, length: number): boolean {
  const { file, fileBytes } = state;
  if (offset >= fileBytes) return true;
  // Tables are looked at in the order of the file: one look finds where the present run ends.
  if (offset < state.run.start || offset >= state.run.end) {
    const [first] = file.extents(offset, fileBytes - offset, 1);
    const end = offset + (first?.length ?? 1);
    state.run = { start: offset, end, hole: first?.data === false };
  }
  return state.run.hole && Math.min(offset + length, fileBytes) <= state.run.end;
}
