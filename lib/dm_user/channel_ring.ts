/**
 * The memory that a channel's thread and the home thread of its Device share: messages on their way
 * from one to the other, in a ring, and the words by which the two talk. One writer, which may block;
 * one reader, which never does. A message is put whole; a long one goes aside, as a transferred
 * buffer, and leaves a mark in the ring that keeps its place.
 *
 * @module
 */
import { CHANNEL_MESSAGE_BYTES_MAX, CHANNEL_PIECES_MAX, CHANNEL_RING_BYTES } from "./limits.ts";

/** Words before the ring. Positions count bytes and wrap at 2^32; the ring's size divides that. */
const HEAD = 0, // where the writer writes
  TAIL = 1, // where the reader reads
  EVENT = 2, // grows when there is something for the reader to look at
  CREDIT = 3, // grows when there is something for the writer to look at
  ORDER = 4, // see Order
  END = 5, // 0, or why the writer has ended, see RingWriter.end
  THREAD = 6, // the kernel's number of the writer's thread, 0 before it runs
  PIECES_PUT = 7, // marks put …
  PIECES_TAKEN = 8, // … and taken, both wrap
  WORDS = 16;
const RING_START = WORDS * 4;

/** Entries begin at multiples of 8 bytes: a word that says what it is, a free word, the bytes. */
const PREFIX_BYTES = 8;
/** Prefixes besides a length in bytes: a mark, and the end of what is used before the ring's end. */
const MARK = -1, SKIP = -2;

/** What the reader wants of the writer. */
export type Order = "run" | "stop" | "abandon";
const ORDERS: readonly Order[] = ["run", "stop", "abandon"];

/** Why a writer has ended: asked to, or with an errno of its device. */
export type WriterEnd = { readonly kind: "stopped" } | {
  readonly kind: "errno";
  /** Linux's number, from 1. */
  readonly number: number;
};
/** Above all errno numbers. */
const END_STOPPED = 0x10000;

/** Memory for a ring. */
export function ringMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(RING_START + CHANNEL_RING_BYTES);
}

function aligned(bytes: number): number {
  return (bytes + 7) & ~7;
}

class RingMemory {
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly #prefixes: Int32Array<SharedArrayBuffer>;

  constructor(memory: SharedArrayBuffer) {
    this.words = new Int32Array(memory, 0, WORDS);
    this.bytes = new Uint8Array(memory, RING_START);
    this.#prefixes = new Int32Array(memory, RING_START);
  }

  /** Where in the ring a position is. */
  at(position: number): number {
    return position & (CHANNEL_RING_BYTES - 1);
  }

  prefix(position: number): number {
    return this.#prefixes[this.at(position) >> 2] ?? SKIP;
  }

  setPrefix(position: number, value: number): void {
    this.#prefixes[this.at(position) >> 2] = value;
  }

  bump(word: number): void {
    Atomics.add(this.words, word, 1);
    Atomics.notify(this.words, word);
  }
}

/** The thread's side. */
export class RingWriter {
  readonly #memory: RingMemory;

  /** Of `ringMemory`; one writer and one reader. */
  constructor(memory: SharedArrayBuffer) {
    this.#memory = new RingMemory(memory);
  }

