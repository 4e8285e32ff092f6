/**
 * What a target's thread and the main thread say to each other. Plain data.
 *
 * @module
 */
import type { BitmapRun } from "../block/bitmaps.ts";
import type { Log } from "../block/context.ts";
import { BlockError, type Errno, hasErrno, toBlockError } from "../block/errors.ts";
import type { Operation } from "../block/request.ts";
import type { Extent, Geometry, Management } from "../block/types.ts";
import { type Place, UsageError } from "../block/usage_error.ts";
import type { Features } from "../block/device.ts";
import type { BitmapFacts } from "../dirty_log/dirty_bitmap.ts";
import type { BitmapCommand } from "../dirty_log/target_bitmaps.ts";
import type { SharedFile } from "../handle/shared_gate.ts";
import type { HandshakeState } from "../nbd/export_info.ts";
import type { TargetConfig } from "./config.ts";

/**
 * A management verb that can be called from another thread: what it is told and gives is plain data.
 * Mirrors work in the background, so they are never in a thread that blocks.
 */
export type ThreadVerb = Exclude<
  keyof Management,
  "describe" | "statistics" | "collect" | "mirror" | "addLeg" | "dropLeg"
>;

/** Limits of connections that differ from those in limits.ts of each part. */
export interface ThreadLimits {
  /** SEND_STALL_MS_MAX, in ms. */
  readonly sendStall_ms?: number;
  /** POOL_PLENTY_BYTES_MAX, in bytes. */
  readonly plentyBytes?: number;
  /** SCARCE_SWEEP_MS, in ms. */
  readonly scarceSweep_ms?: number;
}

/** The first message to a thread. */
export interface ThreadStart {
  readonly kind: "start";
  readonly config: TargetConfig;
  /** Files of backends that do not come along. */
  readonly plugins: readonly string[];
  /** Where the Device counts. */
  readonly statistics: SharedArrayBuffer;
  /** Where the thread's pool counts. */
  readonly pool: SharedArrayBuffer;
  /** The eventfd in the thread's set. */
  readonly wakeFd: number;
  readonly limits: ThreadLimits;
}

/** A connection that is handed over. */
export interface ThreadConnectionStart {
  readonly kind: "connection";
  readonly id: number;
  readonly fd: number;
  readonly state: HandshakeState;
  readonly unread: Uint8Array;
  readonly file: SharedFile;
}

/** A request of another thread to the Device. */
export interface ThreadRequest {
  readonly operation: Operation;
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
  /** What a write stores; empty for all others. */
  readonly data: Uint8Array<ArrayBuffer>;
  /** The bitmap that extents are asked of, or undefined. */
  readonly bitmap: string | undefined;
}

/** Something that has a result. */
export type ThreadTask =
  | { readonly verb: "submit"; readonly request: ThreadRequest }
  | { readonly verb: "resize"; readonly size: number }
  | { readonly verb: "bitmap"; readonly command: BitmapCommand }
  | { readonly verb: "manage"; readonly name: ThreadVerb; readonly argument: string }
  | { readonly verb: "close" };

/** To a target's thread. All but "start" and "give-up" go with a signal. */
export type ToTargetThread =
  | ThreadStart
  | { readonly kind: "give-up" }
  | ThreadConnectionStart
  | { readonly kind: "stop"; readonly id: number }
  | { readonly kind: "cut"; readonly id: number; readonly reason: string }
  | { readonly kind: "task"; readonly id: number; readonly task: ThreadTask };

/** What a thread tells of its Device. */
export interface DeviceShape {
  readonly geometry: Geometry;
  readonly features: Features;
  readonly bitmaps: readonly BitmapFacts[];
}

/** An error as plain data. */
export interface PlainError {
  /** Null for a UsageError. */
  readonly errno: Errno | null;
  readonly message: string;
  readonly place: Place | null;
  /** Its stack, for a bug; null for what has an errno of its own. */
  readonly stack: string | null;
}

/** From a target's thread. */
export type FromTargetThread =
  | {
    readonly kind: "opened";
    readonly shape: DeviceShape;
    readonly verbs: readonly ThreadVerb[];
    /** What has to be closed if the thread dies. */
    readonly epollFd: number;
  }
  /** Its storage would have to wait for an event loop: it is closed again. */
  | { readonly kind: "waits" }
  | { readonly kind: "failed"; readonly error: PlainError }
  | { readonly kind: "ended"; readonly id: number; readonly cause: PlainError | null }
  | {
    readonly kind: "done";
    readonly id: number;
    readonly shape: DeviceShape;
    readonly result: ThreadResult;
  }
  | { readonly kind: "log"; readonly level: keyof Log; readonly text: string };

/** How a task has ended. */
export type ThreadResult =
  | {
    readonly ok: true;
    readonly value: unknown;
    readonly extents?: Extent[];
    readonly runs?: BitmapRun[];
  }
  | { readonly ok: false; readonly error: PlainError };

/** Makes plain data of an error. */
export function plainError(error: unknown): PlainError {
  if (error instanceof UsageError) {
    return { errno: null, message: error.message, place: error.place, stack: null };
  }
  const { errno, message } = toBlockError(error);
  const stack = error instanceof Error && !hasErrno(error) ? error.stack ?? null : null;
  return { errno, message, place: null, stack };
}

/** The error that plain data were made of. */
export function revivedError({ errno, message, place, stack }: PlainError): Error {
  if (errno === null) return new UsageError(message, place === null ? null : unplaced(place));
  if (stack === null) return new BlockError(errno, message);
  const cause = new Error(message);
  cause.stack = stack;
  return new BlockError(errno, message, { cause });
}

/** The message says where already. */
function unplaced({ text, start, end }: Place): Place {
  return { text, start, end };
}
