/**
 * Who may come in to a XenStore service, over a socket or through a xenbus file, and what is told of it.
 *
 * @module
 */
import {
  CONNECTIONS_MAX,
  DOMAIN_CONNECTIONS_MAX,
  DOMAIN_CONNECTS_AT_ONCE,
  DOMAIN_CONNECTS_PER_SECOND,
  REFUSALS_TOLD_PER_SECOND,
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
  /** Milliseconds of a clock that only goes forward. */
  readonly now_ms: () => number;
}

/** So many at once, and so many more each second. */
class Allowance {
  readonly #atOnce: number;
  readonly #perSecond: number;
  #left: number;
  #at_ms: number;

  constructor(atOnce: number, perSecond: number, now_ms: number) {
    this.#atOnce = atOnce;
    this.#perSecond = perSecond;
    this.#left = atOnce;
    this.#at_ms = now_ms;
  }

  /** Takes one; false if there is none left. */
  take(now_ms: number): boolean {
    const come = (now_ms - this.#at_ms) / 1000 * this.#perSecond;
    this.#left = Math.min(this.#atOnce, this.#left + come);
    this.#at_ms = now_ms;
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
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
  readonly #now_ms: () => number;
  /** What a domain other than 0 may still come. */
  readonly #comings = new Map<number, Allowance>();
  readonly #tellings: Allowance;
  #untold = 0;
  #lastId = 0;

  /** Nobody has come. */
  constructor({ store, domains, events, now_ms }: PeersOptions) {
    this.store = store;
    this.events = events;
    this.#domains = domains;
    this.#now_ms = now_ms;
    this.#tellings = new Allowance(
      REFUSALS_TOLD_PER_SECOND,
      REFUSALS_TOLD_PER_SECOND,
      now_ms(),
    );
  }

  /** Lets somebody in, or not, and tells of it. */
  admit({ kind, pid, uid }: Caller): Admission {
    const text = `process ${pid} of user ${uid}`;
    const domid = domainOfUser(uid, this.#domains);
    const reason = domid === null
      ? "the user is not listed"
      : this.#crowded(domid) ?? this.#hasty(domid);
    if (domid === null || reason !== null) {
      this.#tell(text, reason ?? "", domid);
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

  /** Why nobody of a domain can come in so soon, or null: each one is work for the daemon. */
  #hasty(domid: number): string | null {
    if (domid === 0) return null;
    const now_ms = this.#now_ms();
    let comings = this.#comings.get(domid);
    if (comings === undefined) {
      comings = new Allowance(DOMAIN_CONNECTS_AT_ONCE, DOMAIN_CONNECTS_PER_SECOND, now_ms);
      this.#comings.set(domid, comings);
    }
    return comings.take(now_ms) ? null : "the domain connects too often";
  }

  /** Tells of a refusal; of most of them only how many they were, when there is no end to them. */
  #tell(text: string, reason: string, domid: number | null): void {
    if (domid !== 0 && !this.#tellings.take(this.#now_ms())) {
      this.#untold += 1;
      return;
    }
    const more = this.#untold === 0 ? "" : `; before that ${this.#untold} refusals were not told`;
    this.#untold = 0;
    this.events.refused(text, reason + more);
  }
}