  /** What the reader wants. */
  get order(): Order {
    return ORDERS[Atomics.load(this.#memory.words, ORDER)] ?? "abandon";
  }

  /** Tells the reader which thread to wake. */
  setThread(thread: number): void {
    Atomics.store(this.#memory.words, THREAD, thread);
  }

  /**
   * Puts a message of at most CHANNEL_MESSAGE_BYTES_MAX, waiting while there is no room. False if it
   * was abandoned.
   */
  put(message: Uint8Array): boolean {
    if (message.length > CHANNEL_MESSAGE_BYTES_MAX) {
      throw new RangeError(`Cannot put ${message.length} bytes into the ring`);
    }
    const start = this.#reserve(PREFIX_BYTES + aligned(message.length));
    if (start === null) return false;
    this.#memory.bytes.set(message, this.#memory.at(start) + PREFIX_BYTES);
    this.#publish(start, message.length, PREFIX_BYTES + aligned(message.length));
    return true;
  }

  /** Waits until another piece may go aside. False if it was abandoned. */
  waitForPiece(): boolean {
    const { words } = this.#memory;
    const put = Atomics.load(words, PIECES_PUT);
    return this.#waitFor(() =>
      ((put - Atomics.load(words, PIECES_TAKEN)) | 0) < CHANNEL_PIECES_MAX
    );
  }

  /** Keeps the place of a piece that was sent aside before. False if it was abandoned. */
  mark(): boolean {
    const start = this.#reserve(PREFIX_BYTES);
    if (start === null) return false;
    Atomics.add(this.#memory.words, PIECES_PUT, 1);
    this.#publish(start, MARK, PREFIX_BYTES);
    return true;
  }

  /** The last word: the thread touches its device no more. `number` is an errno, 0 if it was stopped. */
  end(number: number): void {
    Atomics.store(this.#memory.words, END, number === 0 ? END_STOPPED : number);
    this.#memory.bump(EVENT);
  }

  /** Waits for room for an entry that does not wrap; gives its position, or null if abandoned. */
  #reserve(length: number): number | null {
    const { words } = this.#memory;
    const head = Atomics.load(words, HEAD);
    const before = CHANNEL_RING_BYTES - this.#memory.at(head);
    const skip = before < length ? before : 0;
    const room = (): boolean => {
      const used = (head - Atomics.load(words, TAIL)) | 0;
      return used + skip + length <= CHANNEL_RING_BYTES;
    };
    if (!this.#waitFor(room)) return null;
    if (skip === 0) return head;
    this.#memory.setPrefix(head, SKIP);
    return (head + skip) | 0;
  }

  #publish(start: number, prefix: number, length: number): void {
    this.#memory.setPrefix(start, prefix);
    Atomics.store(this.#memory.words, HEAD, (start + length) | 0);
    this.#memory.bump(EVENT);
  }

  #waitFor(condition: () => boolean): boolean {
    const { words } = this.#memory;
    for (;;) {
      const credit = Atomics.load(words, CREDIT);
      if (this.order === "abandon") return false;
      if (condition()) return true;
      Atomics.wait(words, CREDIT, credit);
    }
  }
}

/** The home thread's side. */
export class RingReader {
  readonly #memory: RingMemory;

  /** Of `ringMemory`; one writer and one reader. */
  constructor(memory: SharedArrayBuffer) {
    this.#memory = new RingMemory(memory);
  }

  /** Grows with each event; see `changed`. */
  get events(): number {
    return Atomics.load(this.#memory.words, EVENT);
  }

  /** The kernel's number of the writer's thread; 0 before it runs. */
  get thread(): number {
    return Atomics.load(this.#memory.words, THREAD);
  }

  /** Why the writer has ended; null while it runs. What it put before is still to be taken. */
  get end(): WriterEnd | null {
    const number = Atomics.load(this.#memory.words, END);
    if (number === 0) return null;
    return number === END_STOPPED ? { kind: "stopped" } : { kind: "errno", number };
  }

  /** Tells the writer what to do. An order is never taken back. */
  give(order: Order): void {
    const number = ORDERS.indexOf(order);
    const { words } = this.#memory;
    if (number > Atomics.load(words, ORDER)) Atomics.store(words, ORDER, number);
    this.#memory.bump(CREDIT);
  }

  /** Resolves when `events` is not `seen` any more. */
  async changed(seen: number): Promise<void> {
    const wait = Atomics.waitAsync(this.#memory.words, EVENT, seen);
    if (wait.async) await wait.value;
  }

  /** Makes `changed` resolve. */
  wake(): void {
    this.#memory.bump(EVENT);
  }

  /** What is next: messages, a mark, or nothing. */
  next(): "messages" | "mark" | "nothing" {
    const tail = this.#skip();
    if (tail === null) return "nothing";
    return this.#memory.prefix(tail) === MARK ? "mark" : "messages";
  }

  /** Takes the mark that is next. */
  takeMark(): void {
    const tail = this.#skip();
    if (tail === null || this.#memory.prefix(tail) !== MARK) {
      throw new RangeError("Cannot take a mark: there is none");
    }
    Atomics.add(this.#memory.words, PIECES_TAKEN, 1);
    this.#free(tail + PREFIX_BYTES);
  }

  /** Takes all messages before the next mark, in one chunk of memory of its own. */
  takeMessages(): Uint8Array<ArrayBuffer> {
    const start = Atomics.load(this.#memory.words, TAIL);
    let length = 0;
    const end = this.#walk(start, (_at, bytes) => void (length += bytes));
    const chunk = new Uint8Array(length);
    let done = 0;
    this.#walk(start, (at, bytes) => {
      chunk.set(this.#memory.bytes.subarray(at, at + bytes), done);
      done += bytes;
    }, end);
    this.#free(end);
    return chunk;
  }

  /** Calls `visit` for each message up to a mark or `end`; gives the position where it stopped. */
  #walk(start: number, visit: (at: number, bytes: number) => void, end?: number): number {
    const head = end ?? Atomics.load(this.#memory.words, HEAD);
    let position = start;
    while (position !== head) {
      const prefix = this.#memory.prefix(position);
      if (prefix === MARK) break;
      if (prefix === SKIP) {
        position = this.#ringStart(position);
        continue;
      }
      visit(this.#memory.at(position) + PREFIX_BYTES, prefix);
      position = (position + PREFIX_BYTES + aligned(prefix)) | 0;
    }
    return position;
  }

  #ringStart(position: number): number {
    return (position + CHANNEL_RING_BYTES - this.#memory.at(position)) | 0;
  }

  /** The position of the next entry, null if there is none. */
  #skip(): number | null {
    const { words } = this.#memory;
    const tail = Atomics.load(words, TAIL);
    if (tail === Atomics.load(words, HEAD)) return null;
    return this.#memory.prefix(tail) === SKIP ? this.#ringStart(tail) : tail;
  }

  #free(tail: number): void {
    Atomics.store(this.#memory.words, TAIL, tail | 0);
    this.#memory.bump(CREDIT);
  }
}
