/**
 * The xenbus file: what one open of it does with reads and writes, as Linux has it, without its known
 * faults: every complete message of a write is processed, and TRANSACTION_END without a transaction is
 * answered with ENOENT. Pure: whoever has a file system calls it; `XenbusSession` runs it over a stream.
 *
 * @module
 */
import { BufferPool } from "../block/pool.ts";
import { ProtocolError } from "../stream/frame.ts";
import type { ByteSession, OutputBuffer } from "../stream/session.ts";
import { FrameSplitter } from "../stream/splitter.ts";
import { type ErrorCode, OPERATION } from "./constants.ts";
import type { StoreConnection } from "./connection.ts";
import { XenstoreError } from "./errors.ts";
import {
  HEADER_BYTES,
  QUOTA_UNSENT_BYTES,
  UNSENT_BYTES_MAX,
  UNSENT_PAUSE_BYTES,
  XENBUS_MESSAGE_BYTES_MAX,
} from "./limits.ts";
import {
  decodeMessage,
  type Message,
  oneString,
  payloadLength,
  textOf,
  XENSTORE_FRAMES,
} from "./message.ts";
import type { Requester } from "./operations.ts";
import { Outbox } from "./outbox.ts";
import {
  answer,
  answerControl,
  type ControlResult,
  headOf,
  type XenstoreSessionOptions,
} from "./session.ts";
import type { Store } from "./store.ts";

interface UserWatch {
  readonly path: string;
  readonly token: string;
  /** What the store knows the watch by, so that the same one can be there twice. */
  readonly inner: string;
}

/** One open of a xenbus file. */
export class XenbusFile implements Requester {
  /** Called when there is something to read, or the file has failed. */
  onReadable: (() => void) | null = null;
  /** Depths are for sockets. */
  knowsFeatures = false;
  /** The caller that the store sees. */
  readonly connection: StoreConnection;
  /** See Requester. */
  readonly daemonControl?: (message: Message, words: readonly string[]) => void;
  readonly #outbox = new Outbox();
  readonly #buffer = new Uint8Array(XENBUS_MESSAGE_BYTES_MAX);
  readonly #unsentMax: number;
  #filled = 0;
  /** Whole messages that wait until the daemon has answered a CONTROL. */
  #held: Message[] = [];
  /** That CONTROL. */
  #control: Pick<Message, "type" | "requestId" | "transactionId"> | null = null;
  #watches: UserWatch[] = [];
  #watchNumber = 0;
  #failed = false;

  /** An open by a process of a domain. */
  constructor(store: Store, options: XenstoreSessionOptions) {
    const { domid, control } = options;
    this.#unsentMax = domid === 0 ? UNSENT_BYTES_MAX : QUOTA_UNSENT_BYTES;
    if (control !== undefined) {
      this.daemonControl = (message, words): void => {
        this.#control = headOf(message);
        control(words);
      };
    }
    this.connection = store.connect(domid, { closed: () => this.onReadable?.() });
  }

  /** Bytes that can be read, or are on their way. */
  get unreadBytes(): number {
    return this.#outbox.unsentBytes;
  }

  /** True if a read does not have to wait: POLLIN. */
  get readable(): boolean {
    return this.unreadBytes > 0 || this.failed;
  }

