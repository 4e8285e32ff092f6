/**
 * The sockets of a XenStore service: accepts on raw descriptors and serves all connections from one
 * thread that blocks in poll. A request that has arrived is answered before anything else is waited
 * for, and without a promise. Nobody can hold up others: of each connection only so many bytes are
 * read in a turn, writes do not wait, and whoever does not read its replies is not read from either.
 *
 * @module
 */
import { RapidWait } from "../driver/rapid_wait.ts";
import { FUSE_REQUEST_BYTES_MAX } from "../fuse/limits.ts";
import { ProtocolError } from "../stream/frame.ts";
import { clearEvent, POLL_ERROR, POLL_HANGUP, POLL_IN, POLL_OUT, PollSet } from "../sys/poll.ts";
import {
  accept,
  closeDescriptor,
  type PeerCredentials,
  peerCredentials,
  receive,
  send,
  WOULD_BLOCK,
} from "../sys/socket.ts";
import { SystemError } from "../sys/system_error.ts";
import {
  SERVICE_ACCEPT_PAUSE_MS,
  SERVICE_ACCEPTS_PER_TURN_MAX,
  SERVICE_READ_BYTES,
  SERVICE_RETRY_MS,
  SERVICE_SPIN_US,
} from "./limits.ts";
import type { Peers } from "./peers.ts";
import { type ControlResult, XenstoreSession } from "./session.ts";
import type { XenbusMount } from "./xenbus_mount.ts";

/** What a loop works with. */
export interface SocketLoopOptions {
  /** Decides who may come in, and to what. */
  readonly peers: Peers;
  /** Listening sockets, which the loop does not close. */
  readonly listeners: readonly number[];
  /** Xenbus files. */
  readonly mounts: readonly XenbusMount[];
  /** The eventfd that makes `run` return. */
  readonly wakeFd: number;
  /** The time, from any beginning. */
  now_ms(): number;
}

/** Errors of accept that mean the listener is of no use, so that nobody can come in any more. */
const LISTENER_LOST: readonly string[] = ["EBADF", "EINVAL", "ENOTSOCK", "EOPNOTSUPP"];

class Connection {
  readonly id: number;
  readonly fd: number;
  readonly session: XenstoreSession;
  /** Its place in the poll set, and what it waits for there. */
  index = 0;
  interest = 0;
  inputEnded = false;
  /** It is in the list of those that have something to do. */
  queued = false;
  closed = false;

  constructor(id: number, fd: number, session: XenstoreSession) {
    this.id = id;
    this.fd = fd;
    this.session = session;
  }

  readonly send = (bytes: Uint8Array<ArrayBuffer>, length: number): number =>
    send(this.fd, bytes, length);
}

/** poll(2) does not look at it. */
const NO_DESCRIPTOR = -1;
/** Errors of accept that mean the process or the system has no room. */
const NO_ROOM: readonly string[] = ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"];

/** See the top of the file. */
export class SocketLoop {
  readonly #options: SocketLoopOptions;
  readonly #poll = new PollSet();
  readonly #into = new Uint8Array(SERVICE_READ_BYTES);
  #fuseRequest: Uint8Array<ArrayBuffer> | null = null;
  readonly #connections = new Map<number, Connection>();
  /** In the order of the poll set, behind the eventfd and the listeners. */
  #polled: Connection[] = [];
  #changed = true;
  #queue: Connection[] = [];
  #accepting = true;
  #pausedUntil_ms = 0;
  /** Promises of xenbus files wait for their turn. */
  #settled = false;
  readonly #rapid: RapidWait;

  /** A loop that has read nothing yet. */
  constructor(options: SocketLoopOptions) {
    this.#options = options;
    const wait = (timeout_ms: number): number => this.#poll.wait(timeout_ms);
    this.#rapid = new RapidWait(wait, () => options.now_ms(), SERVICE_SPIN_US);
  }

  /** Takes a connected descriptor in, which is then closed here, as domain 0 and under number 0. */
  adoptOwn(fd: number): void {
    this.#begin(0, fd, 0);
  }

  /** Promises have results: `run` returns, so that what waits for them can go on. */
  settle(): void {
    this.#settled = true;
  }

  /** Serves until the eventfd is signalled; gives how often it was, 0 if it is for promises alone. */
  run(): number {
    const { wakeFd, listeners, mounts } = this.#options;
    const poll = this.#poll;
    for (;;) {
      this.#runQueue();
      if (this.#settled) {
        this.#settled = false;
        return 0;
      }
      this.#fillPollSet();
      if (this.#wait() === 0) continue;
      if (poll.result(0) !== 0) return clearEvent(wakeFd);
      const firstMount = 1 + listeners.length;
      const first = firstMount + mounts.length;
      const polled = this.#polled;
      for (let at = 0; at < polled.length; at++) {
        const events = poll.result(first + at);
        const connection = polled[at];
        if (events !== 0 && connection !== undefined) this.#step(connection, events);
      }
      for (let at = 0; at < mounts.length; at++) {
        if (poll.result(firstMount + at) !== 0) this.#serveMount(mounts[at]);
      }
      for (let at = 0; at < listeners.length; at++) {
        const fd = listeners[at];
        if (fd !== undefined && poll.result(1 + at) !== 0) this.#acceptFrom(fd);
      }
    }
  }

  /** Waits until something can be done; 0 if nothing can be after all. */
  #wait(): number {
    return this.#rapid.wait(this.#accepting ? -1 : SERVICE_RETRY_MS);
  }

