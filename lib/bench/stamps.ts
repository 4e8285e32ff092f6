/**
 * Stamps: what a load writes tells where it belongs and by which request it was written, and every byte
 * follows from that. So a read shows whether the disk gave back the newest data of the right place, whole.
 *
 * A stamp is at the start of each block (STAMP_BYTES_MIN to STAMP_BYTES_MAX bytes): eight words of 32 bits,
 * little endian: magic, seed, number of the block (low, high), number of the request from 1 (low, high),
 * bytes of a block, 0. The words behind it are those of a xorshift generator that begins with all of these.
 *
 * @module
 */
import { STAMP_BYTES_MAX, STAMP_BYTES_MIN, STAMPS_MAX } from "./limits.ts";

/** "dmub". */
const MAGIC = 0x62756d64;
const HEAD_WORDS = 8, WORD_BYTES = 4;
/** What is known of a block: nothing was written, or a write has failed; else the request that wrote it. */
const UNWRITTEN = 0, UNKNOWN = 0xffffffff;
/** Most requests whose numbers a block can carry here. */
const REQUESTS_MAX = UNKNOWN - 1;
/** A write is under way; less is the number of reads. */
const WRITING = 0xffff;

/** How a block is wrong. */
export type FaultKind = "lost" | "misplaced" | "foreign" | "torn";

/** A block that holds something else than it has to. */
export interface StampFault {
  /** Its first byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** See `what`. */
  readonly kind: FaultKind;
  /** What is wrong, in words. */
  readonly what: string;
}

/** What blocks with stamps are made from. */
export interface StampSettings {
  /** Bytes of the disk that are used. */
  readonly size: number;
  /** Bytes of a block: see `stampBytesOf`. */
  readonly blockBytes: number;
  /** Tells the stamps of one load from those of another. */
  readonly seed: number;
}

/**
 * The bytes of a block with a stamp where all requests are multiples of `unit` bytes: the largest power of
 * two that divides it, STAMP_BYTES_MAX at most; null if that is less than STAMP_BYTES_MIN.
 */
export function stampBytesOf(unit: number): number | null {
  let bytes = 1;
  while (bytes < STAMP_BYTES_MAX && unit % (bytes * 2) === 0) bytes *= 2;
  return bytes < STAMP_BYTES_MIN ? null : bytes;
}

/** The stamps of a disk: what each block has to hold, and which blocks are being written. */
export class Stamps {
  /** Blocks that were compared. */
  checked = 0;
  /** Blocks that were wrong. */
  faultCount = 0;
  /** The first of them. */
  readonly faults: StampFault[] = [];
  /** Bytes of a block. */
  readonly blockBytes: number;

  readonly #seed: number;
  readonly #expected: Uint32Array | null;
  readonly #busy: Uint16Array | null;
  readonly #toldMax: number;

  /**
   * `knows`: it is known what each block has to hold, for what was not written through here nothing. Else
   * blocks are compared with their own stamps alone. Throws RangeError if there are too many blocks.
   */
  constructor(settings: StampSettings, knows: boolean, toldMax: number) {
    const { size, blockBytes, seed } = settings;
    const count = Math.ceil(size / blockBytes);
    if (knows && count > STAMPS_MAX) {
      throw new RangeError(
        `Cannot keep ${count} stamps: at most ${STAMPS_MAX} are possible, use less of the disk`,
      );
    }
    this.blockBytes = blockBytes;
    this.#seed = seed >>> 0;
    this.#expected = knows ? new Uint32Array(count) : null;
    this.#busy = knows ? new Uint16Array(count) : null;
    this.#toldMax = toldMax;
  }

  /** Takes the range for a request; false if another one that is in flight must end first. */
  enter(offset: number, length: number, writes: boolean): boolean {
    const busy = this.#busy;
    if (busy === null) return true;
    const from = offset / this.blockBytes, to = (offset + length) / this.blockBytes;
    for (let at = from; at < to; at += 1) {
      const now = busy[at] ?? 0;
      if (now === WRITING || (writes && now > 0)) return false;
    }
    for (let at = from; at < to; at += 1) busy[at] = writes ? WRITING : (busy[at] ?? 0) + 1;
    return true;
  }

  /** The request is done. */
  leave(offset: number, length: number, writes: boolean): void {
    const busy = this.#busy;
    if (busy === null) return;
    const from = offset / this.blockBytes, to = (offset + length) / this.blockBytes;
    for (let at = from; at < to; at += 1) busy[at] = writes ? 0 : (busy[at] ?? 1) - 1;
  }

  /** Request `number` (from 1) has written the range, or is about to. Throws RangeError past 2^32 - 3. */
  wrote(offset: number, length: number, number: number): void {
    if (number >= REQUESTS_MAX) {
      throw new RangeError(`Cannot check more than ${REQUESTS_MAX} requests in one run`);
    }
    this.#note(offset, length, number);
  }

