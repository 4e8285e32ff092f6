/**
 * Messages on their way to a peer, in order, packed into few buffers. Events that the peer is slow to
 * take are merged: one that is queued already is not queued again. Pure.
 *
 * @module
 */
import type { OutputBuffer } from "../stream/session.ts";
import { OPERATION } from "./constants.ts";
import {
  EVENT_MERGE_BYTES,
  HEADER_BYTES,
  OUTPUT_BUFFER_BYTES,
  PAYLOAD_BYTES_MAX,
} from "./limits.ts";
import { encodeHeader, type Message } from "./message.ts";

const MESSAGE_BYTES_MAX = HEADER_BYTES + PAYLOAD_BYTES_MAX;
const FIRST_BUFFER_BYTES = 512;
const EVENT = { type: OPERATION.WATCH_EVENT, requestId: 0, transactionId: 0 };

/** A queue of messages. */
export class Outbox {
  /** Full buffers, from the oldest. */
  #full: Uint8Array[] = [];
  #buffer: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #filled = 0;
  #unsentBytes = 0;
  /** Events queued since the queue got long; emptied whenever something is taken from it. */
  readonly #events = new Set<string>();

  /** Bytes that are queued, or taken and not released. */
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  /** Adds a message; `text` is its payload, a character for a byte, or the payload itself. */
  add(
    head: Pick<Message, "type" | "requestId" | "transactionId">,
    payload: Uint8Array | string,
  ): void {
    const length = payload.length;
    const at = this.#reserve(HEADER_BYTES + length);
    const bytes = this.#buffer;
    encodeHeader(bytes, at, head, length);
    if (typeof payload !== "string") bytes.set(payload, at + HEADER_BYTES);
    else {
      for (let i = 0; i < length; i++) bytes[at + HEADER_BYTES + i] = payload.charCodeAt(i);
    }
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
    this.add(EVENT, payload);
  }

  /** The next bytes to send, or null. */
  takeOutput(): OutputBuffer | null {
    if (this.#events.size > 0) this.#events.clear();
    let bytes: Uint8Array | undefined = this.#full.shift();
    if (bytes === undefined) {
      if (this.#filled === 0) return null;
      bytes = this.#buffer.subarray(0, this.#filled);
      this.#buffer = this.#buffer.subarray(this.#filled);
      this.#filled = 0;
    }
    const { length } = bytes;
    return { bytes, release: () => void (this.#unsentBytes -= length) };
  }

  /** Takes up to `max` bytes, wherever messages begin and end; null if there are none. */
  takeBytes(max: number): Uint8Array | null {
    const output = this.takeOutput();
    if (output === null) return null;
    const { bytes } = output;
    if (bytes.length <= max) {
      output.release();
      return bytes;
    }
    this.#full.unshift(bytes.subarray(max));
    this.#unsentBytes -= max;
    return bytes.subarray(0, max);
  }

  /** Drops everything. */
  clear(): void {
    this.#full = [];
    this.#buffer = new Uint8Array(0);
    this.#filled = 0;
    this.#unsentBytes = 0;
    this.#events.clear();
  }

  #reserve(length: number): number {
    if (this.#filled + length > this.#buffer.length) {
      if (this.#filled > 0) this.#full.push(this.#buffer.subarray(0, this.#filled));
      // A connection that says little holds little.
      const small = this.#unsentBytes < FIRST_BUFFER_BYTES;
      const size = small ? FIRST_BUFFER_BYTES : OUTPUT_BUFFER_BYTES;
      this.#buffer = new Uint8Array(Math.max(size, Math.min(length, MESSAGE_BYTES_MAX)));
      this.#filled = 0;
    }
    const at = this.#filled;
    this.#filled += length;
    this.#unsentBytes += length;
    return at;
  }
}
