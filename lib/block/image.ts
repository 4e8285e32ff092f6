/**
 * Image tools: what can be done to a disk that is at rest, as `dmu image` does it: create it, look at
 * it, check and mend it, change its size or its backing. A kind of storage offers them as the member
 * `image` of its `BackendType`; what is done to an open disk (snapshots, commit) is its `Management`.
 * Names of fields are those of qemu-img's JSON, in camelCase.
 *
 * @module
 */
import type { OpenContext } from "./context.ts";
import { BlockError } from "./errors.ts";
import type { OptionSchema } from "./options.ts";

/** Bytes of a disk's beginning by which `ImageTools.detect` tells what it is. */
export const IMAGE_HEAD_BYTES = 512;

/** Told now and then how far long work is: bytes done of a total. It must not throw. */
export type Progress = (done: number, total: number) => void;

/** What image tools are called with: the context of opening, and whom to tell of progress. */
export interface ImageContext extends OpenContext {
  /** How far it is. */
  readonly progress: Progress;
}

/** A value of JSON. */
export type JsonValue =
  | string
  | number
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [name: string]: JsonValue };

/** How storage is reserved in advance: nothing, tables alone, storage without writing, zeroes written. */
export const PREALLOCATIONS = ["off", "metadata", "falloc", "full"] as const;
/** One of PREALLOCATIONS. */
export type Preallocation = typeof PREALLOCATIONS[number];

/** A disk to be created. */
export interface CreateRequest {
  /** Bytes; null if the options tell it (a backing file has one). */
  readonly size: number | null;
  /** Take the place of what is there. If false what is there stays, and EEXIST is thrown. */
  readonly replace: boolean;
}

/** A snapshot as `info` shows it. */
export interface ImageSnapshot {
  /** What tells it from others of the same name. */
  readonly id: string;
  /** The name that it was given. */
  readonly name: string;
  /** Bytes of a machine's state in it. */
  readonly vmStateSize: number;
  /** When it was taken: seconds since 1970. */
  readonly dateSec: number;
  /** Nanoseconds of that second. */
  readonly dateNsec: number;
  /** How long the machine had run then: seconds. */
  readonly vmClockSec: number;
  /** Nanoseconds of that second. */
  readonly vmClockNsec: number;
  /** Instructions that the machine had done, if it counted them. */
  readonly icount?: number;
}

/** What an image is. */
export interface ImageInfo {
  /** Bytes of the disk. */
  readonly virtualSize: number;
  /** Where it is. */
  readonly filename: string;
  /** Format: "qcow2", "raw" … */
  readonly format: string;
  /** Bytes of storage in use; absent if that is not known. */
  readonly actualSize?: number;
  /** Bytes of a cluster, if it has clusters. */
  readonly clusterSize?: number;
  /** It was not closed properly. */
  readonly dirtyFlag: boolean;
  /** The backing file as the image names it. */
  readonly backingFilename?: string;
  /** The same as it is opened from here. */
  readonly fullBackingFilename?: string;
  /** Its format, if the image tells. */
  readonly backingFilenameFormat?: string;
  /** Snapshots in it, oldest first. */
  readonly snapshots?: readonly ImageSnapshot[];
  /** What only this format has. */
  readonly formatSpecific?: {
    /** The format. */
    readonly type: string;
    /** Names of data are qemu-img's in camelCase: compressionType, lazyRefcounts … */
    readonly data: { readonly [name: string]: JsonValue };
  };
}

/** A run of a disk, and where it comes from. */
export interface MapEntry {
  /** First byte of the disk. */
  readonly start: number;
  /** Bytes. */
  readonly length: number;
  /** 0 for the image itself, 1 for its backing file … */
  readonly depth: number;
  /** The chain has something for it: data or zeroes. */
  readonly present: boolean;
  /** It reads as zeroes. */
  readonly zero: boolean;
  /** It is data, which has to be read. */
  readonly data: boolean;
  /** It is compressed. */
  readonly compressed: boolean;
  /** Where it is in the file, in bytes; absent if it is nowhere or compressed. */
  readonly offset?: number;
  /** The file that it is in, if there is an offset. */
  readonly filename?: string;
}

/** What a check is to mend: nothing, what only takes up space, or everything. */
export const REPAIRS = ["none", "leaks", "all"] as const;
/** One of REPAIRS. */
export type Repair = typeof REPAIRS[number];

