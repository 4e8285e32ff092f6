/**
 * The targets of a daemon have one owner, here: whoever opens, closes, resizes, revokes or admits one, the
 * configuration at the start or the control plane later, does it through this. What concerns one target
 * is done in turn; clients are let in last and kept out first.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import { BlockError, toBlockError } from "../block/errors.ts";
import { TARGETS_MAX } from "../block/limits.ts";
import type { BufferPool } from "../block/pool.ts";
import type { Registry } from "../block/registry.ts";
import { formatSize } from "../block/size.ts";
import { UsageError } from "../block/usage_error.ts";
import type { BitmapFacts } from "../dirty_log/dirty_bitmap.ts";
import type { BitmapCommand } from "../dirty_log/target_bitmaps.ts";
import type { OpenFileTable } from "../handle/table.ts";
import type { ExportInfo, ExportTable } from "../nbd/export_info.ts";
import type { Reachable, ScopedListener } from "./acceptor.ts";
import type { TargetConfig } from "./config.ts";
import { type Endpoint, nbdUriOf } from "./endpoint.ts";
import { LISTENERS_MAX, TARGET_ENDPOINTS_MAX } from "./limits.ts";
import { type Listener, openListeners } from "./listeners.ts";
import type { Target } from "./target.ts";
import type { DriverChoice } from "./driver_choice.ts";
import { openDrivenTarget } from "./target_driver.ts";
import type { ThreadLimits } from "./target_messages.ts";
import { Turns } from "./turns.ts";

/** What a target is opened with. */
export interface TargetWish extends TargetConfig {
  /** Bytes that it is to have; what its storage has if left out. */
  readonly size?: number;
  /** It had this size before: storage that is larger by now keeps its size, instead of being refused. */
  readonly sizeWas?: boolean;
  /** Endpoints that lead to this target alone; none if left out. */
  readonly endpoints?: readonly Endpoint[];
}

/**
 * Where a target is in its life. "init-wait": it is being opened, or was opened and does not answer;
 * "connected": clients can connect; "closing": it answers no more; "closed": it is gone.
 */
export type TargetState = "init-wait" | "connected" | "closing" | "closed";

/** A target that the daemon has. */
export interface ServedTarget {
  /** What it was opened with. */
  readonly wish: TargetWish;
  /** Where it is in its life. */
  readonly state: TargetState;
  /** The open target; null before it is open, and after it is closed. */
  readonly target: Target | null;
  /** NBD URIs that lead to it. */
  readonly uris: readonly string[];
  /** What failed last, null if nothing did. */
  readonly error: string | null;
}

/** Shows to others what a target is; it must not reject, and has to come back soon. */
export type TargetViewer = (served: ServedTarget) => Promise<void>;

/** Takes over what clients can reach; the acceptor does. */
export interface Admission {
  /** Resolves when it counts. */
  update(reachable: Reachable): Promise<void>;
}

/** Which targets get threads of their own, and what for. */
export interface Driving {
  /** Which driver is wanted. */
  readonly driver: DriverChoice;
  /** Files of backends in the registry that are not among dmu's own. */
  readonly plugins: readonly string[];
  /** Limits of connections in threads of targets. */
  readonly limits: ThreadLimits;
  /** Why a target of this name has to be on the main thread, or null. */
  bound(name: string): string | null;
}

const UNDRIVEN: Driving = { driver: "streams", plugins: [], limits: {}, bound: () => null };

/** What targets need of their daemon. */
export interface TargetsOptions {
  /** The kinds of backends and filters. */
  readonly registry: Registry;
  /** Where the memory of all targets comes from. */
  readonly pool: BufferPool;
  /** Hears of what has failed. */
  readonly log: Log;
  /** Every way into the targets. */
  readonly files: OpenFileTable;
  /** Clients come under TLS. */
  readonly tls: boolean;
  /** The target of clients that name none; null for the one called "default", if there is one. */
  readonly defaultTarget: string | null;
  /** How targets get threads of their own; they get none if it is left out. */
  readonly driving?: Driving;
  /** The folder in which dirty bitmaps outlive the daemon; null, or left out, if they do not. */
  readonly bitmapFolder?: string | null;
  /** Called when a target is let in to again after a revoke, before that is shown. Must not throw. */
  readonly onAdmit?: (name: string) => void;
}

/** How access is taken away. */
export interface RevokeOptions {
  /** New clients are let in nevertheless. */
  readonly keepOpen?: boolean;
}

/** A target, with what its owner alone changes. */
interface Entry extends ServedTarget {
  state: TargetState;
  target: Target | null;
  error: string | null;
  uris: readonly string[];
  listeners: readonly Listener[];
  /** Handshakes see it. It is so before `state` says "connected", and until that is taken back. */
  admitted: boolean;
}

