/**
 * Cuts chunks into frames, wherever they are cut: a frame inside one chunk costs no copy and no
 * allocation, a frame over several chunks is assembled in a pooled buffer of its exact size.
 *
 * A peer that announces a long frame and never sends it pins little: up to ASSEMBLY_EAGER_BYTES the
 * memory is taken at once, above it grows with what has arrived (see ASSEMBLY_GROWTH), so that long
 * frames pay at most a third more copying. Relies on lib/block/pool.ts for memory.
 *
 * @module
 */
import type { BufferPool, PooledBuffer } from "../block/pool.ts";
import { type FrameFormat, ProtocolError } from "./frame.ts";
import {
  ASSEMBLY_EAGER_BYTES,
  ASSEMBLY_GROWTH,
  FRAMES_AFTER_BYTES_MAX,
  FRAMES_AFTER_MAX,
} from "./limits.ts";

const NOTHING = new Uint8Array(0);

/**
 * What `rooms` gives where there are none. V8 knows an array that has had no element as another kind of
 * object than those that have: this one is of their kind, so that what is compiled for some serves all.
 */
export const NO_ROOMS: readonly Uint8Array<ArrayBuffer>[] = [NOTHING].slice(1);

/**
 * Finds the frames in chunks of bytes.
 *
 * @example Cutting frames whose first byte is their length
 * ```ts
 * import { BufferPool } from "../block/pool.ts";
import { FrameSplitter } from "./splitter.ts";
 *
 * const format = {
 *   headerLengthMin: 1,
 *   frameLengthMax: 255,
 *   frameLength: (bytes: Uint8Array, start: number): number => bytes[start] ?? 0,
 * };
 * const splitter = new FrameSplitter(format, new BufferPool());
 * const lengths: number[] = [];
 * for (const chunk of [new Uint8Array([2, 7, 3, 8]), new Uint8Array([9])]) {
 *   splitter.push(chunk);
 *   while (splitter.next()) lengths.push(splitter.end - splitter.start);
 * }
 * if (lengths.join() !== "2,3") throw new Error(`wrong lengths: ${lengths.join()}`);
 * ```
 */
export class FrameSplitter {
  /** Where the current frame lives; valid after `next` gave true, until the next call of it. */
  bytes: Uint8Array = NOTHING;
  /** First byte of the current frame in `bytes`. */
  start = 0;
  /** Past the last byte of the current frame in `bytes`. */
  end = 0;

  readonly #pool: BufferPool;
  #format: FrameFormat;
  #chunk: Uint8Array = NOTHING;
  #position = 0;
  /** Bytes of a frame whose length is not known yet; length of `#head` is its capacity. */
  #head: Uint8Array = NOTHING;
  #headFilled = 0;
  /** The frame being assembled, once its length is known; `#wanted` is that length, else 0. */
  #assembly: PooledBuffer | null = null;
  #assembled = 0;
  #wanted = 0;
  /** What has come behind the frame that is being assembled, to be frames of its size. */
  #after: PooledBuffer[] = [];
  #afterFilled = 0;
  /** The buffer of the current frame, until it is taken or the next frame is asked for. */
  #current: PooledBuffer | null = null;

  /** Frames of `format`, cut ones assembled in memory of `pool`. */
  constructor(format: FrameFormat, pool: BufferPool) {
    this.#format = format;
    this.#pool = pool;
  }

  /** Gives the next chunk; allowed only when `next` returned false (or at the start). */
  push(chunk: Uint8Array): void {
    if (this.#position < this.#chunk.length) {
      throw new Error("Cannot push a chunk: the one before is not used up");
    }
    this.#chunk = chunk;
    this.#position = 0;
  }

