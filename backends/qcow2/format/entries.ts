/**
 * Entries of L1, L2 and refcount tables: docs/interop/qcow2.rst of QEMU, sections "Cluster mapping",
 * "Extended L2 Entries" and "Host cluster management". An entry of 64 bits is a pair of unsigned
 * 32-bit halves, `high` and `low`, as `DataView.getUint32` gives them: nothing here allocates.
 *
 * @module
 */

const HIGH = 2 ** 32;

/** Bit 63 in `high`: the refcount of what the entry points to is exactly one. */
export const COPIED_HIGH = 0x8000_0000;
/** Bit 62 in `high` of an L2 entry: the cluster is compressed. */
export const COMPRESSED_HIGH = 0x4000_0000;
/** Bit 0 in `low` of a standard L2 entry: the cluster reads as zeroes. Not with extended entries. */
export const ZERO_LOW = 1;
/** Subclusters of a cluster with extended L2 entries. */
export const SUBCLUSTERS = 32;
/** The largest refcount that this program counts to with 64-bit refcounts. */
const REFCOUNT_64_MAX = Number.MAX_SAFE_INTEGER;
/** Unit of the length of compressed data, bytes. */
const SECTOR_BYTES = 512;

/** Bits 9 to 55: the offset in an L1 entry, a standard L2 entry or a bitmap table entry. A multiple of 512. */
export function entryOffset(high: number, low: number): number {
  return (high & 0x00ff_ffff) * HIGH + ((low & 0xffff_fe00) >>> 0);
}

/** True if bit 63 is set. */
export function isCopied(high: number): boolean {
  return (high & COPIED_HIGH) !== 0;
}

/** True if the L2 entry is of a compressed cluster. */
export function isCompressed(high: number): boolean {
  return (high & COMPRESSED_HIGH) !== 0;
}

/** The high half of an entry that points to `offset` (a multiple of 512, below 2^56). */
export function entryHigh(offset: number, copied: boolean): number {
  return (Math.floor(offset / HIGH) | (copied ? COPIED_HIGH : 0)) >>> 0;
}

/** The low half of an entry that points to `offset`; `zero` sets bit 0. */
export function entryLow(offset: number, zero: boolean): number {
  return ((offset % HIGH) | (zero ? ZERO_LOW : 0)) >>> 0;
}

/** True if an L1 entry has a reserved bit set (0 to 8, 56 to 62). */
export function l1ReservedSet(high: number, low: number): boolean {
  return (high & 0x7f00_0000) !== 0 || (low & 0x1ff) !== 0;
}

/** True if a standard L2 entry has a reserved bit set: 1 to 8, 56 to 61, and bit 0 if `zeroReserved`. */
export function l2ReservedSet(high: number, low: number, zeroReserved: boolean): boolean {
  return (high & 0x3f00_0000) !== 0 || (low & (zeroReserved ? 0x1ff : 0x1fe)) !== 0;
}

/** True if a refcount table entry has a reserved bit set (0 to 8). */
export function refcountTableReservedSet(low: number): boolean {
  return (low & 0x1ff) !== 0;
}

/** The offset in a refcount table entry, bits 9 to 63; above 2^53 it is rounded to a multiple of 2048. */
export function refcountBlockOffset(high: number, low: number): number {
  return high * HIGH + ((low & 0xffff_fe00) >>> 0);
}

/** Where the data of a compressed cluster begins: any byte of the file. */
export function compressedOffset(high: number, low: number, clusterBits: number): number {
  const shift = 62 - (clusterBits - 8) - 32;
  return (high & (2 ** shift - 1)) * HIGH + low;
}

/** Bytes from there to the end of the last 512-byte sector that has data of the cluster. */
export function compressedBytes(high: number, low: number, clusterBits: number): number {
  const shift = 62 - (clusterBits - 8) - 32;
  const sectors = ((high >>> shift) & (2 ** (clusterBits - 8) - 1)) + 1;
  return sectors * SECTOR_BYTES - low % SECTOR_BYTES;
}

