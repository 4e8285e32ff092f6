/**
 * An open file: one way into a target. Every operation enters it and leaves it; it can be revoked at
 * any time, is released early and once when the last operation has left, and then runs its onexit
 * actions. It lives in one thread, its home; other threads get a SharedGate.
 *
 * @module
 */
import type { Clock, Log } from "../block/context.ts";
import { BlockError, type Errno } from "../block/errors.ts";
import type { Gate } from "../block/request.ts";
import type { Maybe } from "../block/types.ts";
import { ActiveCount, activeCountMemory, type FileState, HOME_CELL } from "./active_count.ts";
import { Drain, type DrainOptions } from "./drain.ts";
import {
  DRAIN_MS,
  HOLD_MS_MAX,
  HOLDS_PER_FILE_MAX,
  SHARE_LOOK_MS,
  SHARES_PER_FILE_MAX,
} from "./limits.ts";
import { type Ending, type Onexit, OnexitList } from "./onexit.ts";
import type { SharedFile } from "./shared_gate.ts";

/** What an open file is opened with. */
export interface OpenFileOptions {
  /** What kind of way in it is: "nbd", "dm-user", "fuse", "control", "replay" … */
  readonly kind: string;
  /** Who is at the other end, for people. */
  readonly peer: string;
  /** The target that it leads to, null if it leads to none. */
  readonly target: string | null;
  /**
   * Called once when access is taken away, between revoke and drain: wakes whoever waits in the file,
   * and begins the end of the connection. Not called for a file that was closed first.
   */
  readonly kick?: () => void;
  /** Called once when nothing is inside any more and all onexit actions have run. */
  readonly release?: () => Maybe<void>;
}

/** What an open file needs of its table. */
export interface OpenFileSurroundings {
  /** Measures limits. */
  readonly clock: Clock;
  /** Hears of what has failed. */
  readonly log: Log;
  /** HOLD_MS_MAX, in ms. */
  readonly hold_ms?: number;
  /** Something that `OpenFile` shows has changed. */
  readonly changed: (file: OpenFile, what: "state" | "onexit") => void;
}

/** An active reference to an open file that is no operation. Disposing it gives it back. */
export interface Hold extends Disposable {
  /** The minor of the file. */
  readonly minor: number;
  /** The file. */
  readonly file: OpenFile;
  /** Gives the reference back; again does nothing. */
  giveBack(): void;
}

/** An open file; made by `OpenFileTable.open`. */
export class OpenFile implements Gate {
  /** Its minor: 1 to MINORS_MAX. */
  readonly id: number;
  /** See OpenFileOptions. */
  readonly kind: string;
  /** See OpenFileOptions. */
  readonly peer: string;
  /** See OpenFileOptions. */
  readonly target: string | null;
  /** What is to be done at its end. */
  readonly onexit: Onexit;
  /** Resolves when it is released; never rejects. */
  readonly released: Promise<void>;

  readonly #options: OpenFileOptions;
  readonly #surroundings: OpenFileSurroundings;
  readonly #memory: SharedArrayBuffer;
  readonly #count: ActiveCount;
  readonly #actions: OnexitList;
  readonly #release = Promise.withResolvers<void>();
  readonly #drain: Drain;
  readonly #holds = new Set<Hold>();
  /** Cells of other threads, by thread. */
  readonly #shares = new Map<number, number>();
  #lastCell = HOME_CELL;
  /** Ends what is only done while the file drains. */
  readonly #drained = new AbortController();
  #ending: Ending | null = null;
  #releasing = false;

  /** For the table: a file in state "new". */
  constructor(minor: number, options: OpenFileOptions, surroundings: OpenFileSurroundings) {
    const { clock, log } = surroundings;
    this.id = minor;
    this.kind = options.kind;
    this.peer = options.peer;
    this.target = options.target;
    this.#options = options;
    this.#surroundings = surroundings;
    this.#memory = activeCountMemory();
    this.#count = new ActiveCount(this.#memory, HOME_CELL);
    const changed = (): void => surroundings.changed(this, "onexit");
    this.#actions = new OnexitList({ minor, clock, log, changed });
    this.onexit = this.#actions;
    this.#drain = new Drain({ clock, minor, inside: () => this.#count.total });
    this.released = this.#release.promise;
  }

