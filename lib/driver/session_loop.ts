/**
 * The blocking driver: runs byte sessions over raw descriptors on a thread that blocks until there is
 * something to do. It reads large, into the same memory for all connections; what has arrived is served,
 * and answered, before anything else is waited for. It leaves for the thread's event loop when the eventfd
 * in its set is signalled (see wake.ts).
 *
 * Nobody can hold up others: of each connection only so much is read and sent in a turn, sends do not wait,
 * and whoever does not take what is sent is not read from, and is disconnected after a while.
 *
 * @module
 */
import type { StorageNews } from "../block/types.ts";
import type { BlockingOutput, BlockingSession } from "../stream/session.ts";
import { sharpenSleep, sleepUs } from "../sys/clock.ts";
import { EpollSet, POLL_EDGE } from "../sys/epoll.ts";
import { receivePieces } from "../sys/io_vector.ts";
import { clearEvent, POLL_ERROR, POLL_HANGUP, POLL_IN, POLL_OUT } from "../sys/poll.ts";
import {
  closeDescriptor,
  receive,
  send,
  shutdown,
  unreadBytes,
  WOULD_BLOCK,
} from "../sys/socket.ts";
import { GatherPause } from "./gather_pause.ts";
import {
  GATHER_BYTES_MAX,
  LINGER_MS_MAX,
  SCARCE_STALL_LOOKS,
  SEND_STALL_LOOKS,
  SEND_STALL_MS_MAX,
  SPIN_BYTES_MAX,
  SPIN_REQUESTS_MAX,
  SPIN_US,
  STORAGE_SPIN_US,
  TURN_EVENTS_MAX,
  TURN_OUTPUTS_MAX,
  TURN_READ_BYTES,
  TURN_SEND_BYTES,
  TURNS_IN_A_ROW_MAX,
} from "./limits.ts";
import { RapidWait } from "./rapid_wait.ts";
import { StorageWait } from "./storage_wait.ts";

/** Settings of a loop. */
export interface SessionLoopOptions {
  /** The eventfd that makes `run` return. */
  readonly wakeFd: number;
  /** The time, from any beginning; it is asked for it whenever a connection has its turn. */
  now_ms(): number;
  /** Work is under way that only the event loop can end: `run` returns. */
  waits(): boolean;
  /** Memory is scarce. */
  scarce(): boolean;
  /** Time in ms between two looks at who holds memory while it is scarce. */
  readonly scarceSweep_ms: number;
  /** Bytes of an unfinished request that do not matter then. */
  readonly scarcePartialBytes: number;
  /** How long a peer may leave what is sent to it untouched, in ms; SEND_STALL_MS_MAX if not told. */
  readonly sendStall_ms?: number;
  /** SPIN_US, in µs. */
  readonly spin_us?: number;
  /** A connection is over: its descriptor is closed, nothing of it is in flight. `cause` is null if all went well. */
  ended(id: number, cause: Error | null): void;
}

/** "open": it is served; "ending": its session has ended; "lingering": the peer is to close first. */
type Phase = "open" | "ending" | "lingering" | "over";

class Connection {
  readonly id: number;
  readonly fd: number;
  readonly session: BlockingSession;
  phase: Phase = "open";
  /** What is waited for. */
  interest = POLL_IN;
  inputEnded = false;
  /** An output that was not sent whole, from `sent` on. */
  output: BlockingOutput | null = null;
  sent = 0;
  /** It is in the list of those that have something to do. */
  queued = false;
  /** When it was blocked, or last took something; when it began to linger. */
  since_ms = 0;
  /** `receivedBytes` of its session when memory was looked at last. */
  seenBytes = 0;
  /** Bytes sent since requests came last. */
  lastSent = 0;
  cause: Error | null = null;

  constructor(id: number, fd: number, session: BlockingSession) {
    this.id = id;
    this.fd = fd;
    this.session = session;
  }
}

/** Sends what fits of an output, from `sent` on, which it counts; true if all of it is sent. */
function sendOutput(fd: number, connection: Connection, output: BlockingOutput): boolean {
  const { bytes, vector } = output;
  if (vector !== null) {
    while (vector.left > 0) {
      const count = vector.sendTo(fd);
      if (count === WOULD_BLOCK) return false;
      connection.sent += count;
    }
    return true;
  }
  const { sent } = connection;
  const rest = sent === 0 ? bytes : bytes.subarray(sent);
  const count = send(fd, rest);
  if (count > 0) connection.sent += count;
  return count === rest.length;
}

