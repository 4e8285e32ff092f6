/**
 * The connections of a daemon on their home thread, from hand-over to end: TLS where it was asked for,
 * then the transmission phase over a byte pair.
 *
 * @module
 */
import type { Clock, Log } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import type { BufferPool } from "../block/pool.ts";
import { type Peer } from "../driver/handshake.ts";
import { HANDSHAKE_MS_MAX, SEND_BUFFER_BYTES } from "../driver/limits.ts";
import { adoptDescriptor, socketPair, type SocketPairOptions } from "../driver/socket_pair.ts";
import { startTlsServer, type TlsServerOptions } from "../driver/tls.ts";
import type { ExportTable, HandshakeState } from "../nbd/export_info.ts";
import { type Relay, serveConnection, serveTransmission, type Service } from "../nbd/server.ts";
import type { NbdServerSession } from "../nbd/server_session.ts";
import type { BytePair } from "../stream/session.ts";
import { closeDescriptor, openSocketPair, setSendBuffer } from "../sys/socket.ts";
import { addressText } from "../sys/socket_address.ts";
import type { NbdHandOver } from "./acceptor.ts";
import type { ThreadConnection } from "./target_thread.ts";
import { SCARCE_PARTIAL_BYTES, SCARCE_SWEEP_MS, STOP_MS_MAX } from "./limits.ts";

/** A connection, as the open file that it becomes shows and ends it. */
export interface WayIn {
  /** Who is at the other end. */
  readonly peer: string;
  /** Ends the connection: what is in flight is answered, what came behind it gets ESHUTDOWN. */
  readonly kick: () => void;
}

/** What serves an export in a thread of its own. */
export interface ServiceElsewhere {
  /** Hands a descriptor over; if it throws that is still the caller's. */
  serve(fd: number, state: HandshakeState, unread: Uint8Array): ThreadConnection;
  /** Called once when the connection is over. */
  readonly close: () => void;
}

/** What connections need of their daemon. */
export interface ConnectionsOptions {
  /** Opens what serves an export; throws ENOENT if it is gone. */
  open(state: HandshakeState, way: WayIn): Service | ServiceElsewhere;
  /** What handshakes that go on under TLS see, by the label of the listener that they came through. */
  readonly exportsAt: (listener: string) => ExportTable;
  /** Certificates; null if there is no TLS. */
  readonly tls: TlsServerOptions | null;
  /** Connections at once. */
  readonly connectionsMax: number;
  /** Limits that differ from those in lib/driver/limits.ts. */
  readonly limits: ClientLimits;
  /** Where the memory of all connections comes from. */
  readonly pool: BufferPool;
  readonly clock: Clock;
  readonly log: Log;
}

/** What clients may take of a daemon; each has its number in a limits.ts. */
export interface ClientLimits {
  /** HANDSHAKES_MAX. */
  readonly handshakes?: number;
  /** HANDSHAKE_MS_MAX, in ms. */
  readonly handshake_ms?: number;
  /** SEND_STALL_MS_MAX, in ms. */
  readonly sendStall_ms?: number;
  /** POOL_PLENTY_BYTES_MAX, in bytes. */
  readonly plentyBytes?: number;
  /** SCARCE_SWEEP_MS, in ms. */
  readonly scarceSweep_ms?: number;
}

/** One connection. */
interface Connection {
  readonly abort: AbortController;
  /** Its session in the transmission phase, null before that, and if that is in another thread. */
  session: NbdServerSession | null;
  /** What can be ended in good order: the session, in whatever thread. */
  served: { stop(): void } | null;
  /** Bytes that it had sent when memory was looked at last. */
  receivedBytes: number;
  /** Settles when it is over; never rejects. */
  readonly over: Promise<void>;
}

/** Who is at the other end, for the log. */
export function peerText(peer: Peer): string {
  const { credentials, address } = peer;
  if (credentials === null) return addressText(address);
  return `process ${credentials.pid} of user ${credentials.uid}`;
}

