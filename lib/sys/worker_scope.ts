/**
 * Telling a worker thread from the main one, with types. A worker of this project is started from
 * the module that asks for it (`new Worker(import.meta.url, { name })`), because a bundle is one
 * module: the thread's name then says which part of the program it is.
 *
 * @module
 */

/** What a worker thread sees of itself. */
export interface WorkerScope {
  /** The name it was started with. */
  readonly name: string;
  /** Sends a message to the thread that started it; what is in `transfer` is gone afterwards. */
  postMessage(message: unknown, transfer?: Transferable[]): void;
  /** Hears messages of the thread that started it. */
  addEventListener(type: "message", listener: (event: MessageEvent) => void): void;
  /** Ends the thread once the current task is done. */
  close(): void;
}

function isWorkerScope(scope: object): scope is WorkerScope {
  return "DedicatedWorkerGlobalScope" in scope && "postMessage" in scope && "name" in scope;
}

/** The scope of this worker thread, or null on the main thread. */
export function workerScope(): WorkerScope | null {
  return isWorkerScope(globalThis) ? globalThis : null;
}

/** True if this thread was started under `name`. */
export function isWorkerNamed(name: string): boolean {
  return workerScope()?.name === name;
}
