/**
 * Simulated dm-user targets for programs outside: a FUSE mount with a control file and a disk file for
 * each target, served by a thread of its own, which blocks. Both sides of the thread are in this one
 * module, since a thread of a bundled program can be started from the bundle alone.
 *
 * @module
 */
import { join } from "node:path";
import type { Log } from "../block/context.ts";
import { BlockError, type Errno, errnoText, toBlockError } from "../block/errors.ts";
import { BufferPool } from "../block/pool.ts";
import type { SimulatorEvent } from "../dm_user/simulator/event.ts";
import type { TargetOptions } from "../dm_user/simulator/target.ts";
import { postAndWake, WakeCounter } from "../driver/wake.ts";
import { isWorkerNamed, type WorkerScope, workerScope } from "../sys/worker_scope.ts";
import { FUSE_DATA_BYTES_MAX } from "../fuse/limits.ts";
import { FuseLoop } from "../fuse/loop.ts";
import { LoopClock } from "../fuse/loop_clock.ts";
import { FuseSession } from "../fuse/session.ts";
import { mountFuse, openFuse, unmount, writeFuseReply } from "../sys/fuse.ts";
import { closeEvent, openEvent } from "../sys/poll.ts";
import { closeDescriptor } from "../sys/socket.ts";
import { systemClock, systemRandom } from "./context.ts";
import { SIMULATION_STOP_MS_MAX } from "./limits.ts";
import {
  CONTROL_FOLDER_NAME,
  DISK_FOLDER_NAME,
  type SimulatedTarget,
  type SimulatedTree,
  simulatedTree,
} from "./simulate_tree.ts";

export type { SimulatedTarget } from "./simulate_tree.ts";

/** The name of the thread. */
const THREAD_NAME = "dmu:simulate";

/** What is simulated, and where. */
export interface SimulationOptions {
  /** The folder to mount on; it is made if it is missing, and has to be empty. */
  readonly folder: string;
  /** What is simulated. */
  readonly targets: readonly SimulatedTarget[];
  /** How all targets behave. */
  readonly behaviour: TargetOptions;
  /** Messages for a human. */
  readonly log: Log;
  /** Gets what the simulated kernel does, in order, a little later. */
  readonly onEvent?: (event: SimulatorEvent) => void;
}

/** The files of a target. */
export interface SimulationFiles extends SimulatedTarget {
  /** What a daemon opens instead of /dev/dm-user/NAME. */
  readonly control: string;
  /** The disk: every read and write is a BIO. */
  readonly disk: string;
}

/** A thread's start, as plain data. */
interface Start {
  readonly kind: "start";
  readonly folder: string;
  readonly targets: readonly SimulatedTarget[];
  readonly behaviour: TargetOptions;
  readonly wakeFd: number;
  readonly events: boolean;
}

type ToThread = Start | { readonly kind: "stop" | "cut" };

type FromThread =
  | { readonly kind: "ready" }
  | { readonly kind: "failed"; readonly errno: Errno; readonly message: string }
  | { readonly kind: "events"; readonly events: readonly SimulatorEvent[] }
  | { readonly kind: "log"; readonly level: keyof Log; readonly text: string }
  | { readonly kind: "ended" };

/** The folder's real path, and whether it had to be made. Throws BlockError. */
async function prepareFolder(path: string): Promise<{ folder: string; made: boolean }> {
  let made = false;
  try {
    await Deno.mkdir(path);
    made = true;
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) {
      const { errno } = toBlockError(error);
      throw new BlockError(errno, `Cannot make ${path}: ${errnoText(errno)}`, { cause: error });
    }
  }
  try {
    const folder = await Deno.realPath(path);
    for await (const { name } of Deno.readDir(folder)) {
      throw new BlockError("EEXIST", `Cannot mount on ${path}: it is not empty, ${name} is in it`);
    }
    return { folder, made };
  } catch (error) {
    if (error instanceof BlockError) throw error;
    const { errno } = toBlockError(error);
    const reason = errno === "ENOTCONN"
      ? `a mount is left there whose program has died: umount ${path}`
      : "it is no folder that can be read";
    throw new BlockError(errno, `Cannot mount on ${path}: ${reason}`, { cause: error });
  }
}

/** The main thread's handle on a mount with simulated targets. */
export class Simulation implements AsyncDisposable {
  /** The folder that is mounted on. */
  readonly folder: string;
  /** The files of each target. */
  readonly targets: readonly SimulationFiles[];
  /** Resolves when the mount is gone, for whatever reason; rejects if the thread dies of a fault. */
  readonly ended: Promise<void>;
  readonly #worker: Worker;
  readonly #wakeFd: number;
  readonly #made: boolean;
  readonly #ended = Promise.withResolvers<void>();
  #stopping: Promise<void> | null = null;

  /**
   * Mounts; resolves when programs can open the files. Throws BlockError: EPERM without root, ENOENT
   * without /dev/fuse, EEXIST for a folder with something in it.
   */
  static async start(options: SimulationOptions): Promise<Simulation> {
    const { folder, made } = await prepareFolder(options.folder);
    const started = Promise.withResolvers<void>();
    const simulation = new Simulation(options, folder, made, started);
    try {
      await started.promise;
    } catch (error) {
      await simulation.#release();
      throw error;
    }
    return simulation;
  }

