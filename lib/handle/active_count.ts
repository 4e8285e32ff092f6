/**
 * How many operations are inside an open file, in shared memory: one count for each thread that uses
 * the file, so that what a dead thread has left behind can be told from the rest and withdrawn.
 *
 * The memory is an Int32Array: a state word, a word that counts wake-ups, and one cell a thread, each
 * in a cache line of its own. A cell is a count with two flags above it. Entering is one atomic add:
 * if the cell had a flag, the entry has failed and is taken back. Deactivation sets a flag in all
 * cells before it changes the state, and nothing ever clears that flag, hence: once any thread sees
 * the file draining, no operation can enter any more, and counts only go down.
 *
 * @module
 */
import { SHARES_PER_FILE_MAX } from "./limits.ts";

/** The life of an open file; it only goes forward. */
export type FileState = "new" | "active" | "draining" | "drained" | "released";

const STATES: readonly FileState[] = ["new", "active", "draining", "drained", "released"];
const NEW = 0, ACTIVE = 1, DRAINING = 2, DRAINED = 3, RELEASED = 4;

/** Words of a cache line. */
const LINE_WORDS = 16;
const STATE_AT = 0, WAKES_AT = 1;
/** Cells: one of the home thread, and those of others. */
const CELLS = 1 + SHARES_PER_FILE_MAX;

/** Flags of a cell, and the count below them. */
const REVOKED = 1 << 31, NOT_ACTIVATED = 1 << 30;
const FLAGS = REVOKED | NOT_ACTIVATED, COUNT = ~FLAGS;

/** The cell of the thread in which the open file lives. */
export const HOME_CELL = 0;

/** Memory for the counts of one open file, in state "new". */
export function activeCountMemory(): SharedArrayBuffer {
  const memory = new SharedArrayBuffer((1 + CELLS) * LINE_WORDS * Int32Array.BYTES_PER_ELEMENT);
  const words = new Int32Array(memory);
  for (let cell = 0; cell < CELLS; cell += 1) words[wordOf(cell)] = NOT_ACTIVATED;
  return memory;
}

function wordOf(cell: number): number {
  return (1 + cell) * LINE_WORDS;
}

/** The counts of one open file, as one thread sees them. What entered has to leave in that thread. */
export class ActiveCount {
  readonly #words: Int32Array;
  readonly #own: number;

  /** `memory` is from `activeCountMemory`; no two threads may use the same cell at once. */
  constructor(memory: SharedArrayBuffer, cell: number) {
    if (!Number.isInteger(cell) || cell < 0 || cell >= CELLS) {
      throw new RangeError(`Cannot count active operations: there is no cell ${cell}`);
    }
    this.#words = new Int32Array(memory);
    this.#own = wordOf(cell);
  }

  /** The state now; another thread may change it at any time. */
  get state(): FileState {
    return STATES[Atomics.load(this.#words, STATE_AT)] ?? "released";
  }

  /** Operations inside now, of all threads. */
  get total(): number {
    let sum = 0;
    for (let cell = 0; cell < CELLS; cell += 1) sum += this.countOf(cell);
    return sum;
  }

  /** Operations inside that entered through `cell`. */
  countOf(cell: number): number {
    return Atomics.load(this.#words, wordOf(cell)) & COUNT;
  }

  /** Enters; false in every state but "active". */
  enter(): boolean {
    const words = this.#words, own = this.#own;
    if ((Atomics.add(words, own, 1) & FLAGS) === 0) return true;
    // Whoever waits for zero may have looked while the failed entry was counted.
    if (Atomics.sub(words, own, 1) < 0) this.#wake();
    return false;
  }

  /** Leaves. True if the file was revoked: a drain may be at its end, and `settle` should be called. */
  leave(): boolean {
    const words = this.#words, own = this.#own;
    const before = Atomics.sub(words, own, 1);
    if ((before & COUNT) === 0) {
      Atomics.add(words, own, 1);
      this.#wake(); // somebody may have looked meanwhile
      throw new Error("Cannot leave an open file: this thread is not inside");
    }
    if (before >= 0) return false;
    this.#wake();
    return true;
  }

  /** Lets operations in. True for the one caller that has done it; false if it was not "new". */
  activate(): boolean {
    const words = this.#words;
    if (Atomics.compareExchange(words, STATE_AT, NEW, ACTIVE) !== NEW) return false;
    for (let cell = 0; cell < CELLS; cell += 1) Atomics.and(words, wordOf(cell), ~NOT_ACTIVATED);
    return true;
  }

  /**
   * Lets no operation in any more, from any state; never waits. When it returns that is so, whoever
   * has done it. True for the one caller that has.
   */
  deactivate(): boolean {
    const words = this.#words;
    for (let cell = 0; cell < CELLS; cell += 1) Atomics.or(words, wordOf(cell), REVOKED);
    return this.#move(NEW, DRAINING) || this.#move(ACTIVE, DRAINING);
  }

  /** Ends the draining if nothing is inside. True for the one caller that has ended it. */
  settle(): boolean {
    if (Atomics.load(this.#words, STATE_AT) !== DRAINING) return false;
    // Cells that were seen at zero stay there, so they need not be looked at all at once.
    return this.total === 0 && this.#move(DRAINING, DRAINED);
  }

  /** Marks the file as released. True for the one caller that has done it, once it was drained. */
  release(): boolean {
    return this.#move(DRAINED, RELEASED);
  }

  /** The same while operations are inside that will never leave. */
  abandon(): boolean {
    return this.#move(DRAINING, RELEASED);
  }

  /**
   * Takes back what a thread left in `cell`; the number of operations that were. Should the thread not
   * be quite dead it enters no more, and leaving fails.
   */
  withdraw(cell: number): number {
    const left = Atomics.exchange(this.#words, wordOf(cell), REVOKED) & COUNT;
    if (left > 0) this.#wake();
    return left;
  }

  /** Opens `cell` to another thread. In the home thread alone, where it is activated and revoked too. */
  admit(cell: number): void {
    const { state } = this;
    const flags = state === "new" ? NOT_ACTIVATED : state === "active" ? 0 : REVOKED;
    Atomics.store(this.#words, wordOf(cell), flags);
  }

  /** Number of the last wake-up, for `woken`. */
  get wakes(): number {
    return Atomics.load(this.#words, WAKES_AT);
  }

  /**
   * Resolves when something has left since `wakes` was read, or after `ms`. It does not keep the
   * program running.
   */
  async woken(wakes: number, ms: number): Promise<void> {
    const wait = Atomics.waitAsync(this.#words, WAKES_AT, wakes, ms);
    if (wait.async) await wait.value;
  }

  #wake(): void {
    Atomics.add(this.#words, WAKES_AT, 1);
    Atomics.notify(this.#words, WAKES_AT);
  }

  #move(from: number, to: number): boolean {
    return Atomics.compareExchange(this.#words, STATE_AT, from, to) === from;
  }
}
