/**
 * Makes and removes targets at run time: a wish becomes an open target that lasts for as long as it was
 * wished for. The one place that knows which targets are kept over a restart, and which go with an open
 * file.
 *
 * @module
 */
import type { Log } from "../../block/context.ts";
import { BlockError } from "../../block/errors.ts";
import { UsageError } from "../../block/usage_error.ts";
import type { Registry } from "../../block/registry.ts";
import type { OpenFileTable } from "../../handle/table.ts";
import type { ServedTarget, Targets } from "../targets.ts";
import type { Nodes } from "./nodes.ts";
import type { StateStore } from "./state_store.ts";
import type { TargetTree, Terms } from "./target_tree.ts";
import { keptNodes, type LastingWish, parseWish } from "./wish.ts";

/** What a keeper needs. */
export interface KeeperOptions {
  readonly targets: Targets;
  readonly files: OpenFileTable;
  readonly registry: Registry;
  readonly log: Log;
  /** Where targets outlive the daemon; null if none does. */
  readonly state: StateStore | null;
}

/** Targets of the configuration stay as long as the daemon, and are not its state. */
const CONFIGURED: Terms = { ephemeral: false, onexit: null };

/** Makes and removes targets; see the top of the file. */
export class Keeper {
  readonly #options: KeeperOptions;
  readonly #terms = new Map<string, Terms>();
  /** Handles of the actions that remove targets with their open files. */
  readonly #handles = new Map<string, number>();
  #tree: TargetTree | null = null;

  /** Knows the targets of the configuration alone. */
  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  /** From now on nodes of targets that go by themselves are removed from `tree`. */
  useTree(tree: TargetTree): void {
    this.#tree = tree;
  }

  /** How long a target is to last. */
  termsOf(name: string): Terms {
    return this.#terms.get(name) ?? CONFIGURED;
  }

  /**
   * Makes the target that nodes wish for. Resolves when it is connected, and then it is durable. Rejects
   * with UsageError for a wrong wish, with BlockError for what cannot be opened.
   */
  async create(name: string, nodes: Nodes): Promise<void> {
    const { targets, state, registry } = this.#options;
    const lasting = parseWish(name, nodes, registry);
    const { wish, ephemeral } = lasting;
    let kept = false;
    const keep = (): void => {
      if (ephemeral) return;
      kept = true;
      state?.put(name, keptNodes(nodes));
    };
    this.#terms.set(name, lasting);
    const opening = Promise.withResolvers<ServedTarget | null>();
    try {
      this.#bind(lasting, opening.promise);
      opening.resolve(await targets.add(wish, keep));
    } catch (error) {
      opening.resolve(null);
      this.#unbind(name);
      if (kept) state?.delete(name);
      throw error;
    }
  }

  /** Makes a target again that was kept; it stays kept if that fails. Rejects as `create`. */
  async restore(name: string, nodes: Nodes): Promise<void> {
    const { targets, registry } = this.#options;
    const { wish } = parseWish(name, nodes, registry);
    await targets.add({ ...wish, sizeWas: true });
  }

  /** Closes a target, and forgets it before that. Rejects with BlockError if it could not be flushed. */
  async remove(name: string, instance?: ServedTarget): Promise<boolean> {
    const { targets, state } = this.#options;
    const served = targets.get(name);
    if (instance !== undefined && served !== instance) return false;
    state?.delete(name);
    try {
      return await targets.remove(name, instance);
    } finally {
      if (targets.get(name) === null) this.#unbind(name);
    }
  }

  /** Closes a target if it is still this one, and removes its nodes: nobody else does. */
  async removeWhole(name: string, instance: ServedTarget): Promise<void> {
    if (this.#options.targets.get(name) !== instance) return;
    try {
      await this.remove(name, instance);
    } finally {
      await this.#tree?.remove(name);
    }
  }

  /** Changes the size of a target, for good. Errno: those of Targets.resize. */
  async resize(name: string, size: number): Promise<void> {
    const { targets, state } = this.#options;
    await targets.resize(name, size);
    state?.resize(name, size);
  }

  /** A target that is not open is not to be opened at the next start. */
  forget(name: string): void {
    this.#options.state?.delete(name);
  }

  /** The target goes with its open file. Errno: EBADF if there is none. */
  #bind({ wish: { name }, onexit }: LastingWish, opening: Promise<ServedTarget | null>): void {
    if (onexit === null) return;
    const run = async (): Promise<void> => {
      const served = await opening;
      if (served !== null) await this.removeWhole(name, served);
    };
    const { files } = this.#options;
    this.#handles.set(name, files.get(onexit).onexit.add({ name: `remove ${name}`, run }));
  }

  /** The target is gone, so what was to be done about it is not any more. */
  #unbind(name: string): void {
    const { onexit } = this.termsOf(name);
    const handle = this.#handles.get(name);
    this.#terms.delete(name);
    this.#handles.delete(name);
    if (onexit === null || handle === undefined) return;
    try {
      this.#options.files.get(onexit).onexit.remove(handle).catch(ignore);
    } catch (error) {
      // The file has ended: its actions have run.
      if (!(error instanceof BlockError)) throw error;
    }
  }
}

/** What a wish failed with, for its `error` node. */
export function wishError(error: unknown): string {
  if (error instanceof UsageError || error instanceof BlockError) return error.message;
  return error instanceof Error ? error.message : String(error);
}

function ignore(): void {}
