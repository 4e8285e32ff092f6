/**
 * Making new images: header, refcounts and an empty L1 table first, which is an image already; then,
 * through the open image, what is to be reserved in advance.
 *
 * @module
 */
import type { OpenContext } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { CreateRequest, ImageContext, Preallocation } from "../../lib/block/image.ts";
import { createImageFile, preallocate } from "../../lib/block/raw_image.ts";
import type { RawFile } from "../../lib/sys/file_access.ts";
import { encodeHeader, l1EntriesFor, type QcowHeader } from "./format/header.ts";
import {
  AUTOCLEAR_RAW_DATA_FILE,
  COMPATIBLE_LAZY_REFCOUNTS,
  INCOMPATIBLE_COMPRESSION,
  INCOMPATIBLE_DATA_FILE,
  INCOMPATIBLE_EXTENDED_L2,
} from "./format/header.ts";
import { refcountCodec } from "./format/entries.ts";
import { encodeFeatureTable } from "./format/header_extensions.ts";
import { setU64, viewOf } from "./format/numbers.ts";
import {
  CLUSTER_BITS_MAX,
  CLUSTER_BITS_MIN,
  EXTENDED_L2_CLUSTER_BITS_MIN,
  L1_BYTES_MAX,
} from "./limits.ts";
import { pathInImage } from "./live/chain.ts";
import { closeImage, makeLive } from "./live/image.ts";
import { L2_CACHE_BYTES } from "./live/limits.ts";
import { closeFiles, imageLayer, openImage } from "./live/open.ts";
import { reserveClusters } from "./live/reserve.ts";

/** What can be told of a new image. The size is told apart. */
export interface CreateOptions {
  /** "1.1" is version 3, "0.10" version 2. */
  readonly compat: "0.10" | "1.1";
  /** Bytes of a cluster: a power of two, 512 to 2 MiB. */
  readonly "cluster-size": number;
  /** Width of a refcount in bits: 1 to 64, a power of two. */
  readonly "refcount-bits": number;
  /** Write refcounts late. */
  readonly "lazy-refcounts": boolean;
  /** Subclusters. */
  readonly "extended-l2": boolean;
  /** How clusters are compressed. */
  readonly "compression-type": "zlib" | "zstd";
  /** Name of the backing file, relative to the image's folder. */
  readonly "backing-file"?: string | undefined;
  /** Its format; found out if it is not told. */
  readonly "backing-fmt"?: "raw" | "qcow2" | undefined;
  /** Name of a file for the data, relative to the image's folder. */
  readonly "data-file"?: string | undefined;
  /** Keep that file a raw image of the disk. */
  readonly "data-file-raw": boolean;
  /** What is reserved in advance. */
  readonly preallocation: Preallocation;
}

const REFCOUNT_BITS_V2 = 16;
const SIZE_UNIT_BYTES = 512;
const FEATURE_TABLE_CLUSTER_BYTES_MIN = 4096;
/** Names of features, for programs that do not know them: kind, bit, name. */
const FEATURES = [
  { kind: "incompatible", bit: 0, name: "dirty bit" },
  { kind: "incompatible", bit: 1, name: "corrupt bit" },
  { kind: "incompatible", bit: 2, name: "external data file" },
  { kind: "incompatible", bit: 3, name: "compression type" },
  { kind: "incompatible", bit: 4, name: "extended L2 entries" },
  { kind: "compatible", bit: 0, name: "lazy refcounts" },
  { kind: "autoclear", bit: 0, name: "bitmaps" },
  { kind: "autoclear", bit: 1, name: "raw external data" },
] as const;

function refuse(path: string, reason: string): never {
  throw new BlockError("EINVAL", `Cannot create ${path}: ${reason}`);
}

/** Throws EINVAL for options that cannot be, or cannot be together. */
function checkOptions(path: string, options: CreateOptions): void {
  const bits = Math.log2(options["cluster-size"]);
  const refcountOrder = Math.log2(options["refcount-bits"]);
  if (!Number.isInteger(bits) || bits < CLUSTER_BITS_MIN || bits > CLUSTER_BITS_MAX) {
    refuse(path, "the cluster size has to be a power of two from 512 bytes to 2 MiB");
  }
  if (!Number.isInteger(refcountOrder) || refcountOrder < 0 || refcountOrder > 6) {
    refuse(path, "the refcount width has to be a power of two from 1 to 64 bits");
  }
  if (options["extended-l2"] && bits < EXTENDED_L2_CLUSTER_BITS_MIN) {
    refuse(path, "extended L2 entries need clusters of 16 KiB or more");
  }
  if (options.compat === "0.10") checkVersion2(path, options);
  if (options["data-file-raw"] && options["data-file"] === undefined) {
    refuse(path, "data-file-raw needs a data file");
  }
  if (options["backing-file"] === undefined) {
    if (options["backing-fmt"] !== undefined) refuse(path, "backing-fmt needs a backing file");
    return;
  }
  if (options["data-file-raw"]) {
    refuse(path, "a raw data file and a backing file exclude each other");
  }
  if (options.preallocation !== "off" && !options["extended-l2"]) {
    refuse(path, "preallocation over a backing file needs extended L2 entries");
  }
}

