/**
 * The control plane of a daemon: one XenStore tree that shows its targets and open files and through
 * which they are steered, connections to it as open files of their own, and the state that outlives the
 * daemon. Nothing of it is on the way of I/O.
 *
 * @module
 */
import type { Clock, Log } from "../../block/context.ts";
import type { Registry } from "../../block/registry.ts";
import { targetNameProblem } from "../../block/spec.ts";
import type { OpenFile } from "../../handle/open_file.ts";
import type { OpenFileTable } from "../../handle/table.ts";
import type { XenstoreClient } from "../../xenstore/client.ts";
import type {
  ServicePeer,
  XenstoreService,
  XenstoreServiceOptions,
} from "../../xenstore/service.ts";
import type { ServedTarget, Targets } from "../targets.ts";
import { answerCommand, type CommandSurroundings, type DaemonFacts } from "./commands.ts";
import type { LogFacts } from "../../dirty_log/session.ts";
import { FileTree } from "./file_tree.ts";
import { Keeper, wishError } from "./keeper.ts";
import { STATISTICS_MS } from "./limits.ts";
import { LogTree } from "./log_tree.ts";
import { DAEMON_PATH, FILES_PATH, TARGETS_PATH } from "./paths.ts";
import { Reconciler } from "./reconciler.ts";
import type { StateStore } from "./state_store.ts";
import { TargetTree } from "./target_tree.ts";
import { shownNodes } from "./wish.ts";

/** What the plane hears of its service, and answers. */
export type ServiceListener = Pick<
  XenstoreServiceOptions,
  "opened" | "closed" | "refused" | "control" | "onFailure"
>;

/** What a control plane needs. */
export interface ControlPlaneOptions {
  readonly targets: Targets;
  readonly files: OpenFileTable;
  readonly registry: Registry;
  readonly clock: Clock;
  readonly log: Log;
  /** Where targets outlive the daemon; null if none does. */
  readonly state: StateStore | null;
  /** Commands by the name of their hook. */
  readonly hooks: ReadonlyMap<string, readonly string[]>;
  /** Where hooks reach this daemon, null if they cannot. */
  readonly control: string | null;
  readonly facts: () => DaemonFacts;
  /** Looks at the dirty-region logs that the daemon keeps; left out if it keeps none. */
  readonly logs?: () => Promise<readonly LogFacts[]>;
  /** Starts the store and its sockets. */
  readonly startService: (listener: ServiceListener) => Promise<XenstoreService>;
}

/** A control plane that runs. */
export class ControlPlane {
  readonly #options: ControlPlaneOptions;
  readonly #keeper: Keeper;
  readonly #peers = new Map<number, OpenFile>();
  readonly #stop = new AbortController();
  #service: XenstoreService | null = null;
  #tree: TargetTree | null = null;
  #fileTree: FileTree | null = null;
  #reconciler: Reconciler | null = null;
  #looking: Promise<void> = Promise.resolve();

  /** Starts it: the tree shows all there is, and targets that were kept are open or shown as failed. */
  static async start(options: ControlPlaneOptions): Promise<ControlPlane> {
    const plane = new ControlPlane(options);
    try {
      await plane.#start();
    } catch (error) {
      await plane.stop();
      throw error;
    }
    return plane;
  }

  private constructor(options: ControlPlaneOptions) {
    this.#options = options;
    this.#keeper = new Keeper(options);
  }

  /** Resolves when all wishes that the daemon has heard of are looked at. For tests. */
  async idle(): Promise<void> {
    await this.#reconciler?.idle();
    await this.#tree?.idle();
  }

  /** Takes up no wishes any more; what is shown still changes. Before targets are closed. */
  async stopReconciling(): Promise<void> {
    await this.#reconciler?.stop();
  }

  /** Ends all connections. After the last change that is to be shown. */
  async stop(): Promise<void> {
    this.#stop.abort();
    await this.stopReconciling();
    this.#options.targets.showTo(null);
    await this.#looking;
    await this.#fileTree?.stop();
    await this.#service?.close();
  }

