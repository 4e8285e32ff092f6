/**
 * A xenbus file as programs see it: a FUSE mount that is one file, each open of which is a connection
 * to the store. Runs in the thread of the service, which polls its descriptor together with all others.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import { BlockError, errnoToLinux } from "../block/errors.ts";
import type { BufferPool } from "../block/pool.ts";
import type { Maybe } from "../block/types.ts";
import { FUSE_REQUESTS_PER_TURN_MAX } from "../fuse/limits.ts";
import type { Ownership } from "../fuse/node_table.ts";
import { FuseSession } from "../fuse/session.ts";
import type { FusePeer, StreamCall, StreamHandle } from "../fuse/tree.ts";
import { FUSE_ENDED, FUSE_NOTHING, readFuseRequest, writeFuseReply } from "../sys/fuse.ts";
import { POLL_IN } from "../sys/poll.ts";
import { closeDescriptor } from "../sys/socket.ts";
import { XenstoreError } from "./errors.ts";
import type { Peers, ServicePeer } from "./peers.ts";
import type { ControlResult } from "./session.ts";
import { XenbusFile } from "./xenbus.ts";

const EINTR = -errnoToLinux("EINTR"), EAGAIN = -errnoToLinux("EAGAIN"), EIO = -errnoToLinux("EIO");
/** poll(2) has this besides POLLIN for data that can be read. */
const POLL_READ_NORMAL = 0x40;

/** What a mount works with. */
export interface XenbusMountOptions {
  /** /dev/fuse, mounted; closed at the end. */
  readonly fd: number;
  /** Permission bits of the file. */
  readonly permissions: number;
  /** What the file shows. */
  readonly ownership: Ownership;
  /** Decides who may open it. */
  readonly peers: Peers;
  /** Where buffers come from. */
  readonly pool: BufferPool;
  /** Gets the stack of what is a bug. */
  readonly log: Log;
  /** Results have come to promises, which are to run. */
  readonly onSettled: () => void;
}

/** A read or write that waits. */
interface Waiter {
  /** The result, 0 while there is none. */
  attempt(): number;
  resolve(result: number): void;
}

/** One open of the file. */
class XenbusOpen implements StreamHandle {
  readonly peer: ServicePeer;
  readonly #file: XenbusFile;
  readonly #options: XenbusMountOptions;
  readonly #onEnd: () => void;
  readonly #waiters = new Set<Waiter>();
  readonly #polls = new Set<() => void>();
  #over = false;

  constructor(peer: ServicePeer, options: XenbusMountOptions, onEnd: () => void) {
    const { peers: { store, events } } = options;
    this.peer = peer;
    this.#options = options;
    this.#onEnd = onEnd;
    const control = (words: readonly string[]): void => events.control(peer.id, words);
    this.#file = new XenbusFile(store, { domid: peer.domid, control });
    this.#file.onReadable = (): void => this.#wake();
  }

  read(into: Uint8Array, call: StreamCall): Maybe<number> {
    const attempt = (): number => this.#take(into);
    const result = attempt();
    if (result !== 0 || call.continuation) return result;
    return call.nonBlocking ? EAGAIN : this.#wait(call.signal, attempt);
  }

