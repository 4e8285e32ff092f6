/**
 * Raw files and block devices on Linux, through calls of the C library on the calling thread: a read
 * of 4 KiB that the page cache has takes 1.1 µs, so nothing here makes a promise except `flushAsync`.
 * Opening decides everything (kind, alignment, lock); reading and writing check only results.
 *
 * @module
 */
import {
  cstring,
  EACCES,
  EBADF,
  EBUSY,
  EEXIST,
  EINTR,
  EINVAL,
  EOPNOTSUPP,
  EPERM,
  EROFS,
  fail,
  lastErrno,
  systemError,
} from "./errno.ts";
import type { FileAccess, FileAhead, FileExtent, FileOpenOptions, RawFile } from "./file_access.ts";
import { fileExtents } from "./file_extents.ts";
import { lockFile } from "./file_lock.ts";
import {
  blockDeviceSize,
  blockDeviceStatus,
  discardBlocks,
  type FileStatus,
  fileStatus,
} from "./file_status.ts";
import { CacheAhead } from "./cache_ahead.ts";
import { monotonicUs } from "./clock.ts";
import { openReadRing } from "./io_uring.ts";
import { type Libc, libc } from "./libc.ts";
import {
  AHEAD_BYTES_MAX,
  AHEAD_READS_MAX,
  CACHE_AHEAD_BYTES_MAX,
  DIRECT_CHUNK_BYTES,
} from "./limits.ts";
import { mapFile, type MemoryMap } from "./memory_map.ts";
import { ReadAhead } from "./read_ahead.ts";
import { SystemError } from "./system_error.ts";
import { mapForWriting, MappedWrites, type WritableMemory } from "./write_map.ts";

/** Flags of open(2); those of O_DIRECT differ by architecture. */
const O_RDONLY = 0, O_RDWR = 2, O_CREAT = 0o100, O_EXCL = 0o200, O_CLOEXEC = 0o2_000_000;
const O_DIRECT = Deno.build.arch === "aarch64" ? 0o200_000 : 0o40_000;
const MODE_CREATED = 0o600;
/** Modes of fallocate(2). */
const FALLOCATE_PLAIN = 0, KEEP_SIZE = 1, PUNCH_HOLE = 2, ZERO_RANGE = 16;
const POSIX_FADV_WILLNEED = 3;
const CLOSED = -1;

/** Alignment of the memory that direct I/O moves bytes through. */
const DIRECT_MEMORY_ALIGNMENT = 4096;
/** Alignment of direct I/O where the kernel does not tell: a multiple of every usual block size. */
const DIRECT_ALIGNMENT_DEFAULT = 4096;

/** What was found out when a file was opened. */
interface Facts {
  readonly path: string;
  readonly descriptor: number;
  readonly readOnly: boolean;
  readonly isBlockDevice: boolean;
  readonly alignment: number;
  readonly blockSize: number;
  /** Smallest unit of trimming and zeroing: that of a block device, 1 for a regular file. */
  readonly zeroUnit: number;
  /** Zeroing without writing is worth trying. */
  readonly zeroesItself: boolean;
}

let lastLength = 0, lastBigLength = 0n;

/** A length as a bigint. Making one costs as much as a tenth of a read, and most are as long as the one before. */
function bigLength(length: number): bigint {
  if (length !== lastLength) {
    lastLength = length;
    lastBigLength = BigInt(length);
  }
  return lastBigLength;
}

/** A file or block device; through the page cache, if what it was opened with does not say otherwise. */
class PlainFile implements RawFile {
  readonly path: string;
  readonly isBlockDevice: boolean;
  readonly readOnly: boolean;
  readonly alignment: number;
  readonly blockSize: number;
  /** After close this is CLOSED, for which every call gives EBADF by itself. */
  protected descriptor: number;
  protected readonly libc: Libc = libc();
  readonly #facts: Facts;
  #flushesInFlight = 0;
  /** See RawFile. Its memory is what the kernel reads into: it is closed before the file. */
  readonly ahead: FileAhead & { close(): void } = new CacheAhead(
    () => openReadRing(this.descriptor, AHEAD_READS_MAX, CACHE_AHEAD_BYTES_MAX),
    (offset, length) => this.#advise(offset, length),
  );

