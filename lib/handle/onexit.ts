/**
 * The onexit actions of an open file: what is to be done when it ends, whoever ends it. They run in
 * the order in which they were added, once. Each is unlinked before it is called, so that it can be
 * neither found nor taken back while it runs, and may add further ones, which run too.
 *
 * @module
 */
import type { Clock, Log } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import type { Maybe } from "../block/types.ts";
import {
  ACTION_MS_MAX,
  ACTION_NAME_LENGTH_MAX,
  ACTIONS_PER_FILE_MAX,
  ACTIONS_WHILE_ENDING_MAX,
} from "./limits.ts";

/** Why an open file ends: its user closed it, access was taken away, or the daemon stops. */
export type Ending = "close" | "revoke" | "stop";

/** What an action is told when it runs. */
export interface ActionCall {
  /** The minor of its open file. */
  readonly minor: number;
  /** Why it runs: the end of its file, or "fire" if it was taken back to run at once. */
  readonly reason: Ending | "fire";
}

/** Something to be done at the end of an open file. */
export interface OnexitAction {
  /** What it does, for people: at most ACTION_NAME_LENGTH_MAX long. */
  readonly name: string;
  /** What whoever looks the action up gets. */
  readonly data?: unknown;
  /** Does it. What it throws is logged, and the next action runs. */
  run(call: ActionCall): Maybe<void>;
}

/** An action in a list. */
export interface OnexitEntry {
  /** Its handle: 1 and more, in the order of adding, never used again for the same open file. */
  readonly handle: number;
  /** Its name. */
  readonly name: string;
  /** Its data. */
  readonly data: unknown;
}

/** The onexit actions of an open file. */
export interface Onexit {
  /** Actions now. */
  readonly size: number;
  /**
   * Adds an action behind the others and gives its handle. Works until the last action has run, also
   * from inside an action. Errno: EBADF when the file is released, ENOSPC past ACTIONS_PER_FILE_MAX or
   * ACTIONS_WHILE_ENDING_MAX, ENAMETOOLONG.
   */
  add(action: OnexitAction): number;
  /** The data of an action. Errno: ENOENT. */
  data(handle: number): unknown;
  /**
   * Takes an action back, at once; with `fire` it is then run and waited for, and what it throws is
   * rejected with. Errno: ENOENT for an unknown handle, one that has run, and one that is running.
   */
  remove(handle: number, options?: { readonly fire?: boolean }): Promise<void>;
  /** All actions in the order in which they would run. */
  list(): OnexitEntry[];
}

/** What a list needs of its open file. */
export interface OnexitListOptions {
  /** The minor of the file. */
  readonly minor: number;
  /** Measures ACTION_MS_MAX. */
  readonly clock: Clock;
  /** Hears of actions that failed. */
  readonly log: Log;
  /** Called whenever the list has changed. */
  readonly changed: () => void;
}

/** The list, with the one operation that is its file's alone: `end`. */
export class OnexitList implements Onexit {
  readonly #options: OnexitListOptions;
  /** A Map keeps the order of adding. */
  readonly #actions = new Map<number, OnexitAction>();
  #lastHandle = 0;
  #ending = false;
  #addedWhileEnding = 0;
  #over = false;

  /** An empty list. */
  constructor(options: OnexitListOptions) {
    this.#options = options;
  }

  /** See Onexit. */
  get size(): number {
    return this.#actions.size;
  }

  /** See Onexit. */
  add(action: OnexitAction): number {
    const { minor, changed } = this.#options;
    const refuse = (errno: "EBADF" | "ENOSPC" | "ENAMETOOLONG", reason: string): BlockError =>
      new BlockError(errno, `Cannot add an action to open file ${minor}: ${reason}`);
    if (this.#over) throw refuse("EBADF", "it is released");
    if (action.name.length > ACTION_NAME_LENGTH_MAX) {
      throw refuse("ENAMETOOLONG", `its name is longer than ${ACTION_NAME_LENGTH_MAX}`);
    }
    if (this.#actions.size >= ACTIONS_PER_FILE_MAX) {
      throw refuse("ENOSPC", `it has ${ACTIONS_PER_FILE_MAX} actions`);
    }
    if (this.#ending && this.#addedWhileEnding >= ACTIONS_WHILE_ENDING_MAX) {
      throw refuse("ENOSPC", `${ACTIONS_WHILE_ENDING_MAX} were added while it ended`);
    }
    if (this.#ending) this.#addedWhileEnding += 1;
    this.#lastHandle += 1;
    this.#actions.set(this.#lastHandle, action);
    changed();
    return this.#lastHandle;
  }

  /** See Onexit. */
  data(handle: number): unknown {
    return this.#find(handle).data;
  }

  /** See Onexit. */
  async remove(handle: number, options: { readonly fire?: boolean } = {}): Promise<void> {
    const action = this.#find(handle);
    this.#unlink(handle);
    if (options.fire === true) await action.run({ minor: this.#options.minor, reason: "fire" });
  }

  /** See Onexit. */
  list(): OnexitEntry[] {
    return [...this.#actions].map(([handle, { name, data }]) => ({ handle, name, data }));
  }

  /** Runs all actions, also those that are added on the way; then none can be added. Never rejects. */
  async end(reason: Ending): Promise<void> {
    this.#ending = true;
    for (let next = this.#first(); next !== null; next = this.#first()) {
      const [handle, action] = next;
      this.#unlink(handle);
      await this.#run(handle, action, reason);
    }
    // No await since the list was seen empty: nothing can have been added.
    this.#over = true;
  }

  async #run(handle: number, action: OnexitAction, reason: Ending): Promise<void> {
    const { minor, log, clock } = this.#options;
    const patience = new AbortController();
    try {
      const outcome = action.run({ minor, reason });
      if (outcome === undefined) return;
      const late = clock.sleep(ACTION_MS_MAX, patience.signal).then(() => {
        throw new BlockError("ETIMEDOUT", `it has taken more than ${ACTION_MS_MAX} ms`);
      }, () => {});
      await Promise.race([outcome, late]);
    } catch (error) {
      log.error(`Onexit action ${handle} (${action.name}) of open file ${minor} failed`, error);
    } finally {
      patience.abort();
    }
  }

  #first(): readonly [number, OnexitAction] | null {
    for (const entry of this.#actions) return entry;
    return null;
  }

  #find(handle: number): OnexitAction {
    const action = this.#actions.get(handle);
    if (action !== undefined) return action;
    const { minor } = this.#options;
    throw new BlockError("ENOENT", `Cannot find action ${handle} of open file ${minor}`);
  }

  #unlink(handle: number): void {
    this.#actions.delete(handle);
    this.#options.changed();
  }
}
