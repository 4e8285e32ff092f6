/**
 * Shows targets in the tree. All changes of a target's nodes go through here, in turn, as transactions
 * that look at what a client may have written meanwhile: a wish in `state` is not overwritten before
 * somebody has looked at it, and a subtree that a client has removed does not come back.
 *
 * @module
 */
import type { Clock, Log } from "../../block/context.ts";
import { UsageError } from "../../block/usage_error.ts";
import type { XenstoreClient } from "../../xenstore/client.ts";
import type { XenstoreOperations } from "../../xenstore/client_operations.ts";
import type { ServedTarget } from "../targets.ts";
import { Turns } from "../turns.ts";
import { SHOW_MS_MAX, STATISTICS_NODES_MAX } from "./limits.ts";
import {
  changeTree,
  listOrEmpty,
  type Nodes,
  readOrNull,
  removeIfThere,
  writeChanges,
} from "./nodes.ts";
import { targetPath, XENBUS_STATE, xenbusState } from "./paths.ts";
import { countsOf, statisticsNodes } from "./statistics_nodes.ts";
import { readTargetNodes, shownNodes, TARGET_LISTS } from "./wish.ts";

/** How long a target is to last. */
export interface Terms {
  /** It is not kept over a restart. */
  readonly ephemeral: boolean;
  /** The open file at whose end it goes, null for none. */
  readonly onexit: number | null;
}

/** What showing targets needs. */
export interface TargetTreeOptions {
  readonly client: XenstoreClient;
  readonly clock: Clock;
  readonly log: Log;
  /** The terms of a target. */
  readonly termsOf: (name: string) => Terms;
}

/** What is known of the nodes of a target that is in the tree. */
interface Known {
  /** The value of `state` that was read or written last, null if there was none. */
  state: string | null;
  /** The other nodes as they were read or written last; a `size` that is not this one is a wish. */
  nodes: Nodes;
  /** Statistics that are shown. */
  statistics: Nodes;
  /** What those were made from. */
  counts: string;
}

const NOTHING: Nodes = new Map();

/** Shows targets; see the top of the file. */
export class TargetTree {
  readonly #options: TargetTreeOptions;
  readonly #known = new Map<string, Known>();
  readonly #turns = new Turns();
  /** Names in the order in which their statistics have their turn. */
  #statisticsAfter = "";
  #broken = false;

  /** Shows nothing yet. */
  constructor(options: TargetTreeOptions) {
    this.#options = options;
  }

