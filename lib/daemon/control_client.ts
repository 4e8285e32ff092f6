/**
 * What talks to a daemon over its control socket: the tree of targets and open files as plain data,
 * and the verbs that steer it. The socket speaks XenStore, so everything here can be done with any
 * client of it; this one knows the names and waits for the outcome.
 *
 * @module
 */
import { BlockError, errnoText, isErrno } from "../block/errors.ts";
import type { MirrorStatus } from "../block/types.ts";
import { nearest } from "../block/usage_error.ts";
import type { WatchEvent } from "../xenstore/client_events.ts";
import type { XenstoreOperations } from "../xenstore/client_operations.ts";
import { XenstoreClient } from "../xenstore/client.ts";
import { OPERATION } from "../xenstore/constants.ts";
import { XenstoreError } from "../xenstore/errors.ts";
import type { BitmapFacts } from "../dirty_log/dirty_bitmap.ts";
import type { BitmapCommand } from "../dirty_log/target_bitmaps.ts";
import type { DaemonFacts } from "./control/commands.ts";
import { readOrNull } from "./control/nodes.ts";
import { targetPath } from "./control/paths.ts";
import {
  readFile,
  readFiles,
  readLogs,
  readNames,
  readState,
  readStatistics,
  readTarget,
  readTargets,
  type ShownFile,
  type ShownLog,
  type ShownStatistics,
  type ShownTarget,
  TARGET_STATES,
  targetStateName,
} from "./control_nodes.ts";
import {
  answerOf,
  bitmapsOf,
  GONE,
  infoOf,
  mirrorOf,
  numberOf,
  question,
  refused,
  unreachable,
} from "./control_verbs.ts";
import { Turns } from "./turns.ts";

export { type HeldFile, holdOpenFile } from "./control_holder.ts";
export {
  type CountedOperation,
  type ShownAction,
  type ShownBitmap,
  type ShownFile,
  type ShownLog,
  type ShownStatistics,
  type ShownTarget,
  TARGET_STATES,
  targetNameOf,
  type TargetStateName,
  targetStateName,
} from "./control_nodes.ts";
export { targetPath } from "./control/paths.ts";
export type { DaemonFacts } from "./control/commands.ts";
export type { BitmapFacts } from "../dirty_log/dirty_bitmap.ts";
export type { BitmapCommand } from "../dirty_log/target_bitmaps.ts";

/** What a target is to be. */
export interface TargetWish {
  /** The spec of its storage. Paths in it are the daemon's: make them absolute. */
  readonly backend: string;
  /** The specs of its filters, outermost last. */
  readonly filters?: readonly string[];
  /** Bytes. */
  readonly size?: number;
  /** Refuse what changes data. */
  readonly readOnly?: boolean;
  /** Endpoints of its own, as `unix:/run/d.sock`. */
  readonly endpoints?: readonly string[];
  /** Do not keep it over a restart of the daemon. */
  readonly ephemeral?: boolean;
  /** Remove it when the open file of this number ends. */
  readonly onexit?: number;
}

/** Whose access is taken away: that of all open files of a target, or of one open file. */
export type Revoked = { readonly target: string } | { readonly minor: number };

/** How access is taken away. */
export interface RevokeRequest {
  /** Wait for what is inside, at most this many ms; without it nothing is waited for. */
  readonly drain_ms?: number;
  /** Let new clients in; without it a target stays shut until it is admitted again. */
  readonly keepOpen?: boolean;
}

/** What came of a revocation. */
export interface RevokeResult {
  /** Open files that have lost access. */
  readonly files: number;
  /** Nothing of theirs is inside any more. */
  readonly drained: boolean;
}

/** What came of a change of size, in bytes. */
export interface ResizeResult {
  /** The size before. */
  readonly before: number;
  /** The size now. */
  readonly after: number;
}

/** Everything about a target. */
export interface TargetDetails extends ShownTarget {
  /** What it has done. */
  readonly statistics: ShownStatistics;
  /** The open files in it. */
  readonly files: readonly ShownFile[];
}

/** A target and what it has done. */
export interface CountedTarget extends ShownTarget {
  /** What it has done. */
  readonly statistics: ShownStatistics;
}

/**
 * A connection to the control socket of a daemon. All methods reject with BlockError: ECONNRESET if the
 * daemon ends meanwhile, EACCES if it does not let this user.
 */
export class ControlClient implements AsyncDisposable {
  /** The tree itself. */
  readonly store: XenstoreClient;
  readonly #turns = new Turns();

  /** A client over a connected XenStore client, which it then owns. */
  constructor(store: XenstoreClient) {
    this.store = store;
  }

