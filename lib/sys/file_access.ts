/**
 * The interface between backends and raw files: what a file backend needs of an operating system,
 * so that tests can put a file layer underneath that forgets what was not made durable.
 *
 * @module
 */

import type { MemoryMap } from "./memory_map.ts";

/** How to open a file. */
export interface FileOpenOptions {
  /** Open for reading alone. */
  readonly readOnly: boolean;
  /** Create the file if it is absent, with mode 0600 and this size in bytes; fail if there is no size and no file. */
  readonly createSize?: number;
  /** Bypass the page cache (O_DIRECT): offsets, lengths and memory have to be aligned to `alignment`. */
  readonly direct: boolean;
  /** Lock the file: one writer or several readers (open file description locks). */
  readonly lock: boolean;
}

/** A run of a file. */
export interface FileExtent {
  /** Bytes, at least 1. */
  readonly length: number;
  /** False for what reads as zeroes because nothing was written to it. */
  readonly data: boolean;
  /** Storage is reserved for it: true for data, and for what was preallocated. */
  readonly allocated: boolean;
}

/** What others than `look` can know of reads that are under way. */
export interface AheadNews {
  /** Polls as readable while `look` would find something: with an edge for each read that ends. */
  readonly descriptor: number;
  /** Changes with each read that ends, as far as was known when this thread left a system call last. */
  readonly progress: number;
}

/** Reads of a file that are under way before `read` asks for them. Nothing here fails, if not told otherwise. */
export interface FileAhead {
  /** Begins to read a range that `read` is going to ask for, and does not wait. */
  announce(offset: number, length: number): void;
  /** The range was announced, and is not there yet: `read` would wait for it. */
  isUnderWay(offset: number, length: number): boolean;
  /** Takes note of what is there by now; with `wait` at least one more is, if any is under way. May throw EIO. */
  look(wait: boolean): void;
  /** For whoever waits for several things at a time; null while nothing can be under way. */
  readonly news: AheadNews | null;
  /** True if this concerns the page cache, which has most of what is asked for: only slow reads are worth it. */
  readonly cached: boolean;
  /** No `read` gets what was announced so far. */
  forget(): void;
}

/** An open file or block device. Every call throws SystemError with the errno of the failed system call. */
export interface RawFile {
  /** The path it was opened by. */
  readonly path: string;
  /** A block device rather than a regular file. */
  readonly isBlockDevice: boolean;
  /** Cannot be written: opened so, or the medium is read-only. */
  readonly readOnly: boolean;
  /** Smallest I/O unit in bytes: 1 through the page cache, the logical block size with `direct`. */
  readonly alignment: number;
  /** Preferred I/O size in bytes (st_blksize or the physical block size). */
  readonly blockSize: number;
  /** Size in bytes now. */
  size(): number;
  /** Bytes of storage in use now. */
  allocated(): number;
  /** Fills `into` from `offset`; bytes past the end of the file read as zeroes. */
  read(into: Uint8Array, offset: number): void;
  /**
   * The file in memory, as long as it is now, for system calls to read from; null where that cannot be done.
   * The caller releases it. Absent where it never can.
   */
  map?(): MemoryMap | null;
  /** Writes all of `from` at `offset`. */
  write(from: Uint8Array, offset: number): void;
  /** fdatasync on this thread: may block for long. */
  flush(): void;
  /** fdatasync off this thread: covers what was written before the call. */
  flushAsync(): Promise<void>;
  /** Deallocates: the range reads as zeroes, the size stays. Throws EOPNOTSUPP where it cannot be done. */
  punch(offset: number, length: number): void;
  /** Zeroes without writing data, storage stays or gets allocated. Throws EOPNOTSUPP where it cannot be done. */
  zero(offset: number, length: number): void;
  /** Gives back the storage of a range whose content no longer matters, or does nothing where it cannot. */
  discard(offset: number, length: number): void;
  /**
   * Reserves storage for a range without changing data; a range past the end makes the file longer.
   * Throws EOPNOTSUPP where it cannot be done.
   */
  allocate(offset: number, length: number): void;
  /** At most `countMax` runs from `offset`, ending at or before `offset + length`. */
  extents(offset: number, length: number, countMax: number): FileExtent[];
  /** Reads ahead into the page cache. */
  readAhead(offset: number, length: number): void;
  /** Reads ahead of those that ask for them; absent where `readAhead` does all that is needed. */
  readonly ahead?: FileAhead;
  /** Sets the size of a regular file. Throws EINVAL for a block device. */
  truncate(size: number): void;
  /** Closes it; releases the lock. Other calls then throw EBADF; closing again does nothing. */
  close(): void;
}

/** Opens raw files. */
export interface FileAccess {
  /** Opens a file. Throws SystemError: ENOENT, EACCES, EAGAIN if another process holds the lock … */
  open(path: string, options: FileOpenOptions): RawFile;
}
