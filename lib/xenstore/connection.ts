/**
 * One caller of a store: everything that can be done, with the caller's permissions and quotas, its
 * watches and transactions. The wire session uses it, and so does code in this process (with domain 0).
 * All methods throw XenstoreError, and then have changed nothing.
 *
 * @module
 */
import { XenstoreError } from "./errors.ts";
import type { QuotaName } from "./domains.ts";
import {
  CONNECTION_TRANSACTIONS_MAX,
  CONNECTION_WATCHES_MAX,
  RECORD_HEADER_BYTES,
  RECORD_PERMISSION_BYTES,
  STORE_BYTES_MAX,
  STORE_NODES_MAX,
  TRANSACTION_NODES_MAX,
  TRANSACTION_TRIES_MAX,
} from "./limits.ts";
import type { Ledger } from "./ledger.ts";
import { bytesOf, textOf } from "./message.ts";
import {
  absolutePath,
  baseName,
  childPath,
  isSpecialPath,
  parentPath,
  quoted,
  unwatchPath,
  watchPath,
} from "./path.ts";
import {
  type Identity,
  ignoring,
  inherit,
  MAY_OWN,
  MAY_READ,
  MAY_WRITE,
  ownerOf,
  type Permissions,
  rightsOf,
} from "./permissions.ts";
import type { Store } from "./store.ts";
import { type Touched, Transaction } from "./transaction.ts";
import { recordBytes, type Tree, type TreeNode, visitUpwards } from "./tree.ts";
import type { Change, Watch } from "./watches.ts";

/** Takes an event; called in the middle of a change, so it must not use the store. */
export type Deliver = (path: string, token: string) => void;

/** Settings of a connection. */
export interface ConnectOptions {
  /** Takes the events of watches that have no listener of their own. */
  readonly deliver?: Deliver;
  /** Called once when the connection is closed, by whoever. */
  readonly closed?: () => void;
}

/** Settings of a watch. */
export interface WatchOptions {
  /** Levels below the path that count; all if not told. */
  readonly depth?: number;
  /** Takes the events instead of the connection. */
  readonly deliver?: Deliver;
}

/** A caller of a store. */
export class StoreConnection implements Identity {
  /** The domain of the caller. */
  readonly domid: number;
  /** Domain 0 may everything. */
  readonly privileged: boolean;
  readonly #store: Store;
  readonly #order: number;
  readonly #options: ConnectOptions;
  readonly #watches = new Map<string, Watch>();
  readonly #transactions = new Map<number, Transaction>();
  #watchOrder = 0;
  #nextTransaction = 1;
  #closed = false;

  /** Use `Store.connect`. */
  constructor(store: Store, domid: number, order: number, options: ConnectOptions) {
    this.#store = store;
    this.domid = domid;
    this.privileged = domid === 0;
    this.#order = order;
    this.#options = options;
  }

  /** The store. */
  get store(): Store {
    return this.#store;
  }

  /** The domain that this one acts for. */
  get target(): number | null {
    return this.#store.domains.find(this.domid)?.target ?? null;
  }

  /** Watches that are set. */
  get watchCount(): number {
    return this.#watches.size;
  }

  /** Transactions that are open. */
  get transactionCount(): number {
    return this.#transactions.size;
  }

  /** True after `close`, and when the domain was released. */
  get closed(): boolean {
    return this.#closed;
  }

  /** The value of a node. Must not be changed. */
  read(path: string, transactionId: number = 0): Uint8Array {
    return this.#node(path, MAY_READ, transactionId).value;
  }

  /** The value of a node as text, a character for a byte. */
  readText(path: string, transactionId: number = 0): string {
    return textOf(this.read(path, transactionId));
  }

  /** The names of the children of a node, in the order in which they were created. */
  directory(path: string, transactionId: number = 0): string[] {
    return [...this.#node(path, MAY_READ, transactionId).children.keys()];
  }

  /** A node to look at: value, permissions, children, generation. */
  node(path: string, transactionId: number = 0): TreeNode {
    return this.#node(path, MAY_READ, transactionId);
  }

  /** True if there is such a node; throws EACCES if the caller may not know. */
  exists(path: string, transactionId: number = 0): boolean {
    try {
      this.#node(path, MAY_READ, transactionId);
      return true;
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "ENOENT") return false;
      throw error;
    }
  }