/**
 * Receives long messages to where they belong: a client that is as quick as the copying goes on sending
 * meanwhile, and while they are served its socket is empty. One that is longer than a turn comes in pieces,
 * for which others need not wait.
 */
function receiveInto(fd: number, rooms: readonly Uint8Array<ArrayBuffer>[]): number {
  const [first] = rooms;
  const isLong = first !== undefined && first.length > TURN_READ_BYTES;
  return isLong ? receive(fd, first, TURN_READ_BYTES) : receivePieces(fd, rooms);
}

/** No connection has these numbers. */
const WAKE_TAG = -1, STORAGE_TAG = -2;

function asError(cause: unknown): Error {
  return cause instanceof Error ? cause : new Error(String(cause));
}

/** See the top of the file. */
export class SessionLoop {
  readonly #options: SessionLoopOptions;
  readonly #epoll = new EpollSet(TURN_EVENTS_MAX);
  readonly #rapid: RapidWait;
  readonly #storageRapid: RapidWait;
  /** Connections that wait for their storage. */
  readonly #awaiting = new StorageWait<Connection>();
  /** Descriptors that the last wait has found ready. */
  #ready = 0;
  #into = new Uint8Array(TURN_READ_BYTES);
  readonly #connections = new Map<number, Connection>();
  #queue: Connection[] = [];
  /** Those that block or linger, and when the first of them may have done so for too long. */
  readonly #timed = new Set<Connection>();
  #lookAt_ms = Infinity;
  #sweepAt_ms = Infinity;
  readonly #stall_ms: number;
  /** Requests that came in this turn, and the least that one of their clients had left to take: see GatherPause. */
  #requests = 0;
  #slack = Infinity;
  /** Bytes that were received and sent in this turn. */
  #bytes = 0;
  /** Those that were received. */
  #received = 0;
  readonly #gather = new GatherPause();

