/**
 * A channel of the real device, served: a thread reads messages, the home thread of the Device answers
 * them with writes on the same descriptor, which never wait. The descriptor has one owner, this one,
 * and is closed when no thread can be in a read of it.
 *
 * @module
 */
import type { Clock } from "../block/context.ts";
import type { Device } from "../block/device.ts";
import { BlockError } from "../block/errors.ts";
import { runSession } from "../stream/run_session.ts";
import { closeChannel, INTERRUPTED, TARGET_REMOVED, writeChannel } from "../sys/channel.ts";
import { systemError } from "../sys/errno.ts";
import { ChannelThread } from "./channel_thread.ts";
import { ChannelSession, type ChannelSessionOptions } from "./session.ts";

/** How the service of a channel ended: the target was removed, or `stop` was called. */
export type ChannelEnd = "removed" | "stopped";

/** What a channel is made of. */
export interface RealChannelOptions {
  /** A blocking descriptor, of `openChannel`; the channel owns it from now on. */
  readonly fd: number;
  /** What to call it in errors: its path. */
  readonly label: string;
  /** For pauses between signals to the thread, and turns. */
  readonly clock: Clock;
}

const EIO = 5, EFAULT = 14, ENODATA = 61;
/** What the thread's ENODATA stands for. */
const NO_DEVICE = "it has an end, so it is no control device of dm-user";

/** One open channel. It has to be served once, or closed. */
export class RealChannel {
  readonly #options: RealChannelOptions;
  readonly #abort = new AbortController();
  #thread: ChannelThread | null = null;
  #session: ChannelSession | null = null;
  #stopping = false;
  #stopped: Promise<void> = Promise.resolve();
  #removed = false;
  #closed = false;

  /** Takes the descriptor over. */
  constructor(options: RealChannelOptions) {
    this.#options = options;
  }

  /**
   * Answers messages from `device`, which is not disposed, until the target is removed or `stop` is
   * called; what was read before is answered. Rejects with SystemError for an errno of the device,
   * ProtocolError for what is no message, the reason of `abort`. The channel is closed in any case,
   * which fails what is unanswered.
   */
  async serve(device: Device, options: ChannelSessionOptions = {}): Promise<ChannelEnd> {
    const { fd, clock } = this.#options;
    const session = new ChannelSession(device, options);
    const thread = new ChannelThread(fd, clock);
    this.#session = session;
    this.#thread = thread;
    if (this.#stopping) this.stop();
    try {
      const pair = { readable: this.#readable(thread, session), writable: this.#writable() };
      await runSession(pair, session, { signal: this.#abort.signal });
      if (session.failure !== null) throw session.failure;
    } catch (error) {
      // Nobody waits for an answer that a removed target does not take.
      if (!this.#removed || this.#abort.signal.aborted) throw error;
    } finally {
      await thread.abandon();
      await this.#stopped;
      this.close();
    }
    return this.#removed ? "removed" : "stopped";
  }

  /** Messages that were read and are not answered. */
  get inFlight(): number {
    return this.#session?.inFlight ?? 0;
  }

  /** Reads no further message. `serve` resolves when everything that was read is answered. */
  stop(): void {
    this.#stopping = true;
    if (this.#thread === null) return;
    this.#stopped = this.#thread.stop().catch((error: unknown) => this.abort(error));
  }

  /** Gives up: `serve` rejects with `reason`, and what is unanswered fails. */
  abort(reason: unknown): void {
    this.#abort.abort(reason);
  }

  /** Closes a channel that was never served. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeChannel(this.#options.fd);
  }

  #readable(thread: ChannelThread, session: ChannelSession): ReadableStream<Uint8Array> {
    return new ReadableStream<Uint8Array>({
      pull: async (controller): Promise<void> => {
        const chunk = await thread.next();
        if (chunk instanceof Uint8Array) controller.enqueue(chunk);
        else if (chunk.kind === "errno" && -chunk.number !== TARGET_REMOVED) {
          controller.error(this.#readError(chunk.number));
        } else if (chunk.kind === "error") {
          controller.error(new BlockError("EIO", `The thread of a channel died: ${chunk.reason}`));
        } else {
          this.#removed = chunk.kind === "errno";
          // The stream stays open: the session has to answer what it has before it ends.
          session.close();
        }
      },
      cancel: (): Promise<void> => thread.abandon(),
    }, { highWaterMark: 0 });
  }

  #writable(): WritableStream<Uint8Array> {
    const { fd } = this.#options;
    return new WritableStream<Uint8Array>({
      write: (chunk): void => {
        const { buffer, byteOffset, length } = chunk;
        // The type of a stream's chunk leaves shared memory open, which system calls here do not take.
        if (!(buffer instanceof ArrayBuffer)) throw this.#writeError(EFAULT);
        // One write serves one message at most: what is behind it goes with the next.
        for (let at = 0; at < length;) {
          const rest = new Uint8Array(buffer, byteOffset + at, length - at);
          const count = writeChannel(fd, rest);
          if (count === INTERRUPTED) continue;
          if (count <= 0) throw this.#writeError(-count);
          at += count;
        }
      },
    });
  }

  #readError(number: number): Error {
    const { label } = this.#options;
    return systemError(number, "read", label, number === ENODATA ? NO_DEVICE : undefined);
  }

  #writeError(number: number): Error {
    const { label } = this.#options;
    return number === 0
      ? systemError(EIO, "write to", label, "it takes nothing")
      : systemError(number, "write to", label);
  }
}
