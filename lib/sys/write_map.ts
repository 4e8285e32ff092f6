/**
 * Short writes to a file through a mapping of it, where write(2) is slow: ext4 looks at every block of a page
 * of the cache for each write, and with pages of 2 MiB, as files get that are written in large pieces, a write
 * of 4 KiB takes 30 µs in place of 2. A page that is mapped for writing is looked at once, until it has gone to
 * the disk.
 *
 * That has a price: the page goes to the disk as a whole. So blocks of a file are written through the mapping
 * once their writes have taken so much longer than they should that a quick disk (4 GB/s) could have written
 * the whole block, and until the next flush, which begins this anew. There a wrong guess costs at most as much
 * again as the better way; a slower disk has more work in the background, by as much as it is slower.
 *
 * The data are copied by the system (process_vm_writev(2) with this process on both sides): what cannot be
 * written there, since the file was cut or its disk is full, gives EFAULT, and goes the usual way.
 *
 * @module
 */
import { addressOf } from "./address.ts";
import { lastErrno } from "./errno.ts";
import { mapCalls } from "./map_calls.ts";
import { EFAULT, isOfKind, mapShared, PAGE_BYTES } from "./memory_map.ts";
import { MAPPED_BLOCKS_MAX, MAPPED_WRITE_BYTES_MAX, MAPPED_WRITES_MIN } from "./limits.ts";

/** Bytes of a block: the largest page of the cache. */
export const WRITE_BLOCK_BYTES: number = 2 ** 21;
/** One in so many writes is timed. */
const TIMED_EVERY = 7;
/** What a write through the mapping takes in µs, and besides for each page, as long as none was timed. */
const USUAL_US = 4, USUAL_PAGE_US = 1;
/** Those that were timed make it longer, on slow processors: their weight, and what one counts at most. */
const TIMED_WEIGHT = 1 / 64, TIMED_MAX = 16;
/** What the mapping has to gain at least, of what it takes itself. */
const GAIN_MIN = 0.5;
/** What of a write counts at most, in µs: more is not the file system, but somebody who had the processor. */
const EXCESS_US_MAX = 100;
/** How much too long the writes of a block take together, in µs, until it is mapped: writing it takes that at 4 GB/s. */
const EARNED_US = 500;
/** By how much a write through the mapping has to be too long, in µs, to speak against it. */
const MAPPED_EXCESS_US_MIN = 30;
/** After so many of them between two reviews a block is written the usual way again. */
const LONG_WRITES_MAX = 2;
/** Time in µs after which blocks that are seldom written are written the usual way again. */
const REVIEW_US = 10_000_000;
const MADV_DONTNEED = 4;
/** struct iovec: address and length, 64 bits each. */
const VECTOR_WORDS = 4, LENGTH_AT = 2, VECTOR_BYTES = 16;
const TWO_32 = 2 ** 32;
const ONE = 1n, NO_FLAGS = 0n;
/** Two struct timespec for futimens(3): both times are the present, which needs no more than to be able to write. */
const UTIME_NOW = 0x3fff_ffffn;
const TIMES = new Uint8Array(new BigInt64Array([0n, UTIME_NOW, 0n, UTIME_NOW]).buffer);
/** ext2 to ext4: the file systems where it was found to pay. */
const KINDS: ReadonlySet<bigint> = new Set([0xef53n]);

const vectors = new Uint32Array(2 * VECTOR_WORDS);
const local = new Uint8Array(vectors.buffer, 0, VECTOR_BYTES);
const remote = new Uint8Array(vectors.buffer, VECTOR_BYTES, VECTOR_BYTES);

function setVector(at: number, address: number, length: number): void {
  vectors[at] = address >>> 0;
  vectors[at + 1] = Math.floor(address / TWO_32);
  vectors[at + LENGTH_AT] = length;
}

/** A file in memory, for the system to write to. */
export interface WritableMemory {
  /** Writes from the beginning of `from`; bytes that were written, which may be none. */
  write(from: Uint8Array<ArrayBuffer>, offset: number): number;
  /** True if the page cache has all of a range. */
  isInCore(offset: number, length: number): boolean;
  /** Forgets how a range is mapped, so that its next write maps pages as large as they are. */
  unmap(offset: number, length: number): void;
  /** Sets the time at which the file was changed last. */
  touch(): void;
  /** No more use of it. */
  close(): void;
}