  /** A write has failed: nobody knows what the range holds. */
  failed(offset: number, length: number): void {
    this.#note(offset, length, UNKNOWN);
  }

  /** Fills the data of request `number` at `offset`. */
  fill(data: Uint8Array, offset: number, number: number): void {
    const words = wordsOf(data);
    const perBlock = this.blockBytes / WORD_BYTES;
    let block = offset / this.blockBytes;
    for (let at = 0; at < words.length; at += perBlock, block += 1) {
      this.#fillBlock(words, at, perBlock, block, number);
    }
  }

  /** Compares what was read at `offset`; whole blocks. */
  check(data: Uint8Array, offset: number): void {
    const words = wordsOf(data);
    const perBlock = this.blockBytes / WORD_BYTES;
    let block = offset / this.blockBytes;
    for (let at = 0; at + perBlock <= words.length; at += perBlock, block += 1) {
      const expected = this.#expected === null ? null : this.#expected[block] ?? UNWRITTEN;
      if (expected === UNWRITTEN || expected === UNKNOWN) continue;
      if (expected === null && words[at] !== MAGIC) continue;
      this.checked += 1;
      const fault = this.#faultOf(words, at, perBlock, block, expected);
      if (fault !== null) this.#tell(fault, block);
    }
  }

  #note(offset: number, length: number, value: number): void {
    const { blockBytes } = this;
    this.#expected?.fill(value, offset / blockBytes, (offset + length) / blockBytes);
  }

  #fillBlock(
    words: Uint32Array,
    at: number,
    count: number,
    block: number,
    request: number,
  ): void {
    words[at] = MAGIC;
    words[at + 1] = this.#seed;
    words[at + 2] = block;
    words[at + 3] = Math.floor(block / 2 ** 32);
    words[at + 4] = request;
    words[at + 5] = Math.floor(request / 2 ** 32);
    words[at + 6] = this.blockBytes;
    words[at + 7] = 0;
    let state = startOf(words, at);
    for (let word = at + HEAD_WORDS; word < at + count; word += 1) {
      state = step(state);
      words[word] = state;
    }
  }

  /** What is wrong with a block, or null. `expected` is the request, null if any will do. */
  #faultOf(
    words: Uint32Array,
    at: number,
    count: number,
    block: number,
    expected: number | null,
  ): readonly [FaultKind, string] | null {
    const seed = words[at + 1] ?? 0;
    const place = (words[at + 2] ?? 0) + (words[at + 3] ?? 0) * 2 ** 32;
    const request = (words[at + 4] ?? 0) + (words[at + 5] ?? 0) * 2 ** 32;
    if (words[at] !== MAGIC) {
      const zero = words.subarray(at, at + count).every((word) => word === 0);
      return zero
        ? ["lost", `it is all zeroes, request ${expected} wrote it`]
        : ["foreign", `it holds no stamp, request ${expected} wrote it`];
    }
    if (seed !== this.#seed) return ["foreign", `its stamp is of a load with seed ${seed}`];
    if (words[at + 6] !== this.blockBytes) {
      return ["foreign", `its stamp is of a load with stamps every ${words[at + 6]} bytes`];
    }
    if (place !== block) {
      return ["misplaced", `its data belong to ${place * this.blockBytes}`];
    }
    if (expected !== null && request !== expected) {
      return ["lost", `it is as request ${request} wrote it, request ${expected} wrote last`];
    }
    let state = startOf(words, at);
    for (let word = at + HEAD_WORDS; word < at + count; word += 1) {
      state = step(state);
      if (words[word] !== state) {
        const where = (word - at) * WORD_BYTES;
        return ["torn", `from byte ${where} on it is not what request ${request} wrote`];
      }
    }
    return null;
  }

  #tell([kind, what]: readonly [FaultKind, string], block: number): void {
    this.faultCount += 1;
    if (this.faults.length >= this.#toldMax) return;
    const length = this.blockBytes;
    this.faults.push({ offset: block * length, length, kind, what });
  }
}

/** The state in front of the words that follow a stamp: never 0. */
function startOf(words: Uint32Array, at: number): number {
  let state = 0x9e3779b9;
  for (let word = at; word < at + HEAD_WORDS; word += 1) {
    state = Math.imul(state ^ (words[word] ?? 0), 0x85ebca6b);
    state = (state ^ (state >>> 15)) >>> 0;
  }
  return state === 0 ? 1 : state;
}

/** One step of xorshift32. */
function step(state: number): number {
  let next = state ^ (state << 13);
  next ^= next >>> 17;
  next ^= next << 5;
  return next >>> 0;
}

/** The same bytes as words: buffers of a load begin at multiples of 4. */
function wordsOf(data: Uint8Array): Uint32Array {
  return new Uint32Array(data.buffer, data.byteOffset, data.byteLength >>> 2);
}
