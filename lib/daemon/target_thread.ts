/**
 * A target with a thread of its own, as the main thread sees it: its Device from afar, and the way to hand
 * connections over. Both sides of the thread start in this one module, since a thread of a bundled program
 * can be started from the bundle alone: the thread's name tells which side it is.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import type { Features } from "../block/device.ts";
import { BlockError, toBlockError } from "../block/errors.ts";
import { type PoolFigures, poolMemory, sharedPoolFigures } from "../block/pool.ts";
import { NO_DATA, type Request } from "../block/request.ts";
import { Statistics, statisticsMemory } from "../block/statistics.ts";
import type { Geometry, Management, SnapshotInfo } from "../block/types.ts";
import { postAndWake } from "../driver/wake.ts";
import type { BitmapFacts } from "../dirty_log/dirty_bitmap.ts";
import type { BitmapCommand } from "../dirty_log/target_bitmaps.ts";
import type { OpenFile } from "../handle/open_file.ts";
import type { OpenFileTable } from "../handle/table.ts";
import type { HandshakeState } from "../nbd/export_info.ts";
import { exportInfoOf } from "../nbd/export_info.ts";
import { closeEvent, openEvent } from "../sys/poll.ts";
import { closeDescriptor } from "../sys/socket.ts";
import { isWorkerNamed, workerScope } from "../sys/worker_scope.ts";
import type { TargetConfig } from "./config.ts";
import type { Target, TargetDevice } from "./target.ts";
import { TargetHome } from "./target_home.ts";
import {
  type DeviceShape,
  type FromTargetThread,
  revivedError,
  type ThreadLimits,
  type ThreadResult,
  type ThreadTask,
  type ThreadVerb,
  type ToTargetThread,
} from "./target_messages.ts";

/** The name of the thread. */
const THREAD_NAME = "dmu:target";

/** What a target's thread needs. */
export interface TargetThreadOptions {
  readonly log: Log;
  /** Files of backends that do not come along. */
  readonly plugins: readonly string[];
  /** Every way into the targets: the thread has shares of some. */
  readonly files: OpenFileTable;
  readonly limits: ThreadLimits;
  /** Gives up opening when it aborts. */
  readonly giveUp: AbortSignal;
  /** The thread has died, with all its connections; only `close` works. */
  onFailure(reason: string): void;
}

/** A connection in a target's thread. */
export interface ThreadConnection {
  /** Ends it in good order: what is in flight is answered, what came behind it gets ESHUTDOWN. */
  stop(): void;
  /** Ends it at once. */
  cut(reason: string): void;
  /** Resolves when it is over and nothing of it is in flight; rejects with what has ended it. */
  readonly over: Promise<void>;
}

interface Served {
  readonly fd: number;
  readonly file: OpenFile;
  readonly over: PromiseWithResolvers<void>;
}

/** A target whose home is a thread of its own. */
export class ThreadTarget implements Target {
  readonly driver = "blocking";
  readonly config: TargetConfig;
  readonly device: TargetDevice;
  readonly buffers: PoolFigures;
  management: Management | null = null;

  readonly #options: TargetThreadOptions;
  readonly #worker: Worker;
  readonly #wakeFd = openEvent();
  readonly #thread: number;
  readonly #device: ThreadDevice;
  readonly #opened = Promise.withResolvers<boolean>();
  readonly #connections = new Map<number, Served>();
  readonly #tasks = new Map<number, PromiseWithResolvers<ThreadResult>>();
  #epollFd = -1;
  #lastId = 0;
  #failure: BlockError | null = null;
  #closing: Promise<void> | null = null;