  /** Gives the reply to a CONTROL; nothing if its connection has gone. */
  endControl(id: number, result: ControlResult): void {
    this.#connections.get(id)?.session.endControl(result);
    for (const mount of this.#options.mounts) mount.endControl(id, result);
  }

  /** Ends a connection, if it is there. */
  end(id: number, reason: string): void {
    const connection = this.#connections.get(id);
    if (connection !== undefined) this.#close(connection, reason);
    for (const mount of this.#options.mounts) mount.end(id, reason);
  }

  /** Ends all connections and mounts. Listeners and the eventfd stay open. */
  close(reason: string): void {
    for (const mount of this.#options.mounts) mount.close(reason);
    for (const connection of [...this.#connections.values()]) this.#close(connection, reason);
  }

  #fillPollSet(): void {
    const { listeners, mounts, wakeFd, peers: { events } } = this.#options;
    const paused = this.#pausedUntil_ms > 0 && this.#options.now_ms() < this.#pausedUntil_ms;
    const accepting = !paused && events.listening;
    if (!this.#changed && accepting === this.#accepting) return;
    this.#changed = false;
    this.#accepting = accepting;
    const poll = this.#poll;
    poll.clear();
    poll.add(wakeFd, POLL_IN);
    for (const fd of listeners) poll.add(fd, accepting ? POLL_IN : 0);
    // An open cannot be put off, so nothing is read of a file while nobody is let in.
    for (const { ended, fd } of mounts) {
      poll.add(ended ? NO_DESCRIPTOR : fd, accepting ? POLL_IN : 0);
    }
    this.#polled = [...this.#connections.values()];
    for (const each of this.#polled) each.index = poll.add(each.fd, each.interest);
  }

  #serveMount(mount: XenbusMount | undefined): void {
    mount?.serve(this.#fuseRequest ??= new Uint8Array(FUSE_REQUEST_BYTES_MAX));
    if (mount?.ended === true) this.#changed = true;
  }

  #acceptFrom(listener: number): void {
    for (let count = 0; count < SERVICE_ACCEPTS_PER_TURN_MAX; count++) {
      try {
        const accepted = accept(listener);
        if (accepted === null) return;
        this.#welcome(accepted.fd);
      } catch (error) {
        if (!(error instanceof SystemError) || LISTENER_LOST.includes(error.code)) throw error;
        if (!NO_ROOM.includes(error.code)) continue;
        this.#pausedUntil_ms = this.#options.now_ms() + SERVICE_ACCEPT_PAUSE_MS;
        return;
      }
    }
  }

  #welcome(fd: number): void {
    let credentials: PeerCredentials;
    try {
      credentials = peerCredentials(fd);
    } catch (error) {
      closeDescriptor(fd);
      throw error;
    }
    const { peer } = this.#options.peers.admit({ kind: "control", ...credentials });
    if (peer === null) closeDescriptor(fd);
    else this.#begin(peer.id, fd, peer.domid);
  }

  #begin(id: number, fd: number, domid: number): void {
    const { store, events } = this.#options.peers;
    const control = (words: readonly string[]): void => events.control(id, words);
    const session = new XenstoreSession(store, { domid, control });
    const connection = new Connection(id, fd, session);
    connection.interest = POLL_IN;
    session.onWake = (): void => this.#enqueue(connection);
    this.#connections.set(id, connection);
    this.#changed = true;
  }

  #step(connection: Connection, events: number): void {
    if (connection.closed) return;
    const { session, fd } = connection;
    try {
      if ((events & POLL_IN) !== 0 && session.ready && !connection.inputEnded) {
        const count = receive(fd, this.#into);
        if (count === 0) connection.inputEnded = true;
        else if (count !== WOULD_BLOCK) session.take(this.#into, count);
      } else if ((events & (POLL_ERROR | POLL_HANGUP)) !== 0) {
        return this.#close(connection, "the client went away");
      }
    } catch (error) {
      return this.#fail(connection, error);
    }
    this.#flush(connection);
  }

  /** Serves those whose turn came through others, until nobody is left. */
  #runQueue(): void {
    while (this.#queue.length > 0) {
      const queue = this.#queue;
      this.#queue = [];
      for (const connection of queue) {
        connection.queued = false;
        this.#flush(connection);
      }
    }
  }

  #enqueue(connection: Connection): void {
    if (connection.queued || connection.closed) return;
    connection.queued = true;
    this.#queue.push(connection);
  }

  #flush(connection: Connection): void {
    if (connection.closed) return;
    const { session } = connection;
    try {
      session.sendTo(connection.send);
    } catch (error) {
      return this.#fail(connection, error);
    }
    if (session.finished) {
      return this.#close(connection, session.failure?.message ?? "its domain was released");
    }
    if (connection.inputEnded && session.idle) {
      return this.#close(connection, "the client has closed it");
    }
    const reads = session.ready && !connection.inputEnded;
    const interest = (reads ? POLL_IN : 0) | (session.unsentBytes > 0 ? POLL_OUT : 0);
    if (interest === connection.interest) return;
    connection.interest = interest;
    if (!this.#changed) this.#poll.change(connection.index, interest);
  }

  #fail(connection: Connection, error: unknown): void {
    if (error instanceof ProtocolError || error instanceof SystemError) {
      return this.#close(connection, error.message);
    }
    // A bug: it must not take the others with it.
    const text = error instanceof Error ? error.stack ?? error.message : String(error);
    this.#close(connection, `an internal fault: ${text}`);
  }

  #close(connection: Connection, reason: string): void {
    if (connection.closed) return;
    connection.closed = true;
    this.#connections.delete(connection.id);
    this.#changed = true;
    const { session } = connection;
    session.onWake = null;
    session.end(undefined);
    closeDescriptor(connection.fd);
    if (connection.id !== 0) this.#options.peers.events.closed(connection.id, reason);
  }
}
