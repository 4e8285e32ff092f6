/**
 * The active L1 table in memory, as it is in the file, and which part of it the file does not have yet.
 *
 * @module
 */
import { entryHigh, entryLow, entryOffset, isCopied } from "../format/entries.ts";
import { viewOf } from "../format/numbers.ts";

const ENTRY_BYTES = 8;

/** An L1 table. */
export class L1Table {
  /** Where it is in the file, bytes. */
  readonly offset: number;
  /** Entries. */
  readonly size: number;
  /** Its entries, and what follows them up to a whole unit of writing. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** First byte that the file does not have yet. */
  dirtyFrom = Infinity;
  /** End of what the file does not have yet; 0 if it has all. */
  dirtyTo = 0;
  readonly #view: DataView;

  /** `size` entries, in `bytes` that are whole units of writing. */
  constructor(offset: number, size: number, bytes: Uint8Array<ArrayBuffer>) {
    this.offset = offset;
    this.size = size;
    this.bytes = bytes;
    this.#view = viewOf(bytes);
  }

  /** Where the L2 table of an entry is; 0 if there is none. */
  tableOf(index: number): number {
    if (index >= this.size) return 0;
    const at = index * ENTRY_BYTES;
    return entryOffset(this.#view.getUint32(at), this.#view.getUint32(at + 4));
  }

  /** True if the L2 table of an entry is the active image's alone. */
  isOwn(index: number): boolean {
    return isCopied(this.#view.getUint32(index * ENTRY_BYTES));
  }

  /** Sets an entry; the L2 table is the active image's alone. 0 is none. `unit` is what is written whole. */
  set(index: number, tableOffset: number, unit: number): void {
    const at = index * ENTRY_BYTES;
    this.#view.setUint32(at, entryHigh(tableOffset, tableOffset !== 0));
    this.#view.setUint32(at + 4, entryLow(tableOffset, false));
    const from = Math.floor(at / unit) * unit;
    this.dirtyFrom = Math.min(this.dirtyFrom, from);
    this.dirtyTo = Math.max(this.dirtyTo, Math.min(from + unit, this.bytes.length));
  }

  /** Notes that the file has, or is about to get, all of it. */
  clean(): void {
    this.dirtyFrom = Infinity;
    this.dirtyTo = 0;
  }
}