  /**
   * Opens a target in a thread of its own; null if its storage cannot be there because it waits. Throws
   * UsageError for a wrong spec, BlockError for what cannot be opened.
   */
  static async open(
    config: TargetConfig,
    options: TargetThreadOptions,
  ): Promise<ThreadTarget | null> {
    const target = new ThreadTarget(config, options);
    const giveUp = (): void => target.#worker.postMessage({ kind: "give-up" });
    options.giveUp.addEventListener("abort", giveUp);
    try {
      if (await target.#opened.promise) return target;
      target.#end();
      return null;
    } catch (error) {
      target.#end();
      throw error;
    } finally {
      options.giveUp.removeEventListener("abort", giveUp);
    }
  }

  private constructor(config: TargetConfig, options: TargetThreadOptions) {
    this.config = config;
    this.#options = options;
    this.#thread = options.files.joinThread();
    const statistics = statisticsMemory(), pool = poolMemory();
    this.buffers = sharedPoolFigures(pool);
    const call = (task: ThreadTask): Promise<ThreadResult & { ok: true }> => this.#call(task);
    this.device = this.#device = new ThreadDevice(config.name, statistics, call);
    this.#worker = new Worker(import.meta.url, { type: "module", name: THREAD_NAME });
    this.#worker.addEventListener("message", (event: MessageEvent) => this.#hear(event.data));
    this.#worker.addEventListener("error", (event) => {
      // What ends the thread must not end the program: there are other targets to look after.
      event.preventDefault();
      // What it said before it died, such as which descriptors it has closed, is heard first.
      setTimeout(() => this.#fail(event.message), 0);
    });
    const { plugins, limits } = options;
    this.#worker.postMessage(
      {
        kind: "start",
        config,
        plugins,
        statistics,
        pool,
        wakeFd: this.#wakeFd,
        limits,
      } satisfies ToTargetThread,
    );
  }

  get bitmaps(): readonly BitmapFacts[] {
    return this.#device.shape?.bitmaps ?? [];
  }

  async bitmap(command: BitmapCommand): Promise<BitmapFacts[]> {
    await this.#call({ verb: "bitmap", command });
    return [...this.bitmaps];
  }

  exportInfo(): ReturnType<Target["exportInfo"]> {
    return exportInfoOf(this.#device, this.config);
  }

  /**
   * Hands a connection over, which came through `file`. Errno: EIO if the thread has died, ESHUTDOWN, and
   * those of OpenFile.share; the descriptor is then still the caller's.
   */
  serve(fd: number, state: HandshakeState, unread: Uint8Array, file: OpenFile): ThreadConnection {
    if (this.#failure !== null) throw this.#failure;
    if (this.#closing !== null) {
      throw new BlockError("ESHUTDOWN", `Cannot use target ${this.config.name}: it is closing`);
    }
    const shared = file.share(this.#thread);
    const id = this.#nextId();
    const over = Promise.withResolvers<void>();
    this.#connections.set(id, { fd, file, over });
    this.#post({ kind: "connection", id, fd, state, unread, file: shared });
    const post = (message: ToTargetThread): void => {
      if (this.#connections.has(id)) this.#post(message);
    };
    return {
      stop: () => post({ kind: "stop", id }),
      cut: (reason) => post({ kind: "cut", id, reason }),
      over: over.promise,
    };
  }

  /** Storage in a thread of its own waits for nothing. */
  beginClose(): void {}

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  async #close(): Promise<void> {
    try {
      // What died with the thread was told when it died.
      if (this.#failure === null) await this.#call({ verb: "close" });
    } finally {
      this.#end();
    }
  }

  #end(): void {
    this.#worker.terminate();
    closeEvent(this.#wakeFd);
  }

  #nextId(): number {
    do this.#lastId = (this.#lastId + 1) % 2 ** 31; while (this.#connections.has(this.#lastId));
    return this.#lastId;
  }

  #post(message: ToTargetThread): void {
    if (this.#failure === null) postAndWake(this.#worker, this.#wakeFd, message);
  }

  async #call(task: ThreadTask): Promise<ThreadResult & { ok: true }> {
    if (this.#failure !== null) throw this.#failure;
    const id = this.#nextId();
    const done = Promise.withResolvers<ThreadResult>();
    this.#tasks.set(id, done);
    this.#post({ kind: "task", id, task });
    const result = await done.promise;
    if (result.ok) return result;
    throw revivedError(result.error);
  }

  #hear(message: FromTargetThread): void {
    switch (message.kind) {
      case "opened":
        this.#device.shape = message.shape;
        this.#epollFd = message.epollFd;
        this.management = managementOf(message.verbs, (task) => this.#call(task));
        return this.#opened.resolve(true);
      case "waits":
        return this.#opened.resolve(false);
      case "failed":
        return this.#opened.reject(revivedError(message.error));
      case "log":
        return this.#options.log[message.level](message.text);
      case "ended":
        return this.#over(
          message.id,
          message.cause === null ? null : revivedError(message.cause),
        );
      case "done":
        this.#device.shape = message.shape;
        this.#tasks.get(message.id)?.resolve(message.result);
        this.#tasks.delete(message.id);
    }
  }

  #over(id: number, cause: Error | null): void {
    const served = this.#connections.get(id);
    if (served === undefined) return;
    this.#connections.delete(id);
    served.file.withdraw(this.#thread);
    if (cause === null) served.over.resolve();
    else served.over.reject(cause);
  }

  /** The thread has died. */
  #fail(reason: string): void {
    if (this.#failure !== null) return;
    const { name } = this.config;
    this.#failure = new BlockError("EIO", `Cannot use target ${name}: its thread died: ${reason}`);
    this.#opened.reject(this.#failure);
    if (this.#epollFd >= 0) closeDescriptor(this.#epollFd);
    for (const { fd } of this.#connections.values()) closeDescriptor(fd);
    this.#options.files.withdrawThread(this.#thread);
    for (const id of [...this.#connections.keys()]) this.#over(id, this.#failure);
    for (const { reject } of this.#tasks.values()) reject(this.#failure);
    this.#tasks.clear();
    this.#options.onFailure(reason);
  }
}

/** A Device that is in another thread. */
class ThreadDevice implements TargetDevice {
  readonly name: string;
  readonly statistics: Statistics;
  /** As of the last message; null before the first. */
  shape: DeviceShape | null = null;
  readonly #call: (task: ThreadTask) => Promise<ThreadResult & { ok: true }>;

  constructor(
    name: string,
    statistics: SharedArrayBuffer,
    call: (task: ThreadTask) => Promise<ThreadResult & { ok: true }>,
  ) {
    this.name = name;
    this.statistics = new Statistics(statistics);
    this.#call = call;
  }

  get geometry(): Geometry {
    return this.#known.geometry;
  }

  get features(): Features {
    return this.#known.features;
  }

  get inFlight(): number {
    return this.statistics.inFlight;
  }

  async submit(request: Request): Promise<void> {
    const { operation, offset, length, flags, data, gate, bitmap } = request;
    if (!gate.enter()) {
      throw new BlockError("ENODEV", `Cannot ${operation}: access was revoked`);
    }
    try {
      const sent = new Uint8Array(operation === "write" ? data : NO_DATA);
      const asked = { operation, offset, length, flags, data: sent, bitmap };
      const { value, extents, runs } = await this.#call({ verb: "submit", request: asked });
      if (value instanceof Uint8Array) data.set(value);
      if (extents !== undefined) request.extents = extents;
      if (runs !== undefined) request.runs = runs;
    } catch (error) {
      throw toBlockError(error);
    } finally {
      gate.leave();
    }
  }

  async resize(size: number): Promise<void> {
    await this.#call({ verb: "resize", size });
  }

  get #known(): DeviceShape {
    if (this.shape === null) throw new Error(`Cannot look at ${this.name}: it is not open yet`);
    return this.shape;
  }
}

function isSnapshots(value: unknown): value is SnapshotInfo[] {
  return Array.isArray(value);
}

/** The verbs of storage in another thread; null if there are none. */
function managementOf(
  verbs: readonly ThreadVerb[],
  call: (task: ThreadTask) => Promise<ThreadResult & { ok: true }>,
): Management | null {
  if (verbs.length === 0) return null;
  const plain = (name: ThreadVerb) => async (argument: unknown): Promise<void> => {
    const text = typeof argument === "string" ? argument : "";
    await call({ verb: "manage", name, argument: text });
  };
  const snapshots = async (): Promise<readonly SnapshotInfo[]> => {
    const { value } = await call({ verb: "manage", name: "snapshots", argument: "" });
    return isSnapshots(value) ? value : [];
  };
  const entries = verbs.map((name) => [name, name === "snapshots" ? snapshots : plain(name)]);
  return Object.fromEntries(entries);
}

if (isWorkerNamed(THREAD_NAME)) {
  const scope = workerScope();
  if (scope !== null) new TargetHome(scope);
}