  /**
   * Moves to the next whole frame; false if there is none yet. Throws ProtocolError if the bytes are
   * no frame or a frame is too long.
   */
  next(): boolean {
    if (this.#current !== null) this.#releaseCurrent();
    if (this.#wanted !== 0) return this.#assemble();
    if (this.#afterFilled !== 0) this.#adoptAfter();
    if (this.#wanted !== 0) return this.#assemble();
    if (this.#headFilled !== 0) return this.#extendHead();
    const start = this.#position;
    const end = this.#chunk.length;
    if (end - start >= this.#format.headerLengthMin) {
      const length = this.#format.frameLength(this.#chunk, start, end);
      if (length !== 0) {
        if (length > end - start || length < 0) return this.#beginAssembly(length);
        if (length > this.#format.frameLengthMax) this.#refuse(length);
        this.bytes = this.#chunk;
        this.start = start;
        this.end = this.#position = start + length;
        return true;
      }
    }
    if (end - start >= this.#format.frameLengthMax) this.#refuse(end - start + 1);
    if (end > start) this.#stash(end);
    else this.#dropChunk();
    return false;
  }

  /**
   * The pooled buffer of the current frame if it was assembled in one: the caller then owns it and
   * releases it when done with the frame. Null if the frame lives in the chunk it came in. A buffer
   * that is not taken goes back to the pool at the next call of `next`.
   */
  takeBuffer(): PooledBuffer | null {
    const current = this.#current;
    this.#current = null;
    return current;
  }

  /** Bytes given that are not part of a frame yet. */
  get pending(): number {
    const { length } = this.#chunk;
    return this.#assembled + this.#headFilled + this.#afterFilled + length - this.#position;
  }

  /** A copy of the bytes that are not part of a frame yet, in order. */
  remainder(): Uint8Array {
    const copy = new Uint8Array(this.pending);
    copy.set(this.#head.subarray(0, this.#headFilled));
    if (this.#assembly !== null) copy.set(this.#assembly.bytes.subarray(0, this.#assembled));
    const at = this.#assembled + this.#headFilled;
    this.#copyAfter(copy.subarray(at));
    copy.set(this.#chunk.subarray(this.#position), at + this.#afterFilled);
    return copy;
  }

  /** Copies what it still needs of the chunk that was given last, whose memory can be used again then. */
  detach(): void {
    if (this.#position === this.#chunk.length) return;
    this.#chunk = this.#chunk.slice(this.#position);
    this.#position = 0;
  }

  /** Goes on with another format (the next phase of a protocol) from the first byte not yet in a frame. */
  setFormat(format: FrameFormat): void {
    this.#format = format;
    if (this.#wanted === 0 && this.#headFilled === 0 && this.#afterFilled === 0) return;
    const rest = this.remainder();
    this.#dropPartial();
    this.#chunk = rest;
    this.#position = 0;
  }

  /**
   * Where the next bytes go, piece by piece, for whoever can receive into any memory; then `filled` has to be
   * called. First the rest of a frame that has arrived in part; behind it, or if no frame was begun, frames of
   * `expected` bytes, if that is not 0 and they are worth it. Empty where `push` takes what comes.
   */
  rooms(expected = 0): readonly Uint8Array<ArrayBuffer>[] {
    const begun = this.#headFilled !== 0 || this.#afterFilled !== 0 ||
      this.#position < this.#chunk.length;
    if (begun || (this.#wanted !== 0 && this.#assembled === this.#wanted)) return NO_ROOMS;
    const assembly = this.#assembly;
    if (assembly === null) return this.#addRoomsAfter([], expected);
    const { bytes } = assembly.bytes.length > this.#assembled ? assembly : this.#grow(assembly, 0);
    const rest = bytes.subarray(this.#assembled, this.#wanted);
    return bytes.length < this.#wanted ? [rest] : this.#addRoomsAfter([rest], expected);
  }

  #addRoomsAfter(
    rooms: Uint8Array<ArrayBuffer>[],
    expected: number,
  ): readonly Uint8Array<ArrayBuffer>[] {
    const fitting = expected === 0 ? 0 : Math.floor(FRAMES_AFTER_BYTES_MAX / expected);
    if (fitting === 0 || this.#pool.scarce) return rooms.length === 0 ? NO_ROOMS : rooms;
    if (this.#after[0]?.bytes.length !== expected) this.#dropAfter();
    while (this.#after.length < Math.min(fitting, FRAMES_AFTER_MAX)) {
      this.#after.push(this.#pool.take(expected));
    }
    for (const { bytes } of this.#after) rooms.push(bytes);
    return rooms;
  }

  /** `count` bytes, 0 too, were put into the rooms, one after the other. True if that is more than the rest of a frame. */
  filled(count: number): boolean {
    const end = Math.min(this.#wanted, this.#assembly?.bytes.length ?? 0);
    const taken = Math.min(count, end - this.#assembled);
    this.#assembled += taken;
    this.#afterFilled = count - taken;
    const used = Math.ceil(this.#afterFilled / (this.#after[0]?.bytes.length ?? 1));
    for (const unused of this.#after.splice(used)) unused.release();
    return used > 0;
  }

  #dropAfter(): void {
    const after = this.#after;
    this.#after = [];
    this.#afterFilled = 0;
    for (const each of after) each.release();
  }

  #copyAfter(into: Uint8Array): void {
    let at = 0;
    for (const { bytes } of this.#after) {
      const count = Math.min(bytes.length, this.#afterFilled - at);
      into.set(bytes.subarray(0, count), at);
      at += count;
    }
  }

  /** If the next frame fills the first piece, or takes the rest of it, it is assembled there; else all is a chunk. */
  #adoptAfter(): void {
    const [after] = this.#after;
    if (after === undefined) throw new Error("Cannot go on: nothing was received behind a frame");
    const { bytes } = after, { headerLengthMin } = this.#format;
    const filled = Math.min(this.#afterFilled, bytes.length);
    const length = filled < headerLengthMin ? 0 : this.#format.frameLength(bytes, 0, filled);
    const fits = length === bytes.length ||
      (this.#afterFilled <= length && length < bytes.length);
    if (!fits) {
      this.#chunk = new Uint8Array(this.#afterFilled);
      this.#position = 0;
      this.#copyAfter(this.#chunk);
      this.#dropAfter();
      return;
    }
    this.#wanted = this.#checked(length);
    this.#assembly = after;
    this.#assembled = filled;
    this.#after.shift();
    this.#afterFilled -= filled;
  }

  /** Forgets everything and gives all memory back. */
  reset(): void {
    this.#releaseCurrent();
    this.#dropPartial();
    this.#dropChunk();
  }

  #releaseCurrent(): void {
    const current = this.takeBuffer();
    this.bytes = NOTHING;
    this.start = this.end = 0;
    current?.release();
  }

  #dropPartial(): void {
    const assembly = this.#assembly;
    this.#assembly = null;
    this.#assembled = this.#wanted = this.#headFilled = 0;
    assembly?.release();
    this.#dropAfter();
  }

  /** A chunk that is used up must not be kept alive while the connection is idle. */
  #dropChunk(): void {
    this.#chunk = NOTHING;
    this.#position = 0;
    if (this.#current === null) this.bytes = NOTHING;
  }

  #refuse(length: number): never {
    if (!(length > 0 && Number.isSafeInteger(length))) {
      throw new Error(`Cannot split frames: the format gave a length of ${length}`);
    }
    throw new ProtocolError(
      `Cannot take a frame of ${length} bytes: the limit is ${this.#format.frameLengthMax}`,
    );
  }

  /** Keeps the unread bytes up to `end` of the chunk as the head of a frame of unknown length. */
  #stash(end: number): void {
    const count = end - this.#position;
    const filled = this.#headFilled + count;
    if (filled > this.#head.length) {
      const grown = new Uint8Array(Math.max(filled * 2, this.#format.headerLengthMin));
      grown.set(this.#head.subarray(0, this.#headFilled));
      this.#head = grown;
    }
    this.#head.set(this.#chunk.subarray(this.#position, end), this.#headFilled);
    this.#headFilled = filled;
    this.#position = end;
    if (end === this.#chunk.length) this.#dropChunk();
  }

  /** Adds bytes to the head until the length of its frame can be told. */
  #extendHead(): boolean {
    for (;;) {
      const available = this.#chunk.length - this.#position;
      if (available === 0) return false;
      const before = this.#headFilled;
      const chunk = this.#chunk;
      const position = this.#position;
      const missing = this.#format.headerLengthMin - before;
      this.#stash(position + Math.min(available, missing > 0 ? missing : before));
      if (this.#headFilled < this.#format.headerLengthMin) continue;
      const length = this.#format.frameLength(this.#head, 0, this.#headFilled);
      if (length === 0) {
        if (this.#headFilled >= this.#format.frameLengthMax) this.#refuse(this.#headFilled + 1);
        continue;
      }
      if (length < before) {
        throw new Error(`Cannot split frames: the format told a length of ${length} too late`);
      }
      // What was taken beyond the frame goes back to the chunk it came from.
      this.#chunk = chunk;
      this.#position = position + Math.min(length, this.#headFilled) - before;
      const head = this.#head.subarray(0, Math.min(length, this.#headFilled));
      this.#headFilled = 0;
      this.#wanted = this.#checked(length);
      this.#assembly = this.#pool.take(
        Math.min(length, Math.max(ASSEMBLY_EAGER_BYTES, head.length)),
      );
      this.#assembly.bytes.set(head);
      this.#assembled = head.length;
      return this.#assemble();
    }
  }

  #checked(length: number): number {
    if (!(length > 0 && length <= this.#format.frameLengthMax)) this.#refuse(length);
    return length;
  }

  /** Starts a frame of known length of which the chunk holds only the beginning. */
  #beginAssembly(length: number): boolean {
    this.#wanted = this.#checked(length);
    const available = this.#chunk.length - this.#position;
    this.#assembly = this.#pool.take(
      Math.min(length, Math.max(ASSEMBLY_EAGER_BYTES, available * ASSEMBLY_GROWTH)),
    );
    return this.#assemble();
  }

  /** Copies what the chunk has into the frame being assembled; true when that is whole. */
  #assemble(): boolean {
    let assembly = this.#assembly;
    if (assembly === null) throw new Error("Cannot assemble a frame: it was not begun");
    const count = Math.min(this.#chunk.length - this.#position, this.#wanted - this.#assembled);
    if (count > assembly.bytes.length - this.#assembled) assembly = this.#grow(assembly, count);
    const from = this.#position;
    assembly.bytes.set(this.#chunk.subarray(from, from + count), this.#assembled);
    this.#assembled += count;
    this.#position += count;
    if (this.#assembled < this.#wanted) {
      this.#dropChunk();
      return false;
    }
    this.#current = assembly;
    this.bytes = assembly.bytes;
    this.start = 0;
    this.end = this.#wanted;
    this.#assembly = null;
    this.#assembled = this.#wanted = 0;
    return true;
  }

  /** A larger buffer for a long frame, sized by what has arrived and not by what was announced. */
  #grow(assembly: PooledBuffer, count: number): PooledBuffer {
    const arrived = this.#assembled + count;
    const grown = this.#pool.take(Math.min(this.#wanted, arrived * ASSEMBLY_GROWTH));
    grown.bytes.set(assembly.bytes.subarray(0, this.#assembled));
    this.#assembly = grown;
    assembly.release();
    return grown;
  }
}
