/**
 * The contract between storage and everything that sends I/O: what a backend and a filter are.
 * Relies on nothing but the context a backend is opened with. Offsets and lengths are bytes,
 * always as `number`: devices of 2^53 bytes and more are refused.
 *
 * @module
 */
import type { MemoryMap } from "../sys/memory_map.ts";
import type { OpenContext } from "./context.ts";
import type { CollectReport, ImageTools, Progress } from "./image.ts";
import type { OptionSchema } from "./options.ts";

/** A value that is there now, or later: a page-cache hit must not pay for a promise. */
export type Maybe<T> = T | Promise<T>;

/** Size and I/O sizes of a block device. All figures are bytes. */
export interface Geometry {
  /** Size of the device, 0 to 2^53 - 1 bytes; it changes only through `resize`. */
  readonly size: number;
  /** Smallest addressable unit and alignment: a power of two, 1 to 65536 bytes. */
  readonly minimum: number;
  /** Smallest I/O that is efficient: a power of two, at least 512 and at least `minimum`, at most 32 MiB. */
  readonly preferred: number;
  /** Largest length of one `read` or `write` call, a multiple of `preferred`; the Device splits what is longer. */
  readonly maximum: number;
  /** True if every call that changes data is refused with EROFS before it gets here. */
  readonly readOnly: boolean;
}

/** What a backend does natively. The Device emulates or refuses the rest. */
export interface Capabilities {
  /** No call ever returns a promise. Asserted by the Device. */
  readonly synchronous: boolean;
  /** `options.fua` is honoured by write, trim and zero. If false the Device adds a flush. */
  readonly fua: boolean;
}

/** Options of `write` and `trim`. */
export interface WriteOptions {
  /** Force unit access: durable before the call is done. Only set if `capabilities.fua`. */
  readonly fua: boolean;
}

/** Options of `zero`. */
export interface ZeroOptions extends WriteOptions {
  /** The range may become a hole (unallocated). If false it has to stay, or become, allocated. */
  readonly mayTrim: boolean;
  /** Throw EOPNOTSUPP at once, changing nothing, unless this is faster than writing zeroes. */
  readonly fastOnly: boolean;
}

/** One run of bytes of the same state. Extents follow one another from the offset asked for. */
export interface Extent {
  /** Bytes, at least 1. */
  readonly length: number;
  /** Storage is reserved for the range: writing to it cannot fail for want of space. */
  readonly allocated: boolean;
  /** The range reads as zeroes. */
  readonly zero: boolean;
}

/** How whoever waits for several things at a time waits for storage, too. */
export interface StorageNews {
  /** Polls as readable while `look` would find something: with an edge for each range that is there. */
  readonly descriptor: number;
  /** Changes with each range that is there, as far as was known when this thread left a system call last. */
  readonly progress: number;
}

/** What became of ranges that were announced with `willRead`. */
export interface ReadsAhead {
  /** The range was announced, and is not there yet: a read of it would wait. */
  isUnderWay(offset: number, length: number): boolean;
  /** Takes note of what is there by now; with `wait` at least one range more is, if any is under way. */
  look(wait: boolean): void;
  /** For drivers that need not wait in `look`; null while nothing can be under way. Absent if there is never any. */
  readonly news?: StorageNews | null;
  /** A cache has most of what is asked for: it is told of ranges only while reads are slow. */
  readonly cached?: boolean;
  /**
   * Ranges that were announced and not read since then may never be: whatever was fetched for them is given
   * up, so that no later read gets it. Never fails.
   */
  forget(): void;
}

/**
 * Storage behind a block device. Block verbs only: a backend knows of no protocol, export or socket.
 *
 * The Device has checked range, alignment and limits before a call arrives, so a backend asserts
 * at most. `into` and `from` may be used only until the call is done. Errors are thrown as
 * `BlockError`; anything else thrown is treated as a bug and answered EIO. Calls may overlap in
 * time; overlapping ranges in flight have no defined order. An absent method is an absent capability.
 */