  /** The permissions of a node. */
  getPermissions(path: string, transactionId: number = 0): Permissions {
    return this.#node(path, MAY_READ, transactionId).permissions;
  }

  /** Sets the value of a node, which is created with its parents if it is not there. Text is Latin-1. */
  write(path: string, value: Uint8Array | string, transactionId: number = 0): void {
    const transaction = this.transaction(transactionId);
    const whole = absolutePath(path, this.domid);
    const bytes = typeof value === "string" ? bytesOf(value) : value;
    const node = this.#findOrNull(whole, MAY_WRITE, transaction);
    if (node === null) return this.#create(whole, bytes, transaction);
    const growth = bytes.length - node.value.length;
    this.#checkSize(recordBytes(node) + growth, whole, transaction);
    this.#checkStore(0, growth, transaction);
    this.#tree(transaction).setValue(whole, bytes);
    this.#ledger(transaction).bytes += growth;
    this.#changed(whole, transaction);
  }

  /** Makes sure that a node is there, with its parents. */
  mkdir(path: string, transactionId: number = 0): void {
    const transaction = this.transaction(transactionId);
    const whole = absolutePath(path, this.domid);
    if (this.#findOrNull(whole, MAY_WRITE, transaction) === null) {
      this.#create(whole, new Uint8Array(0), transaction);
    }
  }

