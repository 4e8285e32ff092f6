/**
 * A XenStore with its sockets in a thread of its own, which blocks in poll: no flood of requests
 * touches whoever started it. The main thread hears who comes and goes, answers what is for the daemon,
 * and is itself a client, over a pair of sockets. Both sides of the thread are in this one module, since
 * a thread of a bundled program can be started from the bundle alone.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import { BufferPool } from "../block/pool.ts";
import { adoptDescriptor, socketPair } from "../driver/socket_pair.ts";
import { threadLog } from "../driver/thread_log.ts";
import { postAndWake, WakeCounter } from "../driver/wake.ts";
import { closeEvent, openEvent } from "../sys/poll.ts";
import { closeDescriptor, openSocketPair } from "../sys/socket.ts";
import { listenUnix, type UnixListener } from "../sys/unix_listener.ts";
import { isWorkerNamed, type WorkerScope, workerScope } from "../sys/worker_scope.ts";
import { XenstoreClient } from "./client.ts";
import { SERVICE_REPORTS_PENDING_MAX } from "./limits.ts";
import { controlResult } from "./server.ts";
import type { ControlResult } from "./session.ts";
import { Peers, type ServiceEvents, type ServicePeer } from "./peers.ts";
import { SocketLoop } from "./socket_loop.ts";
import { Store } from "./store.ts";
import { checkDomains } from "./users.ts";
import { XenbusMount } from "./xenbus_mount.ts";
import { mountXenbus, type XenbusPath } from "./xenbus_path.ts";

export type { ServicePeer };

/** The name of the thread. */
const THREAD_NAME = "dmu:xenstore";
/** Turns of the promise queue that see an answer of a xenbus file through; each costs 0.1 µs. */
const PROMISE_TURNS = 8;

/** What a service is to do. Everything is called on the thread that started it. */
export interface XenstoreServiceOptions {
  /** Unix sockets to listen on, with the permission bits of their files. */
  readonly sockets: readonly { readonly path: string; readonly mode: number }[];
  /**
   * Xenbus files: the paths of the files themselves, which are made, with FUSE mounted on them. Programs
   * that open one are told apart by their users as those on a socket. Needs root.
   */
  readonly xenbus: readonly string[];
  /** Users besides root and the one of this process, and their domains, which count as introduced. */
  readonly domains: ReadonlyMap<number, number>;
  /** A connection was made. Whatever `control` gets of it comes later. */
  opened(peer: ServicePeer): void;
  /** It has ended, once; its watches and transactions are gone. */
  closed(id: number, reason: string): void;
  /** Messages for a human. */
  readonly log?: Log;
  /** Somebody was turned away. */
  refused?(peer: string, reason: string): void;
  /**
   * Answers a CONTROL of domain 0 for the daemon: `words` without the first one, DAEMON_COMMAND; `id` is
   * 0 for the daemon's own client. The text goes out as UTF-8, at most 4095 bytes, else the client gets
   * E2BIG; the connection waits for it. A XenstoreError becomes its error, any other one EIO.
   */
  control(id: number, words: readonly string[]): Promise<string>;
  /** The thread has died. All connections are gone, `closed` was called for each, and only `close` works. */
  onFailure(reason: string): void;
}

/** A running service. */
export interface XenstoreService extends AsyncDisposable {
  /** A caller with all rights: the daemon's own. */
  readonly client: XenstoreClient;
  /** Ends a connection, if it is still there. */
  kick(id: number): void;
  /** Ends all connections, stops listening, unmounts, and removes the files. Later calls do nothing. */
  close(): Promise<void>;
}

interface Start {
  readonly kind: "start";
  readonly listeners: readonly number[];
  /** /dev/fuse, mounted. */
  readonly fuseFds: readonly number[];
  readonly domains: ReadonlyMap<number, number>;
  /** The thread's end of the pair of sockets of the daemon's own client. */
  readonly ownFd: number;
  readonly wakeFd: number;
  /** Reports that the main thread has heard. */
  readonly heard: Int32Array<SharedArrayBuffer>;
}

type ToThread =
  | Start
  | { readonly kind: "reply"; readonly id: number; readonly result: ControlResult }
  | { readonly kind: "kick"; readonly id: number }
  | { readonly kind: "stop" };

