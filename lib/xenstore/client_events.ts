/**
 * The events of one watch of a client, as an async iterator with a bounded queue.
 *
 * @module
 */
import { CLIENT_EVENTS_MAX } from "./limits.ts";

/** Something below a watched path has changed. */
export interface WatchEvent {
  /** The node, relative if it is watched by a relative path. */
  readonly path: string;
}

/** Events of one watch, as they are taken. */
export class EventQueue implements AsyncIterableIterator<WatchEvent> {
  readonly #events: WatchEvent[] = [];
  readonly #stop: () => Promise<void>;
  #waiting: PromiseWithResolvers<IteratorResult<WatchEvent>>[] = [];
  #end: { readonly error: Error | null } | null = null;

  constructor(stop: () => Promise<void>) {
    this.#stop = stop;
  }

  push(event: WatchEvent): void {
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) waiting.resolve({ done: false, value: event });
    else if (this.#events.length < CLIENT_EVENTS_MAX) this.#events.push(event);
    else this.finish(new Error(`Cannot keep more than ${CLIENT_EVENTS_MAX} events`));
  }

  finish(error: Error | null): void {
    this.#end ??= { error };
    for (const waiting of this.#waiting.splice(0)) {
      if (error === null) waiting.resolve({ done: true, value: undefined });
      else waiting.reject(error);
    }
  }

  next(): Promise<IteratorResult<WatchEvent>> {
    const event = this.#events.shift();
    if (event !== undefined) return Promise.resolve({ done: false, value: event });
    const end = this.#end;
    if (end?.error) return Promise.reject(end.error);
    if (end !== null) return Promise.resolve({ done: true, value: undefined });
    const waiting = Promise.withResolvers<IteratorResult<WatchEvent>>();
    this.#waiting.push(waiting);
    return waiting.promise;
  }

  async return(): Promise<IteratorResult<WatchEvent>> {
    this.finish(null);
    this.#events.length = 0;
    await this.#stop();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
