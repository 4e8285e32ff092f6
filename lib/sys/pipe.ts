/**
 * Pipes as a way from a file to a socket on which data are not copied: the kernel hands over references to
 * the pages of its cache. What a read gives is known when the pipe is full, before a byte of it is sent. See
 * splice(2) and pipe(7).
 *
 * @module
 */
import { EAGAIN, EINTR, fail, lastErrno } from "./errno.ts";
import { closeDescriptor, WOULD_BLOCK } from "./socket.ts";
import {
  F_SETPIPE_SZ,
  O_CLOEXEC,
  O_NONBLOCK,
  SPLICE_F_MORE,
  SPLICE_F_NONBLOCK,
  spliceCalls,
} from "./splice_calls.ts";

/** A pipe has places for pages; each page of a file, or a part of one, takes a place. */
const PAGE_BYTES = 4096;

/** A pipe that is empty, or holds what is to be sent next. */
export class Pipe {
  /** Pages that it takes. */
  readonly pages: number;
  /** Bytes in it. */
  bytes = 0;
  /** Its two ends. */
  readonly descriptors: readonly number[];
  readonly #readFd: number;
  readonly #writeFd: number;
  readonly #offset = new BigInt64Array(1);
  readonly #offsetBytes = new Uint8Array(this.#offset.buffer);

  /** Opens a pipe for `bytes`, or fewer if the system allows no more. Throws EMFILE, ENFILE. */
  constructor(bytes: number) {
    const fds = new Int32Array(2);
    const calls = spliceCalls();
    if (calls.pipe2(new Uint8Array(fds.buffer), O_CLOEXEC | O_NONBLOCK) !== 0) {
      fail("open", "a pipe");
    }
    this.#readFd = fds[0] ?? -1;
    this.#writeFd = fds[1] ?? -1;
    this.descriptors = [...fds];
    const size = calls.fcntl(this.#writeFd, F_SETPIPE_SZ, bytes);
    this.pages = size < 0 ? 0 : size / PAGE_BYTES;
  }

  /**
   * Puts up to `length` bytes of a file behind what is in it; how many, 0 at the end of the file, -1 for a
   * failure that errno tells.
   */
  fill(fd: number, offset: number, length: number): number {
    this.#offset[0] = BigInt(offset);
    const count = spliceCalls().fill(
      fd,
      this.#offsetBytes,
      this.#writeFd,
      null,
      BigInt(length),
      0,
    );
    if (count > 0) this.bytes += count;
    return count;
  }

  /** Puts a copy of all of `from` behind what is in it; there has to be room. */
  write(from: Uint8Array<ArrayBuffer>): void {
    const count = spliceCalls().write(this.#writeFd, from, BigInt(from.length));
    if (count !== from.length) fail("write to", "a pipe");
    this.bytes += count;
  }

  /** Sends what fits of it; how many bytes, WOULD_BLOCK if none fit now. Throws as `send` does. */
  sendTo(socketFd: number): number {
    const flags = SPLICE_F_NONBLOCK | SPLICE_F_MORE;
    for (;;) {
      const length = BigInt(this.bytes);
      const count = spliceCalls().drain(this.#readFd, null, socketFd, null, length, flags);
      if (count >= 0) {
        this.bytes -= count;
        return count;
      }
      const number = lastErrno();
      if (number === EAGAIN) return WOULD_BLOCK;
      if (number !== EINTR) fail("send to", `socket ${socketFd}`);
    }
  }

  /** Closes it, with what is in it. */
  close(): void {
    closeDescriptor(this.#readFd);
    closeDescriptor(this.#writeFd);
  }
}

/** Hears of the descriptors of pipes, for whoever closes them if the thread dies. */
export type PipeWatcher = (descriptors: readonly number[], open: boolean) => void;

/** Pipes for the replies of one thread. */
export class PipePool {
  readonly #countMax: number;
  readonly #bytes: number;
  readonly #watcher: PipeWatcher;
  readonly #free: Pipe[] = [];
  #out = 0;
  #closed = false;

  /** Up to `countMax` pipes of `bytes`, opened when they are needed; `watcher` hears of each. */
  constructor(countMax: number, bytes: number, watcher: PipeWatcher = () => {}) {
    this.#watcher = watcher;
    this.#countMax = countMax;
    this.#bytes = bytes;
  }

  /** An empty pipe with room for `length` bytes of a file from `offset`, or null if there is none. */
  take(offset: number, length: number): Pipe | null {
    const pages = Math.ceil((offset % PAGE_BYTES + length) / PAGE_BYTES);
    if (pages * PAGE_BYTES > this.#bytes || this.#out >= this.#countMax || this.#closed) {
      return null;
    }
    const pipe = this.#free.pop() ?? this.#open();
    if (pipe === null) return null;
    this.#out += 1;
    if (pages <= pipe.pages) return pipe;
    this.give(pipe);
    return null;
  }

  /** Gives a pipe back, also one that is not empty. */
  give(pipe: Pipe): void {
    this.#out -= 1;
    if (pipe.bytes === 0 && !this.#closed) this.#free.push(pipe);
    else this.#close(pipe);
  }

  /** Closes all pipes; those that are out when they are given back. */
  close(): void {
    this.#closed = true;
    for (const pipe of this.#free.splice(0)) this.#close(pipe);
  }

  #close(pipe: Pipe): void {
    this.#watcher(pipe.descriptors, false);
    pipe.close();
  }

  #open(): Pipe | null {
    try {
      const pipe = new Pipe(this.#bytes);
      this.#watcher(pipe.descriptors, true);
      return pipe;
    } catch {
      // Descriptors have run out: without a pipe it is slower, and goes on.
      return null;
    }
  }
}
