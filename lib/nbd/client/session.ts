/**
 * The client's side of the transmission phase as a byte session: requests become bytes, bytes
 * complete requests. Many requests are in flight at a time, each under a cookie of its own. Pure.
 * Implements the sections "Request message" and "Terminating the transmission phase" of the NBD
 * protocol document.
 *
 * @module
 */
import { BlockError, toBlockError } from "../../block/errors.ts";
import type { BufferPool } from "../../block/pool.ts";
import { ProtocolError } from "../../stream/frame.ts";
import type { ByteSession, OutputBuffer } from "../../stream/session.ts";
import { COMMAND, COMMAND_FLAG, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC } from "../constants.ts";
import {
  PAYLOAD_COPY_BYTES_MAX,
  PAYLOAD_PIECE_BYTES,
  REQUEST_BATCH_BYTES,
  REQUESTS_IN_FLIGHT_MAX,
} from "./limits.ts";
import { type ClientRequest, Pending } from "./pending.ts";
import { type PendingTable, ReplyDecoder, type ReplyTerms } from "./reply_decoder.ts";

const COMPACT_BYTES = 28, EXTENDED_BYTES = 32;

/** What was negotiated, as far as the transmission phase depends on it. */
export interface SessionTerms extends ReplyTerms {
  /** Size of the export in bytes. */
  readonly size: number;
}

/** A payload that goes out in pieces behind its request. */
interface LongPayload {
  readonly pending: Pending;
  at: number;
}

/** Requests that wait, from the oldest. */
class Queue {
  #items: Pending[] = [];
  #head = 0;

  get first(): Pending | undefined {
    return this.#items[this.#head];
  }

  push(pending: Pending): void {
    this.#items.push(pending);
  }

  drop(): void {
    this.#head += 1;
    if (this.#head * 2 < this.#items.length) return;
    this.#items = this.#items.slice(this.#head);
    this.#head = 0;
  }

  takeAll(): Pending[] {
    const all = this.#items.slice(this.#head);
    this.#items = [];
    this.#head = 0;
    return all;
  }
}

/** A connection in its transmission phase. Requests go in through `submit`. */
export class ClientSession implements ByteSession {
  /** Set by the driver. */
  onWake: (() => void) | null = null;

  readonly #terms: SessionTerms;
  readonly #pool: BufferPool;
  readonly #decoder: ReplyDecoder;
  readonly #queue = new Queue();
  readonly #inFlight = new Map<number, Pending>();
  #cookie = 0;
  #payload: LongPayload | null = null;
  #leaving = false;
  #left = false;
  #failure: BlockError | null = null;
  #movedBytes = 0;

  /** `pool` lends the buffers in which requests are put together. */
  constructor(terms: SessionTerms, pool: BufferPool) {
    this.#terms = terms;
    this.#pool = pool;
    const table: PendingTable = {
      find: (cookie) => this.#inFlight.get(cookie),
      finished: (cookie, pending) => this.#replied(cookie, pending),
    };
    this.#decoder = new ReplyDecoder(terms, table);
  }

  /** Replies bring no more than was asked for, so they are always welcome. */
  readonly ready = true;

  /** True when the connection is over. */
  get finished(): boolean {
    return this.#left || this.#failure !== null;
  }

  /** Requests that are not done. */
  get busy(): boolean {
    return this.#inFlight.size > 0 || this.#queue.first !== undefined || this.#payload !== null;
  }

  /** Bytes that went either way: who waits for the server sees whether it still moves. */
  get movedBytes(): number {
    return this.#movedBytes;
  }