function checkVersion2(path: string, options: CreateOptions): void {
  const newer: readonly (readonly [boolean, string])[] = [
    [options["refcount-bits"] !== REFCOUNT_BITS_V2, "refcounts that are not 16 bits wide"],
    [options["lazy-refcounts"], "lazy refcounts"],
    [options["extended-l2"], "extended L2 entries"],
    [options["compression-type"] !== "zlib", "a compression other than zlib"],
    [options["data-file"] !== undefined, "a data file"],
  ];
  for (const [wanted, what] of newer) {
    if (wanted) refuse(path, `compat 0.10 does not have ${what}`);
  }
}

/** The backing file's size and format. */
function lookAtBacking(
  path: string,
  options: CreateOptions,
  context: OpenContext,
): { readonly size: number; readonly format: "raw" | "qcow2" } | null {
  const name = options["backing-file"];
  if (name === undefined) return null;
  const below = pathInImage(path, name);
  const file = context.files.open(below, { readOnly: true, direct: false, lock: false });
  let format = options["backing-fmt"], size: number;
  try {
    const head = new Uint8Array(4);
    file.read(head, 0);
    format ??= isQcow2(head) ? "qcow2" : "raw";
    size = file.size();
  } finally {
    file.close();
  }
  if (format === "raw") return { size, format };
  const image = openImage({
    path: below,
    readOnly: true,
    lock: false,
    direct: false,
    discard: false,
    cacheBytes: L2_CACHE_BYTES,
    snapshot: null,
  }, context);
  try {
    return { size: imageLayer(image).size, format };
  } finally {
    closeFiles(image.state);
  }
}

/** True if a file that begins with these bytes is a qcow2 image. */
export function isQcow2(head: Uint8Array): boolean {
  return head.length >= 4 && head[0] === 0x51 && head[1] === 0x46 && head[2] === 0x49 &&
    head[3] === 0xfb;
}

/** The tables of an empty image, one behind the other: header, refcount table, refcount blocks, L1. */
interface Plan {
  readonly header: QcowHeader;
  readonly blocks: number;
  readonly clusters: number;
}

function makePlan(header: QcowHeader): Plan {
  const cluster = 2 ** header.clusterBits, perBlock = cluster * 8 / 2 ** header.refcountOrder;
  const l1Size = l1EntriesFor(header, header.size);
  const l1Clusters = Math.max(Math.ceil(l1Size * 8 / cluster), 1);
  let table = 1, blocks = 1;
  for (;;) {
    const clusters = 1 + table + blocks + l1Clusters;
    const needBlocks = Math.ceil(clusters / perBlock);
    const needTable = Math.ceil(needBlocks * 8 / cluster);
    if (needBlocks <= blocks && needTable <= table) break;
    blocks = Math.max(blocks, needBlocks);
    table = Math.max(table, needTable);
  }
  return {
    header: {
      ...header,
      l1Size,
      refcountTableOffset: cluster,
      refcountTableClusters: table,
      l1Offset: (1 + table + blocks) * cluster,
    },
    blocks,
    clusters: 1 + table + blocks + l1Clusters,
  };
}

/** Writes an empty image; the header last, so that until then the file is none. */
function writeEmpty(file: RawFile, { header, blocks, clusters }: Plan): void {
  const cluster = 2 ** header.clusterBits;
  const codec = refcountCodec(header.refcountOrder), perBlock = cluster * 8 / codec.bits;
  const table = new Uint8Array(header.refcountTableClusters * cluster);
  const firstBlock = header.refcountTableOffset + table.length;
  for (let block = 0; block < blocks; block += 1) {
    setU64(viewOf(table), block * 8, firstBlock + block * cluster);
    const bytes = new Uint8Array(cluster);
    const counted = Math.min(clusters - block * perBlock, perBlock);
    for (let index = 0; index < counted; index += 1) codec.set(bytes, index, 1);
    file.write(bytes, firstBlock + block * cluster);
  }
  file.write(table, header.refcountTableOffset);
  const l1 = new Uint8Array(clusters * cluster - header.l1Offset);
  file.write(l1, header.l1Offset);
  file.flush();
  file.write(encodeHeader(header), 0);
  file.flush();
}

