/**
 * Shows the table of open files in the tree: changes are collected for a moment and written together,
 * so that clients who come and go fast cost little. What others write there is put right at the next look.
 *
 * @module
 */
import type { Clock, Log } from "../../block/context.ts";
import type { OpenFile } from "../../handle/open_file.ts";
import type { OpenFileTable } from "../../handle/table.ts";
import type { XenstoreClient } from "../../xenstore/client.ts";
import type { XenstoreOperations } from "../../xenstore/client_operations.ts";
import { FILES_CHECKED_MAX, FILES_MS } from "./limits.ts";
import {
  changeTree,
  listOrEmpty,
  type Nodes,
  readOrNull,
  removeIfThere,
  writeChanges,
} from "./nodes.ts";
import { filePath, FILES_PATH } from "./paths.ts";

/** What showing files needs. */
export interface FileTreeOptions {
  readonly client: XenstoreClient;
  readonly files: OpenFileTable;
  readonly clock: Clock;
  readonly log: Log;
}

const NOTHING: Nodes = new Map();
/** MINOR/onexit/HANDLE is three levels down. */
const DEPTH = 3;

/** Shows open files until it is stopped. */
export class FileTree {
  readonly #options: FileTreeOptions;
  readonly #shown = new Map<number, Nodes>();
  readonly #dirty = new Set<number>();
  /** Names below the folder that somebody has written to, be it this. */
  readonly #suspects = new Set<string>();
  #events: AsyncIterableIterator<{ readonly path: string }> | null = null;
  #watching: Promise<void> = Promise.resolve();
  readonly #stop = new AbortController();
  readonly #unobserve: () => void;
  #running: Promise<void> | null = null;
  /** Those who wait until what has changed so far is shown, and what ends the delay for them. */
  #waiting: (() => void)[] = [];
  #hurry = new AbortController();

  /** Shows all there are, and each change from now on. */
  constructor(options: FileTreeOptions) {
    this.#options = options;
    this.#unobserve = options.files.observe((file) => this.#touch(file.minor));
    for (const { minor } of options.files) this.#touch(minor);
  }

  /** Begins to hear of what others write; resolves when the watch is there. */
  async watch(): Promise<void> {
    this.#events = await this.#options.client.watch(FILES_PATH, { depth: DEPTH });
    this.#watching = this.#hear(this.#events);
  }

  /** Looks at what nobody tells of, how many operations are inside, and puts right what others wrote. */
  async look(): Promise<void> {
    for (const { minor, active } of this.#options.files) {
      if (this.#shown.get(minor)?.get("active") !== String(active)) this.#touch(minor);
    }
    if (this.#running !== null) return; // What is being written would look wrong.
    for (const name of [...this.#suspects].slice(0, FILES_CHECKED_MAX)) {
      this.#suspects.delete(name);
      await this.#check(name);
    }
  }

  /** Resolves when all that has changed so far is shown, without the usual delay. Never rejects. */
  async caughtUp(): Promise<void> {
    if (this.#running === null || this.#stop.signal.aborted) return;
    await new Promise<void>((resolve) => {
      this.#waiting.push(resolve);
      this.#hurry.abort();
    });
  }

  /** Shows nothing any more; resolves when nothing is being written. */
  async stop(): Promise<void> {
    this.#unobserve();
    this.#stop.abort();
    await this.#events?.return?.().catch(ignore);
    await this.#watching;
    await this.#running;
  }

  async #hear(events: AsyncIterable<{ readonly path: string }>): Promise<void> {
    try {
      for await (const { path } of events) {
        const [name = "", part] = path.slice(FILES_PATH.length + 1).split("/");
        if (part !== "active") this.#suspects.add(name);
      }
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#options.log.error("The control plane does not put right open files any more", error);
    }
  }

  /** Compares what stands below a name with what should; "" is the folder itself. */
  async #check(name: string): Promise<void> {
    const { client } = this.#options;
    if (name === "") {
      await client.mkdir(FILES_PATH);
      const names = new Set([...await listOrEmpty(client, FILES_PATH), ...this.#shown.keys()]);
      for (const each of names) this.#suspects.add(String(each));
      return;
    }
    const shown = this.#shown.get(Number(name));
    if (shown === undefined) {
      if (!this.#dirty.has(Number(name))) await removeIfThere(client, `${FILES_PATH}/${name}`);
      return;
    }
    const values = await Promise.all(
      [...shown].map(async ([node, value]) =>
        node === "active" || await readOrNull(client, `${FILES_PATH}/${name}/${node}`) === value
      ),
    );
    const handles = await listOrEmpty(client, `${FILES_PATH}/${name}/onexit`);
    const strange = handles.some((handle) => !shown.has(`onexit/${handle}`));
    if (!strange && values.every((right) => right)) return;
    if (strange) await removeIfThere(client, `${FILES_PATH}/${name}/onexit`);
    if (this.#shown.get(Number(name)) !== shown) return;
    this.#shown.set(Number(name), NOTHING);
    this.#touch(Number(name));
  }

  #touch(minor: number): void {
    this.#dirty.add(minor);
    this.#running ??= this.#run();
  }

  async #run(): Promise<void> {
    const { clock, log } = this.#options;
    try {
      while (this.#dirty.size > 0 || this.#waiting.length > 0) {
        if (this.#waiting.length === 0) await this.#delay(clock);
        const waiting = this.#waiting;
        this.#waiting = [];
        this.#hurry = new AbortController();
        try {
          await this.#write();
        } finally {
          for (const resolve of waiting) resolve();
        }
      }
    } catch (error) {
      for (const resolve of this.#waiting.splice(0)) resolve();
      if (!this.#stop.signal.aborted) {
        log.error("The control plane does not show open files any more", error);
        this.#unobserve();
      }
      return;
    }
    this.#running = null;
  }

  /** Lets changes collect, unless somebody waits. Rejects when this is stopped. */
  async #delay(clock: Clock): Promise<void> {
    const signal = AbortSignal.any([this.#stop.signal, this.#hurry.signal]);
    await clock.sleep(FILES_MS, signal).catch(() => {});
    this.#stop.signal.throwIfAborted();
  }

  async #write(): Promise<void> {
    const { client, log } = this.#options;
    const minors = [...this.#dirty];
    this.#dirty.clear();
    const files = this.#byMinor();
    const now = minors.map((minor) => {
      const file = files.get(minor);
      return { minor, nodes: file === undefined ? null : nodesOf(file) };
    });
    const changes = now.filter(({ minor, nodes }) => nodes !== null || this.#shown.has(minor));
    if (changes.length === 0) return;
    const change = async (store: XenstoreOperations): Promise<void> => {
      for (const { minor, nodes } of changes) {
        const before = this.#shown.get(minor) ?? NOTHING;
        if (nodes === null) await removeIfThere(store, filePath(minor));
        else await writeChanges(store, filePath(minor), before, nodes);
      }
    };
    await changeTree(client, change, () => {
      log.warn(`Somebody changes ${FILES_PATH} all the time: it is written regardless`);
    });
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

function ignore(): void {}
