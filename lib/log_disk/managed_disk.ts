/**
 * A log-structured disk as it is served: attached with its caches, reading ahead, a write-ahead log on
 * this host if one is wanted, garbage collection by itself, and verbs for an administrator.
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import { BlockError, toBlockError } from "../block/errors.ts";
import type { Progress } from "../block/image.ts";
import { formatSize } from "../block/size.ts";
import type { Backend, Management, Opened, SnapshotInfo } from "../block/types.ts";
import type { ObjectStore } from "../object_store/types.ts";
import { newId, type ResolveParent } from "./context.ts";
import { Collector, type CollectReport, garbageOf } from "./gc/collector.ts";
import { AUTO_GARBAGE_BYTES, AUTO_GARBAGE_SHARE } from "./gc/limits.ts";
import { neededOrAll } from "./gc/needed.ts";
import { readVolume } from "./load.ts";
import { LogDisk } from "./log_disk.ts";
import { checkpointKey } from "./names.ts";
import { CachedReader } from "./read/cached_reader.ts";
import { DiskCache } from "./read/disk_cache.ts";
import { ReadAhead } from "./read/read_ahead.ts";
import {
  completeSnapshot,
  deleteSnapshot,
  dropSnapshot,
  listSnapshots,
  putSnapshot,
} from "./snapshots.ts";
import { openWalDisk, walHooks } from "./wal/wal_disk.ts";
import { WriteAheadLog } from "./wal/write_ahead_log.ts";

/** How a disk is opened. Bytes, and ms. */
export interface ManagedDiskOptions {
  /** The snapshot to show, read-only; what is there now if null. */
  readonly snapshot: string | null;
  /** Memory for what was read. */
  readonly cacheBytes: number;
  /** Folder of a cache on disk, and its size; null for none. */
  readonly diskCache: { readonly folder: string; readonly bytes: number } | null;
  /** File of a write-ahead log, and its size; null for none. */
  readonly wal: { readonly path: string; readonly bytes: number } | null;
  /** How far is read ahead at most; 0 for not. */
  readonly readAheadBytes: number;
  /** Bytes that are not durable yet above which writes wait. */
  readonly dirtyBytes: number;
  /** Time after which data that nobody flushes is sent. */
  readonly sealAfterMs: number;
  /** Objects on their way at a time. */
  readonly puts: number;
  /** Garbage is collected when there is much of it. */
  readonly collects: boolean;
  /** Opens the store of a parent volume. */
  readonly resolve: ResolveParent;
}

/** What a disk is made of. */
interface Parts {
  readonly disk: LogDisk;
  readonly reader: CachedReader;
  readonly store: ObjectStore;
  readonly collector: Collector;
  readonly wal: WriteAheadLog | null;
  readonly context: OpenContext;
  readonly stop: AbortController;
}

/** True if there is a file at that path. Throws what opening it throws otherwise. */
function isThere(path: string, { files }: OpenContext): boolean {
  try {
    files.open(path, { readOnly: true, direct: false, lock: false }).close();
    return true;
  } catch (error) {
    if (toBlockError(error).errno === "ENOENT") return false;
    throw error;
  }
}

/**
 * Opens the write-ahead log, if there is to be one. A disk that is opened for reading alone has none;
 * throws EBUSY if there is one with writes that the disk has not.
 */
async function openWal(
  { wal, snapshot }: ManagedDiskOptions,
  readOnly: boolean,
  context: OpenContext,
): Promise<WriteAheadLog | null> {
  if (wal === null || snapshot !== null) return null;
  if (!readOnly) return await WriteAheadLog.open(wal, context);
  if (!isThere(wal.path, context)) return null;
  const log = await WriteAheadLog.open(wal, context);
  const { records } = log;
  await log.close();
  if (records === 0) return null;
  throw new BlockError(
    "EBUSY",
    `Cannot open the disk read-only: its write-ahead log ${wal.path} has ${records} records that ` +
      "are not on the disk yet; open it for writing once, or without wal to see an older state",
  );
}

async function openDiskCache(
  store: ObjectStore,
  { diskCache }: ManagedDiskOptions,
  { files, log, signal }: OpenContext,
): Promise<DiskCache | null> {
  if (diskCache === null) return null;
  const { id } = await readVolume(store, signal);
  const path = `${diskCache.folder.replace(/\/+$/, "")}/${id}.lines`;
  return DiskCache.open({ path, bytes: diskCache.bytes }, files, log);
}

