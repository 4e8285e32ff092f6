/**
 * Runs a byte session over a node:net socket without streams between them: small requests and replies
 * cost half as much this way. Back-pressure goes both ways, through `ready` and through writes.
 *
 * @module
 */
import type { Socket } from "node:net";
import type { ByteSession } from "../stream/session.ts";

/**
 * Runs a session until either side ends, and resolves when the socket is closed and the session ended.
 * Rejects with what broke it: a ProtocolError, or an error of the socket.
 */
export function runOnSocket(socket: Socket, session: ByteSession): Promise<void> {
  return new SocketRun(socket, session).done;
}

class SocketRun {
  readonly #socket: Socket;
  readonly #session: ByteSession;
  readonly #done = Promise.withResolvers<void>();
  #failure: unknown = null;
  #writing = false;
  #queued = false;
  #inputEnded = false;
  #closing = false;

  constructor(socket: Socket, session: ByteSession) {
    this.#socket = socket;
    this.#session = session;
    session.onWake = (): void => this.#wake();
    socket.on("data", (chunk: Uint8Array) => this.#receive(chunk));
    socket.on("end", () => {
      this.#inputEnded = true;
      this.#pump();
    });
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#close());
    socket.resume();
  }

  get done(): Promise<void> {
    return this.#done.promise;
  }

  #receive(chunk: Uint8Array): void {
    try {
      this.#session.receive(chunk);
    } catch (error) {
      return this.#fail(error);
    }
    this.#pump();
  }

  #wake(): void {
    if (this.#queued) return;
    this.#queued = true;
    // What becomes ready in one turn leaves together.
    queueMicrotask(() => {
      this.#queued = false;
      this.#pump();
    });
  }

  #pump(): void {
    if (this.#closing) return;
    if (this.#session.ready) this.#socket.resume();
    else this.#socket.pause();
    if (this.#writing) {
      // A peer that reads nothing must not keep a session that is over.
      if (this.#session.finished) this.#socket.destroy();
      return;
    }
    const output = this.#session.takeOutput();
    if (output === null) {
      if (!this.#inputEnded && !this.#session.finished) return;
      this.#closing = true;
      this.#socket.end(() => this.#socket.destroy());
      return;
    }
    this.#writing = true;
    this.#socket.write(output.bytes, () => {
      this.#writing = false;
      output.release();
      this.#pump();
    });
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#closing = true;
    this.#socket.destroy();
  }

  #close(): void {
    this.#closing = true;
    this.#session.end(this.#failure ?? undefined);
    this.#session.onWake = null;
    if (this.#failure === null) this.#done.resolve();
    else this.#done.reject(this.#failure);
  }
}
