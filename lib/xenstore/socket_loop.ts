/**
 * The sockets of a XenStore service: accepts on raw descriptors and serves all connections from one
 * thread that blocks in poll. A request that has arrived is answered before anything else is waited
 * for, and without a promise. Nobody can hold up others: of each connection only so many bytes are
 * read in a turn, writes do not wait, and whoever does not read its replies is not read from either.
 *
 * @module
 */
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
  CONNECTIONS_MAX,
  DOMAIN_CONNECTIONS_MAX,
  SERVICE_ACCEPT_PAUSE_MS,
  SERVICE_ACCEPTS_PER_TURN_MAX,
  SERVICE_PRIVILEGED_CONNECTIONS,
  SERVICE_READ_BYTES,
  SERVICE_RETRY_MS,
} from "./limits.ts";
import { type ControlResult, XenstoreSession } from "./session.ts";
import type { Store } from "./store.ts";
import { domainOfUser } from "./users.ts";

/** Who is at the other end of a connection, as plain data. */
export interface ServicePeer {
  /** Never the same twice in a service; 0 is the daemon's own client. */
  readonly id: number;
  /** How it came: over a socket, or through a xenbus file. */
  readonly kind: "control" | "xenbus";
  /** For people: `process 12 of user 0`. */
  readonly peer: string;
  /** Its domain. */
  readonly domid: number;
}

/** What the loop tells; everything in the order in which it happens. */
export interface ServiceEvents {
  /** A connection was made; nothing of it has been read. */
  opened(peer: ServicePeer): void;
  /** A connection has ended, its watches and transactions with it. */
  closed(id: number, reason: string): void;
  /** Somebody was turned away. */
  refused(peer: string, reason: string): void;
  /** A CONTROL for the daemon, which `endControl` answers. */
  control(id: number, words: readonly string[]): void;
  /** False while too much of the above was not heard yet: nobody else is let in then. */
  readonly listening: boolean;
}

/** What a loop works with. */
export interface SocketLoopOptions {
  /** What is served. */
  readonly store: Store;
  /** Listening sockets, which the loop does not close. */
  readonly listeners: readonly number[];
  /** The eventfd that makes `run` return. */
  readonly wakeFd: number;
  /** Users and their domains. */
  readonly domains: ReadonlyMap<number, number>;
  /** Gets what happens. */
  readonly events: ServiceEvents;
  /** The time, from any beginning. */
  now_ms(): number;
}

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

/** Errors of accept that mean the process or the system has no room. */
const NO_ROOM: readonly string[] = ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"];

/** How a peer is called. */
export function peerText({ pid, uid }: Pick<PeerCredentials, "pid" | "uid">): string {
  return `process ${pid} of user ${uid}`;
}

/** See the top of the file. */
export class SocketLoop {
  readonly #options: SocketLoopOptions;
  readonly #poll = new PollSet();
  readonly #into = new Uint8Array(SERVICE_READ_BYTES);
  readonly #connections = new Map<number, Connection>();
  /** In the order of the poll set, behind the eventfd and the listeners. */
  #polled: Connection[] = [];
  #changed = true;
  #queue: Connection[] = [];
  #accepting = true;
  #pausedUntil_ms = 0;
  #nextId = 1;

  /** A loop that has read nothing yet. */
  constructor(options: SocketLoopOptions) {
    this.#options = options;
  }

  /** Takes a connected descriptor in, which is then closed here, as domain 0 and under number 0. */
  adoptOwn(fd: number): void {
    this.#begin(0, fd, 0);
  }

  /** Serves until the eventfd is signalled; gives how often it was. */
  run(): number {
    const { wakeFd, listeners } = this.#options;
    const poll = this.#poll;
    for (;;) {
      this.#runQueue();
      this.#fillPollSet();
      if (poll.wait(this.#accepting ? -1 : SERVICE_RETRY_MS) === 0) continue;
      if (poll.result(0) !== 0) return clearEvent(wakeFd);
      const first = 1 + listeners.length;
      const polled = this.#polled;
      for (let at = 0; at < polled.length; at++) {
        const events = poll.result(first + at);
        const connection = polled[at];
        if (events !== 0 && connection !== undefined) this.#step(connection, events);
      }
      for (let at = 0; at < listeners.length; at++) {
        const fd = listeners[at];
        if (fd !== undefined && poll.result(1 + at) !== 0) this.#acceptFrom(fd);
      }
    }
  }

  /** Gives the reply to a CONTROL; nothing if its connection has gone. */
  endControl(id: number, result: ControlResult): void {
    this.#connections.get(id)?.session.endControl(result);
  }

  /** Ends a connection, if it is there. */
  end(id: number, reason: string): void {
    const connection = this.#connections.get(id);
    if (connection !== undefined) this.#close(connection, reason);
  }

  /** Ends all connections. Listeners and the eventfd stay open. */
  close(reason: string): void {
    for (const connection of [...this.#connections.values()]) this.#close(connection, reason);
  }

  #fillPollSet(): void {
    const { listeners, wakeFd, events } = this.#options;
    const paused = this.#pausedUntil_ms > 0 && this.#options.now_ms() < this.#pausedUntil_ms;
    const accepting = !paused && events.listening;
    if (!this.#changed && accepting === this.#accepting) return;
    this.#changed = false;
    this.#accepting = accepting;
    const poll = this.#poll;
    poll.clear();
    poll.add(wakeFd, POLL_IN);
    for (const fd of listeners) poll.add(fd, accepting ? POLL_IN : 0);
    this.#polled = [...this.#connections.values()];
    for (const each of this.#polled) each.index = poll.add(each.fd, each.interest);
  }

  #acceptFrom(listener: number): void {
    for (let count = 0; count < SERVICE_ACCEPTS_PER_TURN_MAX; count++) {
      try {
        const accepted = accept(listener);
        if (accepted === null) return;
        this.#welcome(accepted.fd);
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        if (!NO_ROOM.includes(error.code)) continue;
        this.#pausedUntil_ms = this.#options.now_ms() + SERVICE_ACCEPT_PAUSE_MS;
        return;
      }
    }
  }

  #welcome(fd: number): void {
    const { domains, events } = this.#options;
    let credentials: PeerCredentials;
    try {
      credentials = peerCredentials(fd);
    } catch (error) {
      closeDescriptor(fd);
      throw error;
    }
    const peer = peerText(credentials);
    const domid = domainOfUser(credentials.uid, domains);
    const reason = this.refusal(domid);
    if (domid === null || reason !== null) {
      closeDescriptor(fd);
      events.refused(peer, reason ?? "");
      return;
    }
    const id = this.nextId();
    events.opened({ id, kind: "control", peer, domid });
    this.#begin(id, fd, domid);
  }

  /** Why nobody of a domain (null: of none) can come in now, or null. */
  refusal(domid: number | null): string | null {
    if (domid === null) return "the user is not listed";
    const { store } = this.#options;
    const count = store.connectionCount();
    const max = domid === 0 ? CONNECTIONS_MAX : CONNECTIONS_MAX - SERVICE_PRIVILEGED_CONNECTIONS;
    if (count >= max) return "there are too many connections";
    if (domid === 0 || store.connectionCount(domid) < DOMAIN_CONNECTIONS_MAX) return null;
    return "the domain has too many connections";
  }

  /** A number for a peer that was never given before. */
  nextId(): number {
    return this.#nextId++;
  }

  #begin(id: number, fd: number, domid: number): void {
    const { store, events } = this.#options;
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
    if (connection.id !== 0) this.#options.events.closed(connection.id, reason);
  }
}
