/**
 * A thread of tests/handle/gate_worker.ts, as the test that started it sees it.
 *
 * @module
 */
import type { FromGateWorker, ToGateWorker } from "./gate_worker.ts";

/** One thread. Disposing it ends it, wherever it is. */
export class GateThread implements Disposable {
  /** Resolves with the message of the error of which the thread has died. */
  readonly died: Promise<string>;
  readonly #worker: Worker;
  #answer = Promise.withResolvers<number>();

  /** Starts it. */
  constructor() {
    this.#worker = new Worker(import.meta.resolve("./gate_worker.ts"), { type: "module" });
    this.#worker.addEventListener("message", (event: MessageEvent<FromGateWorker>) => {
      this.#answer.resolve(event.data.entered);
    });
    const { promise, resolve } = Promise.withResolvers<string>();
    this.died = promise;
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      resolve(event.message);
    });
  }

  /** Tells it something without waiting. */
  tell(message: ToGateWorker): void {
    this.#worker.postMessage(message);
  }

  /** Tells it something and gives how often it has entered in doing it. One at a time. */
  ask(message: ToGateWorker): Promise<number> {
    this.#answer = Promise.withResolvers<number>();
    this.tell(message);
    return this.#answer.promise;
  }

  /** Kills it. */
  [Symbol.dispose](): void {
    this.#worker.terminate();
  }
}