/** The name of the target of clients that name none, unless one was told. */
const DEFAULT_NAME = "default";

/** All targets of a daemon. */
export class Targets {
  /** Those that are open, by name, in the order of opening. */
  readonly open: ReadonlyMap<string, Target>;

  readonly #options: TargetsOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #open = new Map<string, Target>();
  readonly #turns = new Turns();
  /** Listeners of the daemon, which lead to all targets. */
  #listeners: readonly Listener[] = [];
  #admission: Admission | null = null;
  #publishing: Promise<void> = Promise.resolve();
  #nextPublishing: Promise<void> | null = null;
  #viewer: TargetViewer | null = null;
  /** Ends what is being opened when the daemon stops. */
  readonly #stopping = new AbortController();

  /** No targets yet. */
  constructor(options: TargetsOptions) {
    this.#options = options;
    this.open = this.#open;
  }

  /** All targets, those that are being opened or closed too. */
  [Symbol.iterator](): IterableIterator<ServedTarget> {
    return this.#entries.values();
  }

  /** The target of a name, null if there is none. */
  get(name: string): ServedTarget | null {
    return this.#entries.get(name) ?? null;
  }

  /** The target of a name. Errno: ENOENT if there is none, or it is not open. */
  opened(name: string): Target {
    const target = this.#open.get(name);
    if (target !== undefined) return target;
    throw new BlockError("ENOENT", `Cannot use target ${name}: there is none of this name`);
  }