  constructor(facts: Facts) {
    this.path = facts.path;
    this.isBlockDevice = facts.isBlockDevice;
    this.readOnly = facts.readOnly;
    this.alignment = facts.alignment;
    this.blockSize = facts.blockSize;
    this.descriptor = facts.descriptor;
    this.#facts = facts;
  }

  size(): number {
    if (this.isBlockDevice) return blockDeviceSize(this.descriptor, this.path);
    return this.#status().size;
  }

  allocated(): number {
    return this.isBlockDevice ? this.size() : this.#status().allocated;
  }

  #status(): FileStatus {
    return fileStatus({ path: this.path, descriptor: this.descriptor });
  }

  read(into: Uint8Array<ArrayBuffer>, offset: number): void {
    const done = this.libc.pread(this.descriptor, into, bigLength(into.length), BigInt(offset));
    if (done !== into.length) this.#readRest(into, offset, done);
  }

  #readRest(into: Uint8Array<ArrayBuffer>, offset: number, first: number): void {
    let at = 0;
    for (let done = first; done !== 0;) {
      if (done > 0) at += done;
      else if (lastErrno() !== EINTR) fail("read", this.path);
      if (at === into.length) return;
      const rest = into.subarray(at);
      done = this.libc.pread(this.descriptor, rest, BigInt(rest.length), BigInt(offset + at));
    }
    into.fill(0, at);
  }

  write(from: Uint8Array<ArrayBuffer>, offset: number): void {
    this.writeByCall(from, offset);
  }

  /** Writes all of `from` by pwrite(2). */
  protected writeByCall(from: Uint8Array<ArrayBuffer>, offset: number): void {
    const done = this.libc.pwrite(this.descriptor, from, bigLength(from.length), BigInt(offset));
    if (done !== from.length) this.#writeRest(from, offset, done);
  }

  #writeRest(from: Uint8Array<ArrayBuffer>, offset: number, first: number): void {
    let at = 0;
    for (let done = first;;) {
      if (done > 0) at += done;
      else if (done === 0) throw new SystemError("EIO", "write", this.path, "it takes no more");
      else if (lastErrno() !== EINTR) fail("write", this.path);
      if (at === from.length) return;
      const rest = from.subarray(at);
      done = this.libc.pwrite(this.descriptor, rest, BigInt(rest.length), BigInt(offset + at));
    }
  }

  flush(): void {
    while (this.libc.fdatasync(this.descriptor) !== 0) {
      if (lastErrno() !== EINTR) fail("flush", this.path);
    }
  }

  async flushAsync(): Promise<void> {
    const { descriptor } = this;
    if (descriptor === CLOSED) throw systemError(EBADF, "flush", this.path);
    this.#flushesInFlight += 1;
    try {
      // errno stays on the thread that made the call, out of reach: every failure is EIO here.
      if (await this.libc.fdatasyncAsync(descriptor) !== 0) {
        throw new SystemError("EIO", "flush", this.path, "fdatasync failed");
      }
    } finally {
      this.#flushesInFlight -= 1;
      if (this.descriptor === CLOSED && this.#flushesInFlight === 0) this.libc.close(descriptor);
    }
  }

  punch(offset: number, length: number): void {
    this.#requireZeroUnit("punch a hole into", offset, length);
    this.#fallocate("punch a hole into", PUNCH_HOLE | KEEP_SIZE, offset, length);
  }

  zero(offset: number, length: number): void {
    this.#requireZeroUnit("zero", offset, length);
    if (!this.#facts.zeroesItself) throw systemError(EOPNOTSUPP, "zero", this.path);
    this.#fallocate("zero", ZERO_RANGE | KEEP_SIZE, offset, length);
  }

  allocate(offset: number, length: number): void {
    this.#fallocate("allocate", FALLOCATE_PLAIN, offset, length);
  }

  discard(offset: number, length: number): void {
    const unit = this.#facts.zeroUnit;
    const start = Math.ceil(offset / unit) * unit;
    const end = Math.floor((offset + length) / unit) * unit;
    if (end <= start) return;
    if (this.isBlockDevice) {
      this.changing(start, end - start);
      if (discardBlocks(this.descriptor, start, end - start)) return;
      if (lastErrno() !== EOPNOTSUPP) fail("discard", this.path);
      return;
    }
    try {
      this.punch(start, end - start);
    } catch (error) {
      if (!(error instanceof SystemError) || error.code !== "EOPNOTSUPP") throw error;
    }
  }

  #requireZeroUnit(call: string, offset: number, length: number): void {
    const unit = this.#facts.zeroUnit;
    if (offset % unit !== 0 || length % unit !== 0) {
      throw systemError(EOPNOTSUPP, call, this.path, `its blocks are ${unit} bytes`);
    }
  }

  /** The data of a range are about to be changed in another way than by `write`. */
  protected changing(_offset: number, _length: number): void {}

  #fallocate(call: string, mode: number, offset: number, length: number): void {
    this.changing(offset, length);
    while (this.libc.fallocate(this.descriptor, mode, BigInt(offset), BigInt(length)) !== 0) {
      if (lastErrno() !== EINTR) fail(call, this.path);
    }
  }

  extents(offset: number, length: number, countMax: number): FileExtent[] {
    return fileExtents(this.descriptor, this.path, offset, length, countMax);
  }

  readAhead(offset: number, length: number): void {
    const errno = this.#advise(offset, length);
    if (errno !== 0) throw systemError(errno, "read ahead in", this.path);
  }

  #advise(offset: number, length: number): number {
    const { descriptor, libc } = this;
    return libc.posix_fadvise(descriptor, BigInt(offset), BigInt(length), POSIX_FADV_WILLNEED);
  }

  truncate(size: number): void {
    if (this.isBlockDevice) {
      throw systemError(EINVAL, "resize", this.path, "it is a block device");
    }
    while (this.libc.ftruncate(this.descriptor, BigInt(size)) !== 0) {
      if (lastErrno() !== EINTR) fail("resize", this.path);
    }
  }

  close(): void {
    const { descriptor } = this;
    if (descriptor === CLOSED) return;
    try {
      this.ahead.close();
    } finally {
      this.descriptor = CLOSED;
      // A flush that another thread is in must not hit a file that gets the same number next.
      if (this.#flushesInFlight === 0) this.libc.close(descriptor);
    }
  }
}