/**
 * Opens a volume. The disk owns the store from now on; if this fails the store is still the caller's.
 * Throws what attaching throws, and EBUSY if the write-ahead log belongs to another state of the volume.
 */
export async function openManagedDisk(
  store: ObjectStore,
  options: ManagedDiskOptions,
  context: OpenContext,
): Promise<Opened> {
  const readOnly = context.readOnly || options.snapshot !== null;
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const cache = await openDiskCache(store, options, context);
  const readers: CachedReader[] = [];
  let wal: WriteAheadLog | null = null;
  try {
    wal = await openWal(options, readOnly, context);
    const disk = await LogDisk.attach(store, context, {
      readOnly,
      ...(options.snapshot === null ? {} : { snapshot: options.snapshot }),
      dirtyBytesMax: options.dirtyBytes,
      sealAfterMs: options.sealAfterMs,
      putsMax: options.puts,
      resolve: options.resolve,
      ...(wal === null ? {} : { hooks: walHooks(wal) }),
      reader: (origins) => {
        const { log } = context;
        const { cacheBytes: ramBytes } = options;
        const reader = new CachedReader({ origins, ramBytes, disk: cache, log, signal });
        readers.push(reader);
        return reader;
      },
    });
    const [reader] = readers;
    if (reader === undefined) throw new Error("An attached disk has no reader");
    const collector = new Collector({
      disk,
      store,
      reader,
      neededBy: (snapshot) => neededOrAll(disk.lineage, snapshot, context),
      clock: context.clock,
      signal,
    });
    const parts: Parts = { disk, reader, store, collector, wal, context, stop };
    const below = wal === null ? disk : await openWalDisk({
      disk,
      wal,
      volume: disk.volume.id,
      writer: { epoch: disk.epoch, nonce: disk.nonce },
      log: context.log,
    });
    return {
      backend: makeBackend(below, parts, options),
      management: makeManagement(parts, readOnly),
    };
  } catch (error) {
    if (wal !== null) await wal.close();
    cache?.close();
    throw error;
  }
}

/** Collects garbage by itself once there is much of it. */
function collectByItself({ disk, collector, context }: Parts): () => void {
  let bytes = 0, running = false;
  return disk.onDurable((seq) => {
    bytes += disk.map.objects(0).get(seq)?.dataBytes ?? 0;
    if (running || bytes < AUTO_GARBAGE_BYTES) return;
    bytes = 0;
    const { dataBytes, garbageBytes } = garbageOf(disk.map.objects(0));
    if (garbageBytes < AUTO_GARBAGE_BYTES || garbageBytes < dataBytes * AUTO_GARBAGE_SHARE) return;
    running = true;
    collector.collect().catch((error: unknown) => {
      if (context.signal.aborted || disk.failure !== null) return;
      const reason = error instanceof Error ? error.message : String(error);
      context.log.warn(`Garbage was not collected, it will be tried again: ${reason}`);
    }).finally(() => running = false);
  });
}

function makeBackend(below: Backend, parts: Parts, options: ManagedDiskOptions): Backend {
  const { disk, reader, collector, stop } = parts;
  const ahead = new ReadAhead({
    distanceMax: Math.min(options.readAheadBytes, options.cacheBytes / 2),
    size: () => disk.geometry.size,
    fetch: (offset, length) => disk.cache(offset, length),
  });
  const endCollecting = options.collects && !disk.geometry.readOnly
    ? collectByItself(parts)
    : () => {};
  return {
    get geometry() {
      return below.geometry;
    },
    capabilities: below.capabilities,
    read: (into, offset) => {
      const done = below.read(into, offset);
      ahead.note(offset, into.length);
      return done;
    },
    write: (from, offset, how) => below.write(from, offset, how),
    flush: () => below.flush(),
    trim: (offset, length, how) => below.trim?.(offset, length, how),
    zero: (offset, length, how) => below.zero?.(offset, length, how),
    cache: (offset, length) => disk.cache(offset, length),
    extents: (offset, length) => disk.extents(offset, length),
    resize: (size) => below.resize?.(size),
    async [Symbol.asyncDispose](): Promise<void> {
      endCollecting();
      stop.abort(new BlockError("ESHUTDOWN", "The disk is being closed"));
      await collector.exclusive(() => Promise.resolve());
      await reader[Symbol.asyncDispose]();
      try {
        await below[Symbol.asyncDispose]();
      } finally {
        tellLoss(parts);
      }
    },
  };
}

