/**
 * The table of open files: every way into a target of the daemon, by minor. It lives in one thread.
 *
 * @module
 */
import type { Clock, Log } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import { DRAIN_MS, MINORS_MAX } from "./limits.ts";
import type { DrainOptions } from "./drain.ts";
import { type Hold, OpenFile, type OpenFileOptions } from "./open_file.ts";

/** What a table needs. */
export interface OpenFileTableOptions {
  /** Measures limits. */
  readonly clock: Clock;
  /** Hears of actions and wake-ups that failed, and of holds that were withdrawn. */
  readonly log: Log;
  /** HOLD_MS_MAX, in ms, for tests and impatient people. */
  readonly hold_ms?: number;
  /** MINORS_MAX, for tests. */
  readonly minorsMax?: number;
}

/** What has changed: a file was opened, its state, its list of onexit actions. */
export type FileChange = "opened" | "state" | "onexit";

/** Hears of changes; `file.state` is "released" when it has left the table. */
export type FileListener = (file: OpenFile, change: FileChange) => void;

/**
 * All open files.
 *
 * @example
 * ```ts
 * import { OpenFileTable } from "./table.ts";
 *
 * const log = { error() {}, warn() {}, info() {}, debug() {} };
 * const clock = { now: () => 0, wall: () => 0, sleep: () => new Promise<void>(() => {}) };
 * const files = new OpenFileTable({ clock, log });
 *
 * const file = files.open({ kind: "control", peer: "an example", target: "disk" });
 * file.activate();
 * const done: string[] = [];
 * file.onexit.add({ name: "say so", run: () => void done.push("bye") });
 *
 * if (!file.enter()) throw new Error("it is active");
 * file.revoke();
 * if (file.enter()) throw new Error("it was revoked");
 * file.leave();
 * await file.released;
 * if (done.length !== 1) throw new Error("actions run once");
 * ```
 */
export class OpenFileTable {
  readonly #options: OpenFileTableOptions;
  readonly #minorsMax: number;
  /** By minor; iterated in the order of opening. */
  readonly #files = new Map<number, OpenFile>();
  readonly #listeners = new Set<FileListener>();
  readonly #refused = new Set<string>();
  #lastMinor = 0;
  #lastThread = 0;
  #stopping = false;

  /** An empty table. */
  constructor(options: OpenFileTableOptions) {
    this.#options = options;
    this.#minorsMax = options.minorsMax ?? MINORS_MAX;
  }

  /** Files that are not released. */
  get size(): number {
    return this.#files.size;
  }

  /** All files that are not released, in the order of opening. */
  [Symbol.iterator](): IterableIterator<OpenFile> {
    return this.#files.values();
  }

  /**
   * Opens a file in state "new": it is in the table and can be revoked, but nothing can enter before
   * `activate`. Minors are given round robin, so that one which was released is not soon seen again.
   * Errno: ENXIO if all minors are in use, ENODEV if the target goes away, ESHUTDOWN.
   */
  open(options: OpenFileOptions): OpenFile {
    const { kind, target } = options;
    if (this.#stopping) {
      throw new BlockError("ESHUTDOWN", `Cannot open ${kind}: the daemon is stopping`);
    }
    if (target !== null && this.#refused.has(target)) {
      throw new BlockError("ENODEV", `Cannot open ${target}: it is going away`);
    }
    const { clock, log, hold_ms } = this.#options;
    const file = new OpenFile(this.#nextMinor(), options, {
      clock,
      log,
      ...(hold_ms === undefined ? {} : { hold_ms }),
      changed: (changed, what) => this.#changed(changed, what),
    });
    this.#files.set(file.minor, file);
    this.#lastMinor = file.minor;
    this.#tell(file, "opened");
    return file;
  }

  /** The file of a minor. Errno: EBADF if there is none, or it is released. */
  get(minor: number): OpenFile {
    const file = this.#files.get(minor);
    if (file === undefined) throw new BlockError("EBADF", `Cannot find open file ${minor}`);
    return file;
  }

  /** An active reference to the file of a minor. Errno: EBADF, and those of `OpenFile.hold`. */
  hold(minor: number): Hold {
    return this.get(minor).hold();
  }

  /**
   * Revokes all files of a target, those too that are being opened. With `refuse` no new ones can be
   * opened until `admit`: the target goes away; without it only access is withdrawn. Does not wait.
   * Gives the files that are on their way out, also those that were before: to drain them.
   */
  revokeTarget(target: string, options: { readonly refuse?: boolean } = {}): OpenFile[] {
    if (options.refuse === true) this.#refused.add(target);
    const files = [...this.#files.values()].filter((file) => file.target === target);
    for (const file of files) file.revoke();
    return files;
  }

  /** New files of a target can be opened again; or the target is gone, and so is its name. */
  admit(target: string): void {
    this.#refused.delete(target);
  }

  /** Resolves when all these files are drained. Errno: ETIMEDOUT, EINVAL, as `OpenFile.drain`. */
  async drain(files: Iterable<OpenFile>, options: DrainOptions = {}): Promise<void> {
    await Promise.all([...files].map((file) => file.drain(options)));
  }

  /** A number for a thread that files will be shared with; never given twice. */
  joinThread(): number {
    this.#lastThread += 1;
    return this.#lastThread;
  }

  /**
   * A thread has ended, in whatever way: what it had inside any file is withdrawn, and drains that
   * waited for it go on. Gives the number of operations that it has left behind.
   */
  withdrawThread(thread: number): number {
    let left = 0;
    for (const file of [...this.#files.values()]) left += file.withdraw(thread);
    return left;
  }

  /** Calls `listener` at each change until the function that it gives is called. */
  observe(listener: FileListener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Refuses new files, ends all there are, and resolves when their actions have run. A file that is
   * not drained within the limit is released with what is inside, and the log says so. Never rejects.
   */
  async stop(options: DrainOptions = {}): Promise<void> {
    this.#stopping = true;
    const files = [...this.#files.values()];
    for (const file of files) file.end("stop");
    await Promise.all(files.map((file) => file.finish(options.limit_ms ?? DRAIN_MS)));
  }

  #nextMinor(): number {
    if (this.#files.size >= this.#minorsMax) {
      throw new BlockError("ENXIO", `Cannot open a file: all ${this.#minorsMax} minors are in use`);
    }
    let minor = this.#lastMinor;
    do {
      minor = minor >= this.#minorsMax ? 1 : minor + 1;
    } while (this.#files.has(minor));
    return minor;
  }

  #changed(file: OpenFile, what: "state" | "onexit"): void {
    if (file.state === "released") this.#files.delete(file.minor);
    this.#tell(file, what);
  }

  #tell(file: OpenFile, change: FileChange): void {
    for (const listener of this.#listeners) {
      try {
        listener(file, change);
      } catch (error) {
        this.#options.log.error(`A listener of open file ${file.minor} failed`, error);
      }
    }
  }
}