/** A file through the page cache, whose pages can be mapped. */
class BufferedFile extends PlainFile {
  /** Made by the first write; null where all go the usual way. */
  #mapped: MappedWrites | null | undefined;

  map(): MemoryMap | null {
    if (this.isBlockDevice) return null;
    return mapFile(this.descriptor, this.size(), (into, offset) => this.read(into, offset));
  }

  override write(from: Uint8Array<ArrayBuffer>, offset: number): void {
    const mapped = this.#mapped;
    if (mapped === null) this.writeByCall(from, offset);
    else if (mapped !== undefined) mapped.write(from, offset);
    else this.#writeFirst(from, offset);
  }

  #writeFirst(from: Uint8Array<ArrayBuffer>, offset: number): void {
    const write = (from: Uint8Array<ArrayBuffer>, offset: number): void =>
      this.writeByCall(from, offset);
    write(from, offset);
    if (this.isBlockDevice) {
      this.#mapped = null;
      return;
    }
    const length = this.size();
    const map = (): WritableMemory | null => mapForWriting(this.descriptor, length);
    this.#mapped = new MappedWrites({ length, map, write, nowUs: monotonicUs });
  }

  override flush(): void {
    this.#mapped?.flushing();
    super.flush();
  }

  override flushAsync(): Promise<void> {
    this.#mapped?.flushing();
    return super.flushAsync();
  }

  override close(): void {
    this.#mapped?.close();
    this.#mapped = null;
    super.close();
  }
}

