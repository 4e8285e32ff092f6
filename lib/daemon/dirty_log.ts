/**
 * A daemon for the kernel's logs of type `userspace`: a thread of its own blocks in poll over the socket
 * of the connector, so that nothing else delays an answer. Both sides of the thread are in this one
 * module, since a thread of a bundled program can be started from the bundle alone.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import { CONNECTOR_GROUP } from "../dirty_log/constants.ts";
import { describeMessage, type LogMessage } from "../dirty_log/message.ts";
import { listenForLogs, NetlinkLoop } from "../dirty_log/netlink_loop.ts";
import { OpenPlaces } from "../dirty_log/places.ts";
import { type LogCounts, type LogFacts, LogSession } from "../dirty_log/session.ts";
import { postAndWake, WakeCounter } from "../driver/wake.ts";
import { systemFiles } from "../sys/file.ts";
import { closeEvent, openEvent } from "../sys/poll.ts";
import { closeDescriptor } from "../sys/socket.ts";
import { isWorkerNamed, type WorkerScope, workerScope } from "../sys/worker_scope.ts";
import { systemClock } from "./context.ts";
import { prepareLogFolder, systemPlaces } from "./dirty_log_places.ts";

/** The name of the thread. */
const THREAD_NAME = "dmu:dirty-log";
/** The bit of CAP_SYS_ADMIN in /proc/self/status. */
const CAP_SYS_ADMIN = 1n << 21n;
/** The number of the kernel connector among netlink protocols. */
const NETLINK_CONNECTOR = 11;

/** What a log daemon is to do. */
export interface LogServiceOptions {
  /** Folder for logs that tables call by a name without a slash; null if there is to be none. */
  readonly folder: string | null;
  /** Tell each request, and how it was answered, as a message. */
  readonly traced: boolean;
  /** Messages for a human. */
  readonly log: Log;
}

interface Start {
  readonly kind: "start";
  readonly fd: number;
  readonly wakeFd: number;
  readonly folder: string | null;
  readonly traced: boolean;
}

type ToThread = Start | { readonly kind: "look" } | { readonly kind: "stop" };

type FromThread =
  | { readonly kind: "started" }
  | { readonly kind: "log"; readonly level: keyof Log; readonly text: string }
  | { readonly kind: "facts"; readonly facts: readonly LogFacts[] }
  | { readonly kind: "stopped"; readonly counts: LogCounts };

function readProc(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return ""; // no /proc here: what is wrong shows later
  }
}

/** Throws EPERM without CAP_SYS_ADMIN: the kernel drops the answers of whoever lacks it, silently. */
function requireRight(): void {
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(readProc("/proc/self/status"))?.[1];
  if (mask === undefined || (BigInt(`0x${mask}`) & CAP_SYS_ADMIN) !== 0n) return;
  throw new BlockError(
    "EPERM",
    "Cannot serve logs: the kernel ignores answers without CAP_SYS_ADMIN, run as root",
  );
}

/** Throws EBUSY if somebody else gets the kernel's requests: both would answer. */
function requireAlone(): void {
  const bit = 1n << BigInt(CONNECTOR_GROUP - 1);
  for (const line of readProc("/proc/net/netlink").split("\n").slice(1)) {
    const [, protocol, port, groups] = line.trim().split(/\s+/);
    if (Number(protocol) !== NETLINK_CONNECTOR || groups === undefined || port === "0") continue;
    if ((BigInt(`0x${groups}`) & bit) === 0n) continue;
    throw new BlockError(
      "EBUSY",
      `Cannot serve logs: port ${port} of the kernel connector gets their requests already`,
    );
  }
}

/** A running log daemon. */
export class LogService implements AsyncDisposable {
  /** Rejects if its thread dies of a fault; resolves after `stop`. */
  readonly ended: Promise<void>;
  /** The folder for logs by name, or null. */
  readonly folder: string | null;
  readonly #worker: Worker;
  readonly #fd: number;
  readonly #wakeFd = openEvent();
  readonly #ended = Promise.withResolvers<void>();
  /** Those who have asked for facts, in the order in which they are answered. */
  readonly #lookers: PromiseWithResolvers<readonly LogFacts[]>[] = [];
  #stopping: Promise<void> | null = null;
  #counts: LogCounts = { requests: 0, errors: 0, foreign: 0 };

