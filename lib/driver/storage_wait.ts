/**
 * Who waits for storage beside other things: it tells that something is there, and not for whom, so that all
 * of them look. Whoever looks may find what another one waits for, and then they all look again.
 *
 * @module
 */
import type { StorageNews } from "../block/types.ts";

/** Those that wait for one storage. */
export class StorageWait<T> {
  #storage: StorageNews | null = null;
  readonly #waiting = new Set<T>();
  /** `progress` when all of them were taken last. */
  #seen = 0;

  /** How many wait. */
  get count(): number {
    return this.#waiting.size;
  }

  /** Something may be there for those that wait, as far as was known when this thread left a system call last. */
  get hasNews(): boolean {
    return this.#waiting.size > 0 && this.#storage?.progress !== this.#seen;
  }

  /** Somebody waits. True if `storage` was not known: its descriptor is to be waited for from now on. */
  add(waiter: T, storage: StorageNews): boolean {
    this.#waiting.add(waiter);
    if (storage === this.#storage) return false;
    this.#storage = storage;
    this.#seen = -1;
    return true;
  }

  /** Somebody waits no more. */
  delete(waiter: T): void {
    this.#waiting.delete(waiter);
  }

  /** Takes all that wait. */
  take(): T[] {
    this.#seen = this.#storage?.progress ?? 0;
    const all = [...this.#waiting];
    this.#waiting.clear();
    return all;
  }
}
