/**
 * The header of a qcow2 image, versions 2 and 3, with all header extensions: docs/interop/qcow2.rst of
 * QEMU, sections "Header", "Header extensions", "Feature name table" and "Bitmaps extension". Pure:
 * bytes in, a plain object out, and back. The limits that are not the format's are QEMU's.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import {
  BACKING_NAME_BYTES_MAX,
  CLUSTER_BITS_MAX,
  CLUSTER_BITS_MIN,
  EXTENDED_L2_CLUSTER_BITS_MIN,
  L1_BYTES_MAX,
  REFCOUNT_ORDER_MAX,
  REFCOUNT_TABLE_BYTES_MAX,
  SNAPSHOT_TABLE_BYTES_MAX,
  SNAPSHOTS_MAX,
} from "../limits.ts";
import type { Compression } from "./compress.ts";
import {
  type BitmapsExtension,
  decodeExtensions,
  encodeExtensions,
  featureName,
  findFeatureTable,
  type HeaderExtension,
} from "./header_extensions.ts";
import { badImage, decodeText, getU64, setU64, unsupportedImage, viewOf } from "./numbers.ts";

/** "QFI\xfb": the first four bytes of an image. */
export const QCOW_MAGIC = 0x5146_49fb;

/** Incompatible feature: refcounts may be wrong. */
export const INCOMPATIBLE_DIRTY = 1n;
/** Incompatible feature: anything may be wrong, do not write. */
export const INCOMPATIBLE_CORRUPT = 2n;
/** Incompatible feature: guest data is in another file. */
export const INCOMPATIBLE_DATA_FILE = 4n;
/** Incompatible feature: the compression is not deflate. */
export const INCOMPATIBLE_COMPRESSION = 8n;
/** Incompatible feature: L2 entries have 16 bytes, with a bitmap of subclusters. */
export const INCOMPATIBLE_EXTENDED_L2 = 16n;
/** All incompatible features that are known. */
export const INCOMPATIBLE_KNOWN = 31n;
/** Compatible feature: refcounts may be written late, with the dirty bit set. */
export const COMPATIBLE_LAZY_REFCOUNTS = 1n;
/** Autoclear feature: the bitmaps are as good as when they were saved. */
export const AUTOCLEAR_BITMAPS = 1n;
/** Autoclear feature: the data file alone is a raw image of the disk. */
export const AUTOCLEAR_RAW_DATA_FILE = 2n;
/** All autoclear features that are known: whoever writes to the image clears the others. */
export const AUTOCLEAR_KNOWN = 3n;

/** Bytes of the header of version 2, and the least of version 3. */
const V2_BYTES = 72, V3_BYTES = 104;
/** Where the first field after the fixed part of version 3 is, and a header that has it. */
const AT_COMPRESSION = 104, COMPRESSION_BYTES = 112;
const VERSION_2_REFCOUNT_ORDER = 4;
const AES = 1, LUKS = 2;

/** What an image says of itself. Change it by making a copy with a spread. */
export interface QcowHeader {
  /** Version 2 has neither features nor zero clusters. */
  readonly version: 2 | 3;
  /** Name of the backing file as it was stored, or null. */
  readonly backingFile: string | null;
  /** Format of the backing file ("raw", "qcow2" …), or null if it is not told. */
  readonly backingFormat: string | null;
  /** Name of the external data file as it was stored, or null if it is not told. */
  readonly dataFile: string | null;
  /** The cluster size is 2 to this power, in bytes: 9 to 21. */
  readonly clusterBits: number;
  /** Size of the virtual disk, bytes: 0 to 2^53 - 1. */
  readonly size: number;
  /** Entries of the active L1 table. */
  readonly l1Size: number;
  /** Where the active L1 table is in the file, bytes, a multiple of the cluster size. */
  readonly l1Offset: number;
  /** Where the refcount table is in the file, bytes, a multiple of the cluster size. */
  readonly refcountTableOffset: number;
  /** Length of the refcount table, clusters. */
  readonly refcountTableClusters: number;
  /** Internal snapshots. */
  readonly snapshotCount: number;
  /** Where the snapshot table is in the file, bytes, a multiple of the cluster size. */
  readonly snapshotsOffset: number;
  /** Bits of INCOMPATIBLE_*; none is unknown. */
  readonly incompatible: bigint;
  /** Bits of COMPATIBLE_*, with unknown ones. */
  readonly compatible: bigint;
  /** Bits of AUTOCLEAR_*, with unknown ones. */
  readonly autoclear: bigint;
  /** A refcount has 2 to this power bits: 0 to 6. */
  readonly refcountOrder: number;
  /** Bytes of the header without its extensions, as found: 72, or 104 and more. */
  readonly headerLength: number;
  /** How compressed clusters are compressed. */
  readonly compression: Compression;
  /** The bytes after the compression type that nobody knows the meaning of, as found. */
  readonly unknownFields: Uint8Array;
  /** The feature name table as found, or null. */
  readonly featureTable: Uint8Array | null;
  /** Where the bitmap directory is; null if there are no bitmaps, or the autoclear bit says that they are stale. */
  readonly bitmaps: BitmapsExtension | null;
  /** Header extensions of unknown types, as found, in their order. */
  readonly unknownExtensions: readonly HeaderExtension[];
}