/** What a check has found. Counts are of what is left, after what was mended. */
export interface CheckReport {
  /** The image. */
  readonly filename: string;
  /** Its format. */
  readonly format: string;
  /** What leaks are counted in; "cluster" if absent. */
  readonly unit?: string;
  /** What could not be checked. */
  readonly checkErrors: number;
  /** First byte behind all that is in use. */
  readonly imageEndOffset?: number;
  /** What endangers data. */
  readonly corruptions?: number;
  /** Clusters that take up space for nothing. */
  readonly leaks?: number;
  /** Corruptions that were mended. */
  readonly corruptionsFixed?: number;
  /** Leaks that were mended. */
  readonly leaksFixed?: number;
  /** Clusters that the disk has. */
  readonly totalClusters?: number;
  /** Those that have data. */
  readonly allocatedClusters?: number;
  /** Those that do not lie behind the one before. */
  readonly fragmentedClusters?: number;
  /** Those that are compressed. */
  readonly compressedClusters?: number;
  /** What was found, a sentence each, without a full stop; at most some hundreds. */
  readonly messages: readonly string[];
}

/** A new backing file. */
export interface RebaseRequest {
  /** The file as the image is to name it (relative to the image's folder), or null for none. */
  readonly backing: string | null;
  /** Its format, or null: found out. */
  readonly format: string | null;
  /** Change the name alone: whoever asks knows that both have the same content. */
  readonly unsafe: boolean;
}

/** How to change a size. */
export interface ResizeOptions {
  /** Data may be cut off. If false a smaller size is refused. */
  readonly shrink: boolean;
  /** What is reserved of the bytes that are new. */
  readonly preallocation: Preallocation;
}

/** What garbage collection has done to a disk. */
export interface CollectReport {
  /** Bytes of data that were moved. */
  readonly movedBytes: number;
  /** Objects that were deleted. */
  readonly deletedObjects: number;
  /** Bytes of those. */
  readonly deletedBytes: number;
}

/**
 * What can be done to disks of one kind that are at rest. `O` are the options that the kind is opened
 * with (they say where the disk is), `C` what can be told when one is created. An absent method is an
 * absent capability. Errors are BlockError, or UsageError for options that cannot be.
 */
export interface ImageTools<O = unknown, C = unknown> {
  /** What qemu-img calls the format: "qcow2", or "raw" for files. */
  readonly format: string;
  /** What can be told of a new disk but its size; names are qemu-img's with hyphens. */
  readonly createOptions: OptionSchema<C>;
  /** True if a file that begins with these IMAGE_HEAD_BYTES (or fewer) is of this kind. */
  detect?(head: Uint8Array): boolean;
  /** Makes a disk, durably. Throws EEXIST, having changed nothing, if there is one and it is to stay. */
  create(disk: O, request: CreateRequest, options: C, context: ImageContext): Promise<void>;
  /** What the image is. Changes nothing. */
  info(disk: O, context: ImageContext): Promise<ImageInfo>;
  /** Where everything is, from start to end without gaps; neighbours that continue each other are one. */
  map?(disk: O, context: ImageContext): AsyncIterable<MapEntry>;
  /** Looks for damage, and mends it if asked to. Throws if the image cannot be checked at all. */
  check?(disk: O, repair: Repair, context: ImageContext, deep?: boolean): Promise<CheckReport>;
  /** True if `check` can read and verify the data too. */
  readonly checksData?: boolean;
  /**
   * Why a disk should be left alone, for a person: somebody has it open, or has not closed it. Null if
   * it is at rest. Kinds that find out when they open a disk, by its lock, do not have this.
   */
  inUse?(disk: O, context: ImageContext): Promise<string | null>;
  /** Makes a new disk, `to`, that begins as a snapshot of this one and shares its storage. */
  clone?(disk: O, snapshot: string, to: O, context: ImageContext): Promise<void>;
  /** Gives back storage that nothing needs any more. */
  collect?(disk: O, context: ImageContext): Promise<CollectReport>;
  /** Removes the disk with all its snapshots. Gives the number of objects that were deleted. */
  remove?(disk: O, context: ImageContext): Promise<number>;
  /** Changes the backing file; unless that is unsafe the content stays. */
  rebase?(disk: O, request: RebaseRequest, context: ImageContext): Promise<void>;
  /** Changes the size, durably. */
  resize?(disk: O, size: number, options: ResizeOptions, context: ImageContext): Promise<void>;
}

/**
 * Refuses a size that is smaller than that of now, unless data may be cut off. `what` is the image.
 * Throws EINVAL.
 */
export function checkShrink(what: string, now: number, size: number, shrink: boolean): void {
  if (size >= now || shrink) return;
  throw new BlockError(
    "EINVAL",
    `Cannot resize ${what} from ${now} to ${size} bytes: that cuts off data, --shrink allows it`,
  );
}
