/**
 * Work on things that have names: what concerns one of them is done in turn, different ones at the same
 * time.
 *
 * @module
 */

/** Queues by name. */
export class Turns {
  readonly #queues = new Map<string, Promise<void>>();

  /** Does `step` when everything that was asked for before under this name is done, however it ended. */
  take<T>(name: string, step: () => Promise<T>): Promise<T> {
    const run = (this.#queues.get(name) ?? Promise.resolve()).then(step);
    const settled = run.then(ignore, ignore);
    this.#queues.set(name, settled);
    settled.then(() => {
      if (this.#queues.get(name) === settled) this.#queues.delete(name);
    });
    return run;
  }

  /** Resolves when nothing is under way, also nothing that came meanwhile. */
  async idle(): Promise<void> {
    while (this.#queues.size > 0) await Promise.all(this.#queues.values());
  }
}

function ignore(): void {}
