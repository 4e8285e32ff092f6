/**
 * Limits of an open image. Those of the format itself are in the file of that name one folder up.
 *
 * @module
 */

/** Bytes in a KiB, MiB. */
const KIB = 1024, MIB = 1024 * KIB;

/** Most memory for L2 tables, if not told: enough for 256 GiB of disk with clusters of 64 KiB. */
export const L2_CACHE_BYTES: number = 32 * MIB;
/** Most memory for refcount blocks: enough for 512 GiB of image with clusters of 64 KiB. */
export const REFCOUNT_CACHE_BYTES: number = 16 * MIB;
/** Least memory for tables of one kind. */
export const CACHE_BYTES_MIN: number = 64 * KIB;
/** Pieces of tables that are in memory at least, however large they are. */
export const CACHE_TABLES_MIN = 8;
/** Largest piece of an L2 table that is read and kept as one. */
export const L2_SLICE_BYTES_MAX: number = 64 * KIB;
/** Runs of clusters that wait for a flush until they can be used again; more make a flush of their own. */
export const FREED_RUNS_MAX = 65_536;
/** Bytes of a guest's write up to which it is put together with what is copied around it. */
export const JOINED_WRITE_BYTES_MAX: number = 128 * KIB;
/** Backing files behind one another. */
export const BACKING_DEPTH_MAX = 200;
/** Bytes of zeroes written at once. */
export const ZEROES_BYTES: number = 256 * KIB;
/** Bytes of refcount blocks that taking, applying or deleting a snapshot may have in memory: for 8 TiB. */
export const SHADOW_BYTES_MAX: number = 256 * MIB;
/** Bytes that a commit copies at once. */
export const COMMIT_CHUNK_BYTES: number = 2 * MIB;
