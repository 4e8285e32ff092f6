/**
 * What the differential test and the crash enumeration try: disks of a few sorts, with what may happen
 * to them.
 *
 * @module
 */
import type { StateBounds } from "../support/recorded_files.ts";
import type { CrashRun } from "./crash.ts";
import type { Twins } from "./differential.ts";
import type { DiskShape } from "./operations.ts";

const KIB = 1024, MIB = 1024 * KIB;

function shape(size: number, cluster: number, different: Partial<DiskShape> = {}): DiskShape {
  return { size, cluster, snapshots: true, resize: true, discardUnit: cluster, ...different };
}

/** Twins of the differential test. */
export const TWINS: readonly Twins[] = [
  {
    name: "default",
    format: "qcow2",
    shape: shape(4 * MIB, 64 * KIB),
    options: {},
  },
  {
    name: "subclusters",
    format: "qcow2",
    shape: shape(2 * MIB, 16 * KIB),
    options: { cluster_size: 16 * KIB, extended_l2: "on" },
  },
  {
    name: "small clusters over a raw file",
    format: "qcow2",
    shape: shape(1 * MIB, 512, { commits: true }),
    options: { cluster_size: 512, refcount_bits: 64 },
    backing: "raw",
  },
  {
    name: "narrow refcounts over an image",
    format: "qcow2",
    shape: shape(2 * MIB, 4 * KIB, { snapshots: false, commits: true }),
    options: { cluster_size: 4 * KIB, refcount_bits: 1 },
    backing: "qcow2",
  },
  {
    name: "version 2",
    format: "qcow2",
    shape: shape(2 * MIB, 4 * KIB, { resize: false, unmapsOnly: true }),
    options: { cluster_size: 4 * KIB, compat: "0.10" },
  },
  {
    name: "version 2 over an image",
    format: "qcow2",
    shape: shape(2 * MIB, 4 * KIB, { resize: false, discardUnit: 0, commits: true }),
    options: { cluster_size: 4 * KIB, compat: "0.10" },
    backing: "qcow2",
  },
  {
    name: "data file",
    format: "qcow2",
    shape: shape(2 * MIB, 64 * KIB, { snapshots: false }),
    options: { data_file: "of its own" },
  },
  {
    name: "raw data file",
    format: "qcow2",
    shape: shape(2 * MIB, 64 * KIB, { snapshots: false }),
    options: { data_file: "of its own", data_file_raw: "on" },
  },
  {
    name: "lazy refcounts",
    format: "qcow2",
    shape: shape(2 * MIB, 4 * KIB),
    options: { cluster_size: 4 * KIB, lazy_refcounts: "on" },
  },
  {
    name: "subclusters over an image",
    format: "qcow2",
    shape: shape(2 * MIB, 16 * KIB, { commits: true }),
    options: { cluster_size: 16 * KIB, extended_l2: "on" },
    backing: "qcow2",
  },
];

function crashRun(
  name: string,
  disk: DiskShape,
  options: CrashRun["options"],
  bounds: StateBounds,
  different: Partial<CrashRun> = {},
): CrashRun {
  return { name, shape: { ...disk, structuralOneIn: 10 }, options, bounds, ...different };
}

/** Runs of the crash enumeration within `bounds`. Few clusters to a table: tables change often. */
export function crashRuns(bounds: StateBounds): CrashRun[] {
  return [
    crashRun("small clusters", shape(128 * KIB, 512), { cluster_size: 512 }, bounds),
    crashRun(
      "subclusters",
      shape(1 * MIB, 16 * KIB),
      { cluster_size: 16 * KIB, extended_l2: "on" },
      bounds,
    ),
    crashRun(
      "wide refcounts",
      shape(256 * KIB, 1 * KIB),
      { cluster_size: 1 * KIB, refcount_bits: 64 },
      bounds,
    ),
    crashRun(
      "version 2",
      shape(256 * KIB, 1 * KIB),
      { cluster_size: 1 * KIB, compat: "0.10" },
      bounds,
    ),
    crashRun(
      "data file",
      shape(256 * KIB, 1 * KIB, { snapshots: false }),
      { cluster_size: 1 * KIB, data_file: "of its own" },
      bounds,
    ),
    crashRun(
      "raw data file",
      shape(256 * KIB, 1 * KIB, { snapshots: false }),
      { cluster_size: 1 * KIB, data_file: "of its own", data_file_raw: "on" },
      bounds,
    ),
    crashRun(
      "over a raw file",
      shape(256 * KIB, 1 * KIB, { commits: true, snapshots: false, resize: false }),
      { cluster_size: 1 * KIB },
      bounds,
      { backing: "raw" },
    ),
    crashRun(
      "subclusters over an image",
      shape(1 * MIB, 16 * KIB, { commits: true, resize: false }),
      { cluster_size: 16 * KIB, extended_l2: "on" },
      bounds,
      { backing: "qcow2" },
    ),
    crashRun(
      "compressed",
      shape(256 * KIB, 1 * KIB),
      { cluster_size: 1 * KIB, compression_type: "zstd" },
      bounds,
      { opening: { compress: true } },
    ),
    crashRun(
      "lazy refcounts",
      shape(256 * KIB, 4 * KIB),
      { cluster_size: 4 * KIB, lazy_refcounts: "on" },
      bounds,
    ),
  ];
}