  /** Why no request is taken any more, or null. */
  get refusal(): BlockError | null {
    if (this.#failure !== null || !this.#leaving) return this.#failure;
    return new BlockError("ESHUTDOWN", "Cannot send a request: the connection is being closed");
  }

  /** Takes a request, whose `done` is called later, or at once if the connection is over. */
  submit(request: ClientRequest): void {
    const { refusal } = this;
    if (refusal !== null) {
      request.done(refusal, []);
      return;
    }
    this.#queue.push(new Pending(request, this.#terms.size));
    this.onWake?.();
  }

  /** Lets what is in flight finish, then says goodbye; requests from now on are refused. */
  leave(): void {
    this.#leaving = true;
    this.onWake?.();
  }

  /** Takes the server's bytes. Throws ProtocolError. */
  receive(chunk: Uint8Array): void {
    this.#movedBytes += chunk.length;
    this.#decoder.receive(chunk);
  }

  /** The next bytes for the server. */
  takeOutput(): OutputBuffer | null {
    if (this.finished) return null;
    if (this.#payload !== null) return this.#payloadPiece(this.#payload);
    const { first } = this.#queue;
    if (first !== undefined && this.#inFlight.size < REQUESTS_IN_FLIGHT_MAX) return this.#batch();
    return this.#leaving && !this.busy ? this.#goodbye() : null;
  }

  /** The connection is over: whatever is not done fails. */
  end(cause: unknown): void {
    if (this.finished && !this.busy) return;
    const reason = cause instanceof Error ? cause.message : "the server closed it";
    const errno = cause instanceof ProtocolError || cause === undefined
      ? "EIO"
      : toBlockError(cause).errno;
    this.#failure ??= new BlockError(
      "ENOTCONN",
      `Cannot send a request: the connection is lost, ${reason}`,
      { cause },
    );
    const lost = new BlockError(
      errno,
      `Cannot finish the request: the connection is lost, ${reason}`,
      { cause },
    );
    const waiting = this.#payload;
    this.#payload = null;
    // Pieces that the transport holds come back through their release.
    if (waiting !== null) {
      waiting.pending.unsent -= waiting.pending.request.length - waiting.at;
      if (waiting.pending.replied) this.#settleIfSent(waiting.pending);
    }
    const all = [...this.#inFlight.values(), ...this.#queue.takeAll()];
    this.#inFlight.clear();
    for (const pending of all) {
      pending.error ??= lost;
      pending.replied = true;
      this.#settleIfSent(pending);
    }
  }

  #replied(cookie: number, pending: Pending): void {
    this.#inFlight.delete(cookie);
    if (pending.error?.errno === "ESHUTDOWN") this.#leaving = true;
    this.#settleIfSent(pending);
  }

  /** A server may answer before it has the whole payload: the caller's buffer is still in use then. */
  #settleIfSent(pending: Pending): void {
    if (pending.replied && pending.unsent === 0) pending.settle();
  }

  /** As many requests as fit one buffer; a long payload follows in pieces of its own. */
  #batch(): OutputBuffer {
    const buffer = this.#pool.take(REQUEST_BATCH_BYTES);
    const { bytes } = buffer;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const headerBytes = this.#terms.extended ? EXTENDED_BYTES : COMPACT_BYTES;
    let length = 0;
    for (
      let pending = this.#queue.first;
      pending !== undefined && this.#inFlight.size < REQUESTS_IN_FLIGHT_MAX;
      pending = this.#queue.first
    ) {
      const { request } = pending;
      const payloadBytes = request.command === COMMAND.WRITE ? request.length : 0;
      const copied = payloadBytes <= PAYLOAD_COPY_BYTES_MAX;
      if (length + headerBytes + (copied ? payloadBytes : 0) > bytes.length) break;
      this.#queue.drop();
      this.#cookie += 1;
      this.#inFlight.set(this.#cookie, pending);
      this.#encode(view, length, request, this.#cookie);
      length += headerBytes;
      if (payloadBytes === 0) continue;
      if (copied) {
        bytes.set(request.data, length);
        length += payloadBytes;
        continue;
      }
      pending.unsent = payloadBytes;
      this.#payload = { pending, at: 0 };
      break;
    }
    this.#movedBytes += length;
    return { bytes: bytes.subarray(0, length), release: () => buffer.release() };
  }

  #encode(view: DataView, at: number, request: ClientRequest, cookie: number): void {
    const { extended } = this.#terms;
    const hasPayload = request.command === COMMAND.WRITE;
    const flags = request.flags | (extended && hasPayload ? COMMAND_FLAG.PAYLOAD_LEN : 0);
    view.setUint32(at, extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
    view.setUint16(at + 4, flags);
    view.setUint16(at + 6, request.command);
    view.setUint32(at + 8, Math.floor(cookie / 2 ** 32));
    view.setUint32(at + 12, cookie >>> 0);
    view.setUint32(at + 16, Math.floor(request.offset / 2 ** 32));
    view.setUint32(at + 20, request.offset >>> 0);
    if (extended) {
      view.setUint32(at + 24, Math.floor(request.length / 2 ** 32));
      view.setUint32(at + 28, request.length >>> 0);
    } else {
      view.setUint32(at + 24, request.length);
    }
  }

  #payloadPiece(payload: LongPayload): OutputBuffer {
    const { pending, at } = payload;
    const { data } = pending.request;
    const end = Math.min(at + PAYLOAD_PIECE_BYTES, data.length);
    payload.at = end;
    if (end === data.length) this.#payload = null;
    const release = (): void => {
      this.#movedBytes += end - at;
      pending.unsent -= end - at;
      this.#settleIfSent(pending);
    };
    return { bytes: data.subarray(at, end), release };
  }

  #goodbye(): OutputBuffer {
    const bytes = new Uint8Array(this.#terms.extended ? EXTENDED_BYTES : COMPACT_BYTES);
    const request = {
      command: COMMAND.DISC,
      flags: 0,
      offset: 0,
      length: 0,
      data: bytes,
      done(): void {},
    };
    this.#cookie += 1;
    this.#encode(new DataView(bytes.buffer), 0, request, this.#cookie);
    this.#left = true;
    return { bytes, release: () => {} };
  }
}
