/**
 * The nodes of a store as a persistent tree. A tree that was frozen is never changed again: the next
 * change copies the nodes from the root to the place of the change and shares all others. While nobody
 * has frozen it, a tree is changed in place, so that a store without transactions copies nothing.
 *
 * @module
 */
import { RECORD_HEADER_BYTES, RECORD_PERMISSION_BYTES } from "./limits.ts";
import { childPath, namesOf } from "./path.ts";
import { ownerOf, type Permissions, PRIVATE } from "./permissions.ts";

/** A node, for those who only look. */
export interface TreeNode {
  /** Its value; never changed in place. */
  readonly value: Uint8Array;
  /** Its permissions. */
  readonly permissions: Permissions;
  /** Its children in the order in which they were created. */
  readonly children: ReadonlyMap<string, TreeNode>;
  /** Differs after every change of value, permissions or list of children. */
  readonly generation: number;
  /** Bytes of all names of children with a NUL each. */
  readonly childBytes: number;
}

class Node implements TreeNode {
  value: Uint8Array;
  permissions: Permissions;
  children: Map<string, Node>;
  generation: number;
  childBytes: number;
  /** The tree state that may change this node in place. */
  readonly owner: object;

  constructor(from: TreeNode & { readonly children: Map<string, Node> }, owner: object) {
    this.value = from.value;
    this.permissions = from.permissions;
    this.children = from.children;
    this.generation = from.generation;
    this.childBytes = from.childBytes;
    this.owner = owner;
  }
}

const EMPTY = new Uint8Array(0);

function emptyNode(permissions: Permissions, generation: number, owner: object): Node {
  return new Node(
    { value: EMPTY, permissions, children: new Map(), generation, childBytes: 0 },
    owner,
  );
}

/** Bytes of a node's record, as quotas count. */
export function recordBytes(node: TreeNode): number {
  return RECORD_HEADER_BYTES + RECORD_PERMISSION_BYTES * node.permissions.length +
    node.value.length + node.childBytes;
}

/** Gives numbers that were never given before. */
export interface Generations {
  /** The number given last. */
  value: number;
}

/** A tree of nodes. Paths are absolute and valid. */
export class Tree {
  #root: Node;
  #owner: object = {};
  readonly #generations: Generations;

  private constructor(root: Node | null, generations: Generations) {
    this.#generations = generations;
    this.#root = root ?? emptyNode(PRIVATE, ++generations.value, this.#owner);
  }

  /** A tree of a root alone, which takes its generations from `generations`. */
  static create(generations: Generations): Tree {
    return new Tree(null, generations);
  }

  /** A tree with the same nodes; neither sees what is changed in the other afterwards. */
  fork(): Tree {
    this.#owner = {};
    return new Tree(this.#root, this.#generations);
  }

  /** Takes over the nodes of a fork, which must not be used any more. */
  adopt(fork: Tree): void {
    this.#root = fork.#root;
    this.#owner = fork.#owner;
  }

  /** True if both have the same nodes, in the state in which one was forked from the other. */
  sameAs(other: Tree): boolean {
    return this.#root === other.#root;
  }

  /** The node of a path, or undefined. */
  get(path: string): TreeNode | undefined {
    return this.#find(path);
  }

  /** Sets a value. The node is there. */
  setValue(path: string, value: Uint8Array): TreeNode {
    const node = this.#change(path);
    node.value = value;
    return node;
  }

  /** Sets permissions. The node is there. */
  setPermissions(path: string, permissions: Permissions): TreeNode {
    const node = this.#change(path);
    node.permissions = permissions;
    return node;
  }

  /** Adds a child without value. The parent is there and has no such child. */
  addChild(parent: string, name: string, permissions: Permissions): TreeNode {
    const above = this.#change(parent);
    const node = emptyNode(permissions, ++this.#generations.value, this.#owner);
    above.children.set(name, node);
    above.childBytes += name.length + 1;
    return node;
  }

  /** Removes a child with all below it. */
  removeChild(parent: string, name: string): void {
    const above = this.#change(parent);
    if (above.children.delete(name)) above.childBytes -= name.length + 1;
  }

  /**
   * Makes a node what it is in `from`, a changed fork of an earlier state: value, permissions and list
   * of children. Children that both have stay as they are here, others are taken over whole.
   */
  copyFrom(path: string, from: Tree): void {
    const source = from.#find(path);
    if (source === undefined) throw new Error(`Cannot copy ${path}: it is not there`);
    const node = this.#change(path);
    node.value = source.value;
    node.permissions = source.permissions;
    node.childBytes = source.childBytes;
    const before = node.children;
    node.children = new Map();
    for (const [name, child] of source.children) {
      node.children.set(name, before.get(name) ?? child);
    }
  }

  #find(path: string): Node | undefined {
    let node: Node | undefined = this.#root;
    const names = namesOf(path);
    for (let at = 0; at < names.length && node !== undefined; at++) {
      node = node.children.get(names[at] ?? "");
    }
    return node;
  }

  #own(node: Node): Node {
    if (node.owner === this.#owner) return node;
    const copy = new Node(node, this.#owner);
    copy.children = new Map(node.children);
    return copy;
  }

  /** The node of a path, which may be changed, with a new generation. */
  #change(path: string): Node {
    let node = this.#root = this.#own(this.#root);
    for (const name of namesOf(path)) {
      const child = node.children.get(name);
      if (child === undefined) throw new Error(`Cannot change ${path}: it is not there`);
      const own = this.#own(child);
      if (own !== child) node.children.set(name, own);
      node = own;
    }
    node.generation = ++this.#generations.value;
    return node;
  }
}

/**
 * Calls `visit` for a node and all below it, children first, in their order. The first node has no
 * parent here.
 */
export function visitUpwards(
  path: string,
  node: TreeNode,
  visit: (path: string, node: TreeNode, parent?: TreeNode) => void,
  parent?: TreeNode,
): void {
  for (const [name, child] of node.children) {
    visitUpwards(childPath(path, name), child, visit, node);
  }
  visit(path, node, parent);
}

/** The paths of the highest nodes that a domain owns, below the root. */
export function ownedBy(tree: Tree, domid: number): string[] {
  const owned: string[] = [];
  const look = (path: string, node: TreeNode): void => {
    if (path !== "/" && ownerOf(node.permissions) === domid) owned.push(path);
    else for (const [name, child] of node.children) look(childPath(path, name), child);
  };
  const root = tree.get("/");
  if (root !== undefined) look("/", root);
  return owned;
}