  /** The same as `id`. */
  get minor(): number {
    return this.id;
  }

  /** Where it is in its life. */
  get state(): FileState {
    return this.#count.state;
  }

  /** References now: operations inside, in all threads, and holds. */
  get active(): number {
    return this.#count.total;
  }

  /** Why it has ended, null if it has not. */
  get ending(): Ending | null {
    return this.#ending;
  }

  /** Enters for one operation; false unless the file is active: ENODEV. */
  enter(): boolean {
    return this.#count.enter();
  }

  /** Leaves, once for each time that it was entered. */
  leave(): void {
    if (this.#count.leave()) this.#settle();
  }

  /** Lets operations in. False if the file was revoked or closed while it was being opened. */
  activate(): boolean {
    const done = this.#count.activate();
    if (done) this.#changed();
    return done;
  }

  /**
   * An active reference: until it is given back the file is not released, so that an onexit action can
   * be added. One that is kept for more than HOLD_MS_MAX after the end of the file is withdrawn.
   * Errno: ENODEV unless the file is active, EBADF when it is released, EMFILE past HOLDS_PER_FILE_MAX.
   */
  hold(): Hold {
    if (this.#holds.size >= HOLDS_PER_FILE_MAX) {
      throw this.#refusal("EMFILE", "hold", `it is held ${HOLDS_PER_FILE_MAX} times`);
    }
    if (!this.enter()) throw this.#refusal(this.#goneErrno(), "hold", `it is ${this.state}`);
    const giveBack = (): void => {
      if (this.#holds.delete(hold)) this.leave();
    };
    const hold: Hold = { minor: this.id, file: this, giveBack, [Symbol.dispose]: giveBack };
    this.#holds.add(hold);
    return hold;
  }

  /**
   * What `thread` (a number of the table's `joinThread`) makes a SharedGate of; the same each time.
   * Errno: ENODEV once the file has ended, EMFILE past SHARES_PER_FILE_MAX.
   */
  share(thread: number): SharedFile {
    if (this.#ending !== null) {
      throw this.#refusal(this.#goneErrno(), "share", `it is ${this.state}`);
    }
    const cell = this.#shares.get(thread) ?? this.#newShare(thread);
    return { minor: this.id, memory: this.#memory, cell };
  }

  /**
   * Takes the share of a thread back, with the operations that are counted in it; their number. The
   * thread has ended, or does not use its gate of this file any more.
   */
  withdraw(thread: number): number {
    const cell = this.#shares.get(thread);
    if (cell === undefined) return 0;
    this.#shares.delete(thread);
    const left = this.#count.withdraw(cell);
    this.#settle();
    return left;
  }

  /**
   * Takes access away: when it returns nothing can enter any more, in any thread. Does not wait: what
   * is inside finishes, then the file is released. True for the first call, if it was not closed before.
   */
  revoke(): boolean {
    return this.end("revoke");
  }

  /**
   * Resolves when nothing is inside any more. Only for a file that was revoked or closed (EINVAL), and
   * not for an operation that is inside: that has `drainSelf`. Errno: ETIMEDOUT.
   */
  drain(options: DrainOptions = {}): Promise<void> {
    this.#assertEnded("drain");
    return this.#drain.wait(options.limit_ms ?? DRAIN_MS);
  }

  /**
   * The same for who is inside in the home thread, and does not wait for itself: for `references`
   * operations, one if left out. Several such callers do not wait for each other. The release waits
   * for them as for everybody.
   */
  drainSelf(options: DrainOptions & { readonly references?: number } = {}): Promise<void> {
    this.#assertEnded("drain");
    return this.#drain.waitInside(options.references ?? 1, options.limit_ms ?? DRAIN_MS);
  }

  /**
   * The user of the file is done with it: no operation can enter any more, those inside finish, then
   * it is released. Resolves when that is done, whoever has ended the file first. Never rejects.
   */
  close(): Promise<void> {
    this.end("close");
    return this.released;
  }

  /** For the table: revoke or close. */
  end(ending: Ending): boolean {
    if (!this.#count.deactivate()) return false;
    this.#ending = ending;
    this.#changed();
    if (ending !== "close") this.#kick();
    this.#settle();
    if (this.state !== "draining") return true;
    if (this.#holds.size > 0) this.#limitHolds().catch(ignore);
    if (this.#lastCell !== HOME_CELL) this.#watchShares().catch(ignore);
    return true;
  }

  /** For the table that stops: drains within the limit, and is released in any case. Never rejects. */
  async finish(limit_ms: number): Promise<void> {
    try {
      await this.drain({ limit_ms });
    } catch (error) {
      this.#surroundings.log.error(
        `Open file ${this.id} is released with operations inside`,
        error,
      );
      this.#drained.abort();
      await this.#runRelease();
    }
    await this.released;
  }

  #kick(): void {
    try {
      this.#options.kick?.();
    } catch (error) {
      this.#surroundings.log.error(`Open file ${this.id} cannot wake its waiters`, error);
    }
  }

  /** Looks whether the draining is at its end. */
  #settle(): void {
    this.#drain.look();
    if (!this.#count.settle()) return;
    this.#drained.abort();
    this.#drain.done();
    this.#changed();
    // Not here: whoever has left last is in the middle of its own work.
    queueMicrotask(() => void this.#runRelease());
  }

  async #runRelease(): Promise<void> {
    if (this.#releasing) return;
    this.#releasing = true;
    await this.#actions.end(this.#ending ?? "close");
    try {
      await this.#options.release?.();
    } catch (error) {
      this.#surroundings.log.error(`Open file ${this.id} has failed to release what it had`, error);
    }
    if (!this.#count.release()) this.#count.abandon();
    this.#changed();
    this.#release.resolve();
  }

  /** Withdraws holds that outlast the file for too long. */
  async #limitHolds(): Promise<void> {
    const { clock, log, hold_ms = HOLD_MS_MAX } = this.#surroundings;
    await clock.sleep(hold_ms, this.#drained.signal);
    const holds = [...this.#holds];
    if (holds.length === 0) return;
    log.warn(`Open file ${this.id} has ended, ${holds.length} hold(s) on it are withdrawn`);
    for (const hold of holds) hold.giveBack();
  }

  /** Waits for other threads to leave. What leaves in this one comes to `#settle` by itself. */
  async #watchShares(): Promise<void> {
    const { clock } = this.#surroundings;
    for (;;) {
      const { wakes } = this.#count;
      this.#settle();
      if (this.state !== "draining" || this.#drained.signal.aborted) return;
      const turn = new AbortController();
      const look = clock.sleep(SHARE_LOOK_MS, turn.signal).catch(ignore);
      await Promise.race([this.#count.woken(wakes, SHARE_LOOK_MS), look]);
      turn.abort();
    }
  }

  /** Gives the thread a cell: round robin, so that one which was withdrawn rests for long. */
  #newShare(thread: number): number {
    if (this.#shares.size >= SHARES_PER_FILE_MAX) {
      throw this.#refusal("EMFILE", "share", `${SHARES_PER_FILE_MAX} threads use it`);
    }
    const taken = new Set(this.#shares.values());
    do this.#lastCell = this.#lastCell % SHARES_PER_FILE_MAX + 1; while (taken.has(this.#lastCell));
    this.#shares.set(thread, this.#lastCell);
    this.#count.admit(this.#lastCell);
    return this.#lastCell;
  }

  #assertEnded(verb: string): void {
    if (this.#ending !== null) return;
    throw this.#refusal("EINVAL", verb, "it has to be revoked or closed first");
  }

  #goneErrno(): Errno {
    return this.state === "released" ? "EBADF" : "ENODEV";
  }

  #refusal(errno: Errno, verb: string, reason: string): BlockError {
    return new BlockError(errno, `Cannot ${verb} open file ${this.id}: ${reason}`);
  }

  #changed(): void {
    this.#surroundings.changed(this, "state");
  }
}

function ignore(): void {}