type FromThread =
  | { readonly kind: "started" | "stopped" }
  | { readonly kind: "opened"; readonly peer: ServicePeer }
  | { readonly kind: "closed"; readonly id: number; readonly reason: string }
  | { readonly kind: "log"; readonly level: keyof Log; readonly text: string }
  | { readonly kind: "refused"; readonly peer: string; readonly reason: string }
  | { readonly kind: "control"; readonly id: number; readonly words: readonly string[] };

/**
 * Starts a service with an empty store; resolves once clients can connect. Rejects with SystemError as
 * listenUnix does, with BlockError for a xenbus file that cannot be (EEXIST, EBUSY, EPERM, ENOENT …), with
 * RangeError for a domain that cannot be.
 */
export async function startXenstoreService(
  options: XenstoreServiceOptions,
): Promise<XenstoreService> {
  checkDomains(options.domains);
  const listeners: UnixListener[] = [];
  const files: XenbusPath[] = [];
  try {
    for (const { path, mode } of options.sockets) listeners.push(listenUnix(path, { mode }));
    for (const path of options.xenbus) files.push(mountXenbus(path));
    return await Service.start(options, { listeners, files });
  } catch (error) {
    for (const listener of listeners) listener.close();
    for (const file of files) file.release();
    throw error;
  }
}

/** Where clients come from. */
interface Places {
  readonly listeners: readonly UnixListener[];
  readonly files: readonly XenbusPath[];
}

/** The main thread's side. */
class Service implements XenstoreService {
  readonly client: XenstoreClient;
  readonly #options: XenstoreServiceOptions;
  readonly #places: Places;
  readonly #worker: Worker;
  readonly #wakeFd = openEvent();
  readonly #heard = new Int32Array(new SharedArrayBuffer(4));
  readonly #open = new Set<number>();
  readonly #started = Promise.withResolvers<void>();
  readonly #stopped = Promise.withResolvers<void>();
  /** The thread's end of the pair until it is known to be the thread's. */
  #unclaimedFd: number;
  #failed = false;
  #closing: Promise<void> | null = null;

  static async start(options: XenstoreServiceOptions, places: Places): Promise<Service> {
    const service = new Service(options, places);
    try {
      await service.#started.promise;
    } catch (error) {
      await service.close();
      throw error;
    }
    return service;
  }

