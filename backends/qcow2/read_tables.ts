/**
 * Reading the small tables of a qcow2 file: header, snapshot table, bitmap directory. They are read
 * when an image is opened or looked at, never on the data path.
 *
 * @module
 */
import type { RawFile } from "../../lib/sys/file_access.ts";
import { type BitmapEntry, decodeBitmapDirectory } from "./format/bitmap_directory.ts";
import {
  clusterBytes,
  decodeHeader,
  headerAreaBytes,
  type HeaderPurpose,
  type QcowHeader,
} from "./format/header.ts";
import { badImage } from "./format/numbers.ts";
import {
  checkSnapshot,
  decodeSnapshotTable,
  type Snapshot,
  type SnapshotDamage,
  type SnapshotTable,
  type TableSource,
} from "./format/snapshot_table.ts";

/** Bytes of a snapshot table that are read at once. */
const TABLE_CHUNK_BYTES = 65_536;
/** Bytes that tell what a file is and how large its clusters are; whole sectors, for O_DIRECT. */
const START_BYTES = 4096;

/** Reads a table from `start` of the file in chunks, so that small pieces of it cost no call each. */
function tableSource(file: RawFile, start: number): TableSource {
  let chunk = new Uint8Array(), chunkAt = 0;
  return (offset, length) => {
    if (offset < chunkAt || offset + length > chunkAt + chunk.length) {
      chunk = new Uint8Array(Math.max(length, TABLE_CHUNK_BYTES));
      chunkAt = offset;
      file.read(chunk, start + offset);
    }
    return chunk.slice(offset - chunkAt, offset - chunkAt + length);
  };
}

/** The header of a qcow2 file. Throws what `decodeHeader` throws, and SystemError. */
export function readHeader(file: RawFile, purpose: HeaderPurpose = "use"): QcowHeader {
  const start = new Uint8Array(START_BYTES);
  file.read(start, 0);
  const length = headerAreaBytes(start, file.path);
  if (length <= START_BYTES) return decodeHeader(start, file.path, purpose);
  const area = new Uint8Array(length);
  file.read(area, 0);
  return decodeHeader(area, file.path, purpose);
}

/** The snapshot table of a file with this header, as found: where L1 tables are is not checked. */
export function readSnapshotTable(
  file: RawFile,
  header: QcowHeader,
  damage: SnapshotDamage = "refuse",
): SnapshotTable {
  const { snapshotCount, snapshotsOffset } = header;
  return decodeSnapshotTable(tableSource(file, snapshotsOffset), snapshotCount, file.path, damage);
}

/** The snapshots of a file with this header. Throws EINVAL or EFBIG if one cannot be used. */
export function readSnapshots(file: RawFile, header: QcowHeader): readonly Snapshot[] {
  const { snapshots } = readSnapshotTable(file, header);
  for (const each of snapshots) checkSnapshot(each, clusterBytes(header), file.path);
  return snapshots;
}

/** The bitmaps of a file with this header; none if it has none, or only stale ones. Throws EINVAL. */
export function readBitmaps(file: RawFile, header: QcowHeader): readonly BitmapEntry[] {
  const { bitmaps } = header;
  if (bitmaps === null) return [];
  const { count, directoryBytes, directoryOffset } = bitmaps;
  if (directoryOffset + directoryBytes > file.size()) {
    throw badImage(file.path, "its bitmap directory is past the end of the file");
  }
  if (directoryOffset === 0 || directoryOffset % clusterBytes(header) !== 0) {
    throw badImage(
      file.path,
      `its bitmap directory is at ${directoryOffset}, which no cluster begins at`,
    );
  }
  const directory = new Uint8Array(directoryBytes);
  file.read(directory, directoryOffset);
  return decodeBitmapDirectory(directory, count, clusterBytes(header), file.path);
}
