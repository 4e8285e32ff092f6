/**
 * A file layer in memory that forgets at a crash what was not made durable.
 *
 * The fault model. Each file has what its medium holds and a list of changes since the last flush, as
 * a page cache does. A flush moves every change made before it to the medium. `crash` decides what
 * else got there: for each sector of 512 bytes, independently, the medium ends with any one of the
 * contents which that sector had since the flush, so writes survive in any order, in part, or not at
 * all. The size may be any size that the file had since. Files stay, once made: the real layer syncs
 * their folder. One seed gives one outcome. An asynchronous flush ends some turns after its call and
 * covers only what was there at the call. A bug can be planted: a flush that does nothing.
 *
 * @module
 */
import type {
  FileAccess,
  FileExtent,
  FileOpenOptions,
  RawFile,
} from "../../lib/sys/file_access.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { allAre } from "../../lib/testing/bytes.ts";
import { SeededRandom } from "./context.ts";

/** Unit that is written whole or not at all. */
export const SECTOR_BYTES = 512;
const BLOCK_BYTES = 4096;
/** Largest file: two copies of it are held in memory. */
const FILE_BYTES_MAX = 64 * 2 ** 20;

/** Settings of CrashFiles. */
export interface CrashOptions {
  /** Decides what survives a crash beyond what was flushed. */
  readonly seed: number;
  /** Chance, 0 to 1, that a change reaches the medium without a flush. */
  readonly survival?: number;
  /** A planted bug: flush is done at once and changes nothing. */
  readonly flushDoesNothing?: boolean;
}

/** A change since the last flush: bytes, zeroes, or a new size. */
type Change =
  | { readonly kind: "write"; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: "zero"; readonly offset: number; readonly length: number }
  | { readonly kind: "size"; readonly size: number };

/**
 * The content at another size, in place of the one that is given. A view of a buffer with room behind
 * it, all zero, so that a file which grows write by write is not copied with each of them.
 */
function resized(content: Uint8Array, size: number): Uint8Array {
  if (size > content.buffer.byteLength) {
    const roomy = new Uint8Array(Math.max(size, 2 * content.length));
    roomy.set(content);
    return roomy.subarray(0, size);
  }
  content.fill(0, size);
  return new Uint8Array(content.buffer, 0, size);
}

/** The content after a change; changed in place where the size allows it. */
function applied(content: Uint8Array, change: Change): Uint8Array {
  if (change.kind === "size") return resized(content, change.size);
  if (change.kind === "zero") {
    content.fill(0, change.offset, change.offset + change.length);
    return content;
  }
  const end = change.offset + change.bytes.length;
  const long = end > content.length ? resized(content, end) : content;
  long.set(change.bytes, change.offset);
  return long;
}

/** First and last byte, exclusive, that a change touches, in whole sectors. */
function sectorsOf(change: Change): [start: number, end: number] {
  if (change.kind === "size") return [0, 0];
  const length = change.kind === "write" ? change.bytes.length : change.length;
  const start = Math.floor(change.offset / SECTOR_BYTES) * SECTOR_BYTES;
  return [start, Math.ceil((change.offset + length) / SECTOR_BYTES) * SECTOR_BYTES];
}

/** A file as its medium and its page cache have it. */
class StoredFile {
  medium: Uint8Array;
  cached: Uint8Array;
  changes: Change[] = [];
  /** Changes that have ever left the list: numbers them across flushes. */
  settled = 0;
  readers = 0;
  writers = 0;

  constructor(size: number) {
    this.medium = new Uint8Array(size);
    this.cached = new Uint8Array(size);
  }

  change(change: Change): void {
    this.changes.push(change);
    this.cached = applied(this.cached, change);
  }

  /** The number of the next change: a flush up to it covers all that is there now. */
  get mark(): number {
    return this.settled + this.changes.length;
  }

  settle(mark: number): void {
    const covered = this.changes.splice(0, Math.max(0, mark - this.settled));
    for (const change of covered) this.medium = applied(this.medium, change);
    this.settled += covered.length;
  }

  crash(random: SeededRandom, survival: number): void {
    const survives = (): boolean => random.uint32() / 2 ** 32 < survival;
    let now: Uint8Array = this.medium.slice();
    for (const change of this.changes) {
      now = applied(now, change);
      if (now.length !== this.medium.length && survives()) {
        this.medium = resized(this.medium, now.length);
      }
      const [start, end] = sectorsOf(change);
      for (let at = start; at < Math.min(end, this.medium.length); at += SECTOR_BYTES) {
        if (survives()) {
          this.medium.set(
            now.subarray(at, at + SECTOR_BYTES).slice(0, this.medium.length - at),
            at,
          );
        }
      }
    }
    this.settled += this.changes.length;
    this.changes = [];
    this.cached = this.medium.slice();
    this.readers = 0;
    this.writers = 0;
  }
}

/** One opening of a file. */
class OpenFile implements RawFile {
  readonly isBlockDevice = false;
  readonly blockSize = BLOCK_BYTES;
  readonly path: string;
  readonly readOnly: boolean;
  readonly alignment: number;
  readonly #files: CrashFiles;
  readonly #stored: StoredFile;
  readonly #options: FileOpenOptions;
  readonly #life: number;
  #closed = false;