/** Bytes whose address is a multiple of DIRECT_MEMORY_ALIGNMENT. Their buffer never moves. */
function alignedMemory(length: number): Uint8Array<ArrayBuffer> {
  const memory = new Uint8Array(length + DIRECT_MEMORY_ALIGNMENT);
  const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(memory));
  const past = Number(address % BigInt(DIRECT_MEMORY_ALIGNMENT));
  const start = (DIRECT_MEMORY_ALIGNMENT - past) % DIRECT_MEMORY_ALIGNMENT;
  return memory.subarray(start, start + length);
}

/**
 * A file past the page cache. Callers' buffers lie anywhere, so data goes through aligned memory, at
 * the cost of a copy. Unaligned ranges are refused here: some file systems would take them, silently
 * through the page cache. What is announced is read ahead, where the system has io_uring.
 */
class DirectFile extends PlainFile {
  readonly #memory = alignedMemory(DIRECT_CHUNK_BYTES);
  override readonly ahead: ReadAhead = new ReadAhead(
    () => openReadRing(this.descriptor, AHEAD_READS_MAX, AHEAD_BYTES_MAX),
    () => monotonicUs() / 1000,
  );

  #requireAligned(call: string, offset: number, length: number): void {
    if (offset % this.alignment === 0 && length % this.alignment === 0) return;
    const text = `direct I/O is in whole blocks of ${this.alignment} bytes`;
    throw systemError(EINVAL, call, this.path, text);
  }

  override read(into: Uint8Array, offset: number): void {
    this.#requireAligned("read", offset, into.length);
    if (this.ahead.take(into, offset)) return;
    for (let at = 0; at < into.length;) {
      const want = Math.min(DIRECT_CHUNK_BYTES, into.length - at);
      const done = this.libc.pread(
        this.descriptor,
        this.#memory,
        BigInt(want),
        BigInt(offset + at),
      );
      if (done < 0) {
        if (lastErrno() !== EINTR) fail("read", this.path);
        continue;
      }
      into.set(this.#memory.subarray(0, done), at);
      at += done;
      // The end of the file: nothing, or a piece of a block.
      if (done === 0 || done % this.alignment !== 0) {
        into.fill(0, at);
        return;
      }
    }
  }

  override write(from: Uint8Array, offset: number): void {
    this.#requireAligned("write", offset, from.length);
    this.ahead.invalidate(offset, from.length);
    for (let at = 0; at < from.length;) {
      const chunk = from.subarray(at, at + DIRECT_CHUNK_BYTES);
      this.#memory.set(chunk);
      const done = this.libc.pwrite(
        this.descriptor,
        this.#memory,
        BigInt(chunk.length),
        BigInt(offset + at),
      );
      if (done === 0) throw new SystemError("EIO", "write", this.path, "it takes no more");
      if (done > 0) at += done;
      else if (lastErrno() !== EINTR) fail("write", this.path);
    }
  }

  /** Nothing: there is no page cache to read into. */
  override readAhead(): void {
    if (this.descriptor === CLOSED) throw systemError(EBADF, "read ahead in", this.path);
  }

  /** All other ways to change data: holes, zeroes, discards. */
  protected override changing(offset: number, length: number): void {
    this.ahead.invalidate(offset, length);
  }

  override truncate(size: number): void {
    this.ahead.forget();
    super.truncate(size);
  }
}

function openDescriptor(path: string, flags: number): number {
  for (;;) {
    const descriptor = libc().open(cstring(path), flags | O_CLOEXEC, MODE_CREATED);
    if (descriptor >= 0 || lastErrno() !== EINTR) return descriptor;
  }
}

/** Throws the error of a failed open, in the words that help. */
function explainOpen(path: string, options: FileOpenOptions): never {
  const errno = lastErrno();
  if (errno === EINVAL && options.direct) {
    throw systemError(errno, "open", path, "its file system has no direct I/O");
  }
  if (errno === EBUSY) {
    throw systemError(errno, "open", path, "it is mounted or in use by the system");
  }
  if (!options.readOnly && (errno === EROFS || errno === EACCES || errno === EPERM)) {
    const readable = openDescriptor(path, O_RDONLY);
    if (readable >= 0) {
      libc().close(readable);
      throw systemError(errno, "open", path, "it cannot be written, open it read-only");
    }
  }
  throw systemError(errno, "open", path);
}

