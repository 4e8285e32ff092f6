/**
 * What passes a Device: one request model for every way in (NBD, dm-user, FUSE, replayer, benchmark).
 *
 * @module
 */
import type { IoVector, VectorPool } from "../sys/io_vector.ts";
import type { MemoryMap } from "../sys/memory_map.ts";
import type { BitmapRun } from "./bitmaps.ts";
import type { Extent } from "./types.ts";

/** Replies that are sent from many places, where such come from, and storage that is memory: see Backend.memoryMap. */
export type ReplyVector = IoVector;
/** See ReplyVector. */
export type ReplyVectors = VectorPool;
/** See ReplyVector. */
export type StorageMap = MemoryMap;

/** What a request does. */
export type Operation = "read" | "write" | "flush" | "trim" | "zero" | "cache" | "extents";

/** All operations, in the order in which statistics list them. */
export const OPERATIONS: readonly Operation[] = [
  "read",
  "write",
  "flush",
  "trim",
  "zero",
  "cache",
  "extents",
];

/** Flag of write, trim and zero: durable before the request is done. */
export const FLAG_FUA = 1;
/** Flag of zero: the range may become a hole. */
export const FLAG_MAY_TRIM = 2;
/** Flag of zero: fail with EOPNOTSUPP unless it is faster than writing. */
export const FLAG_FAST_ONLY = 4;

/** Access to a target that can be taken away: an open file, or the gate that is always open. */
export interface Gate {
  /** Identifies the way in: the minor of its open file, 0 for none. */
  readonly id: number;
  /** Called before each operation; false if access has been taken away. */
  enter(): boolean;
  /** Called after each operation that entered. */
  leave(): void;
}

/** The gate of callers that cannot be revoked: tests, tools that own the Device. */
export const OPEN_GATE: Gate = { id: 0, enter: () => true, leave: () => {} };

/** An empty buffer for requests without data. */
export const NO_DATA: Uint8Array = new Uint8Array(0);

/** One request. Offset and length are bytes; both are 0 for a flush. */
export interface Request {
  /** What to do. */
  readonly operation: Operation;
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** FLAG_ bits. */
  readonly flags: number;
  /** Read: filled with the data. Write: the data. Exactly `length` bytes; otherwise NO_DATA. */
  readonly data: Uint8Array;
  /** Where access is checked. */
  readonly gate: Gate;
  /** Read: the data are taken later from where `Device.locate` found them; `data` is NO_DATA then. False if absent. */
  readonly located?: boolean;
  /** Extents: those of the dirty bitmap of this name are asked for, instead of the storage's. */
  readonly bitmap?: string;
  /** The result of an extents request without `bitmap`. */
  extents?: Extent[] | undefined;
  /** The result of an extents request with `bitmap`. */
  runs?: BitmapRun[];
}

/** Makes a request; what is left out is 0, NO_DATA and OPEN_GATE, and no bitmap. */
export function makeRequest(
  operation: Operation,
  offset = 0,
  length = 0,
  rest: { flags?: number; data?: Uint8Array; gate?: Gate; bitmap?: string | undefined } = {},
): Request {
  const { flags = 0, data = NO_DATA, gate = OPEN_GATE, bitmap } = rest;
  const request = { operation, offset, length, flags, data, gate };
  return bitmap === undefined ? request : { ...request, bitmap };
}

/** Sees every request on its way in and out: what tracing uses. It must not throw and must not keep `data`. */
export interface Tap {
  /** A request has entered. `timeUs` is the context clock. Returns an opaque token given back at completion. */
  submitted(request: Request, timeUs: number): number;
  /** The request that got `token` is done; `errno` is null for success. */
  completed(token: number, request: Request, errno: string | null, timeUs: number): void;
}
