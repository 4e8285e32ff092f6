/**
 * What a qcow2 image says of itself, in the terms of `qemu-img info`.
 *
 * @module
 */
import type { OpenContext } from "../../lib/block/context.ts";
import type { ImageInfo, ImageSnapshot, JsonValue } from "../../lib/block/image.ts";
import { BITMAP_AUTO, BITMAP_IN_USE } from "./format/bitmap_directory.ts";
import {
  AUTOCLEAR_RAW_DATA_FILE,
  clusterBytes,
  COMPATIBLE_LAZY_REFCOUNTS,
  hasDataFile,
  hasExtendedL2,
  INCOMPATIBLE_CORRUPT,
  INCOMPATIBLE_DIRTY,
  type QcowHeader,
} from "./format/header.ts";
import type { Snapshot } from "./format/snapshot_table.ts";
import { pathInImage } from "./live/chain.ts";
import { readBitmaps, readHeader, readSnapshots } from "./read_tables.ts";

const NS_PER_SECOND = 1_000_000_000n;

function snapshotInfo(snapshot: Snapshot): ImageSnapshot {
  const { id, name, vmStateBytes, seconds, nanoseconds, guestTimeNs, instructionCount } = snapshot;
  return {
    id,
    name,
    vmStateSize: Number(vmStateBytes),
    dateSec: seconds,
    dateNsec: nanoseconds,
    vmClockSec: Number(guestTimeNs / NS_PER_SECOND),
    vmClockNsec: Number(guestTimeNs % NS_PER_SECOND),
    ...(instructionCount === null ? {} : { icount: Number(instructionCount) }),
  };
}

/** What only this format has; names are those of QEMU in camelCase. */
function specific(
  header: QcowHeader,
  bitmaps: readonly JsonValue[],
): { readonly [name: string]: JsonValue } {
  const compressionType = header.compression === "zstd" ? "zstd" : "zlib";
  if (header.version === 2) return { compat: "0.10", compressionType, refcountBits: 16 };
  const external = hasDataFile(header);
  return {
    compat: "1.1",
    compressionType,
    lazyRefcounts: (header.compatible & COMPATIBLE_LAZY_REFCOUNTS) !== 0n,
    ...(bitmaps.length === 0 ? {} : { bitmaps }),
    refcountBits: 2 ** header.refcountOrder,
    corrupt: (header.incompatible & INCOMPATIBLE_CORRUPT) !== 0n,
    ...(external && header.dataFile !== null ? { dataFile: header.dataFile } : {}),
    ...(external ? { dataFileRaw: (header.autoclear & AUTOCLEAR_RAW_DATA_FILE) !== 0n } : {}),
    extendedL2: hasExtendedL2(header),
  };
}

function bitmapFlags(flags: number): string[] {
  return [
    ...((flags & BITMAP_IN_USE) !== 0 ? ["in-use"] : []),
    ...((flags & BITMAP_AUTO) !== 0 ? ["auto"] : []),
  ];
}

function fullName(path: string, name: string): { readonly fullBackingFilename?: string } {
  try {
    return { fullBackingFilename: pathInImage(path, name) };
  } catch {
    return {}; // it names no file
  }
}

/** Looks at an image; takes no lock and changes nothing. Errno: EINVAL, EFBIG, EOPNOTSUPP, those of files. */
export function imageInfo(path: string, context: OpenContext): ImageInfo {
  const file = context.files.open(path, { readOnly: true, direct: false, lock: false });
  try {
    const header = readHeader(file), { backingFile, backingFormat } = header;
    const bitmaps = readBitmaps(file, header).map(({ name, flags, granularityBits }) => ({
      name,
      flags: bitmapFlags(flags),
      granularity: 2 ** granularityBits,
    }));
    const snapshots = readSnapshots(file, header).map(snapshotInfo);
    return {
      virtualSize: header.size,
      filename: path,
      format: "qcow2",
      actualSize: file.allocated(),
      clusterSize: clusterBytes(header),
      dirtyFlag: (header.incompatible & INCOMPATIBLE_DIRTY) !== 0n,
      ...(backingFile === null
        ? {}
        : { backingFilename: backingFile, ...fullName(path, backingFile) }),
      ...(backingFormat === null ? {} : { backingFilenameFormat: backingFormat }),
      ...(snapshots.length === 0 ? {} : { snapshots }),
      formatSpecific: { type: "qcow2", data: specific(header, bitmaps) },
    };
  } finally {
    file.close();
  }
}
