/**
 * The server's side of one connection as a byte session: requests in, replies and events out, in order.
 * What requests do is in operations.ts; this file is about the flow and its limits. Events that are
 * caused by a request of the same connection come before its reply, as xenstored sends them. A CONTROL
 * for the daemon is answered later, and until then the requests behind it wait.
 *
 * @module
 */
import { ProtocolError } from "../stream/frame.ts";
import type { ByteSession, OutputBuffer } from "../stream/session.ts";
import type { ErrorCode } from "./constants.ts";
import type { StoreConnection } from "./connection.ts";
import { XenstoreError } from "./errors.ts";
import {
  HEADER_BYTES,
  PAYLOAD_BYTES_MAX,
  QUOTA_UNSENT_BYTES,
  UNSENT_BYTES_MAX,
  UNSENT_PAUSE_BYTES,
} from "./limits.ts";
import { decodeMessage, type Message, payloadLength } from "./message.ts";
import { type Requester, runOperation } from "./operations.ts";
import { Outbox, type SendBytes } from "./outbox.ts";
import type { Store } from "./store.ts";

/** Takes the words of a CONTROL for the daemon; `XenstoreSession.endControl` gives the reply. */
export type DaemonControl = (words: readonly string[]) => void;

/** Whose connection it is. */
export interface XenstoreSessionOptions {
  /** The domain of the peer; 0 may everything. */
  readonly domid: number;
  /** Takes what is for the daemon; without it there is no such command. */
  readonly control?: DaemonControl;
}

/** How a CONTROL for the daemon ended: with bytes for the reply, or an error. */
export type ControlResult = { readonly payload: Uint8Array } | { readonly code: ErrorCode };

type Head = Pick<Message, "type" | "requestId" | "transactionId">;

const NOTHING = new Uint8Array(0);

/** Answers one request into an outbox: events that it causes come first, then the reply, if it is there. */
export function answer(requester: Requester, message: Message, outbox: Outbox): void {
  let reply: Uint8Array | string | null;
  try {
    reply = runOperation(requester, message);
  } catch (error) {
    if (!(error instanceof XenstoreError)) throw error;
    outbox.addError(message, error.code);
    return;
  }
  if (reply !== null) outbox.add(message, reply);
}

/** Sends the reply to a CONTROL for the daemon. */
export function answerControl(head: Head, result: ControlResult, outbox: Outbox): void {
  if ("code" in result) outbox.addError(head, result.code);
  else if (result.payload.length <= PAYLOAD_BYTES_MAX) outbox.add(head, result.payload);
  else outbox.addError(head, "E2BIG");
}

/** The head of a message, for a reply that comes later. */
export function headOf({ type, requestId, transactionId }: Message): Head {
  return { type, requestId, transactionId };
}

/** One connection to a store. */
export class XenstoreSession implements ByteSession, Requester {
  /** Set by the driver. */
  onWake: (() => void) | null = null;
  /** The client has asked which features there are. */
  knowsFeatures = false;
  /** The caller that the store sees. */
  readonly connection: StoreConnection;
  /** See Requester. */
  readonly daemonControl?: (message: Message, words: readonly string[]) => void;

  readonly #outbox = new Outbox();
  readonly #unsentMax: number;
  /** What was received and not served yet. */
  #rest: Uint8Array = NOTHING;
  /** Events that belong behind the reply of the request that is being answered. */
  #later: [path: string, token: string][] = [];
  /** The CONTROL that the daemon has not answered. */
  #control: Head | null = null;
  #answering = false;
  #stalled = false;
  #ended = false;
  #failure: Error | null = null;

  /** A connection of a domain to a store. */
  constructor(store: Store, options: XenstoreSessionOptions) {
    const { domid, control } = options;
    this.#unsentMax = domid === 0 ? UNSENT_BYTES_MAX : QUOTA_UNSENT_BYTES;
    if (control !== undefined) {
      this.daemonControl = (message, words): void => {
        this.#control = headOf(message);
        control(words);
      };
    }
    this.connection = store.connect(domid, {
      deliver: this.#deliver,
      closed: () => this.onWake?.(),
    });
  }