  constructor(files: CrashFiles, path: string, stored: StoredFile, options: FileOpenOptions) {
    this.path = path;
    this.readOnly = options.readOnly;
    this.alignment = options.direct ? SECTOR_BYTES : 1;
    this.#files = files;
    this.#stored = stored;
    this.#options = options;
    this.#life = files.crashes;
    if (options.lock) {
      if (stored.writers > 0 || stored.readers > 0 && !options.readOnly) {
        throw new SystemError("EAGAIN", "open", path, "it is in use by another process");
      }
      if (options.readOnly) stored.readers += 1;
      else stored.writers += 1;
    }
  }

  /** The file, for a call that reads or changes it. */
  #use(call: string, change = false): StoredFile {
    if (this.#closed) throw new SystemError("EBADF", call, this.path, "it is closed");
    if (this.#life !== this.#files.crashes) {
      throw new SystemError("EIO", call, this.path, "the machine has crashed");
    }
    if (change && this.readOnly) throw new SystemError("EBADF", call, this.path, "read-only");
    return this.#stored;
  }

  size(): number {
    return this.#use("inspect").cached.length;
  }

  allocated(): number {
    return this.extents(0, this.size(), Infinity)
      .reduce((sum, { length, data }) => sum + (data ? length : 0), 0);
  }

  read(into: Uint8Array, offset: number): void {
    const piece = this.#use("read").cached.subarray(offset, offset + into.length);
    into.set(piece);
    into.fill(0, piece.length);
  }

  write(from: Uint8Array, offset: number): void {
    this.#use("write", true).change({ kind: "write", offset, bytes: from.slice() });
  }

  flush(): void {
    const stored = this.#use("flush");
    this.#files.flushes += 1;
    if (!this.#files.options.flushDoesNothing) stored.settle(stored.mark);
  }

  async flushAsync(): Promise<void> {
    const stored = this.#use("flush");
    const { mark } = stored;
    this.#files.flushes += 1;
    if (this.#files.options.flushDoesNothing) return;
    for (let turns = this.#files.random.below(8); turns >= 0; turns -= 1) await Promise.resolve();
    this.#use("flush").settle(mark);
  }

  punch(offset: number, length: number): void {
    this.zero(offset, length);
  }

  zero(offset: number, length: number): void {
    const stored = this.#use("zero", true);
    const kept = Math.min(length, stored.cached.length - offset);
    if (kept > 0) stored.change({ kind: "zero", offset, length: kept });
  }

  discard(offset: number, length: number): void {
    this.zero(offset, length);
  }

  allocate(offset: number, length: number): void {
    const stored = this.#use("allocate", true);
    if (offset + length > stored.cached.length) this.truncate(offset + length);
  }

  extents(offset: number, length: number, countMax: number): FileExtent[] {
    const { cached } = this.#use("inspect");
    const found: { length: number; data: boolean; allocated: boolean }[] = [];
    for (let at = offset; at < offset + length;) {
      const end = Math.min((Math.floor(at / BLOCK_BYTES) + 1) * BLOCK_BYTES, offset + length);
      const block = at - at % BLOCK_BYTES;
      const data = !allAre(cached.subarray(block, block + BLOCK_BYTES), 0);
      const last = found.at(-1);
      if (last?.data === data) last.length += end - at;
      else if (found.length === countMax) break;
      else found.push({ length: end - at, data, allocated: true });
      at = end;
    }
    return found;
  }

  readAhead(): void {
    this.#use("read ahead in");
  }

  truncate(size: number): void {
    const stored = this.#use("resize", true);
    if (size > FILE_BYTES_MAX) {
      throw new SystemError("EFBIG", "resize", this.path, `at most ${FILE_BYTES_MAX} bytes`);
    }
    stored.change({ kind: "size", size });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (!this.#options.lock || this.#life !== this.#files.crashes) return;
    if (this.readOnly) this.#stored.readers -= 1;
    else this.#stored.writers -= 1;
  }
}

/** The machine whose files those are. */
export class CrashFiles implements FileAccess {
  readonly options: CrashOptions;
  readonly random: SeededRandom;
  /** Crashes so far; a file that was open at one is of no use afterwards. */
  crashes = 0;
  /** Flushes asked for so far. */
  flushes = 0;
  readonly #stored = new Map<string, StoredFile>();

  constructor(options: CrashOptions) {
    this.options = options;
    this.random = new SeededRandom(options.seed);
  }

  open(path: string, options: FileOpenOptions): RawFile {
    let stored = this.#stored.get(path);
    if (stored === undefined) {
      if (options.createSize === undefined || options.readOnly) {
        throw new SystemError("ENOENT", "open", path, "no such file or directory");
      }
      stored = new StoredFile(options.createSize);
      this.#stored.set(path, stored);
    }
    return new OpenFile(this, path, stored, options);
  }

  /**
   * Loses power: what was not flushed survives by chance, open files are gone, locks are free. A chance of
   * 1 is the end of the process alone.
   */
  crash(survival: number = this.options.survival ?? 0.5): void {
    this.crashes += 1;
    for (const stored of this.#stored.values()) stored.crash(this.random, survival);
  }
}