  /** Connects. Rejects with BlockError that names the path and says what is wrong there. */
  static async connect(path: string): Promise<ControlClient> {
    let store: XenstoreClient;
    try {
      store = await XenstoreClient.connectUnix(path);
    } catch (error) {
      throw unreachable(path, error);
    }
    try {
      // Everybody may ask this. Who is refused finds out now, and not in the middle of something.
      await store.request(OPERATION.GET_DOMAIN_PATH, "0\0");
    } catch (error) {
      await store.close();
      throw refused(path, error);
    }
    return new ControlClient(store);
  }

  /** All targets, in the order of their names, as they are at one moment. */
  targets(): Promise<ShownTarget[]> {
    return guarded(() => this.store.snapshot(readTargets));
  }

  /** All targets with what they have done. */
  countedTargets(): Promise<CountedTarget[]> {
    return guarded(() =>
      this.store.snapshot(async (store) => {
        const targets = await readTargets(store);
        return await Promise.all(targets.map(async (target) => {
          return { ...target, statistics: await readStatistics(store, target.name) };
        }));
      })
    );
  }

  /** Everything about a target. Errno: ENOENT. */
  target(name: string): Promise<TargetDetails> {
    return guarded(() =>
      this.store.snapshot(async (store) => {
        const target = await readTarget(store, name);
        if (target === null) throw await noTarget(store, name);
        const [statistics, files] = await Promise.all([
          readStatistics(store, name),
          readFiles(store),
        ]);
        return { ...target, statistics, files: files.filter((file) => file.target === name) };
      })
    );
  }

  /** All open files, in the order of their numbers. */
  files(): Promise<ShownFile[]> {
    return guarded(() => this.store.snapshot(readFiles));
  }

  /** All dirty-region logs that it keeps for the kernel, at most a second old. */
  logs(): Promise<ShownLog[]> {
    return guarded(() => this.store.snapshot(readLogs));
  }

  /** An open file. Errno: EBADF if there is none of that number. */
  file(minor: number): Promise<ShownFile> {
    return guarded(async () => {
      const file = await this.store.snapshot((store) => readFile(store, minor));
      if (file !== null) return file;
      throw new BlockError("EBADF", `Cannot find open file ${minor}: there is none of that number`);
    });
  }

  /**
   * Creates a target and waits until clients can connect. If that fails, its nodes are removed and this
   * rejects with what the daemon says. Errno: EEXIST if there is one of that name.
   */
  create(name: string, wish: TargetWish): Promise<TargetDetails> {
    return guarded(async () => {
      await this.#change((store) => writeWish(store, name, wish));
      const { connected, closed } = TARGET_STATES;
      const state = await this.#stateAmong(name, [connected, closed]);
      if (state === connected) return await this.target(name);
      const error = await readOrNull(this.store, `${targetPath(name)}/error`);
      if (state === closed) await this.#removeClosed(name);
      throw new BlockError("EIO", error ?? `Cannot create "${name}": it was removed meanwhile`);
    });
  }