  /** What clients can reach now. */
  get reachable(): Reachable {
    const entries = [...this.#entries.values()];
    const listeners: ScopedListener[] = this.#listeners.map(scoped(null));
    for (const { wish, listeners: own } of entries) listeners.push(...own.map(scoped(wish.name)));
    return { listeners, exports: this.exports };
  }

  /** What there is to serve now. */
  get exports(): ExportTable {
    const exports = new Map<string, ExportInfo>();
    for (const [name, target] of this.#open) {
      if (this.#entries.get(name)?.admitted === true) exports.set(name, target.exportInfo());
    }
    const { defaultTarget } = this.#options;
    const defaultExport = defaultTarget ?? (exports.has(DEFAULT_NAME) ? DEFAULT_NAME : null);
    return { exports, defaultExport, stopping: false };
  }

  /** The one target that clients of a listener of this label see, null for all. */
  scopeOf(label: string): string | null {
    for (const { wish, listeners } of this.#entries.values()) {
      if (listeners.some((each) => each.label === label)) return wish.name;
    }
    return null;
  }

  /** Where all targets are reached. Before anybody is admitted. */
  listen(listeners: readonly Listener[]): void {
    this.#listeners = listeners;
    for (const entry of this.#entries.values()) entry.uris = this.#urisOf(entry);
  }

  /** From now on `admission` hears of what clients can reach; it knows what `reachable` says now. */
  admitThrough(admission: Admission): void {
    this.#admission = admission;
  }

  /** From now on `viewer` shows each change of a target, before clients are let in or kept out. */
  showTo(viewer: TargetViewer | null): void {
    this.#viewer = viewer;
  }

  /**
   * Opens a target and lets clients in; `keep` is called between the two, and what it throws counts as
   * a failure. Throws UsageError for a wrong spec, BlockError for what cannot be opened, EEXIST, ENOSPC.
   */
  add(wish: TargetWish, keep: () => void = ignore): Promise<ServedTarget> {
    return this.#turns.take(wish.name, () => this.#add(wish, keep));
  }

  /**
   * Keeps clients out, lets what is in flight finish up to DRAIN_MS of lib/handle, flushes and closes.
   * Only `instance` if it is given: if the name belongs to another one by now, nothing is done. False if
   * there was nothing to close. Rejects with BlockError if it could not be flushed; it is gone then too.
   */
  remove(name: string, instance?: ServedTarget): Promise<boolean> {
    return this.#turns.take(name, async () => {
      const entry = this.#entries.get(name);
      if (entry === undefined || (instance !== undefined && instance !== entry)) return false;
      await this.#remove(entry);
      return true;
    });
  }

  /** Changes the size (bytes). Errno: ENOENT and those of Device.resize. */
  resize(name: string, size: number): Promise<void> {
    return this.#turns.take(name, async () => {
      const entry = this.#entry(name);
      try {
        await this.opened(name).device.resize(size);
        entry.error = null;
        await this.#publish();
      } catch (error) {
        entry.error = reasonOf(error);
        throw error;
      } finally {
        await this.#show(entry);
      }
    });
  }

  /** Does something to the dirty bitmaps of a target. Errno: ENOENT, and those of TargetBitmaps.run. */
  bitmap(name: string, command: BitmapCommand): Promise<BitmapFacts[]> {
    return this.#turns.take(name, async () => {
      const entry = this.#entry(name);
      const facts = await this.opened(name).bitmap(command);
      if (command.action === "list") return facts;
      await this.#publish();
      await this.#show(entry);
      return facts;
    });
  }

  /**
   * Takes access away: when it resolves nothing can enter through the files that it gives, nor through any
   * that is opened before `admit` unless `keepOpen`. Does not wait for what is inside. Errno: ENOENT.
   */
  revoke(
    name: string,
    options: RevokeOptions = {},
  ): Promise<ReturnType<OpenFileTable["revokeTarget"]>> {
    const { files } = this.#options;
    return this.#turns.take(name, async () => {
      const entry = this.#entry(name);
      if (options.keepOpen === true) return files.revokeTarget(name);
      entry.state = "init-wait";
      await this.#keepOut(entry);
      return files.revokeTarget(name, { refuse: true });
    });
  }

  /** Lets clients in again. Errno: ENOENT. */
  admit(name: string): Promise<void> {
    return this.#turns.take(name, async () => {
      const entry = this.#entry(name);
      if (entry.state === "connected") return;
      const { files, onAdmit } = this.#options;
      files.admit(name);
      onAdmit?.(name);
      await this.#letIn(entry);
    });
  }

  /** Shows what is wrong with what was asked of a target. Errno: ENOENT. */
  complain(name: string, error: string): Promise<void> {
    return this.#turns.take(name, async () => {
      const entry = this.#entry(name);
      entry.error = error;
      await this.#show(entry);
    });
  }

  /** No more targets are opened; what is being opened is given up. */
  refuse(): void {
    this.#stopping.abort(new BlockError("ESHUTDOWN", "the daemon is stopping"));
  }

  /** No target is shown as one that can be connected to any more. */
  async beginStop(): Promise<void> {
    this.refuse();
    await this.#turns.idle();
    const entries = [...this.#entries.values()];
    for (const entry of entries) {
      entry.state = "closing";
      entry.target?.beginClose();
    }
    await Promise.all(entries.map((entry) => this.#show(entry)));
  }

  /** Closes all that are left, when nobody uses them any more; gives what failed. */
  async stop(): Promise<string[]> {
    await this.#turns.idle();
    const closing = [...this.#entries.keys()].map((name) => this.remove(name));
    const ends = await Promise.allSettled(closing);
    return ends.flatMap((end) => end.status === "rejected" ? [reasonOf(end.reason)] : []);
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry !== undefined && entry.target !== null) return entry;
    throw new BlockError("ENOENT", `Cannot use target ${name}: there is none of this name`);
  }

  async #add(wish: TargetWish, keep: () => void): Promise<ServedTarget> {
    const { name } = wish;
    if (this.#stopping.signal.aborted) {
      throw new BlockError("ESHUTDOWN", `Cannot open target ${name}: the daemon is stopping`);
    }
    if (this.#entries.has(name)) {
      throw new BlockError("EEXIST", `Cannot open target ${name}: there is one of this name`);
    }
    if (this.#entries.size >= TARGETS_MAX) {
      throw new BlockError("ENOSPC", `Cannot open target ${name}: there are ${TARGETS_MAX}`);
    }
    const entry: Entry = {
      wish,
      state: "init-wait",
      target: null,
      uris: [],
      error: null,
      listeners: [],
      admitted: false,
    };
    this.#entries.set(name, entry);
    await this.#show(entry);
    try {
      await this.#openStorage(entry);
      keep();
      await this.#letIn(entry);
      return entry;
    } catch (error) {
      await this.#dismantle(entry, error);
      throw error;
    }
  }

  async #openStorage(entry: Entry): Promise<void> {
    const { wish } = entry;
    const { registry, pool, log, files, driving = UNDRIVEN, bitmapFolder = null } = this.#options;
    const { driver, plugins, limits, bound } = driving;
    const config = bitmapFolder === null ? wish : { ...wish, bitmapFolder };
    const target = await openDrivenTarget(config, {
      registry,
      pool,
      log,
      giveUp: this.#stopping.signal,
      driver,
      bound: bound(wish.name),
      threads: [...this.#open.values()].filter((each) => each.driver === "blocking").length,
      thread: { files, plugins, limits, onFailure: (reason) => this.#lost(entry, reason) },
    });
    entry.target = target;
    this.#open.set(wish.name, target);
    await fitSize(target, wish);
    entry.listeners = await this.#openEndpoints(wish);
    entry.uris = this.#urisOf(entry);
  }

  async #openEndpoints({ name, endpoints = [] }: TargetWish): Promise<readonly Listener[]> {
    if (endpoints.length === 0) return [];
    if (endpoints.length > TARGET_ENDPOINTS_MAX) {
      const reason = `a target has at most ${TARGET_ENDPOINTS_MAX} endpoints of its own`;
      throw new BlockError("ENOSPC", `Cannot open target ${name}: ${reason}`);
    }
    if (this.#admission === null) {
      throw new BlockError("EOPNOTSUPP", `Cannot open target ${name}: this daemon serves no NBD`);
    }
    if (this.reachable.listeners.length + endpoints.length > LISTENERS_MAX) {
      throw new BlockError(
        "ENOSPC",
        `Cannot open target ${name}: there are ${LISTENERS_MAX} sockets`,
      );
    }
    return await openListeners(endpoints);
  }

  /** The last step to a target that answers, and the way back to it. */
  async #letIn(entry: Entry): Promise<void> {
    this.#options.files.admit(entry.wish.name);
    entry.admitted = true;
    await this.#publish();
    entry.state = "connected";
    await this.#show(entry);
  }

  /** Nobody is told any more that it answers, then it does not. */
  async #keepOut(entry: Entry): Promise<void> {
    await this.#show(entry);
    entry.admitted = false;
    await this.#publish();
  }

  /** The thread of a target has died: nobody can use it any more, and that is shown. */
  #lost(entry: Entry, reason: string): void {
    const { log, files } = this.#options;
    const { name } = entry.wish;
    log.error(`The thread of target ${name} has died: ${reason}`);
    const down = this.#turns.take(name, async () => {
      if (this.#entries.get(name) !== entry) return;
      entry.admitted = false;
      await this.#publish();
      files.revokeTarget(name, { refuse: true });
      await this.#dismantle(entry, new BlockError("EIO", `its thread has died: ${reason}`));
      files.admit(name);
    });
    down.catch((error: unknown) => log.error(`Cannot take target ${name} down`, error));
  }

  async #remove(entry: Entry): Promise<void> {
    const { files, log } = this.#options;
    const { name } = entry.wish;
    entry.state = "closing";
    entry.target?.beginClose();
    await this.#keepOut(entry);
    const inside = files.revokeTarget(name, { refuse: true });
    await files.drain(inside).catch((error: unknown) => log.warn(reasonOf(error)));
    let failure: unknown = null;
    await this.#dismantle(entry, null).catch((error: unknown) => failure = error);
    files.admit(name);
    if (failure !== null) throw failure;
  }

  /** Undoes what was opened and forgets the target; rejects if it could not be flushed. */
  async #dismantle(entry: Entry, cause: unknown): Promise<void> {
    const { wish: { name }, listeners, target } = entry;
    entry.listeners = [];
    entry.admitted = false;
    entry.state = "closing";
    if (this.#open.delete(name) || listeners.length > 0) await this.#publish();
    for (const listener of listeners) listener.close();
    let failure: unknown = null;
    try {
      await target?.close();
    } catch (error) {
      failure = error;
    }
    this.#entries.delete(name);
    entry.target = null;
    entry.uris = [];
    entry.state = "closed";
    entry.error = failure === null && cause === null ? null : reasonOf(cause ?? failure);
    await this.#show(entry);
    if (failure !== null && cause === null) throw failure;
  }

  #urisOf({ wish: { name }, listeners }: Entry): string[] {
    const { tls } = this.#options;
    return [
      ...this.#listeners.map(({ address }) => nbdUriOf(address, name, tls)),
      ...listeners.map(({ address }) => nbdUriOf(address, "", tls)),
    ];
  }

  async #show(served: ServedTarget): Promise<void> {
    await this.#viewer?.(served);
  }

  /** Tells the acceptor what clients can reach now; several changes at once go together. */
  #publish(): Promise<void> {
    this.#nextPublishing ??= this.#publishing = this.#publishing.then(async () => {
      this.#nextPublishing = null;
      await this.#admission?.update(this.reachable);
    });
    return this.#nextPublishing;
  }
}

function scoped(scope: string | null): (listener: Listener) => ScopedListener {
  return ({ fd, label }) => ({ fd, label, scope });
}

/** Gives a target that was just opened the size that it is to have. */
async function fitSize({ device }: Target, wish: TargetWish): Promise<void> {
  const { size, sizeWas = false, name } = wish;
  const has = device.geometry.size;
  if (size === undefined || size === has || (sizeWas && has > size)) return;
  if (has > size) {
    const reason = `its storage has ${formatSize(has)} already; open it, then shrink it`;
    throw new BlockError(
      "EINVAL",
      `Cannot open target ${name} with ${formatSize(size)}: ${reason}`,
    );
  }
  await device.resize(size);
}

function reasonOf(error: unknown): string {
  return error instanceof UsageError ? error.message : toBlockError(error).message;
}

function ignore(): void {}
