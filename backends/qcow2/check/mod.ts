/**
 * Checks a qcow2 image that is at rest, as `qemu-img check` does, and repairs it. The file alone is looked
 * at: backing files play no part, and of a data file only that there is one.
 *
 * @module
 */
import type { CheckReport, ImageContext, Repair } from "../../../lib/block/image.ts";
import type { RawFile } from "../../../lib/sys/file_access.ts";
import { clusterBytes, type QcowHeader } from "../format/header.ts";
import { badImage } from "../format/numbers.ts";
import { snapshotIncomplete, type SnapshotTable } from "../format/snapshot_table.ts";
import { SNAPSHOTS_MAX } from "../limits.ts";
import { readHeader, readSnapshotTable } from "../read_tables.ts";
import { goThroughFlags } from "./copied.ts";
import { countReferences } from "./references.ts";
import { findMismatches, RefcountReader } from "./refcounts.ts";
import { markSound, repairImage, snapshotTableDamaged } from "./repair.ts";
import { type CheckState, startCheck } from "./state.ts";

/** The snapshot table, with what is past its limits left out and counted. */
function readSnapshotsForCheck(file: RawFile, header: QcowHeader): SnapshotTable {
  const { snapshotCount, snapshotsOffset } = header;
  if (snapshotCount === 0) return { snapshots: [], bytes: 0, extraCut: 0, dropped: 0 };
  if (
    snapshotsOffset % clusterBytes(header) !== 0 || snapshotsOffset > Number.MAX_SAFE_INTEGER / 2
  ) {
    throw badImage(
      file.path,
      `its snapshot table is at ${snapshotsOffset}, which no cluster begins at`,
    );
  }
  const overhang = Math.max(0, snapshotCount - SNAPSHOTS_MAX);
  const kept = { ...header, snapshotCount: snapshotCount - overhang };
  const table = readSnapshotTable(file, kept, "cut");
  return { ...table, dropped: table.dropped + overhang };
}

function checkSnapshotTable({ header, snapshots, findings }: CheckState): void {
  if (snapshots.dropped > 0) {
    findings.corruption(
      `The snapshot table is too big: ${snapshots.dropped} of ${header.snapshotCount} snapshots are past its limits`,
      snapshots.dropped,
    );
  }
  if (snapshots.extraCut > 0) {
    findings.corruption(
      `${snapshots.extraCut} snapshots have too much extra data`,
      snapshots.extraCut,
    );
  }
  if (header.version !== 3) return;
  for (const each of snapshots.snapshots) {
    if (snapshotIncomplete(each)) {
      findings.corruption(
        `The entry of snapshot "${each.name}" in the snapshot table is incomplete`,
      );
    }
  }
}

/** Corruptions of everything but COPIED flags, and the state of the check. */
interface Checked {
  readonly state: CheckState;
  readonly withoutFlags: number;
}

async function checkFile(file: RawFile, context: ImageContext): Promise<Checked> {
  const header = readHeader(file, "check");
  const state = startCheck(file, header, readSnapshotsForCheck(file, header), context);
  checkSnapshotTable(state);
  await countReferences(state, "with refcounts");
  const reader = new RefcountReader(state);
  await findMismatches(state, reader);
  const withoutFlags = state.findings.corruptions;
  await goThroughFlags(state, (cluster) => reader.get(cluster), "find");
  return { state, withoutFlags };
}

/** What repairs have mended so far. */
interface Fixed {
  readonly corruptions: number;
  readonly leaks: number;
  readonly notes: readonly string[];
}

function report({ state }: Checked, fixed: Fixed): CheckReport {
  const { findings, header, cluster, file } = state;
  const totalClusters = Math.ceil(header.size / cluster);
  return {
    filename: file.path,
    format: "qcow2",
    checkErrors: findings.checkErrors,
    imageEndOffset: (findings.highest + 1) * cluster,
    ...some("corruptions", findings.corruptions),
    ...some("leaks", findings.leaks),
    ...some("corruptionsFixed", fixed.corruptions),
    ...some("leaksFixed", fixed.leaks),
    ...some("totalClusters", totalClusters),
    ...some("allocatedClusters", findings.allocated),
    ...some("fragmentedClusters", findings.fragmented),
    ...some("compressedClusters", findings.compressed),
    messages: [...fixed.notes, ...findings.messages],
  };
}

/** A count under its name; as in QEMU one of 0 is left out. */
function some<K extends string>(name: K, count: number): { [name in K]?: number } {
  const entry: { [name in K]?: number } = {};
  if (count !== 0) entry[name] = count;
  return entry;
}

function isSound({ state: { findings } }: Checked): boolean {
  return findings.corruptions === 0 && findings.checkErrors === 0;
}

async function repairFile(
  file: RawFile,
  first: Checked,
  repair: "leaks" | "all",
  context: ImageContext,
): Promise<CheckReport> {
  const { findings } = first.state;
  const nothing = findings.corruptions === 0 && findings.leaks === 0 &&
    !snapshotTableDamaged(first.state);
  if (nothing) {
    await markSound(first.state);
    return report(first, { corruptions: 0, leaks: 0, notes: [] });
  }
  const work = await repairImage(first.state, repair);
  const second = await checkFile(file, context);
  if (isSound(second)) await markSound(second.state);
  return report(second, {
    corruptions: Math.max(0, first.withoutFlags - second.withoutFlags) + work.flags,
    leaks: Math.max(0, findings.leaks - second.state.findings.leaks),
    notes: [...work.notes, ...findings.messages.map((each) => `Found: ${each}`)],
  });
}

/**
 * Checks the image in a file, and repairs it if asked to: "leaks" gives back what is in use for nothing,
 * "all" mends everything that can be mended without guessing at data; the figures are those of the image
 * as it is afterwards. Throws EINVAL, EFBIG or EOPNOTSUPP for what is no image or cannot be checked, ENOMEM
 * and EFBIG past the limits of a check, and SystemError; EAGAIN if the file is in use.
 */
export async function checkImage(
  path: string,
  repair: Repair,
  context: ImageContext,
): Promise<CheckReport> {
  const readOnly = repair === "none";
  const file = context.files.open(path, { readOnly, direct: false, lock: true });
  try {
    const first = await checkFile(file, context);
    if (repair === "none") return report(first, { corruptions: 0, leaks: 0, notes: [] });
    return await repairFile(file, first, repair, context);
  } finally {
    file.close();
  }
}