  private constructor(options: XenstoreServiceOptions, places: Places) {
    this.#options = options;
    this.#places = places;
    const [here, there] = openSocketPair();
    this.#unclaimedFd = there;
    this.client = new XenstoreClient(socketPair(adoptDescriptor(here)));
    this.#worker = new Worker(import.meta.url, { type: "module", name: THREAD_NAME });
    this.#worker.addEventListener("message", (event: MessageEvent) => this.#hear(event.data));
    this.#worker.addEventListener("error", (event) => {
      // What ends the thread must not end the program: there are targets to look after.
      event.preventDefault();
      this.#fail(event.message);
    });
    const { domains } = options;
    this.#worker.postMessage(
      {
        kind: "start",
        listeners: places.listeners.map(({ fd }) => fd),
        fuseFds: places.files.map(({ fuseFd }) => fuseFd),
        domains,
        ownFd: there,
        wakeFd: this.#wakeFd,
        heard: this.#heard,
      } satisfies Start,
    );
  }

  kick(id: number): void {
    if (this.#open.has(id)) this.#post({ kind: "kick", id });
  }

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    await this.client.close();
    // Names go before what is behind them.
    for (const file of this.#places.files) file.release();
    this.#post({ kind: "stop" });
    await this.#stopped.promise;
    this.#worker.terminate();
    for (const listener of this.#places.listeners) listener.close();
    closeEvent(this.#wakeFd);
  }

  #post(message: ToThread): void {
    if (!this.#failed) postAndWake(this.#worker, this.#wakeFd, message);
  }

  #hear(message: FromThread): void {
    switch (message.kind) {
      case "started":
        this.#unclaimedFd = -1;
        return this.#started.resolve();
      case "stopped":
        return this.#stopped.resolve();
      case "control":
        return void this.#control(message.id, message.words);
      case "opened":
        this.#open.add(message.peer.id);
        this.#options.opened(message.peer);
        break;
      case "log":
        return this.#options.log?.[message.level](message.text);
      case "closed":
        if (this.#open.delete(message.id)) this.#options.closed(message.id, message.reason);
        break;
      case "refused":
        this.#options.refused?.(message.peer, message.reason);
    }
    Atomics.add(this.#heard, 0, 1);
  }

  async #control(id: number, words: readonly string[]): Promise<void> {
    const result = await controlResult(() => this.#options.control(id, words));
    if (this.#closing === null) this.#post({ kind: "reply", id, result });
  }

  #fail(reason: string): void {
    if (this.#failed) return;
    this.#failed = true;
    if (this.#unclaimedFd >= 0) {
      closeDescriptor(this.#unclaimedFd);
      for (const { fuseFd } of this.#places.files) closeDescriptor(fuseFd);
    }
    for (const file of this.#places.files) file.release();
    this.#started.reject(new Error(`Cannot start the XenStore service: ${reason}`));
    this.#stopped.resolve();
    for (const id of this.#open) this.#options.closed(id, "the XenStore service has died");
    this.#open.clear();
    this.#options.onFailure(reason);
  }
}

/** The thread's side. */
class ServiceThread {
  readonly #scope: WorkerScope;
  readonly #counter = new WakeCounter();
  #loop: SocketLoop | null = null;
  #stopping = false;

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
    else if (message.kind === "kick") this.#loop?.end(message.id, "it was ended by the daemon");
    else this.#loop?.endControl(message.id, message.result);
    this.#counter.heard();
  }

  async #run(start: Start): Promise<void> {
    const { listeners, wakeFd, domains, ownFd, heard } = start;
    const store = new Store();
    for (const domid of domains.values()) store.introduce(domid);
    const now_ms = (): number => performance.now();
    const peers = new Peers({ store, domains, events: this.#events(heard), now_ms });
    const mounts = this.#mounts(start, peers);
    const loop = new SocketLoop({
      peers,
      listeners,
      mounts,
      wakeFd,
      now_ms,
    });
    this.#loop = loop;
    try {
      loop.adoptOwn(ownFd);
      this.#tell({ kind: "started" });
      while (!this.#stopping) {
        const signals = loop.run();
        if (signals > 0) await this.#counter.caughtUp(signals);
        else for (let turn = 0; turn < PROMISE_TURNS; turn++) await null;
      }
    } finally {
      // Whoever waits for a reply must not wait for ever.
      loop.close("the service is shutting down");
    }
    this.#tell({ kind: "stopped" });
  }

  #mounts({ fuseFds, domains }: Start, peers: Peers): XenbusMount[] {
    const pool = new BufferPool();
    const log = threadLog((level, text) => this.#tell({ kind: "log", level, text }));
    const ownership = { time: Math.floor(Date.now() / 1000), uid: Deno.uid() ?? 0, gid: 0 };
    // Whoever opens it is looked at; the mode only spares strangers the way.
    const permissions = domains.size === 0 ? 0o600 : 0o666;
    const onSettled = (): void => this.#loop?.settle();
    return fuseFds.map((fd) =>
      new XenbusMount({ fd, permissions, ownership, peers, pool, log, onSettled })
    );
  }

  #events(heard: Int32Array<SharedArrayBuffer>): ServiceEvents {
    let told = 0;
    const report = (message: FromThread): void => {
      told += 1;
      this.#tell(message);
    };
    return {
      opened: (peer) => report({ kind: "opened", peer }),
      closed: (id, reason) => report({ kind: "closed", id, reason }),
      refused: (peer, reason) => report({ kind: "refused", peer, reason }),
      control: (id, words) => this.#tell({ kind: "control", id, words }),
      get listening(): boolean {
        return ((told - Atomics.load(heard, 0)) | 0) < SERVICE_REPORTS_PENDING_MAX;
      },
    };
  }

  #tell(message: FromThread): void {
    this.#scope.postMessage(message);
  }
}

if (isWorkerNamed(THREAD_NAME)) {
  const scope = workerScope();
  if (scope !== null) new ServiceThread(scope);
}
