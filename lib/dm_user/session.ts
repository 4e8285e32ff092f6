/**
 * The daemon's side of one channel: messages in, requests to a Device, responses out. A pure state
 * machine over bytes, so that the same code runs over the simulated device, over the real one, and in
 * a fuzzer. docs/dm-user-semantics.md says what is answered to what.
 *
 * Messages that arrive faster than the Device works wait in the chunk in which they came, and `ready`
 * is false; they are taken up when a request is done or a response has left.
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import {
  CONNECTION_BYTES_MAX,
  CONNECTION_REQUESTS_MAX,
  REQUEST_BYTES_MAX,
} from "../block/limits.ts";
import { type Gate, OPEN_GATE } from "../block/request.ts";
import { type FrameFormat, ProtocolError } from "../stream/frame.ts";
import { ReplyQueue } from "../stream/reply_queue.ts";
import type { ByteSession, OutputBuffer } from "../stream/session.ts";
import { FrameSplitter } from "../stream/splitter.ts";
import { HEADER_BYTES } from "./constants.ts";
import { BIO_BYTES_MAX } from "./limits.ts";
import { messagePayload } from "./message.ts";
import { type LongWrite, MessageServer } from "./message_server.ts";

/** Settings of a session. */
export interface ChannelSessionOptions {
  /** Where access can be taken away: messages are then answered with ERROR. Always open if left out. */
  readonly gate?: Gate;
}

/** A message with all its data, or the header of a WRITE that is longer than one request. */
const MESSAGES: FrameFormat = {
  headerLengthMin: HEADER_BYTES,
  frameLengthMax: HEADER_BYTES + REQUEST_BYTES_MAX,
  frameLength(bytes, start, end): number {
    if (end - start < HEADER_BYTES) return 0;
    const payload = messagePayload(bytes, start);
    if (payload > BIO_BYTES_MAX) {
      throw new ProtocolError(
        `Cannot take a WRITE of ${payload} bytes: a BIO has at most ${BIO_BYTES_MAX}`,
      );
    }
    return payload <= REQUEST_BYTES_MAX ? HEADER_BYTES + payload : HEADER_BYTES;
  },
};

/** The next `length` bytes of the data of a long WRITE. */
function pieceOf(length: number): FrameFormat {
  return {
    headerLengthMin: 1,
    frameLengthMax: length,
    frameLength: (_bytes, start, end) => end > start ? length : 0,
  };
}

/**
 * One channel of a daemon.
 *
 * @example Answering a READ
 * ```ts
 * import { Device } from "../block/device.ts";
 * import { decodeHeader, describeResponse, encodeHeader } from "./message.ts";
 * import { ChannelSession } from "./session.ts";
 *
 * const device = new Device({
 *   geometry: { size: 4096, minimum: 1, preferred: 512, maximum: 4096, readOnly: false },
 *   capabilities: { synchronous: true, fua: false },
 *   read: (into) => void into.fill(7),
 *   write: () => {},
 *   flush: () => {},
 *   [Symbol.asyncDispose]: () => Promise.resolve(),
 * }, {
 *   name: "disk",
 *   clock: { now: () => 0, wall: () => 0, sleep: () => Promise.resolve() },
 *   log: { error: () => {}, warn: () => {}, info: () => {}, debug: () => {} },
 * });
 * const session = new ChannelSession(device);
 * const message = new Uint8Array(40);
 * encodeHeader({ seq: 3n, type: 0n, flags: 0n, sector: 1n, length: 512n }, message);
 * session.receive(message);
 * const output = session.takeOutput();
 * if (output?.bytes.length !== 552) throw new Error("no header with its data");
 * const text = describeResponse(decodeHeader(output.bytes));
 * if (text !== "seq 3 SUCCESS") throw new Error(text);
 * output.release();
 * session.end(undefined);
 * ```
 */
export class ChannelSession implements ByteSession {
  /** Set by the driver. */
  onWake: (() => void) | null = null;