  /** A loop without connections. */
  constructor(options: SessionLoopOptions) {
    this.#options = options;
    this.#stall_ms = options.sendStall_ms ?? SEND_STALL_MS_MAX;
    const rapidWait = (spin_us: number): RapidWait =>
      new RapidWait((timeout_ms) => this.#look(timeout_ms), () => options.now_ms(), spin_us);
    this.#rapid = rapidWait(options.spin_us ?? SPIN_US);
    this.#storageRapid = rapidWait(options.spin_us ?? STORAGE_SPIN_US);
    this.#epoll.add(options.wakeFd, POLL_IN, WAKE_TAG);
  }

  /** Connections that are not over. */
  get count(): number {
    return this.#connections.size;
  }

  /** The descriptor that it waits with, for whoever cleans up after a thread that has died. */
  get fd(): number {
    return this.#epoll.fd;
  }

  /**
   * Takes over a connected, non-blocking socket and serves it under a number of its own, from 0. If it
   * throws the descriptor is still the caller's, and the session was not begun.
   */
  add(id: number, fd: number, session: BlockingSession): void {
    const connection = new Connection(id, fd, session);
    this.#epoll.add(fd, POLL_IN, id);
    this.#connections.set(id, connection);
    session.onWake = (): void => this.#enqueue(connection);
    // What came behind its handshake is served now.
    this.#enqueue(connection);
  }

  /** Ends a connection in good order, if it is there: see BlockingSession.stop. */
  stop(id: number): void {
    this.#connections.get(id)?.session.stop();
  }

  /** Ends a connection at once, if it is there. */
  cut(id: number, cause: Error): void {
    const connection = this.#connections.get(id);
    if (connection !== undefined) this.#end(connection, cause);
  }

  /** Ends all connections at once; work in flight is left to finish. The eventfd stays open. */
  close(cause: Error): void {
    for (const connection of [...this.#connections.values()]) this.#end(connection, cause);
    this.#epoll.close();
  }

  /** Serves until the eventfd is signalled; gives how often it was, 0 if it returns because of `waits`. */
  run(): number {
    const { waits } = this.#options;
    sharpenSleep();
    for (;;) {
      this.#runQueue();
      if (waits()) return 0;
      this.#wait();
      const signals = this.#serve();
      if (signals > 0) return signals;
    }
  }

  /** Waits; 0 if there is nothing to serve. */
  #look(timeout_ms: number): number {
    this.#ready = this.#epoll.wait(timeout_ms);
    return this.#awaiting.hasNews ? this.#ready + 1 : this.#ready;
  }

  /** Waits in the way that suits what came in the last turn. */
  #wait(): void {
    const requests = this.#requests;
    // What clients send fills their sockets, and then they wait.
    const much = this.#received > GATHER_BYTES_MAX;
    if (!much) this.#gather.turn(requests, this.#slack);
    this.#requests = 0;
    this.#slack = Infinity;
    const patience_ms = this.#patience_ms(), pause_us = this.#gather.next_us;
    const few = requests <= SPIN_REQUESTS_MAX && this.#bytes <= SPIN_BYTES_MAX;
    this.#bytes = 0;
    this.#received = 0;
    // A disk shall not wait for requests that have come.
    if (this.#awaiting.count > 0) this.#storageRapid.wait(patience_ms, few);
    else if (pause_us === 0 || patience_ms === 0 || much) this.#rapid.wait(patience_ms, few);
    else {
      sleepUs(pause_us);
      this.#look(patience_ms);
    }
  }

  /**
   * Serves what there is now, for a thread whose event loop has work of its own under way; gives how often
   * the eventfd was signalled.
   */
  turn(): number {
    this.#runQueue();
    this.#planSweep();
    this.#look(0);
    return this.#serve();
  }

  /** Serves those that the last wait has found. */
  #serve(): number {
    const ready = this.#ready;
    if (this.#awaiting.hasNews) {
      for (const connection of this.#awaiting.take()) this.#enqueue(connection);
    }
    if (this.#lookAt_ms !== Infinity || this.#sweepAt_ms !== Infinity) this.#lookAtTime();
    let woken = false;
    for (let at = 0; at < ready; at++) {
      const tag = this.#epoll.tag(at);
      if (tag === WAKE_TAG) {
        woken = true;
        continue;
      }
      const connection = this.#connections.get(tag);
      if (connection === undefined) continue;
      this.#step(connection, this.#epoll.events(at));
      if (ready === 1) this.#goOn(connection);
    }
    return woken ? clearEvent(this.#options.wakeFd) : 0;
  }

  /** How long there is nothing to do by itself. */
  #patience_ms(): number {
    if (this.#queue.length > 0 || this.#awaiting.hasNews) return 0;
    this.#planSweep();
    const until_ms = Math.min(this.#lookAt_ms, this.#sweepAt_ms);
    if (until_ms === Infinity) return -1;
    return Math.max(0, Math.ceil(until_ms - this.#options.now_ms()));
  }

  /** While memory is scarce it is looked at now and then who holds it. */
  #planSweep(): void {
    const { now_ms, scarce, scarceSweep_ms } = this.#options;
    if (!scarce()) this.#sweepAt_ms = Infinity;
    else if (this.#sweepAt_ms === Infinity) this.#sweepAt_ms = now_ms() + scarceSweep_ms;
  }

  /**
   * A client that sends much has more to be received when it was served: as long as it is the only one that is
   * not asked for.
   */
  #goOn(connection: Connection): void {
    for (let turn = 1; turn < TURNS_IN_A_ROW_MAX; turn++) {
      const before = this.#received;
      const isQuick = connection.interest === POLL_IN && this.#queue.length === 0;
      if (before <= turn * GATHER_BYTES_MAX || !isQuick) return;
      this.#step(connection, POLL_IN);
      if (this.#received === before) return;
    }
  }

  #step(connection: Connection, events: number): void {
    if (connection.phase !== "open") {
      if (connection.phase === "lingering") this.#linger(connection, events);
      return;
    }
    const { session } = connection;
    this.#options.now_ms();
    try {
      if ((events & POLL_IN) !== 0 && session.ready && !connection.inputEnded) {
        this.#receive(connection);
      } else if ((events & (POLL_ERROR | POLL_HANGUP)) !== 0 && connection.output === null) {
        return this.#end(connection, new Error("the client went away"));
      }
    } catch (error) {
      return this.#end(connection, asError(error));
    }
    this.#flush(connection);
  }

  /** Reads once, and lets the session serve it. */
  #receive(connection: Connection): void {
    const { session, fd } = connection;
    const before = session.requestCount;
    const rooms = session.inputRooms();
    const into = this.#into;
    const own = rooms.length === 0;
    const count = own ? receive(fd, into) : receiveInto(fd, rooms);
    if (!own) session.receivedInto(Math.max(0, count));
    if (count === WOULD_BLOCK) return;
    this.#bytes += count;
    this.#received += count;
    if (count === 0) connection.inputEnded = true;
    else if (own) {
      session.receive(into.subarray(0, count));
      if (!session.releaseInput()) this.#into = new Uint8Array(TURN_READ_BYTES);
    }
    this.#countRequests(connection, session.requestCount - before);
  }

  #countRequests(connection: Connection, count: number): void {
    this.#requests += count;
    if (count === 0 || this.#slack === 0) return;
    // Replies of this turn are not sent yet: what is under way are those of turns before.
    const { fd, lastSent } = connection;
    connection.lastSent = 0;
    // No pause is made then.
    if (this.#received > GATHER_BYTES_MAX) return;
    this.#slack = Math.min(this.#slack, unreadBytes(fd) / Math.max(1, lastSent));
  }

  /** Serves those whose turn came through others or by time, each once. */
  #runQueue(): void {
    if (this.#queue.length === 0) return;
    const queue = this.#queue;
    this.#queue = [];
    for (const connection of queue) {
      connection.queued = false;
      this.#options.now_ms();
      this.#flush(connection);
    }
  }

  #enqueue(connection: Connection): void {
    if (connection.queued || connection.phase === "over") return;
    connection.queued = true;
    this.#queue.push(connection);
  }

  /** Sends what there is, as far as this turn and the socket go, and ends what is at its end. */
  #flush(connection: Connection): void {
    if (connection.phase === "ending") this.#endWhenDone(connection);
    if (connection.phase !== "open") return;
    const { session } = connection;
    try {
      if (!this.#sendAll(connection)) return;
    } catch (error) {
      return this.#end(connection, asError(error));
    }
    if (session.awaits !== null) this.#await(connection, session.awaits);
    if (connection.output === null && (session.finished || connection.inputEnded)) {
      return this.#end(connection, session.failure);
    }
    const reads = session.ready && !connection.inputEnded;
    const blocked = connection.output !== null;
    const interest = (reads ? POLL_IN : 0) | (blocked ? POLL_OUT : 0);
    if (interest === connection.interest) return;
    connection.interest = interest;
    this.#epoll.change(connection.fd, interest, connection.id);
  }

  #await(connection: Connection, storage: StorageNews): void {
    if (!this.#awaiting.add(connection, storage)) return;
    this.#epoll.add(storage.descriptor, POLL_IN | POLL_EDGE, STORAGE_TAG);
  }

  /** False if there may be more to send, and others have their turn first. */
  #sendAll(connection: Connection): boolean {
    const { session } = connection;
    let bytesLeft = TURN_SEND_BYTES;
    for (let outputs = 0;; outputs++) {
      const resumed = connection.output !== null;
      const output = connection.output ?? session.takeOutput();
      if (output === null) return true;
      if (bytesLeft <= 0 || outputs === TURN_OUTPUTS_MAX) {
        connection.output = output;
        this.#enqueue(connection);
        return false;
      }
      connection.output = output;
      const before = connection.sent;
      const whole = this.#send(connection, output);
      bytesLeft -= connection.sent - before;
      this.#bytes += connection.sent - before;
      connection.lastSent += connection.sent - before;
      if (!whole) {
        if (connection.sent > before || !this.#timed.has(connection)) this.#watch(connection);
        return true;
      }
      this.#releaseOutput(connection);
      if (resumed) this.#timed.delete(connection);
      if (session.paced) {
        this.#listenTo(connection, session.ready && !connection.inputEnded ? POLL_IN : 0);
        this.#enqueue(connection);
        return false;
      }
    }
  }

  /** Data that are sent from where they lie are read by sending: it tells how long that took. */
  #send(connection: Connection, output: BlockingOutput): boolean {
    const { fd, sent } = connection;
    const { sentIn = null } = output;
    if (sentIn === null) return sendOutput(fd, connection, output);
    const { now_ms } = this.#options;
    const begun_ms = now_ms();
    const whole = sendOutput(fd, connection, output);
    if (connection.sent > sent) sentIn((now_ms() - begun_ms) * 1000, connection.sent - sent);
    return whole;
  }

  #releaseOutput(connection: Connection): void {
    const { output } = connection;
    connection.output = null;
    connection.sent = 0;
    output?.release();
  }

  /** No more is read or sent: ends the session, and the connection when nothing of it is in flight. */
  #end(connection: Connection, cause: Error | null): void {
    if (connection.phase === "over") return;
    if (connection.phase === "lingering") return this.#over(connection);
    if (connection.phase === "ending") return;
    connection.phase = "ending";
    connection.cause = cause;
    const { session } = connection;
    this.#timed.delete(connection);
    this.#releaseOutput(connection);
    session.end(cause ?? undefined);
    this.#listenTo(connection, 0);
    this.#endWhenDone(connection);
  }

  #endWhenDone(connection: Connection): void {
    const { session, cause, inputEnded, fd } = connection;
    if (!session.finished) return;
    session.onWake = null;
    if (cause !== null || inputEnded) return this.#over(connection);
    // Closing with unread input would throw away bytes that are still under way to the peer.
    try {
      shutdown(fd, "write");
    } catch {
      return this.#over(connection);
    }
    connection.phase = "lingering";
    this.#listenTo(connection, POLL_IN);
    this.#watch(connection);
  }

  #listenTo(connection: Connection, interest: number): void {
    if (connection.interest === interest) return;
    connection.interest = interest;
    this.#epoll.change(connection.fd, interest, connection.id);
  }

