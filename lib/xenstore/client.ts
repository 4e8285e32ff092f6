/**
 * A XenStore client over a pair of Web Streams: requests go out at once, as many as there are, and
 * replies come back in their order. Watches are async iterables, transactions functions.
 *
 * @module
 */
import { BufferPool } from "../block/pool.ts";
import { ProtocolError } from "../stream/frame.ts";
import type { BytePair } from "../stream/session.ts";
import { FrameSplitter } from "../stream/splitter.ts";
import { EventQueue, type WatchEvent } from "./client_events.ts";
import { Operations, type XenstoreOperations } from "./client_operations.ts";
import { OPERATION, operationName } from "./constants.ts";
import { errorCode, XenstoreError } from "./errors.ts";
import { CLIENT_REQUESTS_MAX, TRANSACTION_TRIES_MAX } from "./limits.ts";
import {
  allStrings,
  bytesOf,
  decodeMessage,
  encodeMessage,
  type Message,
  textOf,
  XENSTORE_FRAMES,
} from "./message.ts";

interface Pending {
  readonly type: number;
  readonly requestId: number;
  readonly resolve: (payload: Uint8Array) => void;
  readonly reject: (error: Error) => void;
}

/** Operations in a transaction. */
class TransactionOperations extends Operations {
  readonly #client: XenstoreClient;
  readonly #transactionId: number;

  constructor(client: XenstoreClient, transactionId: number) {
    super();
    this.#client = client;
    this.#transactionId = transactionId;
  }

  protected override ask(type: number, payload: Uint8Array | string): Promise<Uint8Array> {
    return this.#client.request(type, payload, this.#transactionId);
  }
}

/** A connection to a XenStore. */
export class XenstoreClient extends Operations implements AsyncDisposable {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #splitter = new FrameSplitter(XENSTORE_FRAMES, new BufferPool());
  readonly #pending: Pending[] = [];
  readonly #watches = new Map<string, EventQueue>();
  readonly #reading: Promise<void>;
  #room: (() => void)[] = [];
  #nextRequest = 1;
  #nextToken = 1;
  #failure: Error | null = null;
  #closing: Promise<void> | null = null;

  /** A client over a connected pair, which it then owns. */
  constructor(pair: BytePair) {
    super();
    this.#writer = pair.writable.getWriter();
    this.#reader = pair.readable.getReader();
    this.#writer.closed.catch(ignore);
    this.#reading = this.#readAll();
  }

  /** Connects to the unix socket of a server. Rejects with what Deno.connect does. */
  static async connectUnix(path: string): Promise<XenstoreClient> {
    return new XenstoreClient(await Deno.connect({ transport: "unix", path }));
  }

