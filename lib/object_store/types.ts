/**
 * A store of immutable objects, as the disk on object storage needs it: create if absent, read, list,
 * delete. The semantics are those of Amazon S3 with conditional writes: an object that was created is
 * seen by every later read and listing (strong consistency), and of several creations of one key
 * exactly one succeeds.
 *
 * @module
 */
import { BlockError, type Errno } from "../block/errors.ts";

/** What an object is, as a listing shows it. */
export interface ObjectEntry {
  /** Its key, relative to the store's prefix. */
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  /** When it was created, in ms since 1970; null if unknown. */
  readonly modifiedMs: number | null;
}

/** Part of an object. */
export interface ByteRange {
  /** Bytes from its beginning. */
  readonly offset: number;
  /** Bytes, at least 1. */
  readonly length: number;
}

/** What a call may be given. */
export interface StoreCallOptions {
  /** Gives the call up: it then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** What has been asked of a store, for cost estimates. */
export interface StoreCounts {
  /** Creations that were sent. */
  readonly puts: number;
  /** Reads that were sent. */
  readonly gets: number;
  /** Pages of listings that were asked for. */
  readonly lists: number;
  /** Requests that delete. */
  readonly deletes: number;
  /** Bytes of objects that were sent. */
  readonly bytesOut: number;
  /** Bytes of objects that were received. */
  readonly bytesIn: number;
  /** Requests that were sent again; they are counted above as well. */
  readonly retries: number;
}

/**
 * Immutable objects by key. Keys are relative to the store's prefix and made of a-z, 0-9, "/", "_",
 * "." and "-" (`checkKey`). A store retries by itself what is safe to retry.
 */
export interface ObjectStore extends AsyncDisposable {
  /** Where it is, without secrets, for messages. */
  readonly name: string;
  /** What has been asked of it so far. */
  readonly counts: StoreCounts;
  /**
   * Creates an object unless there is one of that key. The body is read until the call is done. When it
   * resolves with "created", the object is durable. With "exists" the object may be one's own: what lies
   * between may have repeated the request. Throws StoreError; its kind is "unclear" if the object may
   * have been created, may still come to be, or not.
   */
  create(
    key: string,
    body: readonly Uint8Array<ArrayBuffer>[],
    options?: StoreCallOptions,
  ): Promise<"created" | "exists">;
  /**
   * The object, or a range of it; short at the end of the object, empty behind it; null if there is
   * none. Throws StoreError.
   */
  get(
    key: string,
    range?: ByteRange,
    options?: StoreCallOptions,
  ): Promise<Uint8Array<ArrayBuffer> | null>;
  /** Entries under a prefix, ascending by key, from the first key greater than `after`. Throws StoreError. */
  list(
    prefix: string,
    options?: StoreCallOptions & { readonly after?: string },
  ): AsyncIterable<ObjectEntry>;
  /** Deletes; absent ones are no error. Throws StoreError: then some may be deleted. */
  delete(keys: readonly string[], options?: StoreCallOptions): Promise<void>;
}

/**
 * What is wrong with a store:
 *
 * - `unclear`: a creation may have happened or not; its key has to be looked at;
 * - `denied`: wrong key, wrong secret, or no permission;
 * - `expired`: the credentials were good and are no longer;
 * - `no-bucket`: the bucket or folder does not exist;
 * - `full`: quota or disk is used up;
 * - `unavailable`: not reached, overloaded, or failing; later it may work;
 * - `unsupported`: the store cannot do what is needed of it;
 * - `corrupt`: what came is not what was stored;
 * - `skewed`: the clocks differ by more than can be made up for.
 */
export type StoreErrorKind =
  | "unclear"
  | "denied"
  | "no-bucket"
  | "full"
  | "unavailable"
  | "unsupported"
  | "corrupt"
  | "skewed"
  | "expired";

/** The errno of each kind, where the cause has none of its own. */
const ERRNO_OF_KIND: Readonly<Record<StoreErrorKind, Errno>> = {
  unclear: "EIO",
  denied: "EACCES",
  "no-bucket": "ENOENT",
  full: "ENOSPC",
  unavailable: "EHOSTUNREACH",
  unsupported: "EOPNOTSUPP",
  corrupt: "EIO",
  skewed: "EACCES",
  expired: "EACCES",
};

/**
 * A call of an object store failed.
 *
 * @example
 * ```ts
 * import { StoreError } from "./types.ts";
 * const error = new StoreError("full", "Cannot create log/1: the bucket is full");
 * if (error.errno !== "ENOSPC") throw error;
 * ```
 */
export class StoreError extends BlockError {
  /** What is wrong. */
  readonly kind: StoreErrorKind;

  /** `message` is "Cannot do X: reason", without a full stop; `errno` is that of the kind if left out. */
  constructor(
    kind: StoreErrorKind,
    message: string,
    options: { readonly cause?: unknown; readonly errno?: Errno } = {},
  ) {
    const { cause, errno = ERRNO_OF_KIND[kind] } = options;
    super(errno, message, cause === undefined ? {} : { cause });
    this.name = "StoreError";
    this.kind = kind;
  }
}

/** Longest key in bytes, prefix not counted: S3 takes 1024, and a local folder 255 a part. */
export const KEY_BYTES_MAX = 200;

const KEY = /^[a-z0-9_-][a-z0-9_.-]*(\/[a-z0-9_-][a-z0-9_.-]*)*$/;

/**
 * Throws BlockError (EINVAL) unless `key` can be a key: 1 to `KEY_BYTES_MAX` of a-z, 0-9, "_", "." and
 * "-" in parts that a "/" separates; no part is empty or begins with a dot.
 */
export function checkKey(key: string): void {
  if (key.length <= KEY_BYTES_MAX && KEY.test(key)) return;
  const shown = key.length > KEY_BYTES_MAX ? `${key.slice(0, KEY_BYTES_MAX)}…` : key;
  throw new BlockError(
    "EINVAL",
    `Cannot use "${shown}" as a key: it is made of a-z, 0-9, "_", ".", "-" and "/", at most ` +
      `${KEY_BYTES_MAX} bytes, and no part of it is empty or begins with a dot`,
  );
}
