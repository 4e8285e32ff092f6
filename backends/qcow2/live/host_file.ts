/**
 * The image file as the live image sees it: reads and writes, how long it is, and which part of it
 * nothing was ever written to, so that it reads as zeroes without being written.
 *
 * @module
 */
import type { RawFile } from "../../../lib/sys/file_access.ts";

/** A file that is written through this object alone. */
export class HostFile {
  /** The file itself. */
  readonly raw: RawFile;
  /** Unit in which tables are written, bytes: what a disk writes whole. */
  readonly unit: number;
  /** A block device: its size is fixed and it holds anything. */
  readonly fixed: boolean;
  #length: number;
  #untouchedFrom: number;

  /** Takes over an open file. */
  constructor(raw: RawFile) {
    this.raw = raw;
    this.unit = Math.max(512, raw.alignment);
    this.fixed = raw.isBlockDevice;
    this.#length = raw.size();
    this.#untouchedFrom = this.fixed ? Infinity : this.#length;
  }

  /** Bytes of the file. */
  get length(): number {
    return this.#length;
  }

  /** True if nothing was ever written at or after `offset`: it reads as zeroes. */
  isUntouched(offset: number): boolean {
    return offset >= this.#untouchedFrom;
  }

  /** Fills `into`; what is past the end is zero. */
  read(into: Uint8Array, offset: number): void {
    this.raw.read(into, offset);
  }

  /** Writes, and makes the file longer if need be. */
  write(from: Uint8Array, offset: number): void {
    const end = offset + from.length;
    if (end > this.#untouchedFrom) this.#untouchedFrom = end;
    if (end > this.#length) this.#length = end;
    this.raw.write(from, offset);
  }

  /** Everything before `offset` counts as written from now on. */
  touch(offset: number): void {
    if (offset > this.#untouchedFrom) this.#untouchedFrom = offset;
  }

  /** Makes the file at least `length` bytes long; what is new reads as zeroes. */
  extend(length: number): void {
    if (this.fixed || length <= this.#length) return;
    this.raw.truncate(length);
    this.#length = length;
  }

  /** Cuts the file off at `length` bytes, if it is longer. */
  cut(length: number): void {
    if (this.fixed || length >= this.#length) return;
    this.raw.truncate(length);
    this.#length = length;
    this.#untouchedFrom = Math.min(this.#untouchedFrom, length);
  }
}