  private constructor(
    options: SimulationOptions,
    folder: string,
    made: boolean,
    started: PromiseWithResolvers<void>,
  ) {
    this.folder = folder;
    this.targets = options.targets.map(({ name, size }) => {
      const control = join(folder, CONTROL_FOLDER_NAME, name);
      return { name, size, control, disk: join(folder, DISK_FOLDER_NAME, name) };
    });
    this.ended = this.#ended.promise;
    this.ended.catch(() => {}); // who does not look at it need not know
    this.#made = made;
    this.#wakeFd = openEvent();
    this.#worker = new Worker(import.meta.url, { type: "module", name: THREAD_NAME });
    this.#worker.addEventListener("message", (event: MessageEvent) => {
      const message: FromThread = event.data;
      if (message.kind === "ready") started.resolve();
      else if (message.kind === "failed") {
        started.reject(new BlockError(message.errno, message.message));
      } else if (message.kind === "log") options.log[message.level](message.text);
      else if (message.kind === "events") message.events.forEach((each) => options.onEvent?.(each));
      else this.#ended.resolve();
    });
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      const error = new Error(`Cannot go on simulating: ${event.message}`);
      unmount(folder, true);
      started.reject(error);
      this.#ended.reject(error);
    });
    const { targets, behaviour } = options;
    const events = options.onEvent !== undefined;
    this.#post({ kind: "start", folder, targets, behaviour, wakeFd: this.#wakeFd, events }, false);
  }

  /**
   * Unmounts. What disks have under way fails with EIO, daemons read ENOTBLK; who still has a file
   * open after SIMULATION_STOP_MS_MAX finds it disconnected. Rejects as `ended` does.
   */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  /** See stop. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #stop(): Promise<void> {
    this.#post({ kind: "stop" }, true);
    const cut = setTimeout(() => this.#post({ kind: "cut" }, true), SIMULATION_STOP_MS_MAX);
    try {
      await this.ended;
    } finally {
      clearTimeout(cut);
      await this.#release();
    }
  }

  async #release(): Promise<void> {
    this.#worker.terminate();
    closeEvent(this.#wakeFd);
    if (this.#made) await Deno.remove(this.folder).catch(() => {}); // somebody has put something there
  }

  #post(message: ToThread, wake: boolean): void {
    if (wake) postAndWake(this.#worker, this.#wakeFd, message);
    else this.#worker.postMessage(message);
  }
}

/** The thread's side. */
class SimulationThread {
  readonly #scope: WorkerScope;
  readonly #counter = new WakeCounter();
  readonly #events: SimulatorEvent[] = [];
  #tree: SimulatedTree | null = null;
  #session: FuseSession | null = null;
  #folder = "";
  #cut = false;

  constructor(scope: WorkerScope) {
    this.#scope = scope;
    scope.addEventListener("message", (event) => this.#hear(event.data));
  }

  #hear(message: ToThread): void {
    if (message.kind === "start") {
      // An error must reach the other thread as one of this thread, not as a rejection nobody hears.
      this.#run(message).catch((error: unknown) => reportError(error));
      return;
    }
    if (message.kind === "stop") this.#stop();
    else this.#cut = true;
    this.#counter.heard();
  }

  /** The names go at once. Whoever has a file open is told what has become of it. */
  #stop(): void {
    unmount(this.#folder, true);
    this.#tree?.removeAll();
    this.#session?.failDisks("EIO");
  }

  async #run(start: Start): Promise<void> {
    this.#folder = start.folder;
    let fd = -1;
    try {
      const pool = new BufferPool();
      const clock = new LoopClock(systemClock);
      const log = this.#log();
      const tree = simulatedTree({
        targets: start.targets,
        behaviour: start.behaviour,
        clock,
        random: systemRandom,
        log,
        pool,
        ...(start.events ? { listener: (event) => void this.#events.push(event) } : {}),
      });
      fd = openFuse();
      const mounted = fd;
      const session = new FuseSession({
        root: tree.root,
        send: (reply) => void writeFuseReply(mounted, reply),
        pool,
        log,
        ownership: { time: Math.floor(clock.wall() / 1000), uid: 0, gid: 0 },
      });
      mountFuse(fd, {
        path: start.folder,
        root: "folder",
        source: "dmu",
        kind: "dmu",
        readBytesMax: FUSE_DATA_BYTES_MAX,
      });
      this.#tree = tree;
      this.#session = session;
      const { wakeFd } = start;
      const onTurn = (): void => this.#tellEvents();
      await this.#serve(new FuseLoop({ fd, session, wakeFd, clock, pool, onTurn }));
    } catch (error) {
      // Whoever waits for a reply must not wait for ever.
      if (fd >= 0) closeDescriptor(fd);
      if (this.#session !== null) throw error;
      const { errno, message } = toBlockError(error);
      this.#tell({ kind: "failed", errno, message });
      return;
    }
    closeDescriptor(fd);
    this.#session.end();
    this.#tellEvents();
    this.#tell({ kind: "ended" });
  }

  async #serve(loop: FuseLoop): Promise<void> {
    this.#tell({ kind: "ready" });
    while (!loop.ended && !this.#cut) await this.#counter.caughtUp(await loop.run());
  }

  #log(): Log {
    const tell = (level: keyof Log) => (text: string): void =>
      this.#tell({ kind: "log", level, text });
    return {
      error: (text, cause) =>
        tell("error")(cause instanceof Error ? `${text}: ${cause.stack ?? cause.message}` : text),
      warn: tell("warn"),
      info: tell("info"),
      debug: tell("debug"),
    };
  }

  #tellEvents(): void {
    if (this.#events.length === 0) return;
    this.#tell({ kind: "events", events: this.#events.splice(0) });
  }

  #tell(message: FromThread): void {
    this.#scope.postMessage(message);
  }
}

if (isWorkerNamed(THREAD_NAME)) {
  const scope = workerScope();
  if (scope !== null) new SimulationThread(scope);
}
