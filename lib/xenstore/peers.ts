/**
 * Who may come in to a XenStore service, over a socket or through a xenbus file, and what is told of it.
 *
 * @module
 */
import {
  CONNECTIONS_MAX,
  DOMAIN_CONNECTIONS_MAX,
  SERVICE_PRIVILEGED_CONNECTIONS,
} from "./limits.ts";
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

/** What a service's thread tells; everything in the order in which it happens. */
export interface ServiceEvents {
  /** A connection was made; nothing of it has been read. */
  opened(peer: ServicePeer): void;
  /** A connection has ended, its watches and transactions with it. */
  closed(id: number, reason: string): void;
  /** Somebody was turned away. */
  refused(peer: string, reason: string): void;
  /** A CONTROL for the daemon, which is answered later. */
  control(id: number, words: readonly string[]): void;
  /** False while too much of the above was not heard yet: nobody else is let in then. */
  readonly listening: boolean;
}

/** What decides who may come in. */
export interface PeersOptions {
  /** What is served. */
  readonly store: Store;
  /** Users and their domains. */
  readonly domains: ReadonlyMap<number, number>;
  /** Gets what happens. */
  readonly events: ServiceEvents;
}

/** Somebody at the door. */
export interface Caller {
  /** How it comes. */
  readonly kind: ServicePeer["kind"];
  /** The process. */
  readonly pid: number;
  /** Its user. */
  readonly uid: number;
}

/** The answer: who it is from now on, or null and whether that is for who it is. */
export type Admission =
  | { readonly peer: ServicePeer }
  | { readonly peer: null; readonly stranger: boolean };

/** The door of a service. */
export class Peers {
  /** What is served. */
  readonly store: Store;
  /** Gets what happens. */
  readonly events: ServiceEvents;
  readonly #domains: ReadonlyMap<number, number>;
  #lastId = 0;

  /** Nobody has come. */
  constructor({ store, domains, events }: PeersOptions) {
    this.store = store;
    this.events = events;
    this.#domains = domains;
  }

  /** Lets somebody in, or not, and tells of it. */
  admit({ kind, pid, uid }: Caller): Admission {
    const text = `process ${pid} of user ${uid}`;
    const domid = domainOfUser(uid, this.#domains);
    const reason = domid === null ? "the user is not listed" : this.#crowded(domid);
    if (domid === null || reason !== null) {
      this.events.refused(text, reason ?? "");
      return { peer: null, stranger: domid === null };
    }
    const peer = { id: ++this.#lastId, kind, peer: text, domid };
    this.events.opened(peer);
    return { peer };
  }

  /** Why nobody of a domain can come in now, or null. */
  #crowded(domid: number): string | null {
    const count = this.store.connectionCount();
    const max = domid === 0 ? CONNECTIONS_MAX : CONNECTIONS_MAX - SERVICE_PRIVILEGED_CONNECTIONS;
    if (count >= max) return "there are too many connections";
    if (domid === 0 || this.store.connectionCount(domid) < DOMAIN_CONNECTIONS_MAX) return null;
    return "the domain has too many connections";
  }
}