export interface Backend extends AsyncDisposable {
  /** Current size and I/O sizes. */
  readonly geometry: Geometry;
  /** What is native. */
  readonly capabilities: Capabilities;
  /** Fills `into` with the bytes at `offset`. */
  read(into: Uint8Array, offset: number): Maybe<void>;
  /**
   * Memory that is the storage itself, byte for byte from offset 0 on as far as it reaches, for system calls
   * alone to read from. What is written to a range shows in it at once. null where there is none.
   */
  readonly memoryMap?: MemoryMap | null;
  /**
   * The range is going to be read at once, behind others: storage that can fetch several ranges at a time
   * begins with it, and does not wait. It never fails.
   */
  willRead?(offset: number, length: number): void;
  /**
   * Storage that tells what of the ranges of `willRead` is there; it is told of them also if reads are quick,
   * unless it is `cached`.
   */
  readonly ahead?: ReadsAhead;
  /** Stores `from` at `offset`. */
  write(from: Uint8Array, offset: number, options: WriteOptions): Maybe<void>;
  /** Makes durable every write that was completed before this call. */
  flush(): Maybe<void>;
  /** Hint that the range is not needed: what it reads as afterwards is undefined. */
  trim?(offset: number, length: number, options: WriteOptions): Maybe<void>;
  /** Makes the range read as zeroes. Length may exceed `geometry.maximum`. */
  zero?(offset: number, length: number, options: ZeroOptions): Maybe<void>;
  /** Hint that the range is going to be read. */
  cache?(offset: number, length: number): Maybe<void>;
  /**
   * The state of the range, as consecutive extents from `offset`: at least one, at most
   * `limits.EXTENTS_PER_CALL_MAX`. May stop short; the last extent may reach past the range, never past the device.
   */
  extents?(offset: number, length: number): Maybe<Extent[]>;
  /** Grows or shrinks the device; `geometry` shows it as soon as the call is done. */
  resize?(size: number): Maybe<void>;
}

/** A state of a device that was kept. */
export interface SnapshotInfo {
  /** What tells it from others of the same name. */
  readonly id: string;
  /** The name that it was given. */
  readonly name: string;
  /** When it was taken: ms since 1970. */
  readonly created_ms: number;
  /** Size of the device then, bytes. */
  readonly size: number;
}

/** Where a leg of a mirror is in its life. */
export type LegStateName = "in-sync" | "resync" | "failed";

/** A leg of a mirror. */
export interface LegStatus {
  /** Its place among the legs, from 1. */
  readonly leg: number;
  /** Its spec. */
  readonly spec: string;
  /** Has everything, is being copied to, or is not in use. */
  readonly state: LegStateName;
  /** Why it is not in use; null if it is. */
  readonly error: string | null;
  /** Requests in flight. */
  readonly inFlight: number;
  /** Bytes that were read from it. */
  readonly readBytes: number;
  /** Bytes that were written to it, copies included. */
  readonly writtenBytes: number;
  /** Reads of it that failed. */
  readonly readErrors: number;
}

/** How far a mirror is with copying. */
export interface ResyncStatus {
  /** Bytes of regions that were copied. */
  readonly done: number;
  /** Bytes of regions that were or are to be copied. */
  readonly total: number;
  /** Bytes a second so far; 0 before there is a figure. */
  readonly rate: number;
  /** Seconds that are left at that rate; null if nobody can tell. */
  readonly eta_s: number | null;
  /** Why it does not go on now; null if it does. */
  readonly waitsFor: string | null;
}

/** A mirror. */
export interface MirrorStatus {
  /** What tells its log from others: 32 hexadecimal digits; null without a log. */
  readonly id: string | null;
  /** Where its log is; null if in memory. */
  readonly log: string | null;
  /** How often it was written down which legs are in sync. */
  readonly events: number;
  /** Bytes of a region. */
  readonly regionBytes: number;
  /** Number of regions. */
  readonly regions: number;
  /** Regions that all legs in use have. */
  readonly inSync: number;
  /** Regions that are marked in the log. */
  readonly dirty: number;
  /** Copying, if there is any. */
  readonly resync: ResyncStatus | null;
  /** The legs. */
  readonly legs: readonly LegStatus[];
}

