/**
 * Numbers for the nodes of a tree, and what is to be seen of them. There are few nodes, so none is
 * forgotten while its mount lives.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { MODE_FILE, MODE_FOLDER, ROOT_NODE } from "./constants.ts";
import type { Attributes, FolderEntry } from "./replies.ts";
import type { Folder, FuseNode } from "./tree.ts";

/** What all files of a mount show. */
export interface Ownership {
  /** Seconds since 1970. */
  readonly time: number;
  /** User. */
  readonly uid: number;
  /** Group. */
  readonly gid: number;
}

/** The nodes of one mount. */
export class NodeTable {
  readonly #root: FuseNode;
  readonly #ownership: Ownership;
  /** By number; the root's is ROOT_NODE. */
  readonly #nodes: FuseNode[] = [];
  readonly #numbers = new Map<FuseNode, number>();

  /** A table that knows the root alone. */
  constructor(root: FuseNode, ownership: Ownership) {
    this.#root = root;
    this.#ownership = ownership;
    this.#numberOf(root);
  }

  /** Nodes that were looked at so far. */
  get count(): number {
    return this.#nodes.length;
  }

  /** The node of a number. Throws ENOENT. */
  node(number: number): FuseNode {
    const node = this.#nodes[number - ROOT_NODE];
    if (node !== undefined) return node;
    throw new BlockError("ENOENT", `Cannot find node ${number}: it was never told`);
  }

  /** The folder of a number. Throws ENOENT, ENOTDIR. */
  folder(number: number): Folder {
    const node = this.node(number);
    if (node.kind === "folder") return node;
    throw new BlockError("ENOTDIR", `Cannot look into node ${number}: it is no folder`);
  }

  /** What is called `name` in a folder. Throws ENOENT, ENOTDIR. */
  lookup(folder: number, name: string): FuseNode {
    const node = this.folder(folder).entries.get(name);
    if (node !== undefined) return node;
    throw new BlockError("ENOENT", `Cannot find ${name}: there is no such name`);
  }

  /** What is to be seen of a node. */
  attributes(node: FuseNode): Attributes {
    const type = node.kind === "folder" ? MODE_FOLDER : MODE_FILE;
    return {
      node: this.#numberOf(node),
      size: node.kind === "disk" ? node.size : 0,
      mode: type | node.permissions,
      ...this.#ownership,
    };
  }

  /** Everything in a folder, "." and ".." first. Throws ENOENT, ENOTDIR. */
  list(number: number): FolderEntry[] {
    const folder = this.folder(number);
    const named: (readonly [string, FuseNode])[] = [[".", folder], ["..", this.#root]];
    return [...named, ...folder.entries].map(([name, node]) => {
      return { name, attributes: this.attributes(node) };
    });
  }

  #numberOf(node: FuseNode): number {
    let number = this.#numbers.get(node);
    if (number === undefined) {
      number = ROOT_NODE + this.#nodes.length;
      this.#nodes.push(node);
      this.#numbers.set(node, number);
    }
    return number;
  }
}