  /** Removes a node with all below it; fine if it is not there but its parent is. */
  remove(path: string, transactionId: number = 0): void {
    const transaction = this.transaction(transactionId);
    const whole = absolutePath(path, this.domid);
    const node = this.#findOrNull(whole, MAY_WRITE, transaction);
    if (whole === "/") throw new XenstoreError("EINVAL", "Cannot remove /: it is the root");
    const parent = parentPath(whole);
    if (transaction !== null) this.#touch(transaction, parent);
    if (this.#tree(transaction).get(parent) === undefined) throw missing(whole);
    if (node === null) return;
    if (transaction === null) this.#store.removeNode(whole);
    else this.#removeIn(transaction, whole, node);
  }

  /** Sets the permissions of a node, or of "@introduceDomain" and "@releaseDomain". Needs the owner. */
  setPermissions(path: string, permissions: Permissions, transactionId: number = 0): void {
    const transaction = this.transaction(transactionId);
    const { domains, special } = this.#store;
    if (!this.privileged && permissions.length > this.#quota("node-permissions")) {
      throw new XenstoreError("ENOSPC", `Cannot set permissions of ${quoted(path)}: too many`);
    }
    const owner = permissions[0]?.domid;
    if (owner === undefined || !domains.knows(owner)) {
      const reason = owner === undefined ? "none are given" : `no domain ${owner}`;
      throw new XenstoreError(
        owner === undefined ? "EINVAL" : "ENOENT",
        `Cannot set permissions of ${quoted(path)}: ${reason}`,
      );
    }
    // A domain that comes later must not get what was meant for an earlier one of its number.
    permissions = ignoring(permissions, (domid) => !domains.knows(domid));
    if (isSpecialPath(path)) {
      const old = special.get(path);
      if (old === undefined) throw invalid(path);
      if ((rightsOf(this, old) & MAY_OWN) === 0) throw denied(path);
      special.set(path, permissions);
      return;
    }
    const whole = absolutePath(path, this.domid);
    const node = this.#find(whole, MAY_WRITE | MAY_OWN, transaction);
    const old = node.permissions;
    const [from, to] = [ownerOf(old), ownerOf(permissions)];
    if (!this.privileged && from !== to) {
      throw new XenstoreError("EPERM", `Cannot give ${quoted(whole)} away: only domain 0 may`);
    }
    const growth = RECORD_PERMISSION_BYTES * (permissions.length - old.length);
    this.#checkSize(recordBytes(node) + growth, whole, transaction);
    this.#checkStore(0, growth, transaction);
    this.#tree(transaction).setPermissions(whole, permissions);
    const ledger = this.#ledger(transaction);
    ledger.bytes += growth;
    ledger.move(from, to);
    this.#changed(whole, transaction, old);
  }

  /** Begins a transaction and gives its number. Throws ENOSPC past the quota. */
  startTransaction(): number {
    const open = this.#transactions.size;
    const over = !this.privileged && open > this.#quota("transactions");
    if (over || open >= CONNECTION_TRANSACTIONS_MAX) {
      throw new XenstoreError("ENOSPC", `Cannot start a transaction: ${open} are open`);
    }
    while (this.#transactions.has(this.#nextTransaction)) this.#advance();
    const id = this.#nextTransaction;
    this.#advance();
    this.#transactions.set(id, new Transaction(id, this.#store.tree));
    return id;
  }

  /** Ends a transaction. Throws EAGAIN if it cannot be committed; it is over then too. */
  endTransaction(id: number, commit: boolean): void {
    const transaction = this.transaction(id);
    if (transaction === null) {
      throw new XenstoreError("ENOENT", "Cannot end transaction 0: there is none");
    }
    this.#transactions.delete(id);
    if (!commit) return;
    if (transaction.failed) {
      throw new XenstoreError("ENOMEM", `Cannot commit transaction ${id}: it exceeded a quota`);
    }
    // As in xenstored one node fewer than without a transaction.
    const created = transaction.ledger.ownedBy(this.domid);
    if (!this.privileged && transaction.creates) this.#checkOwned(created + 1);
    if (!transaction.fits(this.#store.tree)) {
      throw new XenstoreError("EAGAIN", `Cannot commit transaction ${id}: others came first`);
    }
    this.#checkStore(0, 0, transaction);
    this.#store.commit(transaction);
  }

  /** Runs `change` in a transaction, again if others came first, and gives what it gives. */
  inTransaction<T>(change: (transactionId: number) => T, tries: number = TRANSACTION_TRIES_MAX): T {
    for (let left = tries;; left--) {
      const id = this.startTransaction();
      let result: T;
      try {
        result = change(id);
      } catch (error) {
        if (this.#transactions.has(id)) this.endTransaction(id, false);
        throw error;
      }
      try {
        this.endTransaction(id, true);
        return result;
      } catch (error) {
        if (left <= 1 || !(error instanceof XenstoreError) || error.code !== "EAGAIN") throw error;
      }
    }
  }

  /** The open transaction of a number, null for 0. Throws ENOENT. */
  transaction(id: number): Transaction | null {
    if (id === 0) return null;
    const transaction = this.#transactions.get(id);
    if (transaction !== undefined) return transaction;
    throw new XenstoreError("ENOENT", `Cannot use transaction ${id}: it is not open`);
  }

  /**
   * Watches a path and all below it, or a special one. The first event, for the path itself, is not
   * made here but given to `deliver` by whoever wants it. Throws EEXIST for the same path and token.
   */
  watch(path: string, token: string, options: WatchOptions = {}): void {
    const whole = watchPath(path, this.domid);
    const key = `${whole}\0${token}`;
    if (this.#watches.has(key)) {
      throw new XenstoreError("EEXIST", `Cannot watch ${quoted(path)}: it is watched already`);
    }
    const domain = this.#store.domains.get(this.domid);
    const over = !this.privileged && domain.watches > this.#quota("watches");
    if (over || this.#watches.size >= CONNECTION_WATCHES_MAX) {
      throw new XenstoreError("E2BIG", `Cannot watch ${quoted(path)}: there are too many watches`);
    }
    const { depth = Infinity, deliver = this.#options.deliver ?? ignore } = options;
    const watch: Watch = {
      path: whole,
      registered: path,
      token,
      depth,
      order: [this.#order, ++this.#watchOrder],
      permits: this.#permits,
      deliver,
    };
    this.#watches.set(key, watch);
    domain.watches += 1;
    this.#store.watches.add(watch);
  }

  /** Ends a watch. Throws ENOENT if there is none of this path and token. */
  unwatch(path: string, token: string): void {
    const key = `${unwatchPath(path, this.domid)}\0${token}`;
    const watch = this.#watches.get(key);
    if (watch === undefined) {
      throw new XenstoreError("ENOENT", `Cannot unwatch ${quoted(path)}: it is not watched so`);
    }
    this.#drop(key, watch);
  }

  /** Ends all watches and gives up all transactions. */
  reset(): void {
    for (const [key, watch] of this.#watches) this.#drop(key, watch);
    this.#transactions.clear();
  }

  /** Ends the connection with its watches and transactions. Later calls do nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.reset();
    this.#store.disconnected(this);
    this.#options.closed?.();
  }

  readonly #permits = (change: Change): boolean => {
    if (this.privileged) return true;
    const special = isSpecialPath(change.path);
    const lists = special ? [this.#store.special.get(change.path)] : change.permissions;
    return lists.some((each) => each !== undefined && (rightsOf(this, each) & MAY_READ) !== 0);
  };

  #drop(key: string, watch: Watch): void {
    this.#watches.delete(key);
    this.#store.watches.delete(watch);
    const domain = this.#store.domains.find(this.domid);
    if (domain !== undefined) domain.watches -= 1;
  }

  #advance(): void {
    this.#nextTransaction = this.#nextTransaction >= 0xffffffff ? 1 : this.#nextTransaction + 1;
  }

  #quota(name: QuotaName): number {
    return this.#store.domains.quota(name, this.domid);
  }

  #tree(transaction: Transaction | null): Tree {
    return transaction === null ? this.#store.tree : transaction.tree;
  }

  #ledger(transaction: Transaction | null): Ledger {
    return transaction === null ? this.#store.ledger : transaction.ledger;
  }

  #touch(transaction: Transaction, path: string): Touched {
    const count = transaction.touched.size;
    const max = this.privileged ? TRANSACTION_NODES_MAX : this.#quota("transaction-nodes");
    if (count >= max && !transaction.touched.has(path)) {
      transaction.failed = true;
      throw new XenstoreError("ENOSPC", `Cannot use ${quoted(path)}: the transaction is too big`);
    }
    return transaction.touch(path);
  }

  #node(path: string, rights: number, transactionId: number): TreeNode {
    const transaction = this.transaction(transactionId);
    return this.#find(absolutePath(path, this.domid), rights, transaction);
  }

  /** The node, or null if it is not there but might be created. */
  #findOrNull(path: string, rights: number, transaction: Transaction | null): TreeNode | null {
    if (transaction !== null) this.#touch(transaction, path);
    const node = this.#tree(transaction).get(path);
    if (node !== undefined && (rightsOf(this, node.permissions) & rights) === rights) return node;
    const above = this.#nearestAbove(path, transaction);
    if (node !== undefined || (rightsOf(this, above.permissions) & rights) === 0) {
      throw denied(path);
    }
    return null;
  }

  #find(path: string, rights: number, transaction: Transaction | null): TreeNode {
    const node = this.#findOrNull(path, rights, transaction);
    if (node === null) throw missing(path);
    return node;
  }

  #nearestAbove(path: string, transaction: Transaction | null): TreeNode {
    const tree = this.#tree(transaction);
    for (let above = parentPath(path);; above = parentPath(above)) {
      if (transaction !== null) this.#touch(transaction, above);
      const node = tree.get(above);
      if (node !== undefined) return node;
    }
  }

  /** Creates a node with the parents that it lacks. The caller may. */
  #create(path: string, value: Uint8Array, transaction: Transaction | null): void {
    const tree = this.#tree(transaction);
    const names: string[] = [];
    let above = path;
    while (tree.get(above) === undefined) {
      names.push(baseName(above));
      above = parentPath(above);
    }
    const parent = tree.get(above);
    if (parent === undefined) throw missing(above);
    const permissions = inherit(parent.permissions, this);
    this.#checkCreate(path, names, recordBytes(parent), permissions, value, transaction);
    const ledger = this.#ledger(transaction);
    for (let name = names.pop(); name !== undefined; name = names.pop()) {
      const child = childPath(above, name);
      if (transaction !== null) {
        this.#touch(transaction, above).modified = true;
        this.#touch(transaction, child).modified = true;
      }
      ledger.count(tree.addChild(above, name, permissions), 1);
      ledger.bytes += name.length + 1;
      above = child;
    }
    if (value.length > 0) tree.setValue(path, value);
    ledger.bytes += value.length;
    this.#changed(path, transaction);
  }

  #checkCreate(
    path: string,
    names: readonly string[],
    parentBytes: number,
    permissions: Permissions,
    value: Uint8Array,
    transaction: Transaction | null,
  ): void {
    const record = RECORD_HEADER_BYTES + RECORD_PERMISSION_BYTES * permissions.length;
    this.#checkSize(record + value.length, path, transaction);
    this.#checkSize(
      parentBytes + (names[names.length - 1] ?? "").length + 1,
      parentPath(path),
      transaction,
    );
    for (const name of names.slice(0, -1)) {
      this.#checkSize(record + name.length + 1, path, transaction);
    }
    const nameBytes = names.reduce((sum, name) => sum + name.length + 1, 0);
    this.#checkStore(names.length, record * names.length + nameBytes + value.length, transaction);
    // What a transaction creates is counted when it is committed.
    if (!this.privileged) this.#checkOwned(transaction === null ? names.length : 1);
    if (transaction !== null) transaction.creates = true;
    // In a transaction all of these have been touched by the look-up, so that nothing fails half way.
  }

  #checkSize(bytes: number, path: string, transaction: Transaction | null): void {
    if (this.privileged || bytes < this.#quota("node-size")) return;
    if (transaction !== null) transaction.failed = true;
    throw new XenstoreError(
      "ENOSPC",
      `Cannot write ${quoted(path)}: its record has ${bytes} bytes`,
    );
  }

  #checkOwned(more: number): void {
    const owned = this.#store.ledger.ownedBy(this.domid);
    if (owned + more <= this.#quota("nodes")) return;
    throw new XenstoreError("ENOSPC", `Cannot create nodes: domain ${this.domid} owns ${owned}`);
  }

  #checkStore(nodes: number, bytes: number, transaction: Transaction | null): void {
    const { ledger } = this.#store;
    const more = transaction?.ledger;
    const allNodes = ledger.nodes + (more?.nodes ?? 0) + nodes;
    const allBytes = ledger.bytes + (more?.bytes ?? 0) + bytes;
    if (allNodes > STORE_NODES_MAX || allBytes > STORE_BYTES_MAX) {
      throw new XenstoreError("ENOSPC", "Cannot write: the store is full");
    }
  }