function headerFor(
  size: number,
  options: CreateOptions,
  backingFormat: "raw" | "qcow2" | null,
): QcowHeader {
  const dataFile = options["data-file"] ?? null, zstd = options["compression-type"] === "zstd";
  const version = options.compat === "0.10" ? 2 : 3;
  // In a small first cluster the names of files need the room.
  const hasFeatureTable = version === 3 &&
    options["cluster-size"] >= FEATURE_TABLE_CLUSTER_BYTES_MIN;
  return {
    version,
    backingFile: options["backing-file"] ?? null,
    backingFormat,
    dataFile,
    clusterBits: Math.log2(options["cluster-size"]),
    size,
    l1Size: 0,
    l1Offset: 0,
    refcountTableOffset: 0,
    refcountTableClusters: 0,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible: (dataFile === null ? 0n : INCOMPATIBLE_DATA_FILE) |
      (zstd ? INCOMPATIBLE_COMPRESSION : 0n) |
      (options["extended-l2"] ? INCOMPATIBLE_EXTENDED_L2 : 0n),
    compatible: options["lazy-refcounts"] ? COMPATIBLE_LAZY_REFCOUNTS : 0n,
    autoclear: options["data-file-raw"] ? AUTOCLEAR_RAW_DATA_FILE : 0n,
    refcountOrder: Math.log2(options["refcount-bits"]),
    headerLength: version === 2 ? 72 : 112,
    compression: zstd ? "zstd" : "deflate",
    unknownFields: new Uint8Array(version === 2 ? 0 : 7),
    featureTable: hasFeatureTable ? encodeFeatureTable(FEATURES) : null,
    bitmaps: null,
    unknownExtensions: [],
  };
}

/**
 * Makes an image, durably. Without a size it has that of its backing file; sizes are rounded up to 512
 * bytes. Throws EEXIST, EINVAL for options that cannot be, EFBIG, ENOSPC, and what files throw.
 */
export async function createImage(
  path: string,
  { size, replace }: CreateRequest,
  options: CreateOptions,
  context: ImageContext,
): Promise<void> {
  checkOptions(path, options);
  const backing = lookAtBacking(path, options, context);
  const wanted = size ?? backing?.size;
  if (wanted === undefined) refuse(path, "it needs a size, or a backing file that has one");
  const rounded = Math.ceil(wanted / SIZE_UNIT_BYTES) * SIZE_UNIT_BYTES;
  const header = headerFor(rounded, options, backing?.format ?? null);
  if (l1EntriesFor(header, rounded) * 8 > L1_BYTES_MAX) {
    throw new BlockError(
      "EFBIG",
      `Cannot create ${path}: clusters of ${options["cluster-size"]} bytes are too small for ` +
        `${rounded} bytes`,
    );
  }
  const plan = makePlan(header);
  encodeHeader(plan.header);
  if (options["data-file"] !== undefined) {
    await createDataFile(
      pathInImage(path, options["data-file"]),
      rounded,
      options,
      replace,
      context,
    );
  }
  const file = createImageFile(path, replace, context);
  try {
    writeEmpty(file, plan);
  } finally {
    file.close();
  }
  // A raw data file is one only if every cluster is known to be in it.
  const { preallocation } = options;
  if (preallocation === "off" && !options["data-file-raw"]) return;
  await reserve(path, options, context);
}

async function createDataFile(
  path: string,
  size: number,
  { preallocation }: CreateOptions,
  replace: boolean,
  context: ImageContext,
): Promise<void> {
  const file = createImageFile(path, replace, context);
  try {
    if (!file.isBlockDevice) file.truncate(size);
    const how = preallocation === "metadata" ? "off" : preallocation;
    await preallocate(file, 0, size, how, context);
    await file.flushAsync();
  } finally {
    file.close();
  }
}

/** Reserves clusters for the whole disk, and their storage if wanted. */
async function reserve(path: string, options: CreateOptions, context: ImageContext): Promise<void> {
  const image = makeLive(openImage({
    path,
    readOnly: false,
    lock: true,
    direct: false,
    discard: false,
    cacheBytes: L2_CACHE_BYTES,
    snapshot: null,
  }, context));
  try {
    const { state } = image;
    await reserveClusters(image, 0, state.header.size, options.preallocation, context);
  } finally {
    closeImage(image);
  }
}
