/**
 * Every limit of the filters, with a name and a number.
 *
 * @module
 */
import { MINIMUM_BLOCK_BYTES_MAX, PREFERRED_BLOCK_BYTES_MAX } from "../../block/limits.ts";

const KIB = 1024, MIB = 1024 * KIB, GIB = 1024 * MIB;

/** Longest delay and longest pause between two attempts, in ms. */
export const WAIT_MS_MAX: number = 3_600_000;
/** Most attempts after the first that `retry` makes. */
export const RETRIES_MAX = 100;
/** Longest time for which `throttle` lets unused allowance add up, in ms. */
export const BURST_MS_MAX: number = 3_600_000;
/** Bytes of text that `log` writes, if not told. */
export const LOG_BYTES: number = 64 * MIB;
/** Smallest and largest block that `cache`, `verify` and `blocksize` work in, in bytes. */
export const BLOCK_BYTES_MIN = 512;
export const BLOCK_BYTES_MAX: number = MINIMUM_BLOCK_BYTES_MAX;
/** Memory of `cache`, if not told; of `torn` and `verify` as well. All in bytes. */
export const CACHE_BYTES: number = 64 * MIB;
export const TORN_BYTES: number = 64 * MIB;
export const VERIFY_BYTES: number = 256 * MIB;
/** Fewest and most blocks that `cache` and `torn` hold: a Map takes no more than 2^24. */
export const CACHE_BLOCKS_MIN = 16;
export const CACHE_BLOCKS_MAX: number = 2 ** 23;
/** Longest write that is made of neighbouring blocks of a cache, in bytes. */
export const WRITE_BACK_BYTES: number = 1 * MIB;
/** Such writes in flight. */
export const WRITE_BACK_DEPTH = 8;
/** Blocks that make room together when a cache is full. */
export const WRITE_BACK_BATCH = 256;
/** Bytes that `readahead` reads at a time, if not told, and at most. */
export const READAHEAD_BYTES: number = 1 * MIB;
export const READAHEAD_BYTES_MAX: number = PREFERRED_BLOCK_BYTES_MAX;
/** Where a window of `readahead` begins to grow from, in bytes. */
export const READAHEAD_BYTES_MIN: number = 64 * KIB;
/** Sequential readers that `readahead` follows at a time. */
export const READAHEAD_STREAMS_MAX = 8;
/** Blocks of a `cow` overlay, if not told, smallest and largest, in bytes. */
export const COW_BLOCK_BYTES: number = 64 * KIB;
export const COW_BLOCK_BYTES_MIN: number = 4 * KIB;
export const COW_BLOCK_BYTES_MAX: number = 2 * MIB;
/** Most blocks of an overlay: its table has a byte for each in memory (16 TiB in blocks of 64 KiB). */
export const COW_BLOCKS_MAX: number = 2 ** 28;
/** Bytes that a commit copies at a time. */
export const COMMIT_BYTES: number = 1 * MIB;
/** Bytes of memory that an overlay takes, if not told. */
export const COW_MEMORY_BYTES: number = 1 * GIB;
/** Logical partitions of one MBR that are looked at: a chain that goes on is a loop. */
export const LOGICAL_PARTITIONS_MAX = 128;
/** Entries of a GPT that are read, and the largest of them in bytes. */
export const GPT_ENTRIES_MAX = 1024;
export const GPT_ENTRY_BYTES_MAX = 4096;
/** Blocks of one zeroed range that `verify` remembers as zero; a longer range is forgotten. */
export const VERIFY_ZERO_BLOCKS_MAX = 65_536;