/**
 * Verbs for an administrator, kept away from the data path (used by CLI and control plane alone). A
 * backend orders them with the I/O that is in flight. An absent method is an absent capability.
 */
export interface Management {
  /** Facts worth showing, in the order in which they should be shown: path, format, allocated bytes … */
  describe?(): Record<string, string | number | boolean>;
  /** Counters and gauges that change all the time, bytes or counts: requests, hits, garbage … */
  statistics?(): Record<string, number>;
  /** The snapshots, oldest first. */
  snapshots?(): Maybe<readonly SnapshotInfo[]>;
  /** Keeps the state of now under a name, durably. Errno: EEXIST, EINVAL for the name, ENOSPC. */
  createSnapshot?(name: string): Maybe<void>;
  /** Puts the content back to that of a snapshot (by name, or by id). Errno: ENOENT. */
  applySnapshot?(name: string): Maybe<void>;
  /** Forgets a snapshot (by name, or by id). Errno: ENOENT. */
  deleteSnapshot?(name: string): Maybe<void>;
  /** Gives back storage that nothing needs any more. */
  collect?(progress?: Progress): Maybe<CollectReport>;
  /** Writes what this layer holds into the layer below it, and then holds nothing of its own. */
  commit?(progress?: Progress): Maybe<void>;
  /** Throws away what this layer holds: what is below shows again. */
  reset?(): Maybe<void>;
  /** The state of a mirror. */
  mirror?(): MirrorStatus;
  /**
   * Takes a leg (from 1) that failed into use again: what it missed is copied to it, or everything if
   * `full`. Errno: ENOENT, EEXIST if it is in use, and those of opening it.
   */
  addLeg?(leg: number, full: boolean): Promise<void>;
  /** Takes a leg (from 1) out of use, durably. Errno: ENOENT, EBUSY if no other leg is in sync. */
  dropLeg?(leg: number): Promise<void>;
  /** Acts out a loss of power, as far as this layer simulates one. */
  crash?(): Maybe<void>;
}

/** What opening a backend or filter gives. */
export interface Opened {
  /** The storage. */
  readonly backend: Backend;
  /** Verbs for an administrator, if it has any. */
  readonly management?: Management;
}

/** A kind of storage: one file that ends in one such object literal. */
export interface BackendType<O> {
  /** The KIND of spec strings: `[a-z][a-z0-9-]*`. */
  readonly name: string;
  /** One line for lists, without a full stop. */
  readonly summary: string;
  /** What can be set, each with its type, default and meaning. */
  readonly options: OptionSchema<O>;
  /** The option that takes the text after `KIND:`; absent if there is none. */
  readonly argument?: keyof O & string;
  /** URI schemes (`nbd+unix`) that select this kind, the whole URI then being the argument. */
  readonly schemes?: readonly string[];
  /** The query of such a URI has the options, and the rest of it is the argument. */
  readonly uriOptions?: boolean;
  /** What can be done to disks at rest, if this kind has such tools. */
  readonly image?: ImageTools<O>;
  /** Its calls wait, for a network or a clock, even where a thread may block: it is never `synchronous`. */
  readonly waits?: boolean;
  /** Opens the storage once; every connection shares it. */
  open(options: O, context: OpenContext): Promise<Opened>;
}

/** A kind of filter: the same verbs, with the next layer in front. */
export interface FilterType<O> {
  /** The name used with `--filter`: `[a-z][a-z0-9-]*`. */
  readonly name: string;
  /** One line for lists, without a full stop. */
  readonly summary: string;
  /** What can be set. */
  readonly options: OptionSchema<O>;
  /** As for a backend. */
  readonly waits?: boolean;
  /** Wraps `next`, which the filter then owns and disposes. */
  open(next: Backend, options: O, context: OpenContext): Promise<Opened>;
}