  /**
   * Closes a target, waits for that and removes its nodes. Gives the error with which it was closed, or
   * null. Errno: ENOENT; EBUSY if somebody starts it again meanwhile.
   */
  remove(name: string): Promise<string | null> {
    return guarded(async () => {
      const { closing, closed } = TARGET_STATES;
      const before = await this.#change(async (store) => {
        if (await readOrNull(store, targetPath(name)) === null) throw await noTarget(store, name);
        const state = await readState(store, name);
        if (state !== null && state !== closed && state !== closing) {
          await store.write(`${targetPath(name)}/state`, String(closing));
        }
        return state;
      });
      // What was closed before has told its error to whoever closed it.
      if (before === closed) return await this.#removeClosed(name), null;
      if (before !== null) await this.#stateAmong(name, [closed]);
      return await this.#removeClosed(name);
    });
  }

  /**
   * Changes the size of a target and waits for the outcome: the wish is written with a zero in front, and
   * the daemon replaces it by the size that there is then, which is that of before if it failed. `wanted` is given the size now and gives the new one, bytes.
   * Rejects with what the daemon says. Errno: ENOENT; EAGAIN if it is not connected.
   */
  resize(name: string, wanted: (size: number) => number): Promise<ResizeResult> {
    return guarded(async () => {
      const path = targetPath(name);
      const events = await this.store.watch(`${path}/size`);
      try {
        await events.next();
        const change = await this.#change((store) => writeSize(store, name, wanted));
        if (change.before === change.after) return change;
        const wish = sizeWish(change.after);
        // The wish stands there until it is fulfilled or refused.
        do await events.next(); while (await readOrNull(this.store, `${path}/size`) === wish);
        const now = await this.store.snapshot((store) => readTarget(store, name));
        if (now?.size === change.after) return change;
        const reason = now === null ? "it was removed meanwhile" : "the daemon does not say why";
        throw new BlockError("EIO", now?.error ?? `Cannot resize "${name}": ${reason}`);
      } finally {
        await events.return?.();
      }
    });
  }

  /** The number of the open file that this connection is. */
  self(): Promise<number> {
    return this.#ask("self", {}, (answer) => numberOf(answer, "minor"));
  }

  /** What the daemon is, and where it listens. */
  info(): Promise<DaemonFacts> {
    return this.#ask("info", {}, infoOf);
  }

  /**
   * Takes access away. Errno: ENOENT for an unknown target, EBADF for an unknown open file, ETIMEDOUT if
   * something is still inside after `drain_ms`; access is gone then too.
   */
  revoke(whose: Revoked, request: RevokeRequest = {}): Promise<RevokeResult> {
    return this.#ask("revoke", { ...whose, ...request }, (answer) => ({
      files: numberOf(answer, "files"),
      drained: answer["drained"] === true,
    }));
  }

  /** Lets clients into a target again after a revocation. Errno: ENOENT. */
  admit(target: string): Promise<void> {
    return this.#ask("admit", { target }, () => {});
  }

  /**
   * Adds an action, done when an open file ends, and gives its handle. Errno: EBADF for an unknown open
   * file, EINVAL for an action that there is not, ENOENT for an unknown target or hook, EOPNOTSUPP for
   * what the target cannot do.
   */
  addOnexit(minor: number, action: string): Promise<number> {
    return this.#ask("onexit-add", { minor, action }, (answer) => numberOf(answer, "handle"));
  }

  /** Takes an action back, or does it now (`fire`). Errno: EBADF, ENOENT. */
  removeOnexit(
    minor: number,
    handle: number,
    options: { readonly fire?: boolean } = {},
  ): Promise<void> {
    const { fire = false } = options;
    return this.#ask("onexit-remove", { minor, handle, fire }, () => {});
  }

  /** The state of a mirror. Errno: ENOENT, EOPNOTSUPP for a target that is none. */
  mirror(target: string): Promise<MirrorStatus> {
    return this.#ask("mirror-show", { target }, mirrorOf);
  }

  /**
   * Takes a leg (from 1) that failed into use again; all of it is copied if `full`, else what it missed.
   * Errno: ENOENT, EEXIST if it is in use, EOPNOTSUPP, and those of opening it.
   */
  addLeg(target: string, leg: number, full = false): Promise<void> {
    return this.#ask("mirror-add", { target, leg, full }, () => {});
  }

  /** Takes a leg (from 1) out of use. Errno: ENOENT, EBUSY if no other one is in sync, EOPNOTSUPP. */
  dropLeg(target: string, leg: number): Promise<void> {
    return this.#ask("mirror-drop", { target, leg }, () => {});
  }

  /**
   * Does something to the dirty bitmaps of a target and gives those that there are then. Errno: ENOENT
   * for an unknown target, and those of TargetBitmaps.run.
   */
  bitmap(target: string, command: BitmapCommand): Promise<BitmapFacts[]> {
    return this.#ask("bitmap", { target, ...command }, bitmapsOf);
  }

  /**
   * Watches a node and all below it: each event with the value that the node has now, null if there is
   * no such node. The first event comes at once. `depth` 0 is the node alone.
   */
  async *watch(
    path: string,
    options: { readonly depth?: number } = {},
  ): AsyncGenerator<{ readonly path: string; readonly value: Uint8Array | null }, void> {
    const events = await guarded(() => this.store.watch(path, options));
    try {
      for (;;) {
        const event = await guarded(() => events.next());
        if (event.done === true) return;
        yield { path: event.value.path, value: await guarded(() => this.#valueNow(event.value)) };
      }
    } finally {
      await guarded(async () => void await events.return?.());
    }
  }

  /** Ends the connection; the daemon does its onexit actions. */
  close(): Promise<void> {
    return this.store.close();
  }

  /** As `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #valueNow({ path }: WatchEvent): Promise<Uint8Array | null> {
    if (path.startsWith("@")) return null;
    try {
      return await this.store.read(path);
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "ENOENT") return null;
      throw error;
    }
  }

  #ask<T>(
    verb: string,
    args: Readonly<Record<string, unknown>>,
    read: (answer: Readonly<Record<string, unknown>>) => T,
  ): Promise<T> {
    return guarded(async () => {
      const reply = await this.store.request(OPERATION.CONTROL, question(verb, args));
      return read(answerOf(reply));
    });
  }

  /** Changes come one after the other: those of one client would only stand in each other's way. */
  #change<T>(change: (store: XenstoreOperations) => Promise<T>): Promise<T> {
    return this.#turns.take("", () => this.store.transaction(change));
  }

  /** Waits until a target is in one of the states, or has none any more: null. */
  async #stateAmong(name: string, wanted: readonly number[]): Promise<number | null> {
    for await (const _ of await this.store.watch(`${targetPath(name)}/state`)) {
      const state = await readState(this.store, name);
      if (state === null || wanted.includes(state)) return state;
    }
    throw new BlockError("ECONNRESET", GONE);
  }

  /** Removes the nodes of a closed target and gives its error, or null. */
  #removeClosed(name: string): Promise<string | null> {
    return this.#change(async (store) => {
      const path = targetPath(name);
      if (await readOrNull(store, path) === null) return null;
      const state = await readState(store, name);
      if (state !== null && state !== TARGET_STATES.closed) {
        throw new BlockError("EBUSY", `Cannot remove "${name}": somebody has started it again`);
      }
      const error = await readOrNull(store, `${path}/error`);
      await store.remove(path);
      return error;
    });
  }
}