  /** True while a write has to wait: for the daemon's answer, or until what there is was read. */
  get busy(): boolean {
    return !this.failed && (this.#control !== null || this.unreadBytes >= UNSENT_PAUSE_BYTES);
  }

  /** True if the store closed it, or events were left unread beyond the limit: reads give EIO. */
  get failed(): boolean {
    return this.#failed || this.connection.closed;
  }

  /**
   * write(2): takes all of `bytes` and gives their number. Throws XenstoreError, and has then forgotten
   * what it had of a message: E2BIG for one that does not fit into 4096 bytes, EINVAL for more bytes than
   * that at a time and for a watch of a path that cannot be, EIO if the file has failed. Whoever writes
   * while it is busy gets EAGAIN, and nothing is taken.
   */
  write(bytes: Uint8Array): number {
    if (this.failed) throw new XenstoreError("EIO", "Cannot write: the file has failed");
    if (bytes.length === 0) return 0;
    if (this.busy) {
      throw new XenstoreError("EAGAIN", "Cannot write: what was written has to be done");
    }
    if (this.#filled + bytes.length > this.#buffer.length) {
      this.#filled = 0;
      throw new XenstoreError(
        "EINVAL",
        `Cannot write: more than ${XENBUS_MESSAGE_BYTES_MAX} bytes would wait`,
      );
    }
    this.#buffer.set(bytes, this.#filled);
    this.#filled += bytes.length;
    this.#process();
    return bytes.length;
  }

  /** read(2): up to `max` bytes, however messages lie in them; null if there is nothing (EAGAIN, or wait). */
  read(max: number): Uint8Array | null {
    if (this.unreadBytes === 0) {
      if (this.failed) throw new XenstoreError("EIO", "Cannot read: the file has failed");
      return null;
    }
    const bytes = new Uint8Array(Math.min(max, this.unreadBytes));
    return bytes.subarray(0, this.#outbox.takeInto(bytes));
  }

  /** The daemon has answered the CONTROL that it was given. */
  endControl(result: ControlResult): void {
    const head = this.#control;
    this.#control = null;
    if (head === null || this.failed) return;
    answerControl(head, result, this.#outbox);
    const held = this.#held;
    this.#held = [];
    for (const message of held) this.#handleInTurn(message);
    this.onReadable?.();
  }

  /** The last close: watches, transactions and what is unread are gone. */
  close(): void {
    this.onReadable = null;
    this.connection.close();
    this.#watches = [];
    this.#held = [];
    this.#control = null;
    this.#outbox.clear();
  }

  /** Does one whole message. Throws XenstoreError where a write fails instead of a reply. */
  handle(message: Message): void {
    const { type, transactionId, payload } = message;
    if (type === OPERATION.WATCH || type === OPERATION.UNWATCH) return this.#watchOrNot(message);
    const starts = type === OPERATION.TRANSACTION_START;
    const ends = type === OPERATION.TRANSACTION_END;
    if (!starts && (ends || transactionId !== 0) && !this.#isOpen(transactionId)) {
      return this.#fail(message, "ENOENT");
    }
    const how = ends ? oneString(payload) : null;
    if (ends && how !== "T" && how !== "F") return this.#fail(message, "EINVAL");
    answer(this, message, this.#outbox);
    if (type === OPERATION.RESET_WATCHES) this.#watches = [];
  }

  /** Takes bytes that were written to go out; for XenbusSession. */
  takeOutput(): OutputBuffer | null {
    return this.#outbox.takeOutput();
  }

  /** Answers a message with an error. */
  refuse(message: Message, error: XenstoreError): void {
    this.#fail(message, error.code);
  }

  /** Not used: this file orders its own events. */
  eventAfterReply(path: string, token: string): void {
    this.#deliver(path, token);
  }

  #process(): void {
    const bytes = this.#buffer;
    const frames: [start: number, end: number][] = [];
    let at = 0;
    // All headers are looked at before anything is done, so that a refused write has done nothing.
    while (this.#filled - at >= HEADER_BYTES) {
      const length = HEADER_BYTES + payloadLength(bytes, at);
      if (length > XENBUS_MESSAGE_BYTES_MAX) {
        this.#filled = 0;
        throw new XenstoreError("E2BIG", `Cannot write: a message has ${length} bytes`);
      }
      if (this.#filled - at < length) break;
      frames.push([at, at + length]);
      at += length;
    }
    if (at === 0) return;
    const whole = bytes.slice(0, at);
    bytes.copyWithin(0, at, this.#filled);
    this.#filled -= at;
    try {
      for (const [start, end] of frames) {
        const message = decodeMessage(whole, start, end);
        if (this.#control === null) this.handle(message);
        else this.#held.push(message);
      }
    } catch (error) {
      this.#filled = 0;
      throw error;
    } finally {
      this.onReadable?.();
    }
  }

  /** Its write is over, so what would have made that fail is answered. */
  #handleInTurn(message: Message): void {
    if (this.#control !== null) return void this.#held.push(message);
    try {
      this.handle(message);
    } catch (error) {
      if (!(error instanceof XenstoreError)) throw error;
      this.refuse(message, error);
    }
  }

  #isOpen(transactionId: number): boolean {
    try {
      return this.connection.transaction(transactionId) !== null;
    } catch (error) {
      if (error instanceof XenstoreError) return false;
      throw error;
    }
  }

  #fail(message: Message, code: ErrorCode): void {
    this.#outbox.addError(message, code);
  }

  #watchOrNot(message: Message): void {
    const { payload } = message;
    const pathEnd = payload.indexOf(0);
    const tokenEnd = pathEnd < 0 ? -1 : payload.indexOf(0, pathEnd + 1);
    if (tokenEnd < 0) return this.#fail(message, "EINVAL");
    const path = textOf(payload, 0, pathEnd);
    const token = textOf(payload, pathEnd + 1, tokenEnd);
    const isNew = message.type === OPERATION.WATCH;
    if (isNew) this.#addWatch(path, token);
    else this.#removeWatch(path, token);
    this.#outbox.add(message, "OK\0");
    if (isNew) this.#deliver(path, token);
  }

  #addWatch(path: string, token: string): void {
    const inner = String(++this.#watchNumber);
    const deliver = (changed: string): void => this.#deliver(changed, token);
    this.connection.watch(path, inner, { deliver });
    this.#watches.push({ path, token, inner });
  }

  #removeWatch(path: string, token: string): void {
    const at = this.#watches.findIndex((each) => each.path === path && each.token === token);
    const [found] = at < 0 ? [] : this.#watches.splice(at, 1);
    if (found !== undefined) this.connection.unwatch(path, found.inner);
  }

  #deliver(path: string, token: string): void {
    if (this.failed) return;
    this.#outbox.addEvent(path, token);
    if (this.#outbox.unsentBytes > this.#unsentMax) {
      this.#outbox.clear();
      this.#failed = true;
      this.connection.close();
    }
    this.onReadable?.();
  }
}

const POOL = new BufferPool();

/**
 * A xenbus file over a stream. There a write has no result, so what would make it fail is answered: a
 * watch of a bad path with an ERROR; a message that is too long ends the connection.
 */
export class XenbusSession implements ByteSession {
  /** Set by the driver. */
  onWake: (() => void) | null = null;
  readonly #file: XenbusFile;
  readonly #splitter = new FrameSplitter(XENSTORE_FRAMES, POOL);
  #ended = false;