/** What an image is wanted for: a check and repair takes damage that no other use can. */
export type HeaderPurpose = "use" | "check";

/** Size of a cluster in bytes. */
export function clusterBytes(header: Pick<QcowHeader, "clusterBits">): number {
  return 2 ** header.clusterBits;
}

/** True if L2 entries have 16 bytes. */
export function hasExtendedL2(header: Pick<QcowHeader, "incompatible">): boolean {
  return (header.incompatible & INCOMPATIBLE_EXTENDED_L2) !== 0n;
}

/** True if guest data is in another file. */
export function hasDataFile(header: Pick<QcowHeader, "incompatible">): boolean {
  return (header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n;
}

/** Entries of one L2 table. */
export function l2Entries(header: Pick<QcowHeader, "clusterBits" | "incompatible">): number {
  return clusterBytes(header) / (hasExtendedL2(header) ? 16 : 8);
}

/** Least number of L1 entries for a disk of `size` bytes. */
export function l1EntriesFor(
  header: Pick<QcowHeader, "clusterBits" | "incompatible">,
  size: number,
): number {
  return Math.ceil(size / (clusterBytes(header) * l2Entries(header)));
}

/**
 * Cluster size in bytes of the image that begins with `start` (24 bytes or more): the header and all
 * that belongs to it are in the first cluster. Throws EINVAL if that is no qcow2 image.
 */
export function headerAreaBytes(start: Uint8Array, path: string): number {
  const view = viewOf(start);
  if (start.length < 24 || view.getUint32(0) !== QCOW_MAGIC) {
    throw badImage(path, "it is not a qcow2 image");
  }
  const version = view.getUint32(4), bits = view.getUint32(20);
  if (version !== 2 && version !== 3) {
    throw unsupportedImage(path, `qcow2 version ${version} is not supported`);
  }
  if (bits < CLUSTER_BITS_MIN || bits > CLUSTER_BITS_MAX) {
    throw badImage(
      path,
      `its cluster size is 2^${bits}, not 2^${CLUSTER_BITS_MIN} to 2^${CLUSTER_BITS_MAX} bytes`,
    );
  }
  return 2 ** bits;
}

function decodeLength(view: DataView, version: 2 | 3, cluster: number, path: string): number {
  if (version === 2) return V2_BYTES;
  const length = view.getUint32(100);
  if (length < V3_BYTES || length % 8 !== 0 || length > cluster) {
    throw badImage(
      path,
      `its header length is ${length}, not a multiple of 8 from ${V3_BYTES} to the cluster size`,
    );
  }
  return length;
}

function checkIncompatible(features: bigint, table: Uint8Array | null, path: string): void {
  const unknown = features & ~INCOMPATIBLE_KNOWN;
  if (unknown === 0n) return;
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit += 1) {
    if ((unknown >> BigInt(bit) & 1n) === 1n) names.push(featureName(table, 0, bit));
  }
  throw unsupportedImage(path, `it needs features that are not supported: ${names.join(", ")}`);
}

function decodeCompression(
  view: DataView,
  headerLength: number,
  incompatible: bigint,
  path: string,
): Compression {
  const type = headerLength > AT_COMPRESSION ? view.getUint8(AT_COMPRESSION) : 0;
  const flagged = (incompatible & INCOMPATIBLE_COMPRESSION) !== 0n;
  if (flagged !== (type !== 0)) {
    throw badImage(path, "its compression type and its compression feature bit disagree");
  }
  if (type > 1) throw unsupportedImage(path, `compression type ${type} is not supported`);
  return type === 1 ? "zstd" : "deflate";
}

function checkEncryption(method: number, path: string): void {
  if (method === 0) return;
  const name = method === AES ? "AES" : method === LUKS ? "LUKS" : `method ${method}`;
  throw unsupportedImage(path, `it is encrypted (${name}), and encryption is not supported`);
}