/** Makes the name of a new file durable. */
function syncFolderOf(path: string): void {
  const slash = path.lastIndexOf("/");
  const folder = slash < 0 ? "." : path.slice(0, slash + 1);
  const descriptor = openDescriptor(folder, O_RDONLY);
  if (descriptor < 0) return; // a folder may be writable without being readable
  libc().fsync(descriptor);
  libc().close(descriptor);
}

/** Makes a file; the caller opens it afterwards like any other. */
function createFile(path: string, size: number): void {
  const descriptor = openDescriptor(path, O_RDWR | O_CREAT | O_EXCL);
  if (descriptor < 0) {
    if (lastErrno() === EEXIST) return; // somebody else was faster: then it is theirs
    fail("create", path);
  }
  if (libc().ftruncate(descriptor, BigInt(size)) !== 0 || libc().fsync(descriptor) !== 0) {
    const errno = lastErrno();
    libc().close(descriptor);
    libc().unlink(cstring(path));
    throw systemError(errno, "create", path);
  }
  libc().close(descriptor);
  syncFolderOf(path);
}

/** Looks before opening, since opening a device or a pipe has effects of its own. */
function requireFile(path: string, options: FileOpenOptions): boolean {
  const status = fileStatus({ path }, true);
  if (status === null && options.createSize !== undefined && !options.readOnly) {
    createFile(path, options.createSize);
    return false;
  }
  const kind = status?.kind ?? "regular";
  if (kind === "directory") {
    throw new SystemError("EISDIR", "open", path, "it is a directory");
  }
  if (kind === "other") {
    throw new SystemError("ENOTBLK", "open", path, "it is neither a file nor a block device");
  }
  return kind === "block";
}

/** The facts of a descriptor that is open and locked. */
function findFacts(path: string, descriptor: number, options: FileOpenOptions): Facts {
  const { readOnly, direct } = options;
  const status = fileStatus({ path, descriptor });
  if (status.kind === "regular") {
    if (direct && status.directAlignment === 0) {
      throw systemError(EINVAL, "open", path, "its file system has no direct I/O");
    }
    const alignment = direct ? status.directAlignment ?? DIRECT_ALIGNMENT_DEFAULT : 1;
    const { blockSize } = status;
    const facts = { path, descriptor, readOnly, isBlockDevice: false, alignment, blockSize };
    return { ...facts, zeroUnit: 1, zeroesItself: true };
  }
  const device = blockDeviceStatus(descriptor, path, status.device);
  if (device.readOnly && !readOnly) {
    throw systemError(EROFS, "open", path, "the device is read-only, open it read-only");
  }
  return {
    path,
    descriptor,
    readOnly,
    isBlockDevice: true,
    alignment: direct ? device.logicalBlockSize : 1,
    blockSize: device.physicalBlockSize,
    zeroUnit: device.logicalBlockSize,
    zeroesItself: device.zeroesItself,
  };
}

function openFile(path: string, options: FileOpenOptions): RawFile {
  const isBlockDevice = requireFile(path, options);
  const writes = !options.readOnly;
  // O_EXCL without O_CREAT claims a block device from file systems and others of the kernel.
  const flags = (writes ? O_RDWR : O_RDONLY) | (options.direct ? O_DIRECT : 0) |
    (isBlockDevice && writes && options.lock ? O_EXCL : 0);
  const descriptor = openDescriptor(path, flags);
  if (descriptor < 0) explainOpen(path, options);
  try {
    if (options.lock) lockFile(descriptor, path, writes);
    const facts = findFacts(path, descriptor, options);
    return options.direct ? new DirectFile(facts) : new BufferedFile(facts);
  } catch (error) {
    libc().close(descriptor);
    throw error;
  }
}

/** The files of this machine. Needs the ffi permission, and for block devices reading of /sys. */
export const systemFiles: FileAccess = { open: openFile };