  write(from: Uint8Array, call: StreamCall): Maybe<number> {
    if (!this.#file.busy) return this.#write(from);
    if (call.nonBlocking) return EAGAIN;
    const bytes = from.slice(); // it may be used only now
    return this.#wait(call.signal, () => this.#file.busy ? 0 : this.#write(bytes));
  }

  poll(wake: (() => void) | null): number {
    if (this.#file.readable) return POLL_IN | POLL_READ_NORMAL;
    if (wake !== null) this.#polls.add(wake);
    return 0;
  }

  close(): void {
    this.end("the client has closed it");
  }

  endControl(result: ControlResult): void {
    this.#file.endControl(result);
  }

  /** Ends the connection: who still has the file open gets EIO. */
  end(reason: string): void {
    if (this.#over) return;
    this.#over = true;
    this.#file.close();
    this.#wake();
    this.#onEnd();
    this.#options.peers.events.closed(this.peer.id, reason);
  }

  #take(into: Uint8Array): number {
    if (this.#file.unreadBytes === 0) return this.#file.failed ? EIO : 0;
    const bytes = this.#file.read(into.length);
    if (bytes === null) return 0;
    into.set(bytes);
    // Whoever waits to write may have room now.
    if (this.#waiters.size > 0) queueMicrotask(() => this.#wake());
    return bytes.length;
  }

  #write(from: Uint8Array): number {
    try {
      return this.#file.write(from);
    } catch (error) {
      if (error instanceof XenstoreError) return -errnoToLinux(linuxName(error));
      throw error;
    }
  }

  #wait(signal: AbortSignal, attempt: () => number): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<number>();
    const waiter: Waiter = { attempt, resolve };
    this.#waiters.add(waiter);
    const abort = (): void => {
      if (this.#waiters.delete(waiter)) resolve(EINTR);
    };
    signal.addEventListener("abort", abort, { once: true });
    return promise;
  }

  #wake(): void {
    if (this.#file.failed && !this.#over) return this.end("it left its events unread");
    for (const waiter of this.#waiters) {
      const result = this.#over ? EIO : waiter.attempt();
      if (result === 0) continue;
      this.#waiters.delete(waiter);
      waiter.resolve(result);
      this.#options.onSettled();
    }
    if (this.#polls.size === 0 || !this.#file.readable) return;
    const polls = [...this.#polls];
    this.#polls.clear();
    for (const wake of polls) wake();
  }
}

/** What a failed write gives: errors of the file's own, or EIO. */
function linuxName({ code }: XenstoreError): "E2BIG" | "EINVAL" | "EIO" {
  return code === "E2BIG" || code === "EINVAL" ? code : "EIO";
}

/** A mounted xenbus file. */
export class XenbusMount {
  /** What is to be polled. */
  readonly fd: number;
  readonly #options: XenbusMountOptions;
  readonly #session: FuseSession;
  readonly #opens = new Map<number, XenbusOpen>();
  #ended = false;

  /** A mount of which nothing was read. */
  constructor(options: XenbusMountOptions) {
    const { fd, pool, log, ownership, permissions } = options;
    this.fd = fd;
    this.#options = options;
    this.#session = new FuseSession({
      root: { kind: "stream", permissions, open: (peer) => this.#open(peer) },
      send: (reply) => void writeFuseReply(fd, reply),
      pool,
      log,
      ownership,
    });
  }

  /** The mount is gone. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Serves what is there, up to a number of requests. `buffer` holds the longest one. */
  serve(buffer: Uint8Array<ArrayBuffer>): void {
    this.#options.onSettled();
    for (let count = 0; count < FUSE_REQUESTS_PER_TURN_MAX && !this.#ended; count++) {
      const length = readFuseRequest(this.fd, buffer);
      if (length === FUSE_NOTHING) return;
      if (length === FUSE_ENDED) this.close("the file was unmounted");
      else this.#session.receive(buffer.subarray(0, length));
    }
  }

  /** Gives the reply to a CONTROL of an open, if it is one of this file. */
  endControl(id: number, result: ControlResult): void {
    this.#opens.get(id)?.endControl(result);
  }

  /** Ends the connection of an open, if it is one of this file. */
  end(id: number, reason: string): void {
    this.#opens.get(id)?.end(reason);
  }

  /** Ends all connections; whoever has the file open finds it disconnected. */
  close(reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const each of [...this.#opens.values()]) each.end(reason);
    this.#session.end();
    closeDescriptor(this.fd);
  }

  #open({ pid, uid }: FusePeer): XenbusOpen {
    const admission = this.#options.peers.admit({ kind: "xenbus", pid, uid });
    const { peer } = admission;
    if (peer === null) {
      const errno = admission.stranger ? "EACCES" : "ENFILE";
      throw new BlockError(errno, "Cannot open the xenbus file: refused");
    }
    const open = new XenbusOpen(peer, this.#options, () => void this.#opens.delete(peer.id));
    this.#opens.set(peer.id, open);
    return open;
  }
}