  #removeIn(transaction: Transaction, path: string, node: TreeNode): void {
    const parent = parentPath(path);
    const all: [string, TreeNode][] = [];
    visitUpwards(path, node, (each, there) => all.push([each, there]));
    for (const [each] of all) this.#touch(transaction, each);
    for (const [each, there] of all) {
      const touched = this.#touch(transaction, each);
      touched.modified = true;
      if (each === path) touched.fire = "all";
      else if (touched.fire === "no") touched.fire = "exact";
      transaction.ledger.count(there, -1);
    }
    this.#touch(transaction, parent).modified = true;
    transaction.tree.removeChild(parent, baseName(path));
    transaction.ledger.bytes -= baseName(path).length + 1;
  }

  /** A node was written: fires watches, now or at the commit. */
  #changed(path: string, transaction: Transaction | null, old?: Permissions): void {
    if (transaction !== null) {
      const touched = this.#touch(transaction, path);
      touched.modified = true;
      touched.fire = "all";
      return;
    }
    const { tree, watches } = this.#store;
    this.#store.noteSet(path);
    if (watches.empty) return;
    const permissions = [
      tree.get(path)?.permissions,
      tree.get(parentPath(path))?.permissions,
      old,
    ];
    watches.fire({ path, exact: false, permissions });
  }
}

function ignore(): void {}

function missing(path: string): XenstoreError {
  return new XenstoreError("ENOENT", `Cannot find ${quoted(path)}: there is no such node`);
}

function denied(path: string): XenstoreError {
  return new XenstoreError("EACCES", `Cannot use ${quoted(path)}: no permission`);
}

function invalid(path: string): XenstoreError {
  return new XenstoreError("EINVAL", `Cannot use path ${quoted(path)}: it is not valid`);
}
