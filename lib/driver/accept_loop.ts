/**
 * The acceptor: accepts connections, runs their handshakes on raw descriptors and hands them over. It
 * blocks its thread, a worker, in poll, and leaves for the worker's event loop when the eventfd in its
 * poll set is signalled (see wake.ts).
 *
 * Floods: a handshake has a time and a number of bytes, and there are at most so many at a time. When
 * there are no places left the next connection takes the place of the oldest client that has not said
 * anything, or else of the oldest, so that half-open clients can never lock out good ones. When
 * descriptors run out the same is done, and if nobody can be evicted accepting pauses.
 *
 * @module
 */
import type { Clock } from "../block/context.ts";
import type { OutputBuffer } from "../stream/session.ts";
import { clearEvent, POLL_ERROR, POLL_HANGUP, POLL_IN, POLL_OUT, PollSet } from "../sys/poll.ts";
import {
  accept,
  type Accepted,
  closeDescriptor,
  peerCredentials,
  receive,
  send,
  setKeepAlive,
  setNoDelay,
  shutdown,
  WOULD_BLOCK,
} from "../sys/socket.ts";
import { SystemError } from "../sys/system_error.ts";
import type { HandOver, Handshake, HandshakeEnd, Peer } from "./handshake.ts";
import {
  ACCEPT_PAUSE_MS,
  ACCEPTS_PER_TURN_MAX,
  HANDSHAKE_BYTES_MAX,
  HANDSHAKE_MS_MAX,
  HANDSHAKE_READ_BYTES,
  HANDSHAKES_MAX,
  KEEP_ALIVE,
  LINGER_MS_MAX,
} from "./limits.ts";

/** A listening socket, which the acceptor does not close. */
export interface AcceptListener {
  /** The descriptor, non-blocking. */
  readonly fd: number;
  /** What hand-overs and events call it. */
  readonly label: string;
}

/** Something for the log. */
export interface AcceptEvent {
  /**
   * "closed": a handshake ended without a hand-over, "timed-out" and "evicted" too; "accept-failed": a
   * connection could not be accepted; "listener-lost": a listener does not work and is not used any more.
   */
  readonly kind: "closed" | "timed-out" | "evicted" | "accept-failed" | "listener-lost";
  /** Why, without a full stop. */
  readonly reason: string;
  /** The label of the listener. */
  readonly listener: string;
  /** Who had connected, if anybody. */
  readonly peer: Peer | null;
}

/** Limits of an acceptor; each has its number in limits.ts. */
export interface AcceptLimits {
  /** HANDSHAKES_MAX. */
  readonly handshakes: number;
  /** HANDSHAKE_MS_MAX, in ms. */
  readonly handshake_ms: number;
  /** HANDSHAKE_BYTES_MAX, in bytes. */
  readonly handshakeBytes: number;
}

/** Settings of an acceptor. */
export interface AcceptLoopOptions<R extends HandshakeEnd> {
  /** Where to accept, at first. */
  readonly listeners: readonly AcceptListener[];
  /** The eventfd that makes `run` return. */
  readonly wakeFd: number;
  /** Time. */
  readonly clock: Pick<Clock, "now">;
  /** Makes the handshake of a new connection. */
  createHandshake(peer: Peer, listener: string): Handshake<R>;
  /** Takes a connection, and its descriptor, over. */
  onHandOver(handOver: HandOver<R>): void;
  /** Hears what is worth a line in the log. */
  onEvent?(event: AcceptEvent): void;
  /** Limits that differ from those in limits.ts. */
  readonly limits?: Partial<AcceptLimits>;
}

interface Connection<R extends HandshakeEnd> {
  readonly fd: number;
  readonly peer: Peer;
  readonly listener: string;
  readonly handshake: Handshake<R>;
  /** When it has to be over, µs. */
  deadline_us: number;
  bytesRead: number;
  /** What did not fit into the socket, from `sent` on. */
  output: OutputBuffer | null;
  sent: number;
  /** All is said: waits for the client to close, so that the last bytes arrive. */
  closing: boolean;
}

/** Errors of accept that mean the process or the system has no room. */
const NO_ROOM: readonly string[] = ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"];
/** Errors of accept that mean the listener is of no use. */
const LISTENER_LOST: readonly string[] = ["EBADF", "EINVAL", "ENOTSOCK", "EOPNOTSUPP"];
const POLL_TIME_MS_MAX = 2 ** 31 - 1;

/** Accepts and hands over; see the top of the file. */
export class AcceptLoop<R extends HandshakeEnd> {
  readonly #options: AcceptLoopOptions<R>;
  readonly #limits: AcceptLimits;
  readonly #poll = new PollSet();
  readonly #into = new Uint8Array(HANDSHAKE_READ_BYTES);
  /** In the order in which they were accepted. */
  readonly #connections = new Map<number, Connection<R>>();
  /** Those that are evicted first: they have said nothing, or have nothing more to say. */
  readonly #silent = new Set<Connection<R>>();
  #listeners: readonly AcceptListener[];
  #pausedUntil_us = -Infinity;

