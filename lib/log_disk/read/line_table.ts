/**
 * Where the data of one object is, and how it falls into lines. A line is a run of whole extents that
 * together have at most LINE_BYTES_MAX bytes, so that what was fetched can be checked by the CRCs of the
 * object's header. Lines follow from the header alone: they are the same for every reader.
 *
 * @module
 */
import { LINE_BYTES_MAX } from "./limits.ts";

/** Data of an object. */
export interface DataExtent {
  /** Where it is in the object, bytes; below 2^32. */
  readonly at: number;
  /** Bytes. */
  readonly length: number;
  /** CRC-32C of it. */
  readonly crc: number;
}

/** The lines of an object. */
export class LineTable {
  readonly #at: Uint32Array;
  readonly #lengths: Uint32Array;
  readonly #crcs: Uint32Array;
  /** First extent of each line, and behind the last line the number of extents. */
  readonly #first: Uint32Array;

  /** `extents` are those that have data, in the order in which their data is in the object. */
  constructor(extents: readonly DataExtent[]) {
    this.#at = Uint32Array.from(extents, ({ at }) => at);
    this.#lengths = Uint32Array.from(extents, ({ length }) => length);
    this.#crcs = Uint32Array.from(extents, ({ crc }) => crc);
    const first: number[] = [];
    let start = 0;
    for (const [index, { at, length }] of extents.entries()) {
      if (first.length > 0 && at + length - start <= LINE_BYTES_MAX) continue;
      first.push(index);
      start = at;
    }
    this.#first = Uint32Array.from([...first, extents.length]);
  }

  /** Lines. */
  get lines(): number {
    return this.#first.length - 1;
  }

  /** Bytes of memory that it takes, about. */
  get bytes(): number {
    return this.#at.byteLength * 3 + this.#first.byteLength + 512;
  }

  /** First byte of a line in the object. */
  start(line: number): number {
    return this.#at[this.#first[line] ?? 0] ?? 0;
  }

  /** Byte behind a line. */
  end(line: number): number {
    const last = (this.#first[line + 1] ?? 0) - 1;
    return (this.#at[last] ?? 0) + (this.#lengths[last] ?? 0);
  }

  /** The line that a byte of the object is in; -1 if it is before all of them. */
  lineOf(at: number): number {
    let low = 0, high = this.lines;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.start(middle) <= at) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** The first byte in the object of an extent of this line that is damaged; -1 if it is sound. */
  damage(line: number, bytes: Uint8Array, crc: (bytes: Uint8Array) => number): number {
    const start = this.start(line);
    const last = this.#first[line + 1] ?? 0;
    for (let index = this.#first[line] ?? 0; index < last; index += 1) {
      const at = this.#at[index] ?? 0, from = at - start;
      const data = bytes.subarray(from, from + (this.#lengths[index] ?? 0));
      if (crc(data) !== this.#crcs[index]) return at;
    }
    return -1;
  }
}