  /**
   * Sends a request and gives the payload of its reply. Rejects with XenstoreError if the server answers
   * with an error, and with what ended the connection if it ends before.
   */
  async request(
    type: number,
    payload: Uint8Array | string = "",
    transactionId: number = 0,
  ): Promise<Uint8Array> {
    while (this.#pending.length >= CLIENT_REQUESTS_MAX && this.#failure === null) {
      await new Promise<void>((resolve) => this.#room.push(resolve));
    }
    if (this.#failure !== null) throw this.#failure;
    const requestId = this.#nextRequest;
    this.#nextRequest = requestId >= 0xffffffff ? 1 : requestId + 1;
    const bytes = typeof payload === "string" ? bytesOf(payload) : payload;
    const message = encodeMessage({ type, requestId, transactionId, payload: bytes });
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    this.#pending.push({ type, requestId, resolve, reject });
    this.#writer.write(message).catch((error: unknown) => this.#fail(error));
    return await promise;
  }

  /**
   * Watches a node and all below it, or a special path: the first event is for the path itself and comes
   * at once. Ending the iteration ends the watch. `depth` needs a server that has it.
   */
  async watch(
    path: string,
    options: { readonly depth?: number } = {},
  ): Promise<AsyncIterableIterator<WatchEvent>> {
    const token = String(this.#nextToken++);
    const queue = new EventQueue(() => this.#unwatch(path, token));
    this.#watches.set(token, queue);
    try {
      if (options.depth !== undefined) await this.request(OPERATION.GET_FEATURE);
      const depth = options.depth === undefined ? "" : `${options.depth}\0`;
      await this.request(OPERATION.WATCH, `${path}\0${token}\0${depth}`);
    } catch (error) {
      this.#watches.delete(token);
      throw error;
    }
    return queue;
  }

  /**
   * Runs `change` in a transaction and commits it, again if others came first. If `change` rejects, or
   * the last of `tries` fails with EAGAIN, so does this, and nothing has changed.
   */
  async transaction<T>(
    change: (operations: XenstoreOperations) => Promise<T>,
    tries: number = TRANSACTION_TRIES_MAX,
  ): Promise<T> {
    for (let left = tries;; left--) {
      const [id = ""] = allStrings(await this.request(OPERATION.TRANSACTION_START, "\0"));
      let result: T;
      try {
        result = await change(new TransactionOperations(this, Number(id)));
      } catch (error) {
        await this.request(OPERATION.TRANSACTION_END, "F\0", Number(id)).catch(ignore);
        throw error;
      }
      try {
        await this.request(OPERATION.TRANSACTION_END, "T\0", Number(id));
        return result;
      } catch (error) {
        if (left <= 1 || !(error instanceof XenstoreError) || error.code !== "EAGAIN") throw error;
      }
    }
  }

  /**
   * Runs `look` on the store as it is now, whatever others change meanwhile: in a transaction that is
   * given up at the end, so that nothing has to be tried again. Needs a server whose transactions see a
   * snapshot, as the one here does.
   */
  async snapshot<T>(look: (operations: XenstoreOperations) => Promise<T>): Promise<T> {
    const [id = ""] = allStrings(await this.request(OPERATION.TRANSACTION_START, "\0"));
    try {
      return await look(new TransactionOperations(this, Number(id)));
    } finally {
      await this.request(OPERATION.TRANSACTION_END, "F\0", Number(id)).catch(ignore);
    }
  }

  /** Sends what is left and ends the connection. Watches end, requests without a reply are rejected. */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** As `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Sends a request outside of transactions. */
  protected override ask(type: number, payload: Uint8Array | string): Promise<Uint8Array> {
    return this.request(type, payload);
  }

  async #close(): Promise<void> {
    await this.#writer.close().catch(ignore);
    await this.#reader.cancel().catch(ignore);
    await this.#reading;
    this.#end(null);
  }

  async #unwatch(path: string, token: string): Promise<void> {
    if (!this.#watches.delete(token) || this.#failure !== null) return;
    await this.request(OPERATION.UNWATCH, `${path}\0${token}\0`);
  }

  async #readAll(): Promise<void> {
    try {
      for (;;) {
        const { done, value } = await this.#reader.read();
        if (done) break;
        this.#splitter.push(value);
        while (this.#splitter.next()) {
          const { bytes, start, end } = this.#splitter;
          this.#receive(decodeMessage(bytes, start, end));
        }
      }
      if (this.#closing === null) this.#fail(new Error("Cannot go on: the server has gone"));
    } catch (error) {
      this.#fail(error);
    }
  }

  #receive(message: Message): void {
    const { type, payload } = message;
    if (type === OPERATION.WATCH_EVENT) {
      const [path = "", token = ""] = allStrings(payload);
      this.#watches.get(token)?.push({ path });
      return;
    }
    const pending = this.#pending.shift();
    const fits = pending !== undefined && pending.requestId === message.requestId &&
      (type === pending.type || type === OPERATION.ERROR);
    if (!fits) {
      throw new ProtocolError(
        `Cannot understand a reply ${operationName(type)} to request ${message.requestId}`,
      );
    }
    this.#room.shift()?.();
    if (type !== OPERATION.ERROR) return pending.resolve(payload.slice());
    const code = textOf(payload).replace(/\0$/, "");
    pending.reject(
      new XenstoreError(errorCode(code), `Cannot ${operationName(pending.type)}: ${code}`),
    );
  }

  #fail(cause: unknown): void {
    if (this.#failure !== null) return;
    this.#end(cause instanceof Error ? cause : new Error(String(cause)));
    this.#writer.abort(cause).catch(ignore);
    this.#reader.cancel(cause).catch(ignore);
  }

  #end(error: Error | null): void {
    if (this.#failure !== null) return;
    this.#failure = error ?? new Error("Cannot go on: the connection was closed");
    for (const { reject } of this.#pending.splice(0)) reject(this.#failure);
    for (const wake of this.#room.splice(0)) wake();
    for (const queue of this.#watches.values()) queue.finish(error);
    this.#watches.clear();
    this.#splitter.reset();
  }
}

function ignore(): void {}