/** Bytes of the file that can hold compressed clusters: their offset has so many bits. */
export function compressedLimit(clusterBits: number): number {
  return Math.min(2 ** (62 - (clusterBits - 8)), 2 ** 56);
}

/** The high half of an L2 entry for `length` bytes of compressed data at `offset`; low is `offset` modulo 2^32. */
export function compressedHigh(offset: number, length: number, clusterBits: number): number {
  const shift = 62 - (clusterBits - 8) - 32;
  const more = Math.ceil((offset % SECTOR_BYTES + length) / SECTOR_BYTES) - 1;
  return (COMPRESSED_HIGH + more * 2 ** shift + Math.floor(offset / HIGH)) >>> 0;
}

/** What one subcluster is. */
export type SubclusterState = "data" | "zero" | "unallocated";

/**
 * State of subcluster `index` (0 to 31). `allocated` is the low half of the bitmap, `zero` its high half.
 * Both bits set is damage (see `subclustersInvalid`), and counts as zero.
 */
export function subclusterState(
  zero: number,
  allocated: number,
  index: number,
): SubclusterState {
  if (((zero >>> index) & 1) === 1) return "zero";
  return ((allocated >>> index) & 1) === 1 ? "data" : "unallocated";
}

/** Subclusters from `index` on, within the cluster, that are in the state of the first: at least 1. */
export function subclusterRun(zero: number, allocated: number, index: number): number {
  const same = ((zero >>> index) & 1) === 1
    ? zero >>> index
    : ((allocated >>> index) & 1) === 1
    ? (allocated & ~zero) >>> index
    : ~(allocated | zero) >>> index;
  // What is shifted in from above are zeroes, so the run ends with the cluster at the latest.
  return ~same === 0 ? SUBCLUSTERS : 31 - Math.clz32(~same & -~same);
}

/** True if a subcluster is said to be both allocated and zero. */
export function subclustersInvalid(zero: number, allocated: number): boolean {
  return (zero & allocated) !== 0;
}

/** Reads and writes refcounts of one width in the bytes of a refcount block. */
export interface RefcountCodec {
  /** Width in bits: 1, 2, 4 … 64. */
  readonly bits: number;
  /** Largest refcount that can be stored: at most 2^53 - 1. */
  readonly max: number;
  /** The refcount at `index`; one above 2^53 is rounded. */
  get(block: Uint8Array, index: number): number;
  /** Stores a refcount of 0 to `max`. */
  set(block: Uint8Array, index: number, value: number): void;
}

function narrowCodec(bits: number): RefcountCodec {
  const perByte = 8 / bits, mask = 2 ** bits - 1;
  return {
    bits,
    max: mask,
    get: (block, index) =>
      ((block[Math.floor(index / perByte)] ?? 0) >>> (index % perByte * bits)) & mask,
    set: (block, index, value) => {
      const at = Math.floor(index / perByte), shift = index % perByte * bits;
      block[at] = ((block[at] ?? 0) & ~(mask << shift)) | (value << shift);
    },
  };
}

function wideCodec(bytes: number): RefcountCodec {
  return {
    bits: bytes * 8,
    max: bytes === 8 ? REFCOUNT_64_MAX : 2 ** (bytes * 8) - 1,
    get: (block, index) => {
      let value = 0;
      for (let at = index * bytes; at < (index + 1) * bytes; at += 1) {
        value = value * 256 + (block[at] ?? 0);
      }
      return value;
    },
    set: (block, index, value) => {
      let rest = value;
      for (let at = (index + 1) * bytes - 1; at >= index * bytes; at -= 1) {
        block[at] = rest % 256;
        rest = Math.floor(rest / 256);
      }
    },
  };
}

/** The codec for refcounts of 2^`order` bits, 0 to 6. */
export function refcountCodec(order: number): RefcountCodec {
  return order < 3 ? narrowCodec(2 ** order) : wideCodec(2 ** (order - 3));
}
