/**
 * The server's side of one connection as a byte session: requests in, replies and events out, in order.
 * What requests do is in operations.ts; this file is about the flow and its limits. Events that are
 * caused by a request of the same connection come before its reply, as xenstored sends them.
 *
 * @module
 */
import { BufferPool } from "../block/pool.ts";
import { ProtocolError } from "../stream/frame.ts";
import type { ByteSession, OutputBuffer } from "../stream/session.ts";
import { FrameSplitter } from "../stream/splitter.ts";
import { OPERATION } from "./constants.ts";
import type { StoreConnection } from "./connection.ts";
import { XenstoreError } from "./errors.ts";
import { QUOTA_UNSENT_BYTES, UNSENT_BYTES_MAX, UNSENT_PAUSE_BYTES } from "./limits.ts";
import { decodeMessage, type Message, XENSTORE_FRAMES } from "./message.ts";
import { type Requester, runOperation } from "./operations.ts";
import { Outbox } from "./outbox.ts";
import type { Store } from "./store.ts";

/** Whose connection it is. */
export interface XenstoreSessionOptions {
  /** The domain of the peer; 0 may everything. */
  readonly domid: number;
}

const POOL = new BufferPool();

/** Answers one request into an outbox: events that it causes come first, then the reply. */
export function answer(requester: Requester, message: Message, outbox: Outbox): void {
  let reply: Uint8Array | string;
  try {
    reply = runOperation(requester, message);
  } catch (error) {
    if (!(error instanceof XenstoreError)) throw error;
    outbox.add({ ...message, type: OPERATION.ERROR }, `${error.code}\0`);
    return;
  }
  outbox.add(message, reply);
}

/** One connection to a store. */
export class XenstoreSession implements ByteSession, Requester {
  /** Set by the driver. */
  onWake: (() => void) | null = null;
  /** The client has asked which features there are. */
  knowsFeatures = false;
  /** The caller that the store sees. */
  readonly connection: StoreConnection;

  readonly #splitter = new FrameSplitter(XENSTORE_FRAMES, POOL);
  readonly #outbox = new Outbox();
  readonly #backlog: Uint8Array[] = [];
  readonly #unsentMax: number;
  /** Events that belong behind the reply of the request that is being answered. */
  #later: [path: string, token: string][] = [];
  #answering = false;
  #stalled = false;
  #ended = false;
  #failure: Error | null = null;

  /** A connection of a domain to a store. */
  constructor(store: Store, options: XenstoreSessionOptions) {
    const { domid } = options;
    this.#unsentMax = domid === 0 ? UNSENT_BYTES_MAX : QUOTA_UNSENT_BYTES;
    this.connection = store.connect(domid, {
      deliver: this.#deliver,
      closed: () => this.onWake?.(),
    });
  }

  /** Why the session ended the connection by itself, or null. */
  get failure(): Error | null {
    return this.#failure;
  }

  /** False while the peer does not read its replies. */
  get ready(): boolean {
    return !this.finished && !this.#stalled;
  }

  /** The connection was closed by the store, or a limit was exceeded, or it ended. */
  get finished(): boolean {
    return this.#ended || this.#failure !== null || this.connection.closed;
  }

  /** Takes requests. Throws ProtocolError for a payload that is too long. */
  receive(chunk: Uint8Array): void {
    if (this.finished) return;
    this.#backlog.push(chunk);
    this.#drain();
  }

  /** The next bytes to send. */
  takeOutput(): OutputBuffer | null {
    if (this.#ended || this.#failure !== null) return null;
    const output = this.#outbox.takeOutput();
    if (output === null || !this.#stalled) return output;
    const release = (): void => {
      output.release();
      this.#resume();
    };
    return { bytes: output.bytes, release };
  }

  /** Ends all watches and transactions. */
  end(_cause: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.connection.close();
    this.#splitter.reset();
    this.#backlog.length = 0;
    this.#outbox.clear();
  }

  /** Sends an event behind the reply of the request that is being answered. */
  eventAfterReply(path: string, token: string): void {
    this.#later.push([path, token]);
  }

  #resume(): void {
    if (this.finished || this.#outbox.unsentBytes >= UNSENT_PAUSE_BYTES) return;
    this.#stalled = false;
    try {
      this.#drain();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#failure = error;
    }
    this.onWake?.();
  }

  #drain(): void {
    const splitter = this.#splitter;
    this.#answering = true;
    try {
      while (!this.finished) {
        this.#stalled = this.#outbox.unsentBytes >= UNSENT_PAUSE_BYTES;
        if (this.#stalled) return;
        if (!splitter.next()) {
          const chunk = this.#backlog.shift();
          if (chunk === undefined) return;
          splitter.push(chunk);
          continue;
        }
        answer(this, decodeMessage(splitter.bytes, splitter.start, splitter.end), this.#outbox);
        if (this.#later.length > 0) this.#sendLater();
      }
    } finally {
      this.#answering = false;
    }
  }

  #sendLater(): void {
    for (const [path, token] of this.#later) this.#outbox.addEvent(path, token);
    this.#later = [];
  }

  readonly #deliver = (path: string, token: string): void => {
    if (this.#ended || this.#failure !== null) return;
    this.#outbox.addEvent(path, token);
    if (this.#outbox.unsentBytes > this.#unsentMax) {
      this.#failure = new ProtocolError(
        `Cannot keep more events for the client: ${this.#unsentMax} bytes are unsent`,
      );
      this.#outbox.clear();
      this.connection.close();
    }
    if (!this.#answering) this.onWake?.();
  };
}