/** Runs what talks to the daemon and makes its errors those of this module. */
async function guarded<T>(talk: () => Promise<T>): Promise<T> {
  try {
    return await talk();
  } catch (error) {
    // A type that is wrong is a fault of a program and not of a connection.
    if (error instanceof BlockError || error instanceof TypeError) throw error;
    // What cannot be sent: too long, or characters that the wire does not have.
    if (error instanceof RangeError) {
      throw new BlockError("EINVAL", error.message, { cause: error });
    }
    if (!(error instanceof XenstoreError)) {
      throw new BlockError("ECONNRESET", GONE, { cause: error });
    }
    const errno = isErrno(error.code) ? error.code : "EIO";
    const reason = errno === "EACCES" ? "the daemon does not let this user" : errnoText(errno);
    throw new BlockError(errno, `Cannot use the daemon's tree: ${reason}`, { cause: error });
  }
}

async function noTarget(store: XenstoreOperations, name: string): Promise<BlockError> {
  const close = nearest(name, await readNames(store));
  const hint = close === null ? "" : `; did you mean "${close}"?`;
  return new BlockError(
    "ENOENT",
    `Cannot find target "${name}": there is none of that name${hint}`,
  );
}

/** A size as a wish: it reads as the number that it is, and is not what the daemon writes. */
function sizeWish(size: number): string {
  return `0${size}`;
}

async function writeSize(
  store: XenstoreOperations,
  name: string,
  wanted: (size: number) => number,
): Promise<ResizeResult> {
  const target = await readTarget(store, name);
  if (target === null) throw await noTarget(store, name);
  const { size: before, state } = target;
  if (state !== TARGET_STATES.connected || before === null) {
    const now = targetStateName(state) ?? "not open";
    throw new BlockError("EAGAIN", `Cannot resize "${name}": it is ${now}`);
  }
  const after = wanted(before);
  if (after !== before) await store.write(`${targetPath(name)}/size`, sizeWish(after));
  return { before, after };
}

async function writeWish(store: XenstoreOperations, name: string, wish: TargetWish): Promise<void> {
  const path = targetPath(name);
  if (await readOrNull(store, path) !== null) {
    const state = await readState(store, name);
    const closed = state === TARGET_STATES.closed ? ", which is closed; remove it first" : "";
    throw new BlockError("EEXIST", `Cannot create "${name}": there is one of that name${closed}`);
  }
  const { backend, filters = [], endpoints = [], size, readOnly, ephemeral, onexit } = wish;
  const nodes: [string, string][] = [
    ["backend", backend],
    ...filters.map((each, at): [string, string] => [`filters/${at}`, each]),
    ...endpoints.map((each, at): [string, string] => [`endpoints/${at}`, each]),
  ];
  if (size !== undefined) nodes.push(["size", String(size)]);
  if (readOnly === true) nodes.push(["read-only", "1"]);
  if (ephemeral === true) nodes.push(["ephemeral", "1"]);
  if (onexit !== undefined) nodes.push(["onexit", String(onexit)]);
  nodes.push(["state", String(TARGET_STATES.initialising)]);
  for (const [key, value] of nodes) await store.write(`${path}/${key}`, value);
}