/** All connections that were handed over and are not over. */
export class Connections {
  /** Shared with the acceptor, which adds one when it hands a connection over; here they are taken off. */
  readonly taken: Int32Array<SharedArrayBuffer> = new Int32Array(
    new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT),
  );
  readonly #options: ConnectionsOptions;
  readonly #connections = new Set<Connection>();
  readonly #sweeper: ReturnType<typeof setInterval>;
  #stopping = false;

  constructor(options: ConnectionsOptions) {
    this.#options = options;
    const { scarceSweep_ms = SCARCE_SWEEP_MS } = options.limits;
    this.#sweeper = setInterval(() => this.#sweep(), scarceSweep_ms);
    Deno.unrefTimer(this.#sweeper);
  }

  /** Connections now. */
  get count(): number {
    return this.#connections.size;
  }

  /** Takes a connection over, descriptor included. */
  take(handOver: NbdHandOver): void {
    const { log, connectionsMax } = this.#options;
    const who = peerText(handOver.peer);
    if (this.#stopping || this.#connections.size >= connectionsMax) {
      if (!this.#stopping) log.warn(`Refused ${who}: there are ${connectionsMax} connections`);
      closeDescriptor(handOver.fd);
      Atomics.sub(this.taken, 0, 1);
      return;
    }
    const abort = new AbortController();
    const connection: Connection = {
      abort,
      session: null,
      served: null,
      receivedBytes: 0,
      over: Promise.resolve().then(() => this.#serve(handOver, connection)).then(
        () => log.debug(`Connection of ${who} ended`),
        (error: unknown) => {
          if (this.#stopping) log.debug(`Cut off ${who}: ${reasonOf(error)}`);
          else log.info(`Connection of ${who} ended: ${reasonOf(error)}`);
        },
      ).finally(() => {
        this.#connections.delete(connection);
        Atomics.sub(this.taken, 0, 1);
      }),
    };
    this.#connections.add(connection);
    if (this.#connections.size === connectionsMax) {
      log.warn(`There are ${connectionsMax} connections: more clients are refused until one ends`);
    }
  }

  async #serve(handOver: NbdHandOver, connection: Connection): Promise<void> {
    const { fd, result, peer, listener } = handOver;
    const { log, open, exportsAt } = this.#options;
    const { signal } = connection.abort;
    const settings = this.#pairSettings();
    const started = (session: NbdServerSession): void => {
      connection.session = session;
      connection.served = session;
      if (this.#stopping) session.stop();
    };
    if (result.kind === "transmission") {
      const { state, unread } = result;
      log.debug(`${peerText(peer)} uses ${state.exportName}`);
      const service = beforeAdopting(fd, () => open(state, wayInOf(peer, connection)));
      if ("serve" in service) {
        const local = peer.credentials !== null;
        const serve = (): ThreadConnection => {
          // TCP finds its own size.
          if (local) setSendBuffer(fd, SEND_BUFFER_BYTES);
          return service.serve(fd, state, unread);
        };
        return await this.#serveElsewhere(fd, serve, service.close, connection);
      }
      let pair: BytePair;
      try {
        pair = socketPair(adoptDescriptor(fd), settings);
      } catch (error) {
        await service.close?.();
        throw error;
      }
      await serveTransmission(pair, state, unread, { ...service, signal, started });
      return;
    }
    const { tls } = this.#options;
    if (result.kind === "close" || tls === null) {
      closeDescriptor(fd);
      return;
    }
    const pair = await startTlsServer(adoptDescriptor(fd), { ...tls, signal, pair: settings });
    log.debug(`${peerText(peer)} is under ${pair.protocol} as ${pair.peerSubject ?? "nobody"}`);
    const exports = exportsAt(listener);
    await this.#haggle(
      pair,
      { exports, clientFlags: result.clientFlags },
      peer,
      connection,
      started,
    );
  }

  /** Hands a connection to the thread of its target, and waits for its end. */
  async #serveElsewhere(
    fd: number,
    serve: () => ThreadConnection,
    close: () => void,
    connection: Connection,
  ): Promise<void> {
    const { signal } = connection.abort;
    try {
      const served = beforeAdopting(fd, serve);
      connection.served = served;
      if (this.#stopping) served.stop();
      const cut = (): void => served.cut(reasonOf(signal.reason));
      signal.addEventListener("abort", cut);
      if (signal.aborted) cut();
      await served.over;
    } finally {
      close();
    }
  }

  /** Carries the bytes of a connection that is under TLS to the thread of its target, and back. */
  async #relay(
    outer: BytePair,
    state: HandshakeState,
    unread: Uint8Array,
    service: ServiceElsewhere,
    connection: Connection,
  ): Promise<void> {
    const [here, there] = openSocketPair();
    const { signal } = connection.abort;
    const inner = socketPair(adoptDescriptor(here), this.#pairSettings());
    const serve = (): ThreadConnection => service.serve(there, state, unread);
    const serving = this.#serveElsewhere(there, serve, service.close, connection);
    const [outcome] = await Promise.allSettled([
      serving,
      outer.readable.pipeTo(inner.writable, { signal }),
      inner.readable.pipeTo(outer.writable, { signal }),
    ]);
    if (outcome.status === "rejected") throw outcome.reason;
  }

  #pairSettings(): SocketPairOptions {
    const { pool, limits: { sendStall_ms } } = this.#options;
    return {
      scarce: () => pool.scarce,
      ...(sendStall_ms === undefined ? {} : { sendStall_ms }),
    };
  }

  /** The rest of a handshake, under TLS, and what follows it. */
  async #haggle(
    pair: BytePair,
    terms: { readonly exports: ExportTable; readonly clientFlags: number },
    peer: Peer,
    connection: Connection,
    started: (session: NbdServerSession) => void,
  ): Promise<void> {
    const { log, open, limits: { handshake_ms = HANDSHAKE_MS_MAX } } = this.#options;
    const { abort } = connection;
    const timer = setTimeout(() => {
      const reason = `the handshake took more than ${handshake_ms} ms`;
      abort.abort(new BlockError("ETIMEDOUT", reason));
    }, handshake_ms);
    try {
      const end = await serveConnection(pair, {
        exports: terms.exports,
        open: (state): Service | Relay => {
          const service = open(state, wayInOf(peer, connection));
          if (!("serve" in service)) return service;
          clearTimeout(timer);
          return {
            relay: (outer, settled, unread) =>
              this.#relay(outer, settled, unread, service, connection),
          };
        },
        tls: "required",
        secured: { clientFlags: terms.clientFlags },
        signal: abort.signal,
        started: (session) => {
          clearTimeout(timer);
          started(session);
        },
      });
      if (end.kind === "closed") log.debug(`Handshake of ${peerText(peer)} ended: ${end.reason}`);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * While memory is scarce: cuts off who has sent a part of a request and then nothing more. (Who takes
   * no replies is found by its socket.) Else any silence is a client's right.
   */
  #sweep(): void {
    const { pool } = this.#options;
    for (const connection of this.#connections) {
      const { session, receivedBytes, abort } = connection;
      if (session === null) continue;
      connection.receivedBytes = session.receivedBytes;
      const holds = session.ready && session.pendingBytes > SCARCE_PARTIAL_BYTES;
      if (!pool.scarce || !holds || session.receivedBytes !== receivedBytes) continue;
      const reason = "it has stopped in the middle of a request while memory is scarce";
      abort.abort(new BlockError("ETIMEDOUT", reason));
    }
  }

  /** Lets what is in flight finish, up to STOP_MS_MAX, and ends all connections. */
  async stop(): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#sweeper);
    const connections = [...this.#connections];
    for (const connection of connections) hangUp(connection, shutDown());
    const patience = new AbortController();
    const late = this.#options.clock.sleep(STOP_MS_MAX, patience.signal).then(() => {
      for (const { abort } of this.#connections) abort.abort(shutDown());
    }, () => {});
    await Promise.all(connections.map(({ over }) => over));
    patience.abort();
    await late;
  }
}

/** Does what can fail while the descriptor has no owner yet: it is closed then. */
function beforeAdopting<T>(fd: number, step: () => T): T {
  try {
    return step();
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
}

function wayInOf(peer: Peer, connection: Connection): WayIn {
  const revoked = new BlockError("ENODEV", "its access was revoked");
  return { peer: peerText(peer), kick: () => hangUp(connection, revoked) };
}

/** Ends a connection in good order, or at once if it has not come to its requests yet. */
function hangUp({ served, abort }: Connection, reason: BlockError): void {
  if (served === null) abort.abort(reason);
  else served.stop();
}

function shutDown(): BlockError {
  return new BlockError("ESHUTDOWN", "the server is shutting down");
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