  /** The names of targets that have nodes, as far as is known. */
  get names(): string[] {
    return [...this.#known.keys()];
  }

  /** Gives a target its node, with state 2: the daemon has it without that a client has written it. */
  announce(name: string, nodes: Nodes): Promise<void> {
    return this.#turns.take(name, async () => {
      const top = targetPath(name);
      await this.#change(name, async (store) => {
        await writeChanges(store, top, NOTHING, nodes);
        await store.write(`${top}/state`, XENBUS_STATE.INIT_WAIT);
      });
      this.#know(name, XENBUS_STATE.INIT_WAIT, nodes);
    });
  }

  /** The value of `state` now, which counts as seen: null if it is missing, undefined if all is. */
  look(name: string): Promise<string | null | undefined> {
    return this.#turns.take(name, async () => {
      const { client } = this.#options;
      const top = targetPath(name);
      const state = await readOrNull(client, `${top}/state`);
      if (state === null && await readOrNull(client, top) === null) {
        this.#known.delete(name);
        return undefined;
      }
      const known = this.#known.get(name);
      if (known === undefined) this.#know(name, state, NOTHING);
      else known.state = state;
      return state;
    });
  }

  /** Reads all nodes of a target, which count as seen. Throws UsageError. */
  read(name: string): Promise<Nodes> {
    return this.#turns.take(name, async () => {
      const nodes = await readTargetNodes(this.#options.client, targetPath(name));
      const known = this.#known.get(name);
      if (known !== undefined) known.nodes = nodes;
      return nodes;
    });
  }

  /** True if the nodes are those of a target that the daemon has shown: it adds some of its own. */
  bearsMark(name: string): Promise<boolean> {
    return this.#options.client.exists(`${targetPath(name)}/statistics`);
  }

  /** Shows what a target is. Comes back within SHOW_MS_MAX and never rejects. */
  async show(served: ServedTarget): Promise<void> {
    const { clock, log } = this.#options;
    const { name } = served.wish;
    const patience = new AbortController();
    const shown = this.#turns.take(name, () => this.#show(served)).catch((error: unknown) => {
      this.#failed(error);
    });
    const late = clock.sleep(SHOW_MS_MAX, patience.signal).then(() => {
      log.warn(`The control plane does not show ${name} in time`);
    }, () => {});
    await Promise.race([shown, late]);
    patience.abort();
  }

  /** Shows that a wish could not be fulfilled; `wished` is what it was, if that is known. */
  refuse(name: string, error: string, wished: Nodes | null): Promise<void> {
    return this.#turns.take(name, async () => {
      const known = this.#known.get(name);
      if (known === undefined) return;
      const nodes = new Map([...wished ?? known.nodes, ["error", error]]);
      await this.#write(name, known, nodes, XENBUS_STATE.CLOSED);
    });
  }

  /** Shows that there is no such target, although a client wrote that there were. */
  deny(name: string): Promise<void> {
    return this.#turns.take(name, async () => {
      const known = this.#known.get(name);
      if (known !== undefined) await this.#write(name, known, known.nodes, XENBUS_STATE.CLOSED);
    });
  }

  /** Of the nodes that may have been changed by a client, those that were. A `size` counts as seen. */
  changed(name: string, suspects: Iterable<string>): Promise<Map<string, string | null>> {
    return this.#turns.take(name, async () => {
      const changed = new Map<string, string | null>();
      const known = this.#known.get(name);
      if (known === undefined) return changed;
      for (const suspect of suspects) {
        const value = await readOrNull(this.#options.client, `${targetPath(name)}/${suspect}`);
        if (value !== expected(known, suspect)) changed.set(suspect, value);
      }
      const size = changed.get("size");
      if (size !== undefined) known.nodes = withSize(known.nodes, size);
      return changed;
    });
  }

  /** Puts all nodes of a target right, whatever clients have written. */
  correct(served: ServedTarget): Promise<void> {
    const { name } = served.wish;
    return this.#turns.take(name, async () => {
      const known = this.#known.get(name);
      if (known === undefined || served.state === "closed") return;
      const { client } = this.#options;
      const top = targetPath(name);
      const nodes = await readTargetNodes(client, top).catch(async (error: unknown) => {
        if (!(error instanceof UsageError)) throw error;
        // Lists of this length are nobody's wish.
        for (const list of TARGET_LISTS) await removeIfThere(client, `${top}/${list}`);
        return await readTargetNodes(client, top);
      });
      known.nodes = withSize(nodes, known.nodes.get("size") ?? null);
      const statistics = await listOrEmpty(client, `${top}/statistics`);
      // They come back with the next look at them.
      known.counts = "";
      if (statistics.length === 0) known.statistics = NOTHING;
      await this.#show(served);
    });
  }

  /** Removes the nodes of a target that is gone, unless somebody wishes for it again. */
  remove(name: string): Promise<void> {
    return this.#turns.take(name, async () => {
      const top = targetPath(name);
      await this.#change(name, async (store) => {
        const state = await readOrNull(store, `${top}/state`);
        if (state === XENBUS_STATE.CLOSED) await removeIfThere(store, top);
      });
    });
  }

  /** Brings statistics up to date: those that have changed, STATISTICS_NODES_MAX nodes of them. */
  async showStatistics(targets: Iterable<ServedTarget>): Promise<void> {
    const all = [...targets].sort((a, b) => a.wish.name < b.wish.name ? -1 : 1);
    const at = all.findIndex(({ wish }) => wish.name > this.#statisticsAfter);
    const inTurn = at < 0 ? all : [...all.slice(at), ...all.slice(0, at)];
    let left = STATISTICS_NODES_MAX;
    for (const served of inTurn) {
      if (left <= 0) return;
      this.#statisticsAfter = served.wish.name;
      left -= await this.#turns.take(served.wish.name, () => this.#showStatistics(served));
    }
  }

  /** Resolves when nothing is being written. */
  idle(): Promise<void> {
    return this.#turns.idle();
  }

  async #show(served: ServedTarget): Promise<void> {
    const { name } = served.wish;
    const known = this.#known.get(name);
    if (known === undefined) return;
    const nodes = shownNodes(served, this.#options.termsOf(name));
    await this.#write(name, known, nodes, xenbusState(served.state));
  }

  async #write(name: string, known: Known, nodes: Nodes, wanted: string): Promise<void> {
    const top = targetPath(name);
    const open = wanted !== XENBUS_STATE.CLOSED;
    const marks = open ? statisticsNodes(null, known.statistics) : NOTHING;
    const sizeSeen = known.nodes.get("size") ?? null;
    let gone = false, wished = false, resized = false;
    await this.#change(name, async (store) => {
      const state = await readOrNull(store, `${top}/state`);
      gone = state === null && await readOrNull(store, top) === null;
      wished = state !== known.state && state !== wanted;
      if (gone || wished) return;
      resized = open && await readOrNull(store, `${top}/size`) !== sizeSeen;
      const after = resized ? withSize(nodes, sizeSeen) : nodes;
      await writeChanges(store, top, known.nodes, after);
      if (open) await writeChanges(store, top, known.statistics, marks);
      else await removeIfThere(store, `${top}/statistics`);
      if (state !== wanted) await store.write(`${top}/state`, wanted);
    });
    if (gone) return void this.#known.delete(name);
    // What a client has written since the last look is a wish, maybe for something else under this name.
    if (wished) return;
    known.nodes = resized ? withSize(nodes, sizeSeen) : nodes;
    known.statistics = marks;
    known.state = wanted;
  }

  /** The number of nodes that were written. */
  async #showStatistics(served: ServedTarget): Promise<number> {
    const { wish: { name }, target } = served;
    const known = this.#known.get(name);
    if (known === undefined || target === null || served.state === "closed") return 0;
    const counts = countsOf(target.device);
    if (known.counts === counts) return 0;
    const top = targetPath(name);
    const storage = target.management?.statistics?.();
    const after = statisticsNodes(target.device, known.statistics, storage);
    let gone = false;
    await this.#change(name, async (store) => {
      gone = await readOrNull(store, top) === null;
      if (!gone) await writeChanges(store, top, known.statistics, after);
    });
    if (gone) return 0;
    const written = [...after].filter(([node, value]) => known.statistics.get(node) !== value);
    known.statistics = after;
    known.counts = counts;
    return written.length;
  }

  #know(name: string, state: string | null, nodes: Nodes): void {
    this.#known.set(name, { state, nodes, statistics: NOTHING, counts: "" });
  }

  #change(name: string, change: (store: XenstoreOperations) => Promise<void>): Promise<void> {
    const { client, log } = this.#options;
    return changeTree(client, change, () => {
      log.warn(`Somebody changes ${targetPath(name)} all the time: it is written regardless`);
    });
  }

  /** Says once that the tree does not work any more. */
  #failed(error: unknown): void {
    if (this.#broken) return;
    this.#broken = true;
    this.#options.log.error("The control plane does not show targets any more", error);
  }
}

/** What `changed` compares a node with. */
function expected(known: Known, name: string): string | null {
  const own = known.nodes.get(name) ?? known.statistics.get(name);
  if (own !== undefined) return own;
  const isFolder = (nodes: Nodes): boolean =>
    [...nodes.keys()].some((each) => each.startsWith(`${name}/`));
  return isFolder(known.nodes) || isFolder(known.statistics) ? "" : null;
}

function withSize(nodes: Nodes, size: string | null): Nodes {
  const changed = new Map(nodes);
  if (size === null) changed.delete("size");
  else changed.set("size", size);
  return changed;
}