  /** An open by a process of a domain. */
  constructor(store: Store, options: { readonly domid: number }) {
    this.#file = new XenbusFile(store, options);
    this.#file.onReadable = (): void => this.onWake?.();
  }

  /** False while replies are not read. */
  get ready(): boolean {
    return !this.finished && this.#file.unreadBytes < UNSENT_PAUSE_BYTES;
  }

  /** It has ended or failed. */
  get finished(): boolean {
    return this.#ended || this.#file.failed;
  }

  /** Takes what is written. Throws ProtocolError for a message that is too long. */
  receive(chunk: Uint8Array): void {
    if (this.finished) return;
    const splitter = this.#splitter;
    splitter.push(chunk);
    while (!this.finished && splitter.next()) {
      const { bytes, start, end } = splitter;
      if (end - start > XENBUS_MESSAGE_BYTES_MAX) {
        throw new ProtocolError(`Cannot take a message of ${end - start} bytes: it is too long`);
      }
      const message = decodeMessage(bytes, start, end);
      try {
        this.#file.handle(message);
      } catch (error) {
        if (!(error instanceof XenstoreError)) throw error;
        this.#file.refuse(message, error);
      }
    }
  }

  /** The next bytes to send. */
  takeOutput(): OutputBuffer | null {
    if (this.#ended) return null;
    const output = this.#file.takeOutput();
    if (output === null) return null;
    const release = (): void => {
      output.release();
      if (!this.#ended) this.onWake?.();
    };
    return { bytes: output.bytes, release };
  }

  /** The last close. */
  end(_cause: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#file.close();
    this.#splitter.reset();
  }
}
