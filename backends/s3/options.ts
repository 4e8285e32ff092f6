/**
 * Options of the kinds `s3` and `dir`: where the objects are, and how the disk on them is served.
 *
 * @module
 */
import {
  choiceOption,
  countOption,
  flagOption,
  omittable,
  type OptionSchema,
  optionSchema,
  pathOption,
  sizeOption,
  textOption,
  timeOption,
} from "../../lib/block/options.ts";
import { DIRTY_BYTES_MAX, PUTS_MAX, SEAL_AFTER_MS } from "../../lib/log_disk/limits.ts";
import {
  AHEAD_BYTES_MAX,
  DISK_CACHE_BYTES,
  RAM_CACHE_BYTES,
} from "../../lib/log_disk/read/limits.ts";
import { WAL_BYTES } from "../../lib/log_disk/wal/limits.ts";

/** How a disk on objects is served. Bytes, and ms. */
export interface ServeOptions {
  /** What happens to I/O while the store fails: it waits, or it fails as well. */
  readonly "on-error": "wait" | "fail";
  /** The snapshot to show, read-only. */
  readonly snapshot?: string | undefined;
  /** Memory for what was read. */
  readonly cache: number;
  /** Folder of a cache on disk. */
  readonly "disk-cache"?: string | undefined;
  /** Its size. */
  readonly "disk-cache-size": number;
  /** File of a write-ahead log. */
  readonly wal?: string | undefined;
  /** Its size. */
  readonly "wal-size": number;
  /** How far is read ahead at most. */
  readonly "read-ahead": number;
  /** Bytes not yet durable above which writes wait. */
  readonly dirty: number;
  /** Time after which data that nobody flushes is sent. */
  readonly "seal-after": number;
  /** Objects on their way at a time. */
  readonly puts: number;
  /** Garbage is collected by itself. */
  readonly collect: boolean;
}

/** Where a bucket is. */
export interface BucketOptions {
  /** `bucket/prefix`. */
  readonly path: string;
  /** `https://host[:port]`. */
  readonly endpoint?: string | undefined;
  /** What requests are signed for. */
  readonly region?: string | undefined;
  /** How the bucket is named in addresses. */
  readonly style: "auto" | "path" | "virtual";
  /** A profile of the files that AWS tools share. */
  readonly profile?: string | undefined;
  /** A file with credentials. */
  readonly credentials?: string | undefined;
  /** A file with certificates. */
  readonly ca?: string | undefined;
}

/** Where a folder is. */
export interface FolderOptions {
  /** The folder. */
  readonly path: string;
}

const SERVE = {
  "on-error": choiceOption(["wait", "fail"], {
    summary: "what I/O does while the store fails: wait until it works, or fail",
    default: "wait",
  }),
  snapshot: omittable(textOption({ summary: "the snapshot to show, read-only" })),
  cache: sizeOption({ summary: "memory for what was read", default: RAM_CACHE_BYTES }),
  "disk-cache": omittable(pathOption({ summary: "folder of a cache on this host" })),
  "disk-cache-size": sizeOption({ summary: "its size", default: DISK_CACHE_BYTES }),
  wal: omittable(
    pathOption({ summary: "file of a write-ahead log: flushed data is durable on this host" }),
  ),
  "wal-size": sizeOption({ summary: "its size", default: WAL_BYTES }),
  "read-ahead": sizeOption({
    summary: "how far is read ahead at most; 0 for not",
    default: AHEAD_BYTES_MAX,
  }),
  dirty: sizeOption({
    summary: "bytes not yet durable above which writes wait",
    default: DIRTY_BYTES_MAX,
  }),
  "seal-after": timeOption({
    summary: "time after which data that nobody flushes is sent",
    default: SEAL_AFTER_MS,
    max: 3_600_000,
  }),
  puts: countOption({
    summary: "objects on their way at a time",
    default: PUTS_MAX,
    min: 1,
    max: 64,
  }),
  collect: flagOption({ summary: "collect garbage when there is much of it", default: true }),
};

/** Options of `s3`. */
export const s3Schema: OptionSchema<BucketOptions & ServeOptions> = optionSchema({
  path: textOption({ summary: "bucket/prefix" }),
  endpoint: omittable(textOption({ summary: "https://host[:port]; AWS's own if left out" })),
  region: omittable(textOption({ summary: "region; as AWS's tools find it if left out" })),
  style: choiceOption(["auto", "path", "virtual"], {
    summary: "where addresses have the bucket: in the path or in the host's name",
    default: "auto",
  }),
  profile: omittable(textOption({ summary: "profile of ~/.aws/credentials and ~/.aws/config" })),
  credentials: omittable(pathOption({ summary: "a file in the format of ~/.aws/credentials" })),
  ca: omittable(pathOption({ summary: "certificates (PEM) to trust besides the system's" })),
  ...SERVE,
});

/** Options of `dir`. */
export const dirSchema: OptionSchema<FolderOptions & ServeOptions> = optionSchema({
  path: pathOption({ summary: "the folder" }),
  ...SERVE,
});