  readonly #splitter: FrameSplitter;
  readonly #queue: ReplyQueue;
  readonly #server: MessageServer;
  /** The WRITE whose data is arriving in pieces. */
  #long: LongWrite | null = null;
  #backlog: Uint8Array[] = [];
  #stalled = false;
  #draining = false;
  #closing = false;
  #ended = false;
  #failure: ProtocolError | null = null;

  /** Serves the messages of one channel from `device`. */
  constructor(device: Device, options: ChannelSessionOptions = {}) {
    this.#splitter = new FrameSplitter(MESSAGES, device.pool);
    this.#queue = new ReplyQueue(device.pool);
    this.#server = new MessageServer(
      device,
      options.gate ?? OPEN_GATE,
      this.#queue,
      this.#changed,
    );
  }

  /** Messages that are not answered yet. */
  get inFlight(): number {
    return this.#server.inFlight;
  }

  /**
   * What made no sense, null if all did. It may show after `receive`, when a message that had to wait
   * is looked at; the session is finished then, and its driver ends as if all were well.
   */
  get failure(): ProtocolError | null {
    return this.#failure;
  }

  /** False while messages wait for earlier ones. */
  get ready(): boolean {
    return !this.#ended && !this.#stalled && this.#failure === null;
  }

  /**
   * The session was ended, or is being closed, and nothing is in flight; or the kernel sent what is no
   * message.
   */
  get finished(): boolean {
    if (!this.#ended && this.#failure !== null) return true;
    return (this.#ended || this.#closing) && this.#server.inFlight === 0 && !this.#stalled;
  }

  /** Takes what was read from the channel. Throws ProtocolError if that is no message. */
  receive(chunk: Uint8Array): void {
    if (this.#ended || this.#failure !== null) return;
    this.#backlog.push(chunk);
    this.#drain();
    if (this.#failure !== null) throw this.#failure;
  }

  /** Responses to be written next. Messages that had to wait are served on the way. */
  takeOutput(): OutputBuffer | null {
    if (this.#ended) return null;
    if (this.#stalled) this.#drain();
    return this.#queue.takeOutput();
  }

  /** No more messages come: the session is finished when all that came are answered. */
  close(): void {
    this.#closing = true;
    this.onWake?.();
  }

  /** The channel is gone: what is in flight is left to finish, nothing is answered any more. */
  end(_cause: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#forget();
    if (this.#long !== null) this.#server.dropLong(this.#long);
    this.#long = null;
    this.#queue.close();
    this.#server.close();
  }

  #forget(): void {
    this.#stalled = false;
    this.#backlog = [];
    this.#splitter.reset();
  }

  #full(): boolean {
    const { inFlight, dataBytes } = this.#server;
    const bytes = dataBytes + this.#queue.unsentBytes;
    return inFlight >= CONNECTION_REQUESTS_MAX || bytes >= CONNECTION_BYTES_MAX;
  }

  /** Serves the messages that have arrived, as far as the limits allow. */
  #drain(): void {
    if (this.#draining || this.#ended || this.#failure !== null) return;
    this.#draining = true;
    try {
      for (;;) {
        this.#stalled = this.#full();
        if (this.#stalled || !this.#next()) break;
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#failure = error;
      this.#forget();
    } finally {
      this.#draining = false;
    }
  }

  #next(): boolean {
    const splitter = this.#splitter;
    while (!splitter.next()) {
      const chunk = this.#backlog.shift();
      if (chunk === undefined) return false;
      splitter.push(chunk);
    }
    if (this.#long === null) {
      this.#long = this.#server.serve(splitter);
      if (this.#long === null) return true;
    } else {
      this.#server.writePiece(this.#long, splitter);
    }
    const left = this.#long.remaining;
    if (left === 0) this.#long = null;
    splitter.setFormat(left === 0 ? MESSAGES : pieceOf(Math.min(left, REQUEST_BYTES_MAX)));
    return true;
  }

  readonly #changed = (): void => {
    if (this.#stalled) this.#drain();
    if (!this.#draining) this.onWake?.();
  };
}
