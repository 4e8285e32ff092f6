/**
 * Messages on their way to a peer, in order, packed into few buffers. Events that the peer is slow to
 * take are merged: one that is queued already is not queued again. An outbox holds memory only while
 * something is unsent; buffers go round, so that answering allocates nothing. Opens nothing.
 *
 * @module
 */
import type { OutputBuffer } from "../stream/session.ts";
import { type ErrorCode, OPERATION } from "./constants.ts";
import {
  EVENT_MERGE_BYTES,
  HEADER_BYTES,
  OUTPUT_BUFFER_BYTES,
  OUTPUT_BUFFERS_KEPT_MAX,
  PAYLOAD_BYTES_MAX,
  UNSENT_COMPACT_BYTES,
} from "./limits.ts";
import { encodeHeader, type Message } from "./message.ts";

/** Sends the first `length` bytes, or fewer: gives how many were taken, below 0 if none can be now. */
export type SendBytes = (bytes: Uint8Array<ArrayBuffer>, length: number) => number;

/** What names a message and its transaction. */
type Head = Pick<Message, "type" | "requestId" | "transactionId">;

interface Chunk {
  bytes: Uint8Array<ArrayBuffer>;
  /** What is unsent lies from here … */
  start: number;
  /** … to here. */
  end: number;
}

const FREE: Uint8Array<ArrayBuffer>[] = [];

function takeBuffer(): Uint8Array<ArrayBuffer> {
  return FREE.pop() ?? new Uint8Array(OUTPUT_BUFFER_BYTES);
}

function giveBuffer(bytes: Uint8Array<ArrayBuffer>): void {
  if (bytes.length !== OUTPUT_BUFFER_BYTES || FREE.length >= OUTPUT_BUFFERS_KEPT_MAX) return;
  FREE.push(bytes);
}

/** A queue of messages. */
export class Outbox {
  /** From the oldest; only the last one grows. */
  #chunks: Chunk[] = [];
  #unsentBytes = 0;
  /** Events queued since the queue got long; emptied whenever something is taken from it. */
  readonly #events = new Set<string>();

  /** Bytes that are queued, or taken and not released. */
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  /** Adds a message; text as payload is a character for a byte. */
  add(head: Head, payload: Uint8Array | string): void {
    this.#add(head.type, head.requestId, head.transactionId, payload);
  }

  /** Adds an error as the reply to a message. */
  addError(head: Head, code: ErrorCode): void {
    this.#add(OPERATION.ERROR, head.requestId, head.transactionId, `${code}\0`);
  }

  /** Adds a watch event, unless it is too long to be sent, or queued already in a long queue. */
  addEvent(path: string, token: string): void {
    const payload = `${path}\0${token}\0`;
    if (payload.length > PAYLOAD_BYTES_MAX) return;
    if (this.#unsentBytes >= EVENT_MERGE_BYTES) {
      // Special events are counted by those who watch them.
      if (!path.startsWith("@")) {
        if (this.#events.has(payload)) return;
        this.#events.add(payload);
      }
    }
    this.#add(OPERATION.WATCH_EVENT, 0, 0, payload);
  }

  /** Sends from the oldest bytes on until nothing is left (true) or no more can be sent (false). */
  sendTo(send: SendBytes): boolean {
    if (this.#unsentBytes === 0) return true;
    if (this.#events.size > 0) this.#events.clear();
    for (let chunk = this.#chunks[0]; chunk !== undefined; chunk = this.#chunks[0]) {
      const { bytes, start, end } = chunk;
      const taken = start === 0 ? send(bytes, end) : send(bytes.subarray(start, end), end - start);
      if (taken < end - start) {
        if (taken > 0) {
          chunk.start += taken;
          this.#unsentBytes -= taken;
        }
        this.#compact(chunk);
        return false;
      }
      this.#unsentBytes -= taken;
      this.#chunks.shift();
      giveBuffer(bytes);
    }
    return true;
  }

  /** The next bytes to send, or null. */
  takeOutput(): OutputBuffer | null {
    if (this.#events.size > 0) this.#events.clear();
    const chunk = this.#chunks.shift();
    if (chunk === undefined) return null;
    const { bytes, start, end } = chunk;
    const release = (): void => {
      this.#unsentBytes -= end - start;
      giveBuffer(bytes);
    };
    return { bytes: bytes.subarray(start, end), release };
  }

  /** Fills `into`, wherever messages begin and end, and gives how many bytes that are. */
  takeInto(into: Uint8Array): number {
    let filled = 0;
    this.sendTo((bytes, length) => {
      const count = Math.min(length, into.length - filled);
      into.set(count === bytes.length ? bytes : bytes.subarray(0, count), filled);
      filled += count;
      return count;
    });
    return filled;
  }

  /** Drops everything. */
  clear(): void {
    for (const { bytes } of this.#chunks) giveBuffer(bytes);
    this.#chunks = [];
    this.#unsentBytes = 0;
    this.#events.clear();
  }

  #add(type: number, requestId: number, transactionId: number, payload: Uint8Array | string): void {
    const { length } = payload;
    const chunk = this.#reserve(HEADER_BYTES + length);
    const { bytes } = chunk;
    let at = chunk.end;
    encodeHeader(bytes, at, type, requestId, transactionId, length);
    at += HEADER_BYTES;
    if (typeof payload !== "string") bytes.set(payload, at);
    else for (let i = 0; i < length; i++) bytes[at + i] = payload.charCodeAt(i);
    chunk.end = at + length;
    this.#unsentBytes += HEADER_BYTES + length;
  }

  #reserve(length: number): Chunk {
    const last = this.#chunks[this.#chunks.length - 1];
    if (last !== undefined && last.end + length <= last.bytes.length) return last;
    const chunk = { bytes: takeBuffer(), start: 0, end: 0 };
    this.#chunks.push(chunk);
    return chunk;
  }

  /** A peer that is slow with little to read holds little. */
  #compact(chunk: Chunk): void {
    const { bytes, start, end } = chunk;
    if (this.#chunks.length > 1 || end - start > UNSENT_COMPACT_BYTES) return;
    if (bytes.length !== OUTPUT_BUFFER_BYTES) return;
    chunk.bytes = bytes.slice(start, end);
    chunk.start = 0;
    chunk.end = chunk.bytes.length;
    giveBuffer(bytes);
  }
}