  /** Opens nothing; `run` does all. */
  constructor(options: AcceptLoopOptions<R>) {
    this.#options = options;
    this.#listeners = options.listeners;
    this.#limits = {
      handshakes: HANDSHAKES_MAX,
      handshake_ms: HANDSHAKE_MS_MAX,
      handshakeBytes: HANDSHAKE_BYTES_MAX,
      ...options.limits,
    };
  }

  /** Connections in their handshake. */
  get count(): number {
    return this.#connections.size;
  }

  /** Accepts on other listeners from the next `run` on; handshakes under way go on. */
  setListeners(listeners: readonly AcceptListener[]): void {
    this.#listeners = listeners;
  }

  /** Closes all connections that are in their handshake; listeners and the eventfd stay open. */
  close(reason: string): void {
    for (const connection of [...this.#connections.values()]) {
      this.#drop(connection, "closed", reason);
    }
  }

  /** Accepts and shakes hands until the eventfd is signalled; gives how often it was. */
  run(): number {
    for (;;) {
      const now_us = this.#options.clock.now();
      this.#expire(now_us);
      const accepting = now_us >= this.#pausedUntil_us;
      const listeners = accepting ? this.#listeners : [];
      const connections = [...this.#connections.values()];
      this.#fillPollSet(listeners, connections);
      this.#poll.wait(this.#waitTime(now_us, accepting));
      if (this.#poll.result(0) !== 0) return clearEvent(this.#options.wakeFd);
      connections.forEach((connection, i) => {
        const events = this.#poll.result(1 + listeners.length + i);
        if (events !== 0) this.#step(connection, events);
      });
      // Chosen first, since accepting may use the poll set.
      const calling = listeners.filter((_, i) => this.#poll.result(1 + i) !== 0);
      for (const listener of calling) this.#acceptFrom(listener);
    }
  }

  #fillPollSet(
    listeners: readonly AcceptListener[],
    connections: readonly Connection<R>[],
  ): void {
    const poll = this.#poll;
    poll.clear();
    poll.add(this.#options.wakeFd, POLL_IN);
    for (const { fd } of listeners) poll.add(fd, POLL_IN);
    for (const connection of connections) {
      const { fd, output, closing, handshake } = connection;
      const reads = closing || (handshake.result === null && handshake.ready);
      poll.add(fd, (reads ? POLL_IN : 0) | (output === null ? 0 : POLL_OUT));
    }
  }

  /** How long to wait in ms: until the next deadline, for ever if there is none. */
  #waitTime(now_us: number, accepting: boolean): number {
    let until_us = accepting ? Infinity : this.#pausedUntil_us;
    for (const { deadline_us, closing } of this.#connections.values()) {
      until_us = Math.min(until_us, deadline_us);
      // In order of acceptance the first that is not closing has the first deadline of its kind.
      if (!closing) break;
    }
    for (const { deadline_us, closing } of this.#silent) {
      if (closing) until_us = Math.min(until_us, deadline_us);
    }
    if (until_us === Infinity) return -1;
    return Math.min(Math.max(Math.ceil((until_us - now_us) / 1_000), 0), POLL_TIME_MS_MAX);
  }

  #expire(now_us: number): void {
    for (const connection of this.#connections.values()) {
      if (connection.deadline_us > now_us) {
        if (connection.closing) continue;
        break;
      }
      if (connection.closing) this.#forget(connection);
      else {
        const reason = `the handshake took more than ${this.#limits.handshake_ms} ms`;
        this.#drop(connection, "timed-out", reason);
      }
    }
    for (const connection of this.#silent) {
      if (connection.closing && connection.deadline_us <= now_us) this.#forget(connection);
    }
  }

  #acceptFrom(listener: AcceptListener): void {
    for (let i = 0; i < ACCEPTS_PER_TURN_MAX; i++) {
      try {
        const accepted = accept(listener.fd);
        if (accepted === null) return;
        this.#begin(accepted, listener.label);
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        if (!this.#survive(error, listener)) return;
      }
    }
  }

  /** After an error of accept: true if the listener may have another connection now. */
  #survive(error: SystemError, listener: AcceptListener): boolean {
    const { code, message: reason } = error;
    if (LISTENER_LOST.includes(code)) {
      this.#listeners = this.#listeners.filter((other) => other !== listener);
      this.#tell({ kind: "listener-lost", reason, listener: listener.label, peer: null });
      return false;
    }
    if (!NO_ROOM.includes(code)) return true;
    // accept fails so even if nobody waits, and then nobody needs a place.
    this.#poll.clear();
    this.#poll.add(listener.fd, POLL_IN);
    if (this.#poll.wait(0) === 0) return false;
    if (this.#evict("there are no more descriptors")) return true;
    this.#pausedUntil_us = this.#options.clock.now() + ACCEPT_PAUSE_MS * 1_000;
    this.#tell({ kind: "accept-failed", reason, listener: listener.label, peer: null });
    return false;
  }

  #evict(reason: string): boolean {
    const [silent] = this.#silent;
    const connection = silent ?? this.#connections.values().next().value;
    if (connection === undefined) return false;
    this.#drop(connection, "evicted", reason);
    return true;
  }

  #begin({ fd, address }: Accepted, listener: string): void {
    while (this.#connections.size >= this.#limits.handshakes) {
      if (!this.#evict(`there are ${this.#limits.handshakes} handshakes already`)) break;
    }
    let handshake: Handshake<R>;
    let peer: Peer;
    try {
      const credentials = address.kind === "unix" ? peerCredentials(fd) : null;
      peer = { address, credentials };
      if (address.kind === "tcp") {
        setNoDelay(fd);
        setKeepAlive(fd, KEEP_ALIVE);
      }
      handshake = this.#options.createHandshake(peer, listener);
    } catch (error) {
      closeDescriptor(fd);
      if (!(error instanceof SystemError)) throw error;
      this.#tell({ kind: "accept-failed", reason: error.message, listener, peer: null });
      return;
    }
    const connection: Connection<R> = {
      fd,
      peer,
      listener,
      handshake,
      deadline_us: this.#options.clock.now() + this.#limits.handshake_ms * 1_000,
      bytesRead: 0,
      output: null,
      sent: 0,
      closing: false,
    };
    this.#connections.set(fd, connection);
    this.#silent.add(connection);
    this.#goOn(connection);
  }

  /** Does what poll says can be done. */
  #step(connection: Connection<R>, events: number): void {
    if (this.#connections.get(connection.fd) !== connection) return;
    try {
      const readable = (events & (POLL_IN | POLL_HANGUP | POLL_ERROR)) !== 0;
      if (readable && !this.#read(connection)) return;
    } catch (error) {
      this.#drop(connection, "closed", reasonOf(error));
      return;
    }
    this.#goOn(connection);
  }

  /** False if the connection is over. */
  #read(connection: Connection<R>): boolean {
    const { fd, handshake, closing } = connection;
    if (!closing && (handshake.result !== null || !handshake.ready)) {
      // Polled for neither, so this is an error or the end of both directions: sending tells.
      return true;
    }
    const count = receive(fd, this.#into);
    if (count === WOULD_BLOCK) return true;
    if (closing) {
      if (count === 0) this.#forget(connection);
      return count !== 0;
    }
    if (count === 0) {
      this.#drop(connection, "closed", "the client went away");
      return false;
    }
    this.#silent.delete(connection);
    connection.bytesRead += count;
    if (connection.bytesRead > this.#limits.handshakeBytes) {
      const reason = `the client sent more than ${this.#limits.handshakeBytes} bytes`;
      this.#drop(connection, "closed", reason);
      return false;
    }
    handshake.receive(this.#into.slice(0, count));
    return true;
  }

  /** Sends what there is, and ends the handshake if it has a result. */
  #goOn(connection: Connection<R>): void {
    if (connection.closing) return;
    try {
      if (!this.#sendAll(connection)) return;
    } catch (error) {
      this.#drop(connection, "closed", reasonOf(error));
      return;
    }
    const { handshake: { result } } = connection;
    if (result === null) return;
    if (result.kind === "close") this.#startClosing(connection, result);
    else this.#handOver(connection, result);
  }

  /** False if some of the output did not fit into the socket. */
  #sendAll(connection: Connection<R>): boolean {
    for (;;) {
      const output = connection.output ??= connection.handshake.takeOutput();
      if (output === null) return true;
      while (connection.sent < output.bytes.length) {
        const rest = new Uint8Array(output.bytes.subarray(connection.sent));
        const count = send(connection.fd, rest);
        if (count === WOULD_BLOCK) return false;
        connection.sent += count;
      }
      this.#releaseOutput(connection);
    }
  }

  #releaseOutput(connection: Connection<R>): void {
    const { output } = connection;
    connection.output = null;
    connection.sent = 0;
    output?.release();
  }

  #handOver(connection: Connection<R>, result: R): void {
    const { fd, peer, listener, handshake } = connection;
    this.#connections.delete(fd);
    this.#silent.delete(connection);
    handshake.end(undefined);
    this.#options.onHandOver({ fd, peer, listener, result });
  }

  /** Says goodbye: the client sees the end after the last bytes, and closes. */
  #startClosing(connection: Connection<R>, result: HandshakeEnd): void {
    const reason = "reason" in result ? result.reason : "the handshake ended";
    this.#tell({ kind: "closed", reason, listener: connection.listener, peer: connection.peer });
    connection.closing = true;
    connection.deadline_us = this.#options.clock.now() + LINGER_MS_MAX * 1_000;
    this.#silent.add(connection);
    shutdown(connection.fd, "write");
  }

  #drop(connection: Connection<R>, kind: AcceptEvent["kind"], reason: string): void {
    const { closing, listener, peer } = connection;
    this.#forget(connection);
    if (!closing) this.#tell({ kind, reason, listener, peer });
  }

  #forget(connection: Connection<R>): void {
    this.#connections.delete(connection.fd);
    this.#silent.delete(connection);
    this.#releaseOutput(connection);
    connection.handshake.end(undefined);
    closeDescriptor(connection.fd);
  }

  #tell(event: AcceptEvent): void {
    this.#options.onEvent?.(event);
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
