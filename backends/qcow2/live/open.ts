/**
 * Opening an image: its header, tables, data file and backing files; what has to be put right or marked
 * in an image before it is written to for the first time.
 *
 * @module
 */
import type { OpenContext } from "../../../lib/block/context.ts";
import { BlockError, toBlockError } from "../../../lib/block/errors.ts";
import type { RawFile } from "../../../lib/sys/file_access.ts";
import { BITMAP_AUTO, BITMAP_IN_USE, encodeBitmapDirectory } from "../format/bitmap_directory.ts";
import {
  AUTOCLEAR_BITMAPS,
  AUTOCLEAR_KNOWN,
  COMPATIBLE_LAZY_REFCOUNTS,
  hasDataFile,
  INCOMPATIBLE_CORRUPT,
  INCOMPATIBLE_DIRTY,
  type QcowHeader,
} from "../format/header.ts";
import { badImage } from "../format/numbers.ts";
import type { Snapshot } from "../format/snapshot_table.ts";
import { readBitmaps, readHeader, readSnapshots, readSnapshotTable } from "../read_tables.ts";
import type { Layer } from "./backing.ts";
import { backingNameOf, type ChainSettings, openBacking, pathInImage } from "./chain.ts";
import { ClusterSet } from "./cluster_set.ts";
import { Committer } from "./commit.ts";
import { extentAt } from "./extents.ts";
import { HostFile } from "./host_file.ts";
import { L1Table } from "./l1_table.ts";
import { CACHE_TABLES_MIN, REFCOUNT_CACHE_BYTES } from "./limits.ts";
import { mapEntryAt } from "./map.ts";
import { Reader } from "./read.ts";
import { Refcounts } from "./refcounts.ts";
import { ImageState } from "./state.ts";

/** How to open an image. */
export interface ImageOptions {
  /** The image file. */
  readonly path: string;
  /** Open nothing for writing. */
  readonly readOnly: boolean;
  /** Lock the files: one writer, or several readers. */
  readonly lock: boolean;
  /** Bypass the page cache for the image file and its data file. */
  readonly direct: boolean;
  /** Give storage of freed clusters back. */
  readonly discard: boolean;
  /** Most memory for L2 tables, bytes. */
  readonly cacheBytes: number;
  /** Use the state of this snapshot (by id or name) instead of that of now, read-only; null for now. */
  readonly snapshot: string | null;
}

/** An open image and what reads it. */
export interface OpenImage {
  /** Tables and files. */
  readonly state: ImageState;
  /** Reads. */
  readonly reader: Reader;
}

