/**
 * An open file in another thread than its own: what is posted there, and the gate that the thread
 * makes of it.
 *
 * @module
 */
import type { Gate } from "../block/request.ts";
import { ActiveCount, type FileState } from "./active_count.ts";

/** An open file for one other thread: plain data that can be posted. */
export interface SharedFile {
  /** Its minor. */
  readonly minor: number;
  /** Its counts. */
  readonly memory: SharedArrayBuffer;
  /** The cell of the thread that it was made for. */
  readonly cell: number;
}

/**
 * The gate of an open file in the thread that it was shared with. It may be used in that thread alone,
 * and what entered there leaves there.
 *
 * @example In a worker thread that was posted `file.share(thread)`
 * ```ts
 * import { type SharedFile, SharedGate } from "./shared_gate.ts";
 *
 * function serve(shared: SharedFile, operation: () => void): void {
 *   const gate = new SharedGate(shared);
 *   if (!gate.enter()) return; // access was taken away: ENODEV
 *   try {
 *     operation();
 *   } finally {
 *     gate.leave();
 *   }
 * }
 * ```
 */
export class SharedGate implements Gate {
  /** The minor of the open file. */
  readonly id: number;
  readonly #count: ActiveCount;

  /** `shared` is what `OpenFile.share` gave. */
  constructor(shared: SharedFile) {
    this.id = shared.minor;
    this.#count = new ActiveCount(shared.memory, shared.cell);
  }

  /** The state of the file now. A thread that finds it draining should end what it has of the file. */
  get state(): FileState {
    return this.#count.state;
  }

  /** Enters for one operation; false unless the file is active. */
  enter(): boolean {
    return this.#count.enter();
  }

  /** Leaves; wakes the drain if there is one. */
  leave(): void {
    this.#count.leave();
  }
}
