/**
 * The store: tree, watches, domains, and what happens to all of them. Callers come in through
 * connections (see connection.ts): those of the wire and, for the daemon itself, those made with
 * `connect(0)`. Everything is done on the spot; nothing here waits or opens anything. Modelled on
 * xenstored (C).
 *
 * @module
 */
import { INTRODUCE_DOMAIN, RELEASE_DOMAIN } from "./constants.ts";
import { type ConnectOptions, StoreConnection } from "./connection.ts";
import { Domains, isDomid } from "./domains.ts";
import { XenstoreError } from "./errors.ts";
import { Ledger } from "./ledger.ts";
import { baseName, parentPath } from "./path.ts";
import { ignoring, ownerOf, type Permissions, PRIVATE, withoutDomain } from "./permissions.ts";
import type { Transaction } from "./transaction.ts";
import { ownedBy, Tree, visitUpwards } from "./tree.ts";
import { WatchTable } from "./watches.ts";

/** A change that was committed. */
export interface StoreChange {
  /** The node. */
  readonly path: string;
  /** Whether it is there now; else it was removed with all below it. */
  readonly kind: "set" | "removed";
}

/** A node that is being removed: the permissions of it and of its parent let watchers hear of that. */
interface Gone {
  readonly path: string;
  readonly permissions: readonly (Permissions | undefined)[];
}

/** A XenStore. */
export class Store {
  /** The nodes as everybody sees them outside of transactions. */
  readonly tree: Tree = Tree.create({ value: 0 });
  /** All watches. */
  readonly watches: WatchTable = new WatchTable();
  /** All domains. */
  readonly domains: Domains = new Domains();
  /** What is in the tree. */
  readonly ledger: Ledger = new Ledger();
  /** Who may watch the special paths. */
  readonly special: Map<string, Permissions> = new Map([
    [INTRODUCE_DOMAIN, PRIVATE],
    [RELEASE_DOMAIN, PRIVATE],
  ]);
  readonly #connections = new Set<StoreConnection>();
  readonly #listeners = new Set<(change: StoreChange) => void>();
  #order = 0;

  /** A store with the nodes that xenstored begins with: "/tool/xenstored", private to domain 0. */
  constructor() {
    const root = this.tree.get("/");
    if (root !== undefined) this.ledger.count(root, 1);
    const setup = this.connect(0);
    setup.mkdir("/tool/xenstored");
    setup.close();
  }