  #linger(connection: Connection, events: number): void {
    try {
      if ((events & POLL_IN) !== 0) {
        const count = receive(connection.fd, this.#into);
        if (count > 0 || count === WOULD_BLOCK) return;
      }
    } catch {
      // It is gone, which is what was waited for.
    }
    this.#over(connection);
  }

  #over(connection: Connection): void {
    connection.phase = "over";
    this.#timed.delete(connection);
    this.#awaiting.delete(connection);
    this.#connections.delete(connection.id);
    this.#epoll.remove(connection.fd);
    closeDescriptor(connection.fd);
    this.#options.ended(connection.id, connection.cause);
  }

  /** Begins to measure for how long it blocks or lingers. */
  #watch(connection: Connection): void {
    const now_ms = this.#options.now_ms();
    connection.since_ms = now_ms;
    this.#timed.add(connection);
    this.#lookAt_ms = Math.min(this.#lookAt_ms, now_ms + this.#limitOf(connection));
  }

  #limitOf(connection: Connection): number {
    if (connection.phase === "lingering") return LINGER_MS_MAX;
    return this.#options.scarce()
      ? this.#stall_ms * SCARCE_STALL_LOOKS / SEND_STALL_LOOKS
      : this.#stall_ms;
  }

  /** Ends what has taken too long. */
  #lookAtTime(): void {
    const now_ms = this.#options.now_ms();
    const sweeps = now_ms >= this.#sweepAt_ms;
    if (sweeps) this.#sweep(now_ms);
    if (!sweeps && now_ms < this.#lookAt_ms) return;
    this.#lookAt_ms = Infinity;
    for (const connection of [...this.#timed]) {
      const end_ms = connection.since_ms + this.#limitOf(connection);
      if (now_ms < end_ms) this.#lookAt_ms = Math.min(this.#lookAt_ms, end_ms);
      else if (connection.phase === "lingering") this.#over(connection);
      else {
        const idle_ms = Math.round(now_ms - connection.since_ms);
        const reason = `the peer has taken nothing of what was sent for ${idle_ms} ms`;
        this.#end(connection, new Error(`Cannot use the connection: ${reason}`));
      }
    }
  }

  /**
   * While memory is scarce: cuts off who has sent a part of a request and then nothing more. Else any
   * silence is a client's right.
   */
  #sweep(now_ms: number): void {
    const { scarceSweep_ms, scarcePartialBytes } = this.#options;
    this.#sweepAt_ms = now_ms + scarceSweep_ms;
    for (const connection of [...this.#connections.values()]) {
      const { session, seenBytes, phase } = connection;
      if (phase !== "open") continue;
      connection.seenBytes = session.receivedBytes;
      if (session.receivedBytes !== seenBytes || !session.ready || session.paced) continue;
      if (session.pendingBytes <= scarcePartialBytes) continue;
      const reason = "it has stopped in the middle of a request while memory is scarce";
      this.#end(connection, new Error(reason));
    }
  }
}