  /** Why the session ended the connection by itself, or null. */
  get failure(): Error | null {
    return this.#failure;
  }

  /** False while the peer does not read its replies, or waits for the daemon. */
  get ready(): boolean {
    return !this.#stalled && this.#control === null && !this.finished;
  }

  /** The connection was closed by the store, or a limit was exceeded, or it ended. */
  get finished(): boolean {
    return this.#ended || this.#failure !== null || this.connection.closed;
  }

  /** There is nothing to send now, and nothing that will be once the peer has said its last. */
  get idle(): boolean {
    return this.#outbox.unsentBytes === 0 && this.#control === null && !this.#stalled;
  }

  /** Bytes that wait to be sent. */
  get unsentBytes(): number {
    return this.#outbox.unsentBytes;
  }

  /** Takes requests. Throws ProtocolError for a payload that is too long. */
  receive(chunk: Uint8Array): void {
    this.take(chunk, chunk.length);
  }

  /** As `receive`, with the first `length` bytes of a buffer, which are not kept. */
  take(bytes: Uint8Array, length: number): void {
    if (this.finished) return;
    if (this.#rest.length > 0) {
      const rest = this.#rest;
      this.#rest = new Uint8Array(rest.length + length);
      this.#rest.set(rest);
      this.#rest.set(bytes.subarray(0, length), rest.length);
      return this.#serveRest();
    }
    const used = this.#serve(bytes, length);
    if (used < length) this.#rest = bytes.slice(used, length);
  }

  /** The next bytes to send. */
  takeOutput(): OutputBuffer | null {
    if (this.#ended || this.#failure !== null) return null;
    const output = this.#outbox.takeOutput();
    if (output === null || !this.#stalled) return output;
    const release = (): void => {
      output.release();
      if (this.#outbox.unsentBytes < UNSENT_PAUSE_BYTES) this.#resume();
    };
    return { bytes: output.bytes, release };
  }

  /** Sends what can be sent, and goes on with requests that have waited for that. */
  sendTo(send: SendBytes): void {
    if (this.#ended || this.#failure !== null) return;
    this.#outbox.sendTo(send);
    if (this.#stalled && this.#outbox.unsentBytes < UNSENT_PAUSE_BYTES) this.#resume();
  }

  /** The daemon has answered the CONTROL that it was given. */
  endControl(result: ControlResult): void {
    const head = this.#control;
    this.#control = null;
    if (head === null || this.finished) return;
    answerControl(head, result, this.#outbox);
    this.#resume();
  }

  /** Ends all watches and transactions. */
  end(_cause: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.connection.close();
    this.#rest = NOTHING;
    this.#outbox.clear();
  }

  /** Sends an event behind the reply of the request that is being answered. */
  eventAfterReply(path: string, token: string): void {
    this.#later.push([path, token]);
  }

  #resume(): void {
    if (this.finished) return;
    try {
      this.#serveRest();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#failure = error;
    }
    this.onWake?.();
  }

  #serveRest(): void {
    const rest = this.#rest;
    const used = this.#serve(rest, rest.length);
    // A short rest must not keep a long piece of memory.
    if (used > 0) this.#rest = used === rest.length ? NOTHING : rest.slice(used);
  }

  /** Serves whole requests from the front of `bytes`; gives how many bytes they were. */
  #serve(bytes: Uint8Array, length: number): number {
    let at = 0;
    this.#answering = true;
    try {
      while (!this.finished) {
        this.#stalled = this.#outbox.unsentBytes >= UNSENT_PAUSE_BYTES;
        if (this.#stalled || this.#control !== null || length - at < HEADER_BYTES) break;
        const payload = payloadLength(bytes, at);
        if (payload > PAYLOAD_BYTES_MAX) {
          throw new ProtocolError(
            `Cannot take a payload of ${payload} bytes: the limit is ${PAYLOAD_BYTES_MAX}`,
          );
        }
        const end = at + HEADER_BYTES + payload;
        if (end > length) break;
        answer(this, decodeMessage(bytes, at, end), this.#outbox);
        if (this.#later.length > 0) this.#sendLater();
        at = end;
      }
    } finally {
      this.#answering = false;
    }
    return at;
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