  /**
   * Starts a daemon; resolves when it answers. Throws BlockError: EPERM without CAP_SYS_ADMIN, EBUSY if
   * another one listens, and for a folder that cannot be; SystemError without the kernel connector.
   */
  static async start(options: LogServiceOptions): Promise<LogService> {
    requireRight();
    requireAlone();
    const folder = options.folder === null ? null : prepareLogFolder(options.folder);
    const started = Promise.withResolvers<void>();
    const service = new LogService({ ...options, folder }, listenForLogs(), started);
    try {
      await started.promise;
    } catch (error) {
      service.#release();
      throw error;
    }
    return service;
  }

  private constructor(
    { folder, traced, log }: LogServiceOptions,
    fd: number,
    started: PromiseWithResolvers<void>,
  ) {
    this.folder = folder;
    this.#fd = fd;
    this.ended = this.#ended.promise;
    const nothing = (): void => {
      for (const { resolve } of this.#lookers.splice(0)) resolve([]);
    };
    this.ended.then(nothing, nothing); // who does not look at it need not know
    this.#worker = new Worker(import.meta.url, { type: "module", name: THREAD_NAME });
    this.#worker.addEventListener("message", (event: MessageEvent) => {
      const message: FromThread = event.data;
      if (message.kind === "started") started.resolve();
      else if (message.kind === "log") log[message.level](message.text);
      else if (message.kind === "facts") this.#lookers.shift()?.resolve(message.facts);
      else {
        this.#counts = message.counts;
        this.#ended.resolve();
      }
    });
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      const error = new Error(`Cannot go on serving logs: ${event.message}`);
      started.reject(error);
      this.#ended.reject(error);
    });
    const start: Start = { kind: "start", fd, wakeFd: this.#wakeFd, folder, traced };
    this.#worker.postMessage(start);
  }

  /** What was done, once it has ended. */
  get counts(): LogCounts {
    return this.#counts;
  }

  /** What there is to say of each log; nothing once it has ended. */
  async facts(): Promise<readonly LogFacts[]> {
    if (this.#stopping !== null) return [];
    const looker = Promise.withResolvers<readonly LogFacts[]>();
    this.#lookers.push(looker);
    const message: ToThread = { kind: "look" };
    postAndWake(this.#worker, this.#wakeFd, message);
    return await looker.promise;
  }

  /** Makes all logs durable and ends. The kernel waits for the next daemon. Rejects as `ended` does. */
  stop(): Promise<void> {
    return this.#stopping ??= this.#stop();
  }

  /** See stop. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #stop(): Promise<void> {
    const message: ToThread = { kind: "stop" };
    postAndWake(this.#worker, this.#wakeFd, message);
    try {
      await this.ended;
    } finally {
      this.#release();
    }
  }

  #release(): void {
    this.#worker.terminate();
    closeDescriptor(this.#fd);
    closeEvent(this.#wakeFd);
  }
}

/** The thread's side. */
class LogThread {
  readonly #scope: WorkerScope;
  readonly #counter = new WakeCounter();
  #stopping = false;
  #session: LogSession | null = null;

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
    if (message.kind === "stop") this.#stopping = true;
    else this.#tell({ kind: "facts", facts: this.#session?.facts() ?? [] });
    this.#counter.heard();
  }

  async #run({ fd, wakeFd, folder, traced }: Start): Promise<void> {
    const log = this.#log();
    const places = new OpenPlaces(systemFiles, systemPlaces(folder));
    const answered = (message: LogMessage, errno: number): void =>
      log.info(describeMessage({ ...message, error: -errno }));
    const session = new LogSession({
      places,
      log,
      now_us: () => systemClock.now(),
      ...(traced ? { answered } : {}),
    });
    this.#session = session;
    const loop = new NetlinkLoop({ fd, wakeFd, session, log });
    try {
      this.#tell({ kind: "started" });
      while (!this.#stopping) await this.#counter.caughtUp(loop.run());
    } finally {
      session.close();
    }
    this.#tell({ kind: "stopped", counts: session.counts });
  }

  #log(): Log {
    const tell = (level: keyof Log) => (text: string): void =>
      this.#tell({ kind: "log", level, text });
    return { error: tell("error"), warn: tell("warn"), info: tell("info"), debug: tell("debug") };
  }

  #tell(message: FromThread): void {
    this.#scope.postMessage(message);
  }
}

if (isWorkerNamed(THREAD_NAME)) {
  const scope = workerScope();
  if (scope !== null) new LogThread(scope);
}
