/**
 * What is in a tree, counted: nodes of each domain, nodes and bytes of all. Pure.
 *
 * @module
 */
import { ownerOf } from "./permissions.ts";
import { recordBytes, type TreeNode } from "./tree.ts";

/** Counts, or in a transaction the change of counts. */
export class Ledger {
  /** Nodes of all domains. */
  nodes = 0;
  /** Bytes of all records. */
  bytes = 0;
  readonly #owned = new Map<number, number>();

  /** Nodes of one domain. */
  ownedBy(domid: number): number {
    return this.#owned.get(domid) ?? 0;
  }

  /** A node came (1) or went (-1). */
  count(node: TreeNode, sign: 1 | -1): void {
    this.nodes += sign;
    this.bytes += sign * recordBytes(node);
    this.#add(ownerOf(node.permissions), sign);
  }

  /** A node got another owner. */
  move(from: number, to: number): void {
    this.#add(from, -1);
    this.#add(to, 1);
  }

  /** Adds the counts of another. */
  merge(other: Ledger): void {
    this.nodes += other.nodes;
    this.bytes += other.bytes;
    for (const [domid, nodes] of other.#owned) this.#add(domid, nodes);
  }

  #add(domid: number, nodes: number): void {
    const sum = this.ownedBy(domid) + nodes;
    if (sum === 0) this.#owned.delete(domid);
    else this.#owned.set(domid, sum);
  }
}
