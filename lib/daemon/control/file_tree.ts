/**
 * Shows the table of open files in the tree: changes are collected for a moment and written together,
 * so that clients who come and go fast cost little.
 *
 * @module
 */
import type { Clock, Log } from "../../block/context.ts";
import type { OpenFile } from "../../handle/open_file.ts";
import type { OpenFileTable } from "../../handle/table.ts";
import type { XenstoreClient } from "../../xenstore/client.ts";
import { CHANGE_TRIES, FILES_MS } from "./limits.ts";
import { type Nodes, removeIfThere, writeChanges } from "./nodes.ts";
import { filePath } from "./paths.ts";

/** What showing files needs. */
export interface FileTreeOptions {
  readonly client: XenstoreClient;
  readonly files: OpenFileTable;
  readonly clock: Clock;
  readonly log: Log;
}

const NOTHING: Nodes = new Map();

/** Shows open files until it is stopped. */
export class FileTree {
  readonly #options: FileTreeOptions;
  readonly #shown = new Map<number, Nodes>();
  readonly #dirty = new Set<number>();
  readonly #stop = new AbortController();
  readonly #unobserve: () => void;
  #running: Promise<void> | null = null;

  /** Shows all there are, and each change from now on. */
  constructor(options: FileTreeOptions) {
    this.#options = options;
    this.#unobserve = options.files.observe((file) => this.#touch(file.minor));
    for (const { minor } of options.files) this.#touch(minor);
  }

  /** Looks at what nobody tells of: how many operations are inside. */
  look(): void {
    for (const { minor, active } of this.#options.files) {
      if (this.#shown.get(minor)?.get("active") !== String(active)) this.#touch(minor);
    }
  }

  /** A client may have changed the nodes of a file: they are written anew. */
  distrust(minor: number): void {
    if (!this.#shown.has(minor)) return;
    this.#shown.set(minor, NOTHING);
    this.#touch(minor);
  }

  /** Shows nothing any more; resolves when nothing is being written. */
  async stop(): Promise<void> {
    this.#unobserve();
    this.#stop.abort();
    await this.#running;
  }

  #touch(minor: number): void {
    this.#dirty.add(minor);
    this.#running ??= this.#run();
  }

  async #run(): Promise<void> {
    const { clock, log } = this.#options;
    try {
      while (this.#dirty.size > 0) {
        await clock.sleep(FILES_MS, this.#stop.signal);
        await this.#write();
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) {
        log.error("The control plane does not show open files any more", error);
        this.#unobserve();
      }
      return;
    }
    this.#running = null;
  }

  async #write(): Promise<void> {
    const { client } = this.#options;
    const minors = [...this.#dirty];
    this.#dirty.clear();
    const files = this.#byMinor();
    const now = minors.map((minor) => {
      const file = files.get(minor);
      return { minor, nodes: file === undefined ? null : nodesOf(file) };
    });
    const changes = now.filter(({ minor, nodes }) => nodes !== null || this.#shown.has(minor));
    if (changes.length === 0) return;
    await client.transaction(async (store) => {
      for (const { minor, nodes } of changes) {
        const before = this.#shown.get(minor) ?? NOTHING;
        if (nodes === null) await removeIfThere(store, filePath(minor));
        else await writeChanges(store, filePath(minor), before, nodes);
      }
    }, CHANGE_TRIES);
    for (const { minor, nodes } of changes) {
      if (nodes === null) this.#shown.delete(minor);
      else this.#shown.set(minor, nodes);
    }
  }

  #byMinor(): ReadonlyMap<number, OpenFile> {
    return new Map([...this.#options.files].map((file) => [file.minor, file]));
  }
}

function nodesOf(file: OpenFile): Nodes {
  const nodes = new Map([
    ["kind", file.kind],
    ["peer", file.peer],
    ["state", file.state],
    ["active", String(file.active)],
  ]);
  if (file.target !== null) nodes.set("target", file.target);
  for (const { handle, name } of file.onexit.list()) nodes.set(`onexit/${handle}`, name);
  return nodes;
}