  async #start(): Promise<void> {
    const { targets, files, clock, log, facts } = this.#options;
    const service = await this.#options.startService({
      opened: (peer) => this.#opened(peer),
      closed: (id, reason) => this.#closed(id, reason),
      refused: (peer, reason) => log.info(`Control connection of ${peer} refused: ${reason}`),
      control: (id, words) => this.#command(id, words),
      onFailure: (reason) => log.error(`The control plane has failed: ${reason}`),
    });
    this.#service = service;
    const { client } = service;
    for (const path of [TARGETS_PATH, FILES_PATH, DAEMON_PATH]) await client.mkdir(path);
    const { pid, version } = facts();
    await client.write(`${DAEMON_PATH}/pid`, String(pid));
    await client.write(`${DAEMON_PATH}/version`, version);
    const termsOf = this.#keeper.termsOf.bind(this.#keeper);
    const tree = new TargetTree({ client, clock, log, termsOf });
    this.#tree = tree;
    this.#keeper.useTree(tree);
    this.#fileTree = new FileTree({ client, files, clock, log });
    await this.#fileTree.watch();
    for (const served of targets) {
      await tree.announce(served.wish.name, shownNodes(served, termsOf(served.wish.name)));
      await tree.show(served);
    }
    targets.showTo((served) => this.#show(tree, served));
    await this.#restore(tree);
    this.#reconciler = new Reconciler({ client, targets, tree, keeper: this.#keeper, log });
    await this.#reconciler.start();
    const logs = await this.#startLogs(client);
    this.#looking = this.#lookAgainAndAgain(tree, this.#fileTree, logs);
  }

  async #startLogs(client: XenstoreClient): Promise<LogTree | null> {
    const { logs: facts, log } = this.#options;
    if (facts === undefined) return null;
    const logs = new LogTree({ client, log, facts });
    await logs.start();
    return logs;
  }

  /** Shows a target; whoever sees it connected finds what is to be done about it at its open file. */
  async #show(tree: TargetTree, served: ServedTarget): Promise<void> {
    if (this.#keeper.termsOf(served.wish.name).onexit !== null) await this.#fileTree?.caughtUp();
    await tree.show(served);
  }

  /** Opens the targets that were kept; one that cannot be opened is shown as such and stays kept. */
  async #restore(tree: TargetTree): Promise<void> {
    const { state, targets, log } = this.#options;
    const restore = async (name: string, nodes: ReadonlyMap<string, string>): Promise<void> => {
      try {
        await this.#keeper.restore(name, nodes);
      } catch (error) {
        const message = wishError(error);
        log.warn(message);
        await tree.refuse(name, message, nodes);
      }
    };
    const restoring: Promise<void>[] = [];
    for (const { name, nodes } of state?.list() ?? []) {
      const problem = targetNameProblem(name);
      if (problem !== null) {
        log.error(`Cannot open a kept target: ${problem}`);
        continue;
      }
      if (targets.get(name) !== null) {
        log.warn(`Target ${name} is that of the configuration; one that was kept is not opened`);
        continue;
      }
      // One by one: transactions that add names to one folder come into each other's way.
      await tree.announce(name, nodes ?? new Map());
      if (nodes !== null) restoring.push(restore(name, nodes));
      else await tree.refuse(name, `Cannot open target ${name}: what was kept is damaged`, null);
    }
    await Promise.all(restoring);
  }

  #opened(peer: ServicePeer): void {
    const { files, log } = this.#options;
    const kick = (): void => this.#service?.kick(peer.id);
    try {
      const file = files.open({ kind: peer.kind, peer: peer.peer, target: null, kick });
      file.activate();
      this.#peers.set(peer.id, file);
    } catch (error) {
      log.warn(`Control connection of ${peer.peer} refused: ${wishError(error)}`);
      kick();
    }
  }

  #closed(id: number, reason: string): void {
    const file = this.#peers.get(id);
    this.#peers.delete(id);
    if (file === undefined) return;
    this.#options.log.debug(`Control connection ${file.minor} ended: ${reason}`);
    void file.close();
  }

  async #command(id: number, words: readonly string[]): Promise<string> {
    const file = this.#peers.get(id) ?? null;
    const surroundings: CommandSurroundings = {
      ...this.#options,
      keeper: this.#keeper,
      filesShown: async () => await this.#fileTree?.caughtUp(),
    };
    // A connection whose access was taken away steers nothing any more.
    if (file !== null && !file.enter()) {
      return JSON.stringify({
        ok: false,
        errno: "ENODEV",
        message: "Cannot do it: access was revoked",
      });
    }
    try {
      return await answerCommand(words, file, surroundings);
    } finally {
      file?.leave();
    }
  }

  /** Shows what nobody tells of, at most once in STATISTICS_MS. */
  async #lookAgainAndAgain(
    tree: TargetTree,
    files: FileTree,
    logs: LogTree | null,
  ): Promise<void> {
    const { clock, log, targets } = this.#options;
    try {
      for (;;) {
        await clock.sleep(STATISTICS_MS, this.#stop.signal);
        await files.look();
        await tree.showStatistics(targets);
        await logs?.look();
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) log.error("Statistics are not shown any more", error);
    }
  }
}
