/**
 * A transaction: a fork of the tree, and every node that was touched, with its generation at the start.
 * It can be committed if none of them has another generation now. That covers what was looked for and
 * not found, and everything that was written, since writing begins with looking. Pure.
 *
 * @module
 */
import { Ledger } from "./ledger.ts";
import type { Tree, TreeNode } from "./tree.ts";

/** A node that a transaction has looked at or changed. */
export interface Touched {
  /** Generation at the start of the transaction, 0 if the node was not there. */
  readonly generation: number;
  /** Changed, created or removed: what a commit has to carry over. */
  modified: boolean;
  /** A commit fires watches: of the path and above, or "exact" of the path alone. */
  fire: "no" | "exact" | "all";
}

/** An open transaction. */
export class Transaction {
  /** Its number, from 1 for each connection. */
  readonly id: number;
  /** The nodes as the transaction sees them. */
  readonly tree: Tree;
  /** What it has touched, in the order of the first touch. */
  readonly touched: Map<string, Touched> = new Map();
  /** What a commit adds to the store's own. */
  readonly ledger: Ledger = new Ledger();
  /** A node was created in it. */
  creates = false;
  /** It went past a quota and can only be given up. */
  failed = false;
  readonly #base: Tree;

  /** A transaction that begins with the nodes of `tree`. */
  constructor(id: number, tree: Tree) {
    this.id = id;
    this.#base = tree.fork();
    this.tree = this.#base.fork();
  }

  /** Remembers a node. */
  touch(path: string): Touched {
    let touched = this.touched.get(path);
    if (touched === undefined) {
      const generation = this.#base.get(path)?.generation ?? 0;
      touched = { generation, modified: false, fire: "no" };
      this.touched.set(path, touched);
    }
    return touched;
  }

  /** The node of a path at the start. */
  before(path: string): TreeNode | undefined {
    return this.#base.get(path);
  }

  /** True if nothing that it touched has changed in `current` meanwhile. */
  fits(current: Tree): boolean {
    if (this.#base.sameAs(current)) return true;
    for (const [path, { generation }] of this.touched) {
      if ((current.get(path)?.generation ?? 0) !== generation) return false;
    }
    return true;
  }

  /** Carries what was changed over to `current`. It fits. */
  apply(current: Tree): void {
    if (this.#base.sameAs(current)) {
      current.adopt(this.tree);
      return;
    }
    const modified = [...this.touched].filter(([, { modified }]) => modified)
      .map(([path]) => path).sort((a, b) => levels(a) - levels(b));
    // From above: a node that is not in the parent's list any more is gone before its turn comes.
    for (const path of modified) {
      if (this.tree.get(path) !== undefined) current.copyFrom(path, this.tree);
    }
  }
}

function levels(path: string): number {
  return path === "/" ? 0 : path.split("/").length;
}
