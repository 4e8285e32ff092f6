/**
 * A single file in memory that may grow only so far: whoever writes far behind its end, or opens
 * another file for writing, is written down. For hostile images.
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

class GuardedFile implements RawFile {
  readonly isBlockDevice = false;
  readonly alignment = 1;
  readonly blockSize = 4096;
  readonly path: string;
  readonly readOnly: boolean;
  readonly #files: GuardedFiles;

  constructor(files: GuardedFiles, path: string, readOnly: boolean) {
    this.#files = files;
    this.path = path;
    this.readOnly = readOnly;
  }

  size(): number {
    return this.#files.size;
  }

  allocated(): number {
    return this.#files.size;
  }

  read(into: Uint8Array, offset: number): void {
    const { size, bytes } = this.#files;
    const piece = bytes.subarray(Math.min(offset, size), Math.min(offset + into.length, size));
    into.set(piece);
    into.fill(0, piece.length);
  }

  write(from: Uint8Array, offset: number): void {
    this.#files.reach(offset, from.length);
    this.#files.bytes.set(from, offset);
  }

  flush(): void {}

  flushAsync(): Promise<void> {
    return Promise.resolve();
  }

  punch(offset: number, length: number): void {
    const { size, bytes } = this.#files;
    if (offset < size) bytes.fill(0, offset, Math.min(offset + length, size));
  }

  zero(offset: number, length: number): void {
    this.punch(offset, length);
  }

  discard(offset: number, length: number): void {
    this.punch(offset, length);
  }

  allocate(offset: number, length: number): void {
    this.#files.reach(offset, length);
  }

  extents(offset: number, length: number): FileExtent[] {
    const rest = Math.min(length, this.#files.size - offset);
    return rest > 0 ? [{ length: rest, data: true, allocated: true }] : [];
  }

  readAhead(): void {}

  truncate(size: number): void {
    if (size > this.#files.size) this.#files.reach(size, 0);
    this.#files.bytes.fill(0, size);
    this.#files.size = size;
  }

  close(): void {}
}

/** The files of this machine: there is one. */
export class GuardedFiles implements FileAccess {
  /** What must not have happened. */
  readonly violations: string[] = [];
  /** What the file holds, and behind it zeroes up to where it may grow. */
  readonly bytes: Uint8Array;
  size: number;
  readonly #path: string;

  /** `growth` is how many bytes the file may grow by. */
  constructor(path: string, content: Uint8Array, growth: number) {
    this.#path = path;
    this.bytes = new Uint8Array(content.length + growth);
    this.bytes.set(content);
    this.size = content.length;
  }

  open(path: string, options: FileOpenOptions): RawFile {
    if (path === this.#path) return new GuardedFile(this, path, options.readOnly);
    if (options.createSize !== undefined) this.violations.push(`${path} was to be created`);
    throw new SystemError("ENOENT", "open", path, "no such file or directory");
  }

  /** The file is going to have bytes up to there. Throws EFBIG if that is too far. */
  reach(offset: number, length: number): void {
    if (offset < 0 || offset + length > this.bytes.length) {
      this.violations.push(`${length} bytes at ${offset}`);
      throw new SystemError("EFBIG", "write", this.#path, "that is far outside of the image");
    }
    this.size = Math.max(this.size, offset + length);
  }
}
