/**
 * Makes the daemon's targets what clients have written into the tree: a watch says which target to look
 * at, and the look itself goes by what is there now and not by what has happened, so that clients that
 * crash, race or repeat themselves do no harm. What concerns one target is done in turn.
 *
 * @module
 */
import type { Log } from "../../block/context.ts";
import type { XenstoreClient } from "../../xenstore/client.ts";
import type { ServedTarget, Targets } from "../targets.ts";
import { Turns } from "../turns.ts";
import { type Keeper, wishError } from "./keeper.ts";
import { listOrEmpty, type Nodes } from "./nodes.ts";
import { targetNodeName, targetOfNodeName, TARGETS_PATH, XENBUS_STATE } from "./paths.ts";
import { isStatistic } from "./statistics_nodes.ts";
import type { TargetTree } from "./target_tree.ts";
import { parseTargetSize } from "./wish.ts";

/** What a reconciler needs. */
export interface ReconcilerOptions {
  readonly client: XenstoreClient;
  readonly targets: Targets;
  readonly tree: TargetTree;
  readonly keeper: Keeper;
  readonly log: Log;
}

/**
 * How far below the folder of targets changes matter: NAME/filters/0 is three levels down. Counters are
 * further down, so that nobody hears of them but who asks.
 */
const DEPTH = 3;

/** Looks after targets until it is stopped. */
export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #turns = new Turns();
  /** Nodes that may have changed, by target, and whose look has not begun. */
  readonly #suspects = new Map<string, Set<string>>();
  #events: AsyncIterableIterator<{ readonly path: string }> | null = null;
  #watching: Promise<void> = Promise.resolve();
  #stopping = false;

  /** Does nothing before `start`. */
  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /** Begins to watch; resolves when the watch is there. */
  async start(): Promise<void> {
    this.#events = await this.#options.client.watch(TARGETS_PATH, { depth: DEPTH });
    this.#watching = this.#watch(this.#events);
  }

  /** Ends the watch; resolves when no look is under way. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#events?.return?.().catch(ignore);
    await this.#watching;
    await this.#turns.idle();
  }

  /** Resolves when no look is under way. For tests. */
  idle(): Promise<void> {
    return this.#turns.idle();
  }

  async #watch(events: AsyncIterable<{ readonly path: string }>): Promise<void> {
    const { log } = this.#options;
    try {
      for await (const { path } of events) {
        if (path === TARGETS_PATH) await this.#lookAtAll();
        else this.#suspect(path.slice(TARGETS_PATH.length + 1));
      }
    } catch (error) {
      if (!this.#stopping) log.error("The control plane does not hear of wishes any more", error);
    }
  }

  /** The folder itself has changed, or is gone. */
  async #lookAtAll(): Promise<void> {
    const { client, tree } = this.#options;
    if (!await client.exists(TARGETS_PATH)) await client.mkdir(TARGETS_PATH);
    const nodes = await listOrEmpty(client, TARGETS_PATH);
    for (const node of new Set([...nodes, ...tree.names.map(targetNodeName)])) this.#suspect(node);
  }

  /** Something below a target has changed: `path` is NODE or NODE/… */
  #suspect(path: string): void {
    const slash = path.indexOf("/");
    const node = slash < 0 ? path : path.slice(0, slash);
    const below = slash < 0 ? null : path.slice(slash + 1);
    if (below !== null && isStatistic(below)) return;
    const name = targetOfNodeName(node);
    const waiting = this.#suspects.get(name);
    const suspects = waiting ?? new Set<string>();
    if (below !== null) suspects.add(below);
    if (waiting !== undefined) return;
    this.#suspects.set(name, suspects);
    this.#turns.take(name, async () => {
      // What comes from here on needs another look.
      this.#suspects.delete(name);
      if (!this.#stopping) await this.#look(name, suspects);
    }).catch((error: unknown) => {
      if (!this.#stopping) this.#options.log.error(`Cannot look after target ${name}`, error);
    });
  }

  async #look(name: string, suspects: ReadonlySet<string>): Promise<void> {
    const { targets, tree } = this.#options;
    const state = await tree.look(name);
    const served = targets.get(name);
    if (state === undefined) return await this.#removed(name, served);
    if (served === null) return await this.#lookAtNone(name, state);
    const wished = state === XENBUS_STATE.INITIALISING;
    if (wished && !await tree.bearsMark(name)) return await this.#create(name, served);
    if (state === XENBUS_STATE.CLOSING && served.state !== "closing") {
      return await this.#close(name, served);
    }
    if (wished && served.state === "init-wait") {
      await this.#attempt(name, () => targets.admit(name));
    }
    await this.#compare(name, served, suspects);
  }

  /** The nodes are gone: so is the target, if there is one. */
  async #removed(name: string, served: ServedTarget | null): Promise<void> {
    const { keeper } = this.#options;
    if (served === null) keeper.forget(name);
    else await this.#close(name, served);
  }

  /** Nodes without a target. */
  async #lookAtNone(name: string, state: string | null): Promise<void> {
    if (state === XENBUS_STATE.INITIALISING) await this.#create(name);
    else if (state !== null && CLAIMS.includes(state)) await this.#options.tree.deny(name);
  }

  /** Makes what the nodes wish for, in place of `before` if that is given. */
  async #create(name: string, before: ServedTarget | null = null): Promise<void> {
    const { tree, keeper, log } = this.#options;
    let nodes: Nodes | null = null;
    try {
      // Closing another one of this name writes to its nodes.
      nodes = await tree.read(name);
      if (before !== null) await this.#close(name, before);
      await keeper.create(name, nodes);
    } catch (error) {
      const message = wishError(error);
      log.warn(message);
      await tree.refuse(name, message, nodes);
    }
  }

  async #close(name: string, served: ServedTarget): Promise<void> {
    await this.#attempt(name, () => this.#options.keeper.remove(name, served));
  }

  /** Wishes for another size are fulfilled; everything else that is not as it should be is put right. */
  async #compare(
    name: string,
    served: ServedTarget,
    suspects: ReadonlySet<string>,
  ): Promise<void> {
    const { tree } = this.#options;
    const changed = await tree.changed(name, suspects);
    const size = changed.get("size") ?? null;
    if (size !== null && served.state === "connected") {
      await this.#attempt(name, () => this.#resize(name, size));
    }
    if (changed.size > 0 || suspects.has("state")) await tree.correct(served);
  }

  async #resize(name: string, text: string): Promise<void> {
    const { targets, keeper } = this.#options;
    let size: number;
    try {
      size = parseTargetSize(name, text);
    } catch (error) {
      return await targets.complain(name, wishError(error));
    }
    await keeper.resize(name, size);
  }

  /** Does what a client wished for; that it failed is for the log, and shown by who has done it. */
  async #attempt(name: string, step: () => Promise<unknown>): Promise<void> {
    try {
      await step();
    } catch (error) {
      this.#options.log.warn(`Target ${name}: ${wishError(error)}`);
    }
  }
}

/** States that claim that there is a target. */
const CLAIMS: readonly string[] = [
  XENBUS_STATE.INIT_WAIT,
  XENBUS_STATE.CONNECTED,
  XENBUS_STATE.CLOSING,
];

function ignore(): void {}
