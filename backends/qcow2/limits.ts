/**
 * Every limit of the qcow2 backend has a name and a number, here. Those marked QEMU are QEMU's own:
 * an image past them is one that QEMU would not open either.
 *
 * @module
 */

/** Bytes in a MiB. */
const MIB = 1024 * 1024;

/** Smallest cluster size: 512 bytes (format). */
export const CLUSTER_BITS_MIN = 9;
/** Largest cluster size: 2 MiB (QEMU). */
export const CLUSTER_BITS_MAX = 21;
/** Smallest cluster size with extended L2 entries: 16 KiB (format). */
export const EXTENDED_L2_CLUSTER_BITS_MIN = 14;
/** Largest width of a refcount: 2^6 bits (format). */
export const REFCOUNT_ORDER_MAX = 6;
/** Largest L1 table, in bytes (QEMU). */
export const L1_BYTES_MAX: number = 32 * MIB;
/** Largest refcount table, in bytes (QEMU). */
export const REFCOUNT_TABLE_BYTES_MAX: number = 8 * MIB;
/** Longest backing file name, in bytes (format). */
export const BACKING_NAME_BYTES_MAX = 1023;
/** Longest name of a backing file's format, in bytes (QEMU). */
export const BACKING_FORMAT_BYTES_MAX = 15;
/** Most header extensions; QEMU's own images have at most five kinds. */
export const HEADER_EXTENSIONS_MAX = 1024;
/** Most internal snapshots (QEMU). */
export const SNAPSHOTS_MAX = 65_536;
/** Largest snapshot table, in bytes (QEMU). */
export const SNAPSHOT_TABLE_BYTES_MAX: number = 64 * MIB;
/** Most extra data of one snapshot, in bytes (QEMU). */
export const SNAPSHOT_EXTRA_BYTES_MAX = 1024;
/** Longest id or name of a snapshot, in bytes (format: a 16-bit length). */
export const SNAPSHOT_TEXT_BYTES_MAX = 65_535;
/** Most bitmaps (QEMU). */
export const BITMAPS_MAX = 65_535;
/** Longest bitmap name, in bytes (QEMU). */
export const BITMAP_NAME_BYTES_MAX = 1023;
/** Largest bitmap directory, in bytes (QEMU allows 65535 entries of full length; this is enough for 65535 of 1 KiB). */
export const BITMAP_DIRECTORY_BYTES_MAX: number = 65_535 * 1048;
/** Largest bitmap table, in entries (QEMU). */
export const BITMAP_TABLE_ENTRIES_MAX = 0x800_0000;
/** Most bytes of clusters that one bitmap may take (QEMU). */
export const BITMAP_BYTES_MAX = 0x2000_0000;
/** Finest granularity of a bitmap: 512 bytes a bit (QEMU). */
export const BITMAP_GRANULARITY_BITS_MIN = 9;
/** Coarsest granularity of a bitmap: 2 GiB a bit (QEMU). */
export const BITMAP_GRANULARITY_BITS_MAX = 31;
/** Largest window of a zstd frame: 128 MiB, what every decoder of it takes by default. */
export const ZSTD_WINDOW_BITS_MAX = 27;
/** Most clusters of a file that a check takes (QEMU): 128 TiB with clusters of 64 KiB. */
export const CHECK_CLUSTERS_MAX = 0x7fff_ffff;
/** Memory for the references that a check counts, bytes: one a cluster, more where counts are high. */
export const CHECK_MEMORY_BYTES_MAX: number = 1024 * MIB;
/** Entries of L1 and bitmap tables, and clusters of tables, that a check looks at: bounds its time. */
export const CHECK_ENTRIES_MAX = 2 ** 30;
/** Tables that begin within a cluster, which is damage, that a check looks into. */
export const CHECK_UNALIGNED_TABLES_MAX = 1024;
/** Messages that a check keeps; the rest is counted. */
export const CHECK_MESSAGES_MAX = 200;
/** Refcount blocks that a check keeps in memory, bytes. */
export const CHECK_CACHE_BYTES_MAX: number = 16 * MIB;
/** By how much a repair may make a file longer, bytes (a hole), to have tables in it that were cut off. */
export const REPAIR_GROWTH_BYTES_MAX: number = 16 * 1024 * MIB;
/** Bytes that a rebase compares at once: a whole number of the largest clusters. */
export const REBASE_CHUNK_BYTES: number = 2 * MIB;