/** Calls `fn`; closes `files` if that fails. */
function orClose<T>(files: readonly { close(): void }[], fn: () => T): T {
  try {
    return fn();
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

function openDataFile(
  file: RawFile,
  header: QcowHeader,
  options: ImageOptions,
  context: OpenContext,
): HostFile | null {
  if (!hasDataFile(header)) return null;
  if (header.dataFile === null) {
    throw badImage(file.path, "its data is in a file of its own, whose name is not recorded");
  }
  const { readOnly, lock, direct } = options;
  const path = pathInImage(file.path, header.dataFile);
  const settings = { readOnly, lock, direct };
  try {
    return new HostFile(context.files.open(path, settings));
  } catch (error) {
    // QEMU takes the name as it is, relative to the folder that it was started in.
    if (path === header.dataFile || toBlockError(error).errno !== "ENOENT") throw error;
    return new HostFile(context.files.open(header.dataFile, settings));
  }
}

/** The snapshot that an id or, failing that, a name stands for; null if there is none. */
export function findSnapshot(snapshots: readonly Snapshot[], name: string): Snapshot | null {
  return snapshots.find(({ id }) => id === name) ??
    snapshots.find((each) => each.name === name) ?? null;
}

/** The L1 table at a place. Throws EINVAL if it is not in the file. */
export function readL1(file: HostFile, offset: number, size: number): L1Table {
  const bytes = new Uint8Array(Math.ceil(size * 8 / file.unit) * file.unit);
  if (size > 0 && offset + size * 8 > Math.ceil(file.length / file.unit) * file.unit) {
    throw badImage(file.raw.path, `its L1 table at ${offset} is past the end of the file`);
  }
  file.read(bytes, offset);
  return new L1Table(offset, size, bytes);
}

/** The header and the L1 table that are used: those of now, or as they were at a snapshot. */
function chooseTables(
  file: HostFile,
  header: QcowHeader,
  options: ImageOptions,
): { readonly header: QcowHeader; readonly l1: L1Table } {
  if (options.snapshot === null) {
    return { header, l1: readL1(file, header.l1Offset, header.l1Size) };
  }
  const snapshot = findSnapshot(readSnapshots(file.raw, header), options.snapshot);
  if (snapshot === null) {
    throw new BlockError(
      "ENOENT",
      `Cannot open ${options.path}: it has no snapshot "${options.snapshot}"`,
    );
  }
  const { size, l1Offset, l1Size } = snapshot;
  return {
    header: { ...header, size: size ?? header.size },
    l1: readL1(file, l1Offset, l1Size),
  };
}

/** Opens an image with everything that it stands on. `above` are the paths of those that stand on it. */
export function openImage(
  options: ImageOptions,
  context: OpenContext,
  above: readonly string[] = [],
): OpenImage {
  const { path, lock, direct, cacheBytes } = options;
  const readOnly = options.readOnly || options.snapshot !== null;
  const raw = context.files.open(path, { readOnly, lock, direct });
  return orClose([raw], () => {
    const found = readHeader(raw);
    if (direct && 2 ** found.clusterBits < raw.alignment) {
      throw new BlockError(
        "EINVAL",
        `Cannot open ${path}: its clusters are smaller than the ${raw.alignment} bytes of direct I/O`,
      );
    }
    if (!readOnly) requireWritable(path, found);
    const file = new HostFile(raw);
    const { header, l1 } = chooseTables(file, found, options);
    const dataFile = openDataFile(raw, header, { ...options, readOnly }, context);
    return orClose(dataFile === null ? [] : [dataFile.raw], () => {
      const backing = openBelow(header, [...above, path], { lock, cacheBytes }, context);
      return orClose(backing === null ? [] : [backing], () => {
        const { log } = context, { discard } = options;
        const state = new ImageState({
          file,
          dataFile,
          header,
          l1,
          backing,
          readOnly,
          discard,
          cacheBytes,
          log,
        });
        if (!readOnly) prepareWriting(state);
        return { state, reader: new Reader(state) };
      });
    });
  });
}

function openBelow(
  header: QcowHeader,
  above: readonly string[],
  { lock, cacheBytes }: Pick<ChainSettings, "lock" | "cacheBytes">,
  context: OpenContext,
): Layer | null {
  const name = backingNameOf(header);
  if (name === null) return null;
  const openBelowImage = (path: string, chain: readonly string[]): Layer =>
    imageLayer(
      openImage(
        { path, readOnly: true, lock, direct: false, discard: false, cacheBytes, snapshot: null },
        context,
        chain,
      ),
    );
  return openBacking(name, above, { lock, cacheBytes, openImage: openBelowImage }, context);
}

/** Opens the backing file of an image again, which was closed to be written to. */
export function reopenBacking(
  { header, path }: ImageState,
  options: ImageOptions,
  context: OpenContext,
): Layer | null {
  return openBelow(header, [path], options, context);
}

/** An open image as what another stands on. */
export function imageLayer({ state, reader }: OpenImage): Layer {
  return {
    path: state.path,
    format: "qcow2",
    size: state.header.size,
    read: (into, offset) => reader.read(into, offset),
    extent: (offset, length) => extentAt(state, offset, length),
    mapEntry: (offset, length) => mapEntryAt(state, offset, length),
    cache: (offset, length) => reader.cache(offset, length),
    close: () => closeFiles(state),
  };
}

/** Closes the files of an image and of what it stands on. */
export function closeFiles(state: ImageState): void {
  state.file.raw.close();
  state.dataFile?.raw.close();
  state.backing?.close();
}

/** Throws if an image must not be written to. */
function requireWritable(path: string, header: QcowHeader): void {
  if ((header.incompatible & INCOMPATIBLE_CORRUPT) !== 0n) {
    throw new BlockError(
      "EROFS",
      `Cannot open ${path} for writing: it is marked as damaged; check and repair it, or open it read-only`,
    );
  }
  if ((header.incompatible & INCOMPATIBLE_DIRTY) !== 0n) {
    throw new BlockError(
      "EROFS",
      `Cannot open ${path} for writing: it was not closed and its refcounts may be wrong; ` +
        "check and repair it, or open it read-only",
    );
  }
}

/** The refcounts that the header of an image tells of. */
export function makeRefcounts(state: ImageState): Refcounts {
  const { file, header, layout, metadata } = state;
  const { clusterBytes } = layout;
  return new Refcounts({
    file,
    clusterBytes,
    order: header.refcountOrder,
    tableOffset: header.refcountTableOffset,
    tableClusters: header.refcountTableClusters,
    metadata,
    blocksMax: Math.max(Math.floor(REFCOUNT_CACHE_BYTES / clusterBytes), CACHE_TABLES_MIN),
    damaged: (reason) => state.damaged(reason),
  });
}

/** Everything that an image needs before it is written to for the first time. */
function prepareWriting(state: ImageState): void {
  const { header } = state;
  const lazy = header.version >= 3 && (header.compatible & COMPATIBLE_LAZY_REFCOUNTS) !== 0n;
  state.attach(makeRefcounts(state), new Committer(state, lazy));
  noteMetadata(state);
  clearAutoclear(state);
}

/** Notes which clusters hold tables. Throws EIO if two tables are in one place. */
export function noteMetadata(state: ImageState): void {
  const { header, layout, refcounts, metadata, file, l1 } = state;
  const { clusterBytes } = layout;
  metadata.clear();
  const add = (offset: number, bytes: number, what: string): void => {
    if (bytes === 0) return;
    if (offset % clusterBytes !== 0 || offset >= state.hostEnd) {
      state.damaged(`${what} is said to be at ${offset}`);
    }
    if (metadata.add(offset / clusterBytes, Math.ceil(bytes / clusterBytes))) return;
    state.damaged(`${what} at ${offset} is where another table is`);
  };
  add(0, clusterBytes, "the header");
  add(header.l1Offset, l1.bytes.length, "the L1 table");
  add(refcounts.tableOffset, refcounts.tableClusters * clusterBytes, "the refcount table");
  for (const [index, offset] of refcounts.blocks.entries()) {
    if (offset !== 0) add(offset, clusterBytes, `refcount block ${index}`);
  }
  if (header.snapshotCount > 0) {
    const { bytes, snapshots } = readSnapshotTable(file.raw, header);
    add(header.snapshotsOffset, bytes, "the snapshot table");
    for (const { l1Offset, l1Size, name } of snapshots) {
      add(l1Offset, l1Size * 8, `the L1 table of snapshot "${name}"`);
    }
  }
  // One L2 table for two L1 entries is odd, but the refcounts tell that both have to leave it alone.
  const tables = new ClusterSet();
  for (let index = 0; index < l1.size; index += 1) {
    const offset = l1.tableOf(index);
    if (offset !== 0 && tables.add(offset / clusterBytes, 1)) {
      add(offset, clusterBytes, `the L2 table of L1 entry ${index}`);
    }
  }
}

/**
 * Whoever writes without knowing an autoclear feature clears its bit. Bitmaps are kept: those that are
 * to follow the guest's writes, which nobody does here, are marked as not to be relied on.
 */
function clearAutoclear(state: ImageState): void {
  const { header, file, log } = state;
  const known = header.autoclear & AUTOCLEAR_KNOWN;
  let autoclear = known;
  if ((known & AUTOCLEAR_BITMAPS) !== 0n && header.bitmaps !== null) {
    try {
      markBitmaps(state);
    } catch (error) {
      log.warn(
        `The bitmaps of ${state.path} are given up, since they cannot be used: ` +
          `${error instanceof Error ? error.message : String(error)}`,
      );
      autoclear = known & ~AUTOCLEAR_BITMAPS;
    }
  }
  if (autoclear === header.autoclear) return;
  state.writeHeader({ autoclear });
  file.raw.flush();
}

function markBitmaps(state: ImageState): void {
  const { header, file, metadata, layout } = state;
  const { bitmaps } = header;
  if (bitmaps === null) return;
  const entries = readBitmaps(file.raw, header);
  const stale = (flags: number): boolean =>
    (flags & BITMAP_AUTO) !== 0 && (flags & BITMAP_IN_USE) === 0;
  metadata.add(
    bitmaps.directoryOffset / layout.clusterBytes,
    Math.ceil(bitmaps.directoryBytes / layout.clusterBytes),
  );
  if (!entries.some(({ flags }) => stale(flags))) return;
  const marked = entries.map((each) =>
    stale(each.flags) ? { ...each, flags: each.flags | BITMAP_IN_USE } : each
  );
  const directory = encodeBitmapDirectory(marked);
  const whole = new Uint8Array(Math.ceil(directory.length / file.unit) * file.unit);
  whole.set(directory);
  file.write(whole, bitmaps.directoryOffset);
  file.raw.flush();
}
