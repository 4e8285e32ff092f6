/**
 * Image tools of log-structured disks, whatever store their objects are in.
 *
 * @module
 */
import { BlockError } from "../../block/errors.ts";
import type { CreateRequest, ImageContext, ImageTools, MapEntry } from "../../block/image.ts";
import { checkShrink } from "../../block/image.ts";
import { optionSchema, sizeOption } from "../../block/options.ts";
import type { Opened } from "../../block/types.ts";
import { UsageError } from "../../block/usage_error.ts";
import { probeStore } from "../../object_store/probe.ts";
import type { ObjectStore } from "../../object_store/types.ts";
import type { ResolveParent } from "../context.ts";
import { createVolume } from "../create_volume.ts";
import { emptyRun } from "../extent_map.ts";
import { BLOCK_BYTES_MIN, DIRTY_BYTES_MAX, PUTS_MAX, SEAL_AFTER_MS } from "../limits.ts";
import { closeAncestors, loadSnapshotNamed, loadVolume, openVolume, type Volume } from "../load.ts";
import { logKey, VOLUME_KEY } from "../names.ts";
import type { LogState } from "../log_state.ts";
import { type ManagedDiskOptions, openManagedDisk } from "../managed_disk.ts";
import { RAM_CACHE_BYTES } from "../read/limits.ts";
import { checkVolume } from "./check.ts";
import { cloneVolume, removeVolume } from "./clone.ts";
import { volumeInfo } from "./info.ts";

/** What can be told of a new disk. */
export interface VolumeOptions {
  /** Smallest unit of the disk, bytes. */
  readonly block: number;
}

/** Where the disks of a kind are. `O` are the kind's options. */
export interface VolumePlaces<O> {
  /** Opens the store of a disk. Its name is its address. */
  open(disk: O, context: ImageContext): Promise<ObjectStore>;
  /** Opens the stores of parents of a disk, by their addresses. */
  resolve(disk: O, context: ImageContext): ResolveParent;
  /** The snapshot that is meant; null for the disk itself. */
  snapshot(disk: O): string | null;
}

/** How a disk is opened by a tool that writes. */
const AT_REST: Omit<ManagedDiskOptions, "resolve"> = {
  snapshot: null,
  cacheBytes: RAM_CACHE_BYTES,
  diskCache: null,
  wal: null,
  readAheadBytes: 0,
  dirtyBytes: DIRTY_BYTES_MAX,
  sealAfterMs: SEAL_AFTER_MS,
  puts: PUTS_MAX,
  collects: false,
};

/** Opens a volume for the span of `use`. */
async function withVolume<O, T>(
  places: VolumePlaces<O>,
  disk: O,
  context: ImageContext,
  use: (volume: Volume, store: ObjectStore) => Promise<T>,
): Promise<T> {
  await using store = await places.open(disk, context);
  const volume = await openVolume(store, places.resolve(disk, context), context);
  try {
    return await use(volume, store);
  } finally {
    await closeAncestors(volume.origins);
  }
}

async function create<O>(
  places: VolumePlaces<O>,
  disk: O,
  { size, replace }: CreateRequest,
  { block }: VolumeOptions,
  context: ImageContext,
): Promise<void> {
  await using store = await places.open(disk, context);
  if (size === null) throw new UsageError(`Cannot create ${store.name}: its size is missing`);
  const isThere = await store.get(VOLUME_KEY, undefined, { signal: context.signal }) !== null;
  if (isThere && replace) await removeVolume(store, places.resolve(disk, context), context);
  await probeStore(store, context.random, { signal: context.signal });
  await createVolume(store, { diskBytes: size, blockBytes: block }, context);
}

/** The state that is meant: of a snapshot, or of now. */
async function stateOf<O>(
  places: VolumePlaces<O>,
  disk: O,
  volume: Volume,
  context: ImageContext,
): Promise<LogState> {
  const snapshot = places.snapshot(disk);
  if (snapshot !== null) return await loadSnapshotNamed(volume, snapshot, context);
  return (await loadVolume(volume, context)).state;
}

async function* mapVolume<O>(
  places: VolumePlaces<O>,
  disk: O,
  context: ImageContext,
): AsyncGenerator<MapEntry> {
  await using store = await places.open(disk, context);
  const volume = await openVolume(store, places.resolve(disk, context), context);
  try {
    const { map, diskBytes } = await stateOf(places, disk, volume, context);
    const run = emptyRun();
    for (let at = 0; at < diskBytes; at += run.length) {
      map.find(at, diskBytes - at, run);
      const { kind, length, origin, seq } = run;
      const data = kind === "data", common = { start: at, length, compressed: false };
      const place = data
        ? {
          offset: run.at,
          filename: `${volume.origins[origin]?.store.name ?? ""}/${logKey(seq)}`,
        }
        : {};
      const depth = data ? origin : 0;
      yield { ...common, depth, present: kind !== "hole", zero: !data, data, ...place };
    }
  } finally {
    await closeAncestors(volume.origins);
  }
}

/** Opens a disk for writing, as its writer, for the span of `use`; it is detached properly. */
async function withManaged<O, T>(
  places: VolumePlaces<O>,
  disk: O,
  context: ImageContext,
  use: (opened: Opened, name: string) => Promise<T>,
): Promise<T> {
  const store = await places.open(disk, context);
  let opened: Opened;
  try {
    const resolve = places.resolve(disk, context);
    opened = await openManagedDisk(store, { ...AT_REST, resolve }, context);
  } catch (error) {
    await store[Symbol.asyncDispose]();
    throw error;
  }
  await using backend = opened.backend;
  return await use({ ...opened, backend }, store.name);
}

/** The image tools of a kind. */
export function volumeTools<O>(places: VolumePlaces<O>): ImageTools<O, VolumeOptions> {
  return {
    format: "log",
    createOptions: optionSchema<VolumeOptions>({
      block: sizeOption({
        summary: "smallest unit of the disk: a power of two, 512 to 64k",
        default: BLOCK_BYTES_MIN,
      }),
    }),
    checksData: true,
    create: (disk, request, options, context) => create(places, disk, request, options, context),
    info: (disk, context) =>
      withVolume(places, disk, context, (volume) => volumeInfo(volume, context)),
    map: (disk, context) => mapVolume(places, disk, context),
    check: (disk, repair, context, deep = false) =>
      withVolume(places, disk, context, (volume) => {
        return checkVolume(volume, { repair, deep, progress: context.progress }, context);
      }),
    resize: (disk, size, { shrink }, context) =>
      withManaged(places, disk, context, async ({ backend }, name) => {
        checkShrink(name, backend.geometry.size, size, shrink);
        await backend.resize?.(size);
      }),
    inUse: (disk, context) =>
      withVolume(places, disk, context, async (volume) => {
        const { state } = await loadVolume(volume, context);
        return state.detached ? null : "it is in use, or was not closed";
      }),
    clone: async (disk, snapshot, to, context) => {
      await using parent = await places.open(disk, context);
      await using store = await places.open(to, context);
      await probeStore(store, context.random, { signal: context.signal });
      await cloneVolume(store, { parent, address: parent.name, snapshot }, context);
    },
    collect: (disk, context) =>
      withManaged(places, disk, context, async ({ management }, name) => {
        const report = await management?.collect?.(context.progress);
        if (report !== undefined) return report;
        throw new BlockError("EROFS", `Cannot collect garbage of ${name}: it is read-only`);
      }),
    remove: async (disk, context) => {
      await using store = await places.open(disk, context);
      return await removeVolume(store, places.resolve(disk, context), context);
    },
  };
}
