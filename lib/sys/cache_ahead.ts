/**
 * What is read into the page cache ahead of those that ask for it: the reads of all that were announced are
 * under way together, and it is known which of them have ended, so that nobody has to wait in `read`. Where
 * the data end up does not matter: `read` finds them in the cache, as new as they are then.
 *
 * Long ranges, and all where the system has no io_uring, are announced to the page cache alone, which does
 * not tell when it has them.
 *
 * @module
 */
import type { AheadNews, FileAhead } from "./file_access.ts";
import type { ReadRing } from "./io_uring.ts";
import { CACHE_AHEAD_BYTES_MAX } from "./limits.ts";

interface Range {
  readonly tag: number;
  readonly length: number;
}

/** The reads into the page cache of one file. */
export class CacheAhead implements FileAhead {
  /** See FileAhead. */
  readonly cached = true;
  readonly #open: () => ReadRing | null;
  readonly #advise: (offset: number, length: number) => void;
  /** Null if there is none to be had; undefined before it is needed. */
  #ring: ReadRing | null | undefined;
  /** Those under way by offset, and their offsets by tag. */
  readonly #ranges = new Map<number, Range>();
  readonly #offsets = new Map<number, number>();
  #nextTag = 1;

  /**
   * `open` gives a ring with CACHE_AHEAD_BYTES_MAX of memory, or null if there is none. `advise` tells the page
   * cache of a range; it never fails.
   */
  constructor(open: () => ReadRing | null, advise: (offset: number, length: number) => void) {
    this.#open = open;
    this.#advise = advise;
  }

  /** See FileAhead. */
  get news(): AheadNews | null {
    return this.#ring ?? null;
  }

  /** See FileAhead. It is submitted with the next `look`. */
  announce(offset: number, length: number): void {
    const range = this.#ranges.get(offset);
    if (range !== undefined && range.length >= length) return;
    const ring = length > CACHE_AHEAD_BYTES_MAX ? null : this.#ringNow();
    if (ring === null || ring.room === 0) return this.#advise(offset, length);
    const tag = this.#nextTag;
    this.#nextTag = tag % 0x7fff_ffff + 1;
    this.#ranges.set(offset, { tag, length });
    this.#offsets.set(tag, offset);
    ring.begin(tag, 0, length, offset);
  }

  /** See FileAhead. */
  isUnderWay(offset: number, length: number): boolean {
    const range = this.#ranges.get(offset);
    return range !== undefined && range.length >= length;
  }

  /** See FileAhead. */
  look(wait: boolean): void {
    const ring = this.#ring;
    if (ring === null || ring === undefined || ring.inFlight === 0) return;
    if (wait) ring.wait();
    else ring.submit();
    this.#reap(ring);
  }

  /** See FileAhead. */
  forget(): void {
    this.#ranges.clear();
    this.#offsets.clear();
  }

  /** Waits for what is under way, and gives the ring back. Throws what waiting throws: the ring is kept then. */
  close(): void {
    const ring = this.#ring;
    this.#ring = null;
    this.forget();
    if (ring === null || ring === undefined) return;
    while (ring.inFlight > 0) {
      ring.wait();
      this.#reap(ring);
    }
    ring.close();
  }

  #ringNow(): ReadRing | null {
    if (this.#ring === undefined) this.#ring = this.#open();
    return this.#ring;
  }

  /** Whether a read has failed does not matter: whoever makes it gets to know. */
  #reap(ring: ReadRing): void {
    for (let done = ring.next(); done !== null; done = ring.next()) {
      const offset = this.#offsets.get(done.tag);
      if (offset === undefined) continue;
      this.#offsets.delete(done.tag);
      if (this.#ranges.get(offset)?.tag === done.tag) this.#ranges.delete(offset);
    }
  }
}
