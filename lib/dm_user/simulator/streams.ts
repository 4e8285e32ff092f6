/**
 * A simulated channel as a pair of Web Streams, which is what the streams driver runs a session over.
 * Built on the channel's read and write alone: nothing is taken before somebody reads.
 *
 * @module
 */
import { BlockError, errnoFromLinux } from "../../block/errors.ts";
import type { BytePair } from "../../stream/session.ts";
import { HEADER_BYTES } from "../constants.ts";
import { CHANNEL_CHUNK_BYTES_MAX } from "../limits.ts";
import { RESULT_EINTR, RESULT_ENOTBLK } from "./bio.ts";
import type { Channel } from "./channel.ts";

/** Byte streams of a channel. */
export interface ChannelPair extends BytePair {
  /**
   * What the kernel sends. A BYOB read is one read(2); other reads give a message with its payload,
   * long ones in pieces. Ends when the target is removed and every message taken is answered.
   */
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** What the daemon sends; writes loop until all is taken, and fail with the channel's errno. */
  readonly writable: WritableStream<Uint8Array>;
}

function failed(what: string, result: number): BlockError {
  const errno = errnoFromLinux(-result);
  return new BlockError(errno, `Cannot ${what} the channel: ${errno}`);
}

/** The streams of `channel`, which is closed when both have ended. */
export function channelPair(channel: Channel): ChannelPair {
  let open = 2;
  const side = (): () => void => {
    let ended = false;
    return () => {
      if (ended) return;
      ended = true;
      open -= 1;
      if (open === 0) channel.kill();
    };
  };
  const source = new ChannelSource(channel, side());
  return {
    // A message must not be taken before somebody reads: another channel could answer it.
    readable: new ReadableStream(source, { highWaterMark: 0 }),
    writable: writableOf(channel, side()),
  };
}

class ChannelSource implements UnderlyingByteSource {
  readonly type = "bytes";
  readonly #channel: Channel;
  readonly #ended: () => void;
  readonly #stop = new AbortController();

  constructor(channel: Channel, ended: () => void) {
    this.#channel = channel;
    this.#ended = ended;
  }

  async pull(controller: ReadableByteStreamController): Promise<void> {
    const view = controller.byobRequest?.view ?? null;
    if (view === null) {
      const chunk = await this.#chunk();
      if (typeof chunk === "number") await this.#end(controller, chunk);
      else if (!this.#stop.signal.aborted) controller.enqueue(chunk);
      return;
    }
    const into = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    const count = await this.#read(into);
    if (count < 0) await this.#end(controller, count);
    else if (!this.#stop.signal.aborted) controller.byobRequest?.respond(count);
  }

  cancel(): void {
    this.#stop.abort();
    this.#ended();
  }

  /** read(2), begun again after a signal that was not meant to end it. */
  async #read(into: Uint8Array): Promise<number> {
    for (;;) {
      const count = await this.#channel.read(into, this.#stop.signal);
      if (count !== RESULT_EINTR || this.#stop.signal.aborted) return count;
    }
  }

  /** What is at hand of a message: its header, and as much of its payload as fits a chunk. */
  async #chunk(): Promise<Uint8Array<ArrayBuffer> | number> {
    const channel = this.#channel;
    const size = Math.min(channel.remaining, CHANNEL_CHUNK_BYTES_MAX);
    const first = new Uint8Array(size === 0 ? HEADER_BYTES : size);
    const count = await this.#read(first);
    if (count <= 0) return count;
    if (size !== 0 || channel.remaining === 0) return first.subarray(0, count);
    const whole = new Uint8Array(count + Math.min(channel.remaining, CHANNEL_CHUNK_BYTES_MAX));
    whole.set(first.subarray(0, count));
    const more = await this.#read(whole.subarray(count));
    return more < 0 ? more : whole.subarray(0, count + more);
  }

  async #end(controller: ReadableByteStreamController, result: number): Promise<void> {
    if (this.#stop.signal.aborted) return;
    if (result !== RESULT_ENOTBLK) {
      this.#ended();
      throw failed("read", result);
    }
    await this.#channel.drained();
    if (this.#stop.signal.aborted) return;
    this.#ended();
    controller.close();
    controller.byobRequest?.respond(0);
  }
}

function writableOf(channel: Channel, ended: () => void): WritableStream<Uint8Array> {
  return new WritableStream<Uint8Array>({
    write(chunk): void {
      // An empty chunk is no write at all: the kernel would take it for a broken answer.
      for (let at = 0; at < chunk.length;) {
        const result = channel.write(chunk.subarray(at));
        if (result <= 0) {
          ended();
          throw failed("write to", result);
        }
        at += result;
      }
    },
    close: ended,
    abort: ended,
  });
}