/** Says what becomes of data that could not be stored until the end. */
function tellLoss({ disk, store, wal, context: { log } }: Parts): void {
  if (disk.dirtyBytes === 0) return;
  const what = `${store.name}: ${formatSize(disk.dirtyBytes)} could not be stored`;
  if (wal === null) {
    return log.error(`${what}, written after the last flush that was answered: lost`);
  }
  log.error(`${what}: open the disk with its write-ahead log ${wal.path} again`);
}

/** What a disk is, and what it has done so far. */
function describe({ disk, reader, store, collector, wal }: Parts): Record<string, string | number> {
  const { volume, map } = disk;
  const { dataBytes, garbageBytes } = garbageOf(map.objects(0));
  return {
    store: store.name,
    volume: volume.id,
    ...(volume.parent === null ? {} : { parent: volume.parent.address }),
    epoch: disk.epoch,
    "durable up to": disk.durableSeq,
    extents: map.extents,
    objects: map.objects(0).size,
    data: dataBytes,
    garbage: garbageBytes,
    ...(wal === null ? {} : { "write-ahead log": `${wal.path}, durable on this host` }),
    ...statisticsOf({ disk, reader, store, collector, wal }),
  };
}

/** Counters and gauges of a disk. */
function statisticsOf(
  { disk, reader, store, collector, wal }: Omit<Parts, "context" | "stop">,
): Record<string, number> {
  const { puts, gets, lists, deletes, bytesOut, bytesIn, retries } = store.counts;
  const { ramHits, diskHits, misses, aheadBytes, damaged } = reader.counts;
  const { rounds, movedBytes, deletedObjects, deletedBytes } = collector.counts;
  return {
    puts,
    gets,
    lists,
    deletes,
    retries,
    "bytes out": bytesOut,
    "bytes in": bytesIn,
    dirty: disk.dirtyBytes,
    "cache memory": reader.memoryBytes,
    "memory hits": ramHits,
    "disk hits": diskHits,
    misses,
    "read ahead": aheadBytes,
    "damaged reads": damaged,
    "gc rounds": rounds,
    "gc moved": movedBytes,
    "gc deleted objects": deletedObjects,
    "gc deleted": deletedBytes,
    ...(wal === null ? {} : { "write-ahead log in use": wal.usedBytes }),
  };
}

/** Keeps the state of now under a name. */
async function takeSnapshot({ disk, store, context }: Parts, name: string): Promise<void> {
  const { signal, clock } = context;
  await disk.flush();
  // One of our own: what another writer who sleeps may still delete is all before it.
  const base = disk.lastCheckpoint ?? await disk.checkpoint();
  const checkpoint = checkpointKey(base, disk.nonce);
  const snapshot = {
    volume: disk.volume.id,
    name,
    id: newId(context),
    checkpoint,
    seq: disk.durableSeq,
    diskBytes: disk.durableBytes,
    createdMs: Math.max(0, Math.floor(clock.wall())),
  };
  await putSnapshot(store, snapshot, { signal });
  try {
    // An object of ours behind it says that nobody had taken over before, and collected under it.
    await disk.resize(disk.geometry.size);
    const found = await store.get(checkpoint, { offset: 0, length: 1 }, { signal });
    if (found === null) {
      throw new BlockError("EAGAIN", `Cannot take snapshot "${name}": its checkpoint is gone`);
    }
    await completeSnapshot(store, snapshot, { signal });
  } catch (error) {
    await dropSnapshot(store, snapshot, context).catch((reason: unknown) =>
      context.log.warn(`Snapshot "${name}" stays incomplete: ${toBlockError(reason).message}`)
    );
    throw error;
  }
}

function makeManagement(parts: Parts, readOnly: boolean): Management {
  const { disk, store, collector, context } = parts, { signal } = context;
  const look: Management = {
    describe: () => describe(parts),
    statistics: () => statisticsOf(parts),
    snapshots: async () => (await listSnapshots(store, { signal })).map(infoOf),
  };
  if (readOnly) return look;
  return {
    ...look,
    createSnapshot: (name) => collector.exclusive(() => takeSnapshot(parts, name)),
    deleteSnapshot: (name) =>
      collector.exclusive(async () => {
        if (disk.failure !== null) throw disk.failure;
        await deleteSnapshot(store, name, context);
      }),
    collect: (progress?: Progress): Promise<CollectReport> => collector.collect(progress),
  };
}

function infoOf(
  { name, createdMs, diskBytes }: { name: string; createdMs: number; diskBytes: number },
): SnapshotInfo {
  return { id: name, name, created_ms: createdMs, size: diskBytes };
}