class Mapping implements WritableMemory {
  readonly #descriptor: number;
  readonly #address: number;
  readonly #length: number;
  readonly #inCore = new Uint8Array(WRITE_BLOCK_BYTES / PAGE_BYTES);
  #mayWrite = true;

  constructor(descriptor: number, address: number, length: number) {
    this.#descriptor = descriptor;
    this.#address = address;
    this.#length = length;
  }

  write(from: Uint8Array<ArrayBuffer>, offset: number): number {
    if (!this.#mayWrite) return 0;
    setVector(0, addressOf(from.buffer) + from.byteOffset, from.length);
    setVector(VECTOR_WORDS, this.#address + offset, from.length);
    const done = mapCalls().process_vm_writev(Deno.pid, local, ONE, remote, ONE, NO_FLAGS);
    if (done >= 0) return done;
    // Not permitted here, or not known to this system: then never.
    this.#mayWrite = lastErrno() === EFAULT;
    return 0;
  }

  isInCore(offset: number, length: number): boolean {
    const pages = this.#inCore.subarray(0, Math.ceil(length / PAGE_BYTES));
    const address = BigInt(this.#address + offset);
    return mapCalls().mincore(address, BigInt(length), pages) === 0 &&
      pages.every((page) => (page & 1) === 1);
  }

  unmap(offset: number, length: number): void {
    mapCalls().madvise(BigInt(this.#address + offset), BigInt(length), MADV_DONTNEED);
  }

  touch(): void {
    mapCalls().futimens(this.#descriptor, TIMES);
  }

  close(): void {
    mapCalls().munmap(BigInt(this.#address), BigInt(this.#length));
  }
}

/**
 * Maps a file of `length` bytes through a descriptor, which stays open for as long as the mapping; null where
 * that cannot be done, or does not pay.
 */
export function mapForWriting(descriptor: number, length: number): WritableMemory | null {
  if (length === 0 || !isOfKind(descriptor, KINDS)) return null;
  const address = mapShared(descriptor, length, true);
  return address === null ? null : new Mapping(descriptor, address, length);
}

/** What MappedWrites needs of its file. */
export interface MappedFile {
  /** Bytes of the file that can be mapped. */
  readonly length: number;
  /** Maps it; null where it cannot be mapped. Called once at most. */
  readonly map: () => WritableMemory | null;
  /** Writes all of `from` the usual way. */
  readonly write: (from: Uint8Array<ArrayBuffer>, offset: number) => void;
  /** The time in µs, from any moment. */
  readonly nowUs: () => number;
}

/** A block whose writes are slow. */
interface Block {
  /** By how much they were too long since the last flush or review, in µs; for one that is mapped, what is left of it. */
  excessUs: number;
  isMapped: boolean;
  /** Writes through the mapping since the last review. */
  writes: number;
}

/** Writes to a file: those to some of its blocks through its mapping, all others the usual way. */
export class MappedWrites {
  readonly #file: MappedFile;
  readonly #blocks = new Map<number, Block>();
  #memory: WritableMemory | null | undefined;
  #mappedBlocks = 0;
  #untilTimed = TIMED_EVERY;
  #reviewedUs = 0;
  /** What a write through the mapping takes, as a multiple of what is usual. */
  #pace = 1;
  /** The file was changed through the mapping, of which its times tell nothing. */
  #isChanged = false;

  constructor(file: MappedFile) {
    this.#file = file;
  }

  /** Blocks that are written through the mapping now. */
  get mappedBlocks(): number {
    return this.#mappedBlocks;
  }

  /** Writes all of `from`. */
  write(from: Uint8Array<ArrayBuffer>, offset: number): void {
    if (from.length > MAPPED_WRITE_BYTES_MAX) return this.#file.write(from, offset);
    this.#untilTimed -= 1;
    if (this.#untilTimed > 0) return this.#write(from, offset);
    this.#untilTimed = TIMED_EVERY;
    const startUs = this.#file.nowUs();
    this.#write(from, offset);
    const nowUs = this.#file.nowUs();
    this.#took(offset, from.length, nowUs - startUs, nowUs);
  }

  #write(from: Uint8Array<ArrayBuffer>, offset: number): void {
    const done = this.#mappedBlocks === 0 ? 0 : this.#writeMapped(from, offset);
    if (done === 0) this.#file.write(from, offset);
    else if (done < from.length) this.#file.write(from.subarray(done), offset + done);
  }

  /** Bytes from the beginning of `from` that were written, which may be none. */
  #writeMapped(from: Uint8Array<ArrayBuffer>, offset: number): number {
    const number = Math.floor(offset / WRITE_BLOCK_BYTES), end = offset + from.length;
    const block = this.#blocks.get(number), memory = this.#memory ?? null;
    if (block === undefined || !block.isMapped || memory === null) return 0;
    if (end > (number + 1) * WRITE_BLOCK_BYTES || end > this.#file.length) return 0;
    block.writes += 1;
    this.#isChanged = true;
    return memory.write(from, offset);
  }

  /** A write, one in TIMED_EVERY, took `us`. */
  #took(offset: number, length: number, us: number, nowUs: number): void {
    if (nowUs - this.#reviewedUs > REVIEW_US) this.#review(nowUs);
    const number = Math.floor(offset / WRITE_BLOCK_BYTES);
    const block = this.#blocks.get(number);
    const usualUs = USUAL_US + Math.ceil(length / PAGE_BYTES) * USUAL_PAGE_US;
    if (block?.isMapped === true) this.#tookMapped(number, block, us, usualUs);
    else this.#tookPlain(number, us - usualUs * Math.max(1, this.#pace * (1 + GAIN_MIN)));
  }

  #tookPlain(number: number, excessUs: number): void {
    if (excessUs <= 0 || this.#memory === null) return;
    const block = this.#blocks.get(number) ?? { excessUs: 0, isMapped: false, writes: 0 };
    this.#blocks.set(number, block);
    block.excessUs += Math.min(excessUs, EXCESS_US_MAX) * TIMED_EVERY;
    if (block.excessUs >= EARNED_US) this.#map(number, block);
  }

  #tookMapped(number: number, block: Block, us: number, usualUs: number): void {
    this.#pace += (Math.min(us / usualUs, TIMED_MAX) - this.#pace) * TIMED_WEIGHT;
    if (us < usualUs + MAPPED_EXCESS_US_MIN) return;
    block.excessUs -= EARNED_US / LONG_WRITES_MAX;
    if (block.excessUs < 0) this.#leave(number, block);
  }

  #map(number: number, block: Block): void {
    const memory = this.#memory ??= this.#file.map();
    const start = number * WRITE_BLOCK_BYTES, length = this.#bytesOf(number);
    block.excessUs = 0;
    if (memory === null || length <= 0 || this.#mappedBlocks === MAPPED_BLOCKS_MAX) return;
    // What is not in memory would have to be read first.
    if (!memory.isInCore(start, length)) return;
    memory.unmap(start, length);
    block.excessUs = EARNED_US;
    block.isMapped = true;
    // As if it had been written often, up to the first review.
    block.writes = MAPPED_WRITES_MIN;
    this.#mappedBlocks += 1;
  }

  #leave(number: number, block: Block): void {
    if (!block.isMapped) return;
    block.isMapped = false;
    block.excessUs = 0;
    this.#mappedBlocks -= 1;
    this.#memory?.unmap(number * WRITE_BLOCK_BYTES, this.#bytesOf(number));
  }

  #bytesOf(number: number): number {
    return Math.min(WRITE_BLOCK_BYTES, this.#file.length - number * WRITE_BLOCK_BYTES);
  }

  #review(nowUs: number): void {
    this.#reviewedUs = nowUs;
    // What made it slow may have gone.
    this.#pace = 1 + (this.#pace - 1) / 2;
    this.#tellChanged();
    for (const [number, block] of this.#blocks) {
      if (block.writes < MAPPED_WRITES_MIN) this.#leave(number, block);
      if (block.isMapped) block.excessUs = EARNED_US;
      else this.#blocks.delete(number);
      block.writes = 0;
    }
  }

  #tellChanged(): void {
    if (this.#isChanged) this.#memory?.touch();
    this.#isChanged = false;
  }

  /** What was written is about to go to the disk: all begins anew. */
  flushing(): void {
    this.#tellChanged();
    for (const [number, block] of this.#blocks) this.#leave(number, block);
    this.#blocks.clear();
  }

  /** No more writes. The file is still open. */
  close(): void {
    this.flushing();
    this.#memory?.close();
    this.#memory = null;
  }
}