/** Throws EINVAL unless a table lies at a cluster boundary, below 2^53, and within its limit. */
function checkTable(
  table: { readonly offset: number; readonly bytes: number; readonly bytesMax: number },
  cluster: number,
  what: string,
  path: string,
): void {
  const { offset, bytes, bytesMax } = table;
  if (bytes > bytesMax) {
    throw new BlockError(
      "EFBIG",
      `Cannot use ${path}: ${what} has ${bytes} bytes (limit: ${bytesMax})`,
    );
  }
  if (offset % cluster !== 0 || offset + bytes > Number.MAX_SAFE_INTEGER) {
    throw badImage(path, `${what} is at ${offset}, which no cluster begins at`);
  }
}

function checkTables(header: QcowHeader, purpose: HeaderPurpose, path: string): void {
  const cluster = clusterBytes(header);
  const refcountBytes = header.refcountTableClusters * cluster;
  if (refcountBytes === 0 && purpose === "use") {
    throw badImage(path, "it has no refcount table; a check with repair makes one");
  }
  checkTable(
    {
      offset: header.refcountTableOffset,
      bytes: refcountBytes,
      bytesMax: REFCOUNT_TABLE_BYTES_MAX,
    },
    cluster,
    "the refcount table",
    path,
  );
  checkTable(
    { offset: header.l1Offset, bytes: header.l1Size * 8, bytesMax: L1_BYTES_MAX },
    cluster,
    "the L1 table",
    path,
  );
  if (header.l1Size < l1EntriesFor(header, header.size)) {
    throw badImage(path, `its L1 table of ${header.l1Size} entries is too small for its size`);
  }
  if (header.l1Size > 0 && header.l1Offset === 0) throw badImage(path, "its L1 table is at 0");
  if (purpose === "check" || header.snapshotCount === 0) return;
  if (header.snapshotCount > SNAPSHOTS_MAX) {
    throw new BlockError(
      "EFBIG",
      `Cannot use ${path}: it has ${header.snapshotCount} snapshots (limit: ${SNAPSHOTS_MAX})`,
    );
  }
  checkTable(
    { offset: header.snapshotsOffset, bytes: 40, bytesMax: SNAPSHOT_TABLE_BYTES_MAX },
    cluster,
    "the snapshot table",
    path,
  );
}

/** The backing file's name and where the area of the header extensions ends. */
function decodeBacking(
  view: DataView,
  bytes: Uint8Array,
  path: string,
): { readonly name: string | null; readonly end: number } {
  const offset = getU64(view, 8), length = view.getUint32(16);
  if (offset === 0) return { name: null, end: bytes.length };
  if (offset > bytes.length || length > Math.min(BACKING_NAME_BYTES_MAX, bytes.length - offset)) {
    throw badImage(
      path,
      `its backing file name (${length} bytes at ${offset}) is not in the first cluster, or too long`,
    );
  }
  const name = decodeText(bytes.subarray(offset, offset + length), path, "the backing file name");
  return { name: name === "" ? null : name, end: offset };
}

/**
 * The header that `bytes`, the whole first cluster (see `headerAreaBytes`), holds. `path` is for
 * messages. Throws EINVAL for what is damaged, EFBIG for what is past a limit, EOPNOTSUPP for encryption
 * and for features, versions and compressions that are not known, naming them. For a check, the
 * refcount table may be absent and the snapshot table is not looked at.
 */
export function decodeHeader(
  bytes: Uint8Array,
  path: string,
  purpose: HeaderPurpose = "use",
): QcowHeader {
  const cluster = headerAreaBytes(bytes, path);
  if (bytes.length < cluster) throw new RangeError("The first cluster has to be given whole");
  const area = bytes.subarray(0, cluster);
  const view = viewOf(area);
  const version = view.getUint32(4) === 2 ? 2 : 3;
  const headerLength = decodeLength(view, version, cluster, path);
  const features = (at: number): bigint => version === 2 ? 0n : view.getBigUint64(at);
  const incompatible = features(72), autoclear = features(88);
  const backing = decodeBacking(view, area, path);
  const extensionArea = area.subarray(0, backing.end);
  checkIncompatible(incompatible, findFeatureTable(extensionArea, headerLength), path);
  checkEncryption(view.getUint32(32), path);
  const extensions = decodeExtensions(
    extensionArea,
    headerLength,
    (autoclear & AUTOCLEAR_BITMAPS) !== 0n,
    path,
  );
  const header: QcowHeader = {
    version,
    backingFile: backing.name,
    backingFormat: extensions.backingFormat,
    dataFile: extensions.dataFile,
    clusterBits: view.getUint32(20),
    size: getU64(view, 24),
    l1Size: view.getUint32(36),
    l1Offset: getU64(view, 40),
    refcountTableOffset: getU64(view, 48),
    refcountTableClusters: view.getUint32(56),
    snapshotCount: view.getUint32(60),
    snapshotsOffset: getU64(view, 64),
    incompatible,
    compatible: features(80),
    autoclear,
    refcountOrder: version === 2 ? VERSION_2_REFCOUNT_ORDER : view.getUint32(96),
    headerLength,
    compression: decodeCompression(view, headerLength, incompatible, path),
    unknownFields: area.slice(Math.min(headerLength, AT_COMPRESSION + 1), headerLength),
    featureTable: extensions.featureTable,
    bitmaps: extensions.bitmaps,
    unknownExtensions: extensions.unknown,
  };
  checkFigures(header, path);
  checkTables(header, purpose, path);
  return header;
}

