/**
 * node:net sockets as byte pairs, and descriptors as node:net sockets: the streams driver's way to
 * sockets and TLS. Why not Duplex.toWeb: it acknowledges a write when node has queued it, but pooled
 * buffers need to know when the kernel has taken it; and it costs more.
 *
 * @module
 */
import net from "node:net";
import type { Duplex } from "node:stream";
import type { BytePair } from "../stream/session.ts";
import {
  LINGER_MS_MAX,
  SCARCE_STALL_LOOKS,
  SEND_PIECE_BYTES,
  SEND_STALL_LOOKS,
  SEND_STALL_MS_MAX,
  SOCKET_READ_AHEAD_BYTES,
} from "./limits.ts";

/** Settings of a socket pair. */
export interface SocketPairOptions {
  /** Bytes that were read from the peer before; they are read first. */
  readonly prepend?: Uint8Array;
  /** How long a closing socket waits for its peer, in ms; LINGER_MS_MAX if not told. */
  readonly linger_ms?: number;
  /** How long a peer may leave what is sent to it untouched, in ms; SEND_STALL_MS_MAX if not told. */
  readonly sendStall_ms?: number;
  /** True while memory is scarce: such a peer is then disconnected after a fraction of that time. */
  readonly scarce?: () => boolean;
}

/**
 * Makes a node:net socket of a connected descriptor, TCP or unix, which then owns it: nobody else
 * closes it. Give it to `socketPair` or a TLS function in the same turn, or errors have no listener.
 */
export function adoptDescriptor(fd: number): net.Socket {
  return new net.Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
}

/**
 * The byte pair of a socket, which it then owns. `write` resolves when the kernel (or TLS) has taken
 * the bytes; closing the writable sends what is left and then the end; the peer's end closes the
 * readable alone; an error of the socket is an error of both streams. Cancelling the readable closes
 * the socket: after the writable was closed it first waits a moment for the peer to close too, because
 * closing TCP with unread input would throw away bytes that are still under way to the peer.
 *
 * Long writes go in pieces of SEND_PIECE_BYTES, of which the kernel's copy is the only one in memory
 * besides the caller's. A peer that takes no such piece for `sendStall_ms` is disconnected: the error
 * of both streams says so.
 */
export function socketPair(socket: Duplex, options: SocketPairOptions = {}): BytePair {
  const ends = new SocketEnds(socket, options);
  return { readable: ends.readable, writable: ends.writable };
}

/** Finds out that nothing has gone out for a while; costs a timer for each while, not for each write. */
class StallWatch {
  readonly #look_ms: number;
  readonly #scarce: () => boolean;
  readonly #onStall: (stalled_ms: number) => void;
  #timer: ReturnType<typeof setInterval> | null = null;
  /** A piece is under way. */
  #pending = false;
  /** Looks in a row that saw the same piece under way. */
  #looks = 0;
  #over = false;

  constructor(
    stall_ms: number,
    scarce: () => boolean,
    onStall: (stalled_ms: number) => void,
  ) {
    this.#look_ms = stall_ms / SEND_STALL_LOOKS;
    this.#scarce = scarce;
    this.#onStall = onStall;
  }

