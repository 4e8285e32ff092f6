/**
 * The numbers of the log of dm-log-writes: see dm_log_writes.ts.
 *
 * @module
 */

/** Magic number of the super block, high and low half. */
export const SUPER_MAGIC = { high: 0x6a_73_66, low: 0x77_73_68_72 } as const;
/** Version of the log. */
export const VERSION = 1;
/** Bytes of the super block that mean something. */
export const SUPER_BYTES = 28;
/** Bytes of an entry before what a mark says. */
export const ENTRY_BYTES = 32;
/** Bytes of a sector at least. */
export const SECTOR_BYTES_MIN = 512;
/** Bytes of a sector at most. */
export const SECTOR_BYTES_MAX = 65_536;
/** Marks whose text is told. */
export const MARKS_TOLD_MAX = 8;
/** Flags of an entry. */
export const FLAG = { flush: 1, fua: 2, discard: 4, mark: 8 } as const;

/** True if bytes begin with the magic number of the super block. */
export function isSuper(bytes: Uint8Array): boolean {
  if (bytes.length < 8) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset, 8);
  return view.getUint32(0, true) === SUPER_MAGIC.low &&
    view.getUint32(4, true) === SUPER_MAGIC.high;
}

/** True if bytes begin with the magic number as a machine of the other byte order would write it. */
export function isSwappedSuper(bytes: Uint8Array): boolean {
  return bytes.length >= 8 && isSuper(bytes.slice(0, 8).reverse());
}

/** 64 bits, little endian, as a number: not exact above 2^53. */
export function u64At(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}

/** Writes a whole number below 2^53 as 64 bits, little endian. */
export function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, value / 2 ** 32, true);
}