  /** Makes a connection of a domain. */
  connect(domid: number, options: ConnectOptions = {}): StoreConnection {
    if (!isDomid(domid)) throw new RangeError(`Cannot connect domain ${domid}: no such number`);
    this.domains.get(domid);
    const connection = new StoreConnection(this, domid, ++this.#order, options);
    this.#connections.add(connection);
    return connection;
  }

  /** A connection has gone. For StoreConnection. */
  disconnected(connection: StoreConnection): void {
    this.#connections.delete(connection);
  }

  /** Connections of all domains, or of one. */
  connectionCount(domid?: number): number {
    if (domid === undefined) return this.#connections.size;
    let count = 0;
    for (const each of this.#connections) if (each.domid === domid) count += 1;
    return count;
  }

  /**
   * Calls `listener` after every change of a node that was committed, in order; it must not change the
   * store. Gives a function that ends it.
   */
  onChange(listener: (change: StoreChange) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** A domain is there. Fires "@introduceDomain" the first time. Throws EINVAL for a bad number. */
  introduce(domid: number): void {
    if (!isDomid(domid)) {
      throw new XenstoreError("EINVAL", `Cannot introduce domain ${domid}: no such number`);
    }
    const domain = this.domains.get(domid);
    if (domain.introduced) return;
    domain.introduced = true;
    this.watches.fire({
      path: INTRODUCE_DOMAIN,
      exact: false,
      permissions: [],
      detail: `${domid}`,
    });
  }

  /** A domain has shut down. Fires "@releaseDomain" once until `resume`. Throws ENOENT. */
  shutdown(domid: number): void {
    const domain = this.domains.introduced(domid);
    if (domain.shutdown) return;
    domain.shutdown = true;
    this.#fireRelease(domid);
  }

  /** A domain goes on after a shutdown. Throws ENOENT. */
  resume(domid: number): void {
    this.domains.introduced(domid).shutdown = false;
  }

  /**
   * A domain is no more: the nodes that it owns go with all below them, permissions for it too, and
   * "@releaseDomain" fires. Its connections are closed. Throws ENOENT if it is not introduced.
   */
  release(domid: number): void {
    this.domains.introduced(domid);
    for (const each of [...this.#connections]) if (each.domid === domid) each.close();
    for (const path of ownedBy(this.tree, domid)) this.removeNode(path);
    this.#forgetPermissions(domid);
    this.domains.delete(domid);
    this.#fireRelease(domid);
  }

  /** Lets a domain act for another. Throws ENOENT if one of them is not introduced. */
  setTarget(domid: number, target: number): void {
    const domain = this.domains.introduced(domid);
    domain.target = this.domains.introduced(target).domid;
  }

  /** Says that a node was set. For StoreConnection. */
  noteSet(path: string): void {
    for (const each of this.#listeners) each({ path, kind: "set" });
  }

  /** Removes a node with all below it, fires watches: exact ones below first, then the node's own. */
  removeNode(path: string): void {
    const node = this.tree.get(path);
    if (node === undefined) return;
    const above = this.tree.get(parentPath(path));
    const gone: Gone[] = [];
    visitUpwards(path, node, (each, there, parent) => {
      this.ledger.count(there, -1);
      gone.push({ path: each, permissions: [there.permissions, (parent ?? above)?.permissions] });
    });
    this.#unlink(path);
    if (!this.watches.empty) {
      for (const each of gone) this.watches.fire({ ...each, exact: each.path !== path });
    }
    for (const each of this.#listeners) each({ path, kind: "removed" });
  }

  /** Carries a transaction over, which fits, and fires the watches for it. */
  commit(transaction: Transaction): void {
    transaction.apply(this.tree);
    this.ledger.merge(transaction.ledger);
    for (const [path, { fire, modified }] of transaction.touched) {
      const before = transaction.before(path);
      const now = this.tree.get(path);
      if (before === undefined && now === undefined) continue;
      if (modified && (fire !== "no" || now === undefined)) {
        for (const each of this.#listeners) {
          each({ path, kind: now === undefined ? "removed" : "set" });
        }
      }
      if (fire === "no") continue;
      const permissions = [before?.permissions];
      if (now !== undefined) {
        permissions.push(now.permissions, this.tree.get(parentPath(path))?.permissions);
      }
      this.watches.fire({ path, exact: fire === "exact" && now === undefined, permissions });
    }
  }

  #unlink(path: string): void {
    const above = this.tree.get(parentPath(path));
    const bytes = above?.childBytes ?? 0;
    this.tree.removeChild(parentPath(path), baseName(path));
    this.ledger.bytes += (this.tree.get(parentPath(path))?.childBytes ?? 0) - bytes;
  }

  #fireRelease(domid: number): void {
    this.watches.fire({ path: RELEASE_DOMAIN, exact: false, permissions: [], detail: `${domid}` });
  }

  /** A new domain of the same number must not get what the old one was given; the lists show it still. */
  #forgetPermissions(domid: number): void {
    const root = this.tree.get("/");
    const named: [string, Permissions][] = [];
    if (root !== undefined) {
      visitUpwards("/", root, (path, { permissions }) => {
        if (permissions.some((each, at) => at > 0 && each.domid === domid && !each.ignored)) {
          named.push([path, permissions]);
        }
      });
    }
    for (const [path, permissions] of named) {
      this.tree.setPermissions(path, ignoring(permissions, (each) => each === domid));
    }
    if (root !== undefined && ownerOf(root.permissions) === domid) {
      this.tree.setPermissions("/", withoutDomain(this.tree.get("/")?.permissions ?? [], domid));
      this.ledger.move(domid, 0);
    }
    for (const [path, permissions] of this.special) {
      this.special.set(path, withoutDomain(permissions, domid));
    }
  }
}
