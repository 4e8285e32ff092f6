/**
 * Files in memory: a shared mapping of a file, whose addresses system calls read from. Nothing else may
 * touch them: where the file ends early, or its disk fails, a system call gives EFAULT, and the program
 * itself would die. See mmap(2).
 *
 * Writing has a mapping of its own, see write_map.ts.
 *
 * Pages are looked at in blocks: what of a file is not in the page cache as a whole block is not to be had
 * from here, and what is gets its place in the page tables at once, and not by a fault for each read.
 *
 * Only on file systems whose mappings are the page cache that reads and writes use.
 *
 * @module
 */
import { lastErrno } from "./errno.ts";
import { mapCalls } from "./map_calls.ts";

/** Largest file that is mapped, in bytes: what is mapped of it counts as memory of this process. */
export const MAPPED_FILE_BYTES_MAX: number = 4 * 2 ** 30;

/** Bytes of a block. */
const BLOCK_BYTES = 2 ** 21;
/** Looks in vain at a block after which it is looked at only every so many times. */
const LOOK_EVERY = 64;
/** Bytes of a page of memory. */
export const PAGE_BYTES = 4096;
/** States of a block; below LOOK_EVERY: how often it was asked for since it was looked at in vain. */
const READY = 255;

const PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1;
/** No reading ahead of what is asked for; not for child processes. */
const MADV_RANDOM = 1, MADV_DONTFORK = 10;
/** Puts pages into the page tables; unknown before Linux 5.14. */
const MADV_POPULATE_READ = 22;
/** What a failed mmap gives. */
const MAP_FAILED = 2n ** 64n - 1n;
/** struct statfs begins with the kind of the file system. */
const STATFS_BYTES = 120;
/** ext2 to ext4, XFS, Btrfs, tmpfs: see statfs(2). */
const KINDS: ReadonlySet<bigint> = new Set([0xef53n, 0x5846_5342n, 0x9123_683en, 0x0102_1994n]);

/** Reads from the file itself, for what cannot be had from its mapping. */
export type ReadAround = (into: Uint8Array<ArrayBuffer>, offset: number) => void;

/** A mapping of a file from its first byte on. */
export class MemoryMap {
  /** Where it begins. */
  readonly address: number;
  /** Bytes. The file may be shorter or longer. */
  readonly length: number;
  readonly #readAround: ReadAround;
  readonly #blocks: Uint8Array;
  readonly #inCore = new Uint8Array(BLOCK_BYTES / PAGE_BYTES);
  #users = 1;

  /** See mapFile. */
  constructor(address: number, length: number, readAround: ReadAround) {
    this.address = address;
    this.length = length;
    this.#readAround = readAround;
    this.#blocks = new Uint8Array(Math.ceil(length / BLOCK_BYTES));
  }

  /**
   * True if a range can be had from here: it was all in memory when its blocks were looked at. What is not is
   * better read as usual, and looked at again later.
   */
  has(offset: number, length: number): boolean {
    const end = offset + length;
    if (end > this.length) return false;
    const last = Math.floor((end - 1) / BLOCK_BYTES);
    for (let block = Math.floor(offset / BLOCK_BYTES); block <= last; block += 1) {
      if (this.#blocks[block] !== READY && !this.#prepare(block)) return false;
    }
    return true;
  }

  #prepare(block: number): boolean {
    const asked = this.#blocks[block] ?? 0;
    if (asked > 0) {
      this.#blocks[block] = asked < LOOK_EVERY ? asked + 1 : 0;
      return false;
    }
    const start = block * BLOCK_BYTES;
    const length = Math.min(BLOCK_BYTES, this.length - start);
    const address = BigInt(this.address + start), bytes = BigInt(length);
    const pages = this.#inCore.subarray(0, Math.ceil(length / PAGE_BYTES));
    const isThere = mapCalls().mincore(address, bytes, pages) === 0 &&
      pages.every((page) => (page & 1) === 1);
    if (isThere) mapCalls().madvise(address, bytes, MADV_POPULATE_READ);
    this.#blocks[block] = isThere ? READY : 1;
    return isThere;
  }

  /** It is needed until `release`, also if its file is closed before. */
  retain(): void {
    this.#users += 1;
  }

  /** One user less; without any it is gone. */
  release(): void {
    this.#users -= 1;
    if (this.#users === 0) mapCalls().munmap(BigInt(this.address), BigInt(this.length));
  }

  /** A copy of what lies at an address in it, read from the file. Throws SystemError. */
  copy(address: number, length: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(length);
    this.#readAround(bytes, address - this.address);
    return bytes;
  }
}

/** True if an open file is on a file system of one of the kinds, see statfs(2). */
export function isOfKind(descriptor: number, kinds: ReadonlySet<bigint>): boolean {
  const status = new Uint8Array(STATFS_BYTES);
  if (mapCalls().fstatfs(descriptor, status) !== 0) return false;
  return kinds.has(new DataView(status.buffer).getBigInt64(0, true));
}

/** Maps the first `length` bytes of an open file: the address, or null where it cannot be done. */
export function mapShared(
  descriptor: number,
  length: number,
  forWriting: boolean,
): number | null {
  const bytes = BigInt(length), protection = forWriting ? PROT_READ | PROT_WRITE : PROT_READ;
  const address = mapCalls().mmap(null, bytes, protection, MAP_SHARED, descriptor, 0n);
  if (BigInt.asUintN(64, address) === MAP_FAILED) return null;
  mapCalls().madvise(address, bytes, MADV_RANDOM);
  mapCalls().madvise(address, bytes, MADV_DONTFORK);
  return Number(address);
}

/**
 * Maps a file of `length` bytes through a descriptor, which may be closed afterwards; null where that cannot
 * be done, or is not worth it.
 */
export function mapFile(
  descriptor: number,
  length: number,
  readAround: ReadAround,
): MemoryMap | null {
  if (length === 0 || length > MAPPED_FILE_BYTES_MAX || !isOfKind(descriptor, KINDS)) return null;
  const address = mapShared(descriptor, length, false);
  return address === null ? null : new MemoryMap(address, length, readAround);
}

/** errno of a call that was given an address at which there is nothing. */
export const EFAULT = 14;

/** True if the call that has just failed did so because of an address in a mapping. */
export function hasFaulted(): boolean {
  return lastErrno() === EFAULT;
}