function checkFigures(header: QcowHeader, path: string): void {
  if (header.size > Number.MAX_SAFE_INTEGER) {
    throw new BlockError(
      "EFBIG",
      `Cannot use ${path}: its size is ${header.size} bytes (limit: 2^53 - 1)`,
    );
  }
  if (header.refcountOrder > REFCOUNT_ORDER_MAX) {
    throw badImage(path, `its refcounts have 2^${header.refcountOrder} bits (limit: 64)`);
  }
  if (hasExtendedL2(header) && header.clusterBits < EXTENDED_L2_CLUSTER_BITS_MIN) {
    throw badImage(
      path,
      `clusters of ${clusterBytes(header)} bytes are too small for extended L2 entries`,
    );
  }
}

/** Bytes of a header without its extensions, when it is stored. */
export function headerLengthFor(header: QcowHeader): number {
  if (header.version === 2) return V2_BYTES;
  const needed = header.compression === "deflate" ? V3_BYTES : COMPRESSION_BYTES;
  return Math.max(header.headerLength, needed);
}

/** Stores the fixed fields, at the start of an image; not where the backing file's name is. */
export function encodeFields(header: QcowHeader, view: DataView): void {
  view.setUint32(0, QCOW_MAGIC);
  view.setUint32(4, header.version);
  view.setUint32(20, header.clusterBits);
  setU64(view, 24, header.size);
  view.setUint32(36, header.l1Size);
  setU64(view, 40, header.l1Offset);
  setU64(view, 48, header.refcountTableOffset);
  view.setUint32(56, header.refcountTableClusters);
  view.setUint32(60, header.snapshotCount);
  setU64(view, 64, header.snapshotsOffset);
  if (header.version === 2) return;
  view.setBigUint64(72, header.incompatible);
  view.setBigUint64(80, header.compatible);
  view.setBigUint64(88, header.autoclear);
  view.setUint32(96, header.refcountOrder);
  view.setUint32(100, headerLengthFor(header));
  if (header.compression === "zstd") view.setUint8(AT_COMPRESSION, 1);
}

/**
 * The first cluster of an image with this header, to be written whole: no byte of an older header
 * stays. Throws EINVAL if the extensions and the backing file's name do not fit into a cluster.
 */
export function encodeHeader(header: QcowHeader): Uint8Array {
  const area = new Uint8Array(clusterBytes(header));
  const view = viewOf(area);
  const headerLength = headerLengthFor(header);
  const extensions = encodeExtensions(header);
  const backing = new TextEncoder().encode(header.backingFile ?? "");
  const end = headerLength + extensions.length;
  if (backing.length > BACKING_NAME_BYTES_MAX) {
    throw new BlockError(
      "ENAMETOOLONG",
      `Cannot store the backing file name: it has ${backing.length} bytes (limit: ${BACKING_NAME_BYTES_MAX})`,
    );
  }
  if (end + backing.length > area.length) {
    throw new BlockError(
      "EINVAL",
      `Cannot store the header: it has ${
        end + backing.length
      } bytes, but a cluster ${area.length}; ` +
        `use shorter names or larger clusters`,
    );
  }
  encodeFields(header, view);
  if (headerLength > AT_COMPRESSION) {
    area.set(
      header.unknownFields.subarray(0, headerLength - AT_COMPRESSION - 1),
      AT_COMPRESSION + 1,
    );
  }
  area.set(extensions, headerLength);
  if (backing.length > 0) {
    setU64(view, 8, end);
    view.setUint32(16, backing.length);
    area.set(backing, end);
  }
  return area;
}
