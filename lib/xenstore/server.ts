/**
 * XenStore service: over any pair of Web Streams, and on a unix socket whose peers become domains by
 * their user ids. User ids do not fit the 16 bits of a domain's number, so a table says who is who: root
 * and the user of this process are domain 0, whoever is not listed is refused.
 *
 * @module
 */
import net from "node:net";
import { runSession } from "../stream/run_session.ts";
import type { BytePair } from "../stream/session.ts";
import { type PeerCredentials, peerCredentials } from "../sys/socket.ts";
import { listenUnix } from "../sys/unix_listener.ts";
import { isDomid } from "./domains.ts";
import { CONNECTIONS_MAX, DOMAIN_CONNECTIONS_MAX } from "./limits.ts";
import { XenstoreSession } from "./session.ts";
import { runOnSocket } from "./socket_driver.ts";
import type { Store } from "./store.ts";

export type { PeerCredentials };

/** Settings of `serveXenstore`. */
export interface ServeXenstoreOptions {
  /** The domain of the peer. */
  readonly domid: number;
  /** Ends the connection at once. */
  readonly signal?: AbortSignal;
}

/**
 * Serves one peer until it goes. Resolves when its watches and transactions are gone; rejects with
 * ProtocolError if it broke the protocol or left too many events unread.
 *
 * @example
 * ```ts
 * import { memoryPair } from "../stream/memory_pair.ts";
 * import { XenstoreClient } from "./client.ts";
 * import { serveXenstore } from "./server.ts";
 * import { Store } from "./store.ts";
 *
 * const [here, there] = memoryPair();
 * const serving = serveXenstore(there, new Store(), { domid: 0 });
 * const client = new XenstoreClient(here);
 * await client.write("/greeting", "hello");
 * if (await client.readText("/greeting") !== "hello") throw new Error("it was not kept");
 * await client.close();
 * await serving;
 * ```
 */
export async function serveXenstore(
  pair: BytePair,
  store: Store,
  options: ServeXenstoreOptions,
): Promise<void> {
  const { domid, signal } = options;
  const session = new XenstoreSession(store, { domid });
  await runSession(pair, session, signal === undefined ? {} : { signal });
  if (session.failure !== null) throw session.failure;
}

/** A peer of a server on a unix socket. */
export interface XenstorePeer {
  /** Process, user and group at the time of its connect. */
  readonly credentials: PeerCredentials;
  /** Its domain. */
  readonly domid: number;
}

/** Settings of a server on a unix socket. */
export interface ListenXenstoreOptions {
  /** Where the socket is. */
  readonly path: string;
  /** Permission bits of the socket, 0600 if not told. */
  readonly mode?: number;
  /** Domains of users besides root and the one of this process. */
  readonly domains?: ReadonlyMap<number, number>;
  /** A peer has connected. Gives what is to be done when it has gone, with the reason if it broke something. */
  readonly connected?: (peer: XenstorePeer, session: XenstoreSession) => (cause: unknown) => void;
  /** A peer was turned away. */
  readonly refused?: (credentials: PeerCredentials | null, reason: string) => void;
}

/** A server on a unix socket. */
export interface XenstoreServer extends AsyncDisposable {
  /** Where it listens. */
  readonly path: string;
  /** Peers that are connected. */
  readonly connections: number;
  /** Stops listening and ends all connections. Later calls do nothing. */
  close(): Promise<void>;
}

/** The domain of a user, null for one that is refused. */
export function domainOfUser(
  uid: number,
  domains: ReadonlyMap<number, number> = new Map(),
): number | null {
  return uid === 0 || uid === Deno.uid() ? 0 : domains.get(uid) ?? null;
}

/**
 * Listens on a unix socket. The domains of the table are introduced, so that permissions can name them.
 * Throws SystemError as listenUnix does, RangeError for a domain that cannot be.
 */
export async function listenXenstore(
  store: Store,
  options: ListenXenstoreOptions,
): Promise<XenstoreServer> {
  const { path, mode = 0o600, domains = new Map<number, number>() } = options;
  for (const [uid, domid] of domains) {
    if (!isDomid(domid)) {
      throw new RangeError(`Cannot map user ${uid} to domain ${domid}: no such number`);
    }
    store.introduce(domid);
  }
  // The descriptor goes to node:net, which closes it; so the listener's own close is not used.
  const { fd } = listenUnix(path, { mode });
  const mine = identity(path);
  const sockets = new Map<net.Socket, Promise<void>>();
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) => {
    const run = accept(socket);
    if (run === null) {
      socket.on("error", () => {});
      socket.destroy();
      return;
    }
    sockets.set(socket, run.then(() => void sockets.delete(socket)));
  });

  function accept(socket: net.Socket): Promise<void> | null {
    const credentials = credentialsOf(socket);
    const uid = credentials?.uid ?? -1;
    const domid = credentials === null ? null : domainOfUser(uid, domains);
    const reason = domid === null
      ? "the user is not listed"
      : sockets.size >= CONNECTIONS_MAX
      ? "there are too many connections"
      : domid !== 0 && store.connectionCount(domid) >= DOMAIN_CONNECTIONS_MAX
      ? "the domain has too many connections"
      : null;
    if (reason !== null || domid === null || credentials === null) {
      options.refused?.(credentials, reason ?? "");
      return null;
    }
    const session = new XenstoreSession(store, { domid });
    const over = options.connected?.({ credentials, domid }, session);
    return runOnSocket(socket, session).then(
      () => over?.(session.failure ?? undefined),
      (error: unknown) => over?.(error),
    );
  }

  let closing: Promise<void> | null = null;
  const close = async (): Promise<void> => {
    // The file goes first: as long as the socket listens no other server takes the path.
    if (identity(path) === mine) Deno.removeSync(path);
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    const runs = [...sockets.values()];
    for (const socket of sockets.keys()) socket.destroy();
    await Promise.all(runs);
    await closed;
  };
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ fd }, resolve);
  });
  return {
    path,
    get connections(): number {
      return sockets.size;
    },
    close: (): Promise<void> => closing ??= close(),
    [Symbol.asyncDispose]: (): Promise<void> => closing ??= close(),
  };
}

/** Tells one socket file from another that has taken its place. */
function identity(path: string): string | null {
  try {
    const { dev, ino } = Deno.lstatSync(path);
    return `${dev}:${ino}`;
  } catch {
    return null;
  }
}

/** Who is at the other end; null if the runtime does not show the descriptor. */
function credentialsOf(socket: net.Socket): PeerCredentials | null {
  const handle: unknown = "_handle" in socket ? socket._handle : null;
  if (typeof handle !== "object" || handle === null || !("fd" in handle)) return null;
  return typeof handle.fd === "number" && handle.fd >= 0 ? peerCredentials(handle.fd) : null;
}