  begin(): void {
    this.#pending = true;
    this.#looks = 0;
    if (this.#timer !== null || this.#over) return;
    this.#timer = setInterval(this.#look, this.#look_ms);
    // What waits for a peer must not keep the process alive.
    Deno.unrefTimer(this.#timer);
  }

  end(): void {
    this.#pending = false;
  }

  /** The connection is over. */
  stop(): void {
    this.#over = true;
    this.#rest();
  }

  #rest(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  readonly #look = (): void => {
    if (!this.#pending) this.#rest();
    // The first look may come right after the piece was sent: it does not count.
    else if (this.#looks < (this.#scarce() ? SCARCE_STALL_LOOKS : SEND_STALL_LOOKS)) {
      this.#looks += 1;
    } else {
      this.stop();
      this.#onStall(this.#looks * this.#look_ms);
    }
  };
}

class SocketEnds {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  readonly #socket: Duplex;
  readonly #linger_ms: number;
  readonly #watch: StallWatch;
  #source: ReadableStreamDefaultController<Uint8Array> | null = null;
  #sink: WritableStreamDefaultController | null = null;
  #paused = true;
  /** Why the socket was destroyed from here; its own error for a write under way says less. */
  #cause: Error | null = null;

  constructor(socket: Duplex, options: SocketPairOptions) {
    this.#socket = socket;
    const { prepend, linger_ms = LINGER_MS_MAX, sendStall_ms = SEND_STALL_MS_MAX } = options;
    this.#linger_ms = linger_ms;
    const { scarce = (): boolean => false } = options;
    this.#watch = new StallWatch(sendStall_ms, scarce, (stalled_ms) => {
      const reason = `the peer has taken nothing of what was sent for ${stalled_ms} ms`;
      this.#cause = new Error(`Cannot use the connection: ${reason}`);
      socket.destroy(this.#cause);
    });
    this.readable = new ReadableStream<Uint8Array>({
      start: (controller): void => {
        this.#source = controller;
        if (prepend !== undefined && prepend.length > 0) controller.enqueue(prepend);
      },
      pull: (): void => this.#pull(),
      cancel: (): Promise<void> => this.#cancel(),
    }, new ByteLengthQueuingStrategy({ highWaterMark: SOCKET_READ_AHEAD_BYTES }));
    this.writable = new WritableStream<Uint8Array>({
      start: (controller): void => {
        this.#sink = controller;
        // `abort` is called only after the write under way, which may hang until the socket is destroyed.
        controller.signal.addEventListener("abort", () => socket.destroy());
      },
      write: (chunk): Promise<void> => this.#write(chunk),
      close: (): Promise<void> => this.#close(),
    });
    socket.on("data", this.#onData);
    socket.pause();
    socket.on("end", () => this.#endInput());
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => {
      this.#watch.stop();
      this.#fail(new Error("Cannot use the connection: it was closed"));
    });
    if (socket.destroyed) this.#fail(new Error("Cannot use the connection: it was closed"));
  }

  readonly #onData = (chunk: Uint8Array): void => {
    const source = this.#source;
    if (source === null) return;
    source.enqueue(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
    if ((source.desiredSize ?? 0) > 0) return;
    this.#paused = true;
    this.#socket.pause();
  };

  #pull(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#socket.resume();
  }

  #endInput(): void {
    this.#source?.close();
    this.#source = null;
  }

  #fail(error: Error): void {
    this.#source?.error(error);
    this.#source = null;
    this.#sink?.error(error);
  }

  #write(chunk: Uint8Array): Promise<void> {
    return chunk.length <= SEND_PIECE_BYTES ? this.#send(chunk) : this.#sendPieces(chunk);
  }

  async #sendPieces(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length; at += SEND_PIECE_BYTES) {
      await this.#send(chunk.subarray(at, at + SEND_PIECE_BYTES));
    }
  }

  #send(piece: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#watch.begin();
      this.#socket.write(piece, (error) => {
        this.#watch.end();
        if (error) reject(this.#cause ?? error);
        else resolve();
      });
    });
  }

  #close(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#watch.begin();
      // The callback comes with an error if the socket is destroyed before it is done.
      this.#socket.end((error?: Error | null) => {
        this.#watch.end();
        if (error) reject(this.#cause ?? error);
        else resolve();
      });
    });
  }

  /** Resolves when the socket is closed. */
  #cancel(): Promise<void> {
    const socket = this.#socket;
    this.#source = null;
    const { promise, resolve } = Promise.withResolvers<void>();
    if (socket.closed) return Promise.resolve();
    socket.once("close", () => resolve());
    if (!socket.writableFinished || socket.readableEnded || this.#linger_ms === 0) {
      socket.destroy();
      return promise;
    }
    const timer = setTimeout(() => socket.destroy(), this.#linger_ms);
    socket.once("end", () => socket.destroy());
    socket.resume();
    return promise.finally(() => clearTimeout(timer));
  }
}
