/**
 * A small protocol for the tests of the framing layer: frames of a 4-byte length (big-endian, itself
 * included) and a payload, each answered by the same frame; a frame of length 4 says goodbye.
 *
 * @module
 */
import type { BufferPool } from "../../lib/block/pool.ts";
import { type FrameFormat, ProtocolError } from "../../lib/stream/frame.ts";
import { ReplyQueue } from "../../lib/stream/reply_queue.ts";
import type { ByteSession, OutputBuffer } from "../../lib/stream/session.ts";
import { FrameSplitter } from "../../lib/stream/splitter.ts";

/** Length-prefixed frames. */
export const LENGTH_FORMAT: FrameFormat = {
  headerLengthMin: 4,
  frameLengthMax: 8 * 1024 * 1024,
  frameLength(bytes: Uint8Array, start: number): number {
    const view = new DataView(bytes.buffer, bytes.byteOffset + start, 4);
    const length = view.getUint32(0);
    if (length < 4) throw new ProtocolError("Cannot read a frame: it is shorter than its header");
    return length;
  },
};

/** A frame with this payload. */
export function frameOf(payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(4 + payload.length);
  new DataView(frame.buffer).setUint32(0, frame.length);
  frame.set(payload, 4);
  return frame;
}

/** All parts as one array. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}

/** How an echo session behaves. */
export interface EchoOptions {
  /** Called with what answers a frame; calls it now or later. Now if not told. */
  readonly schedule?: (answer: () => void) => void;
  /** Not ready while at least this many bytes are unsent. */
  readonly unsentMax?: number;
}

/** Answers each frame with itself. */
export class EchoSession implements ByteSession {
  onWake: (() => void) | null = null;
  /** Calls of `end`, with their causes. */
  readonly ends: unknown[] = [];
  /** Frames seen. */
  frames = 0;
  /** Most bytes that were unsent at a time. */
  unsentPeak = 0;
  readonly #splitter: FrameSplitter;
  readonly #queue: ReplyQueue;
  readonly #options: EchoOptions;
  #goodbye = false;
  #inFlight = 0;

  constructor(pool: BufferPool, options: EchoOptions = {}) {
    this.#splitter = new FrameSplitter(LENGTH_FORMAT, pool);
    this.#queue = new ReplyQueue(pool);
    this.#options = options;
  }

  get ready(): boolean {
    return this.#queue.unsentBytes < (this.#options.unsentMax ?? Infinity);
  }

  get finished(): boolean {
    return (this.#goodbye || this.ends.length > 0) && this.#inFlight === 0;
  }

  receive(chunk: Uint8Array): void {
    this.#splitter.push(chunk);
    while (!this.#goodbye && this.#splitter.next()) this.#serve();
  }

  takeOutput(): OutputBuffer | null {
    return this.#queue.takeOutput();
  }

  end(cause: unknown): void {
    this.ends.push(cause);
    this.#queue.close();
    this.#splitter.reset();
  }

  #serve(): void {
    const { bytes, start, end } = this.#splitter;
    this.frames += 1;
    if (end - start === 4) {
      this.#goodbye = true;
      return;
    }
    const buffer = this.#splitter.takeBuffer();
    const reply = this.#queue.reserve(end - start);
    this.unsentPeak = Math.max(this.unsentPeak, this.#queue.unsentBytes);
    const answer = (): void => {
      reply.bytes.set(bytes.subarray(start, end));
      buffer?.release();
      reply.done();
    };
    if (this.#options.schedule === undefined) return answer();
    this.#inFlight += 1;
    this.#options.schedule(() => {
      answer();
      this.#inFlight -= 1;
      this.onWake?.();
    });
  }
}
