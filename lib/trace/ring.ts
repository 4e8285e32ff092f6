/**
 * A ring of records in shared memory between the thread that has a Device and the one that writes its
 * trace: one producer, one consumer. The producer never waits: a record that does not fit is counted as
 * lost. Positions count units of eight bytes, modulo 2^32.
 *
 * @module
 */
import type { TraceEvent } from "./event.ts";
import { recordBytes, RecordMemory } from "./record.ts";

/** Bytes of a unit, in which positions count and to which records are aligned. */
const UNIT_BYTES = 8;
/** Words of the control block, each in a cache line of its own. */
const LINE_WORDS = 16;
const WRITTEN_AT = 0, READ_AT = LINE_WORDS, LOST_AT = 2 * LINE_WORDS, WAKE_AT = 3 * LINE_WORDS;
const CONTROL_BYTES = 4 * LINE_WORDS * Int32Array.BYTES_PER_ELEMENT;
/** First byte of what is skipped at the end of the memory. */
const SKIP = 0xff;

/** Shared memory of a ring with room for `bytes` of records: a power of two, at least 4096. */
export function ringMemory(bytes: number): SharedArrayBuffer {
  if (bytes < 4096 || 2 ** Math.round(Math.log2(bytes)) !== bytes) {
    throw new RangeError(
      `Cannot make a ring of ${bytes} bytes: a power of two from 4096 is needed`,
    );
  }
  return new SharedArrayBuffer(CONTROL_BYTES + bytes);
}

/** What both ends know. */
class RingEnd {
  protected readonly words: Int32Array;
  protected readonly bytes: Uint8Array;
  /** Units of the whole ring. */
  protected readonly units: number;

  constructor(memory: SharedArrayBuffer) {
    this.words = new Int32Array(memory, 0, CONTROL_BYTES / Int32Array.BYTES_PER_ELEMENT);
    this.bytes = new Uint8Array(memory, CONTROL_BYTES);
    this.units = this.bytes.length / UNIT_BYTES;
  }

  /** Events that did not fit so far, below 2^31. */
  get lost(): number {
    return Atomics.load(this.words, LOST_AT) >>> 0;
  }
}

/** The end that puts records in. */
export class RingProducer extends RingEnd {
  readonly #memory: RecordMemory;
  #written = 0;
  /** What the consumer had read when it was asked last. */
  #read = 0;

  /** `memory` is from `ringMemory`. */
  constructor(memory: SharedArrayBuffer) {
    super(memory);
    this.#memory = new RecordMemory(memory, CONTROL_BYTES);
  }

  /** Puts an event in; false if it does not fit: it is counted as lost. */
  put(event: TraceEvent): boolean {
    const units = recordBytes(event) / UNIT_BYTES;
    const start = this.#written & (this.units - 1);
    const skipped = start + units > this.units ? this.units - start : 0;
    if (!this.#fits(skipped + units)) {
      Atomics.add(this.words, LOST_AT, 1);
      return false;
    }
    if (skipped > 0) this.bytes[start * UNIT_BYTES] = SKIP;
    this.#memory.encode((skipped > 0 ? 0 : start) * UNIT_BYTES, event);
    const before = this.#written;
    this.#written = (before + skipped + units) | 0;
    Atomics.store(this.words, WRITTEN_AT, this.#written);
    // Waking costs more than a record: the consumer looks by itself now and then, but not too late.
    const quarter = this.units / 4;
    if (Math.floor((before >>> 0) / quarter) !== Math.floor((this.#written >>> 0) / quarter)) {
      this.wake();
    }
    return true;
  }

  /** Makes a consumer that waits look. */
  wake(): void {
    Atomics.add(this.words, WAKE_AT, 1);
    Atomics.notify(this.words, WAKE_AT);
  }

  #fits(units: number): boolean {
    if (((this.#written - this.#read) | 0) + units <= this.units) return true;
    this.#read = Atomics.load(this.words, READ_AT);
    return ((this.#written - this.#read) | 0) + units <= this.units;
  }
}

/** Records that lie in a row. */
export interface RingRun {
  /** Whole records; valid until `release`. */
  readonly records: Uint8Array;
}

/** The end that takes records out. */
export class RingConsumer extends RingEnd {
  readonly #view: DataView;
  #read = 0;
  #taken = 0;

  /** `memory` is from `ringMemory`. */
  constructor(memory: SharedArrayBuffer) {
    super(memory);
    this.#view = new DataView(memory, CONTROL_BYTES);
  }

  /** Number of the last wake-up, for `wait`. Read it before `next`, lest one is missed. */
  get wakes(): number {
    return Atomics.load(this.words, WAKE_AT);
  }

  /**
   * The records that are there, as far as they lie in a row; null if there are none. `lengthOf` tells
   * the bytes of the record at a place. Release them before the next call.
   */
  next(lengthOf: (view: DataView, at: number) => number, bytesMax: number): RingRun | null {
    const written = Atomics.load(this.words, WRITTEN_AT);
    let start = this.#read & (this.units - 1);
    let left = (written - this.#read) | 0;
    if (left === 0) return null;
    if (this.bytes[start * UNIT_BYTES] === SKIP) {
      left -= this.units - start;
      this.#read = (this.#read + this.units - start) | 0;
      start = 0;
    }
    const end = Math.min(start + left, this.units);
    let at = start;
    while (at < end && this.bytes[at * UNIT_BYTES] !== SKIP) {
      const next = at + lengthOf(this.#view, at * UNIT_BYTES) / UNIT_BYTES;
      if (at > start && (next - start) * UNIT_BYTES > bytesMax) break;
      at = next;
    }
    this.#taken = at - start;
    return { records: this.bytes.subarray(start * UNIT_BYTES, at * UNIT_BYTES) };
  }

  /** Gives the room of the last run back. */
  release(): void {
    this.#read = (this.#read + this.#taken) | 0;
    this.#taken = 0;
    Atomics.store(this.words, READ_AT, this.#read);
  }

  /** Blocks this thread until the producer has woken it since `wakes` was read, or for `ms`. */
  wait(wakes: number, ms: number): void {
    Atomics.wait(this.words, WAKE_AT, wakes, ms);
  }
}
