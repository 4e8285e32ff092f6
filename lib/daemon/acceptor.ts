/**
 * The acceptor thread of a daemon: accepts NBD clients, runs their handshakes on raw descriptors, and
 * hands connections to the main thread. Both sides of the thread are in this one module, since a
 * thread of a bundled program can be started from the bundle alone: the thread's name tells which
 * side it is.
 *
 * @module
 */
import {
  type AcceptEvent,
  type AcceptLimits,
  type AcceptListener,
  AcceptLoop,
} from "../driver/accept_loop.ts";
import type { HandOver } from "../driver/handshake.ts";
import { postAndWake, WakeCounter } from "../driver/wake.ts";
import { isWorkerNamed, type WorkerScope, workerScope } from "../sys/worker_scope.ts";
import type { ExportTable } from "../nbd/export_info.ts";
import type { HandshakeResult, TlsMode } from "../nbd/haggling.ts";
import { ServerHandshake } from "../nbd/handshake_server.ts";
import { closeEvent, openEvent } from "../sys/poll.ts";
import { systemClock } from "./context.ts";
import { liveTable } from "./export_table.ts";

/** The name of the acceptor thread. */
const THREAD_NAME = "dmu:acceptor";

/** A listening socket, and what is reached through it. */
export interface ScopedListener extends AcceptListener {
  /** The one target that clients of it see, as their default; null for all targets. */
  readonly scope: string | null;
}

/** What clients can reach, and where. */
export interface Reachable {
  /** Listening sockets, which the acceptor does not close; each with a label of its own. */
  readonly listeners: readonly ScopedListener[];
  /** What there is to serve. */
  readonly exports: ExportTable;
}

/** A connection that comes from the acceptor. */
export type NbdHandOver = HandOver<HandshakeResult>;

/** How many connections there may be after their handshake, and are. */
export interface Places {
  /** The acceptor adds one for each hand-over; who is handed over is taken off when it ends. */
  readonly taken: Int32Array<SharedArrayBuffer>;
  /** Above this, clients are refused in their handshake. */
  readonly max: number;
}

/** What an acceptor needs. */
export interface AcceptorOptions {
  /** What clients can reach at first. */
  readonly reachable: Reachable;
  readonly tls: TlsMode;
  /** Limits that differ from those in lib/driver/limits.ts. */
  readonly limits: Partial<AcceptLimits>;
  readonly places: Places;
  /** Takes a connection, and its descriptor, over. */
  onHandOver(handOver: NbdHandOver): void;
  /** Hears of handshakes that failed. */
  onEvent(event: AcceptEvent): void;
  /** The thread has died: nobody is accepted any more. */
  onFailure(reason: string): void;
}

type ToAcceptor =
  | {
    readonly kind: "start";
    readonly reachable: Reachable;
    readonly wakeFd: number;
    readonly tls: TlsMode;
    readonly limits: Partial<AcceptLimits>;
    readonly places: Places;
  }
  | { readonly kind: "update"; readonly reachable: Reachable }
  | { readonly kind: "stop" };

type FromAcceptor =
  | { readonly kind: "started" }
  | { readonly kind: "updated" }
  | { readonly kind: "hand-over"; readonly handOver: NbdHandOver }
  | { readonly kind: "event"; readonly event: AcceptEvent }
  | { readonly kind: "stopped" };

/** The main thread's handle on its acceptor. */
export class Acceptor {
  readonly #worker: Worker;
  readonly #wakeFd: number;
  readonly #stopped = Promise.withResolvers<void>();
  /** Those who wait for the thread to take over what they have posted, in that order. */
  readonly #updates: (() => void)[] = [];
  #stopping = false;
  #ended = false;

  /** Starts the thread; resolves once it accepts. */
  static start(options: AcceptorOptions): Promise<Acceptor> {
    const started = Promise.withResolvers<Acceptor>();
    const acceptor = new Acceptor(options, started);
    return started.promise.then(() => acceptor);
  }

  private constructor(options: AcceptorOptions, started: PromiseWithResolvers<Acceptor>) {
    this.#wakeFd = openEvent();
    this.#worker = new Worker(import.meta.url, { type: "module", name: THREAD_NAME });
    this.#worker.addEventListener("message", (event: MessageEvent) => {
      const message: FromAcceptor = event.data;
      if (message.kind === "started") started.resolve(this);
      else if (message.kind === "updated") this.#updates.shift()?.();
      else if (message.kind === "stopped") this.#over();
      else if (message.kind === "event") options.onEvent(message.event);
      else options.onHandOver(message.handOver);
    });
    this.#worker.addEventListener("error", (event) => {
      // What ends the thread must not end the program: targets still have to be flushed.
      event.preventDefault();
      started.reject(new Error(`Cannot start the acceptor: ${event.message}`));
      this.#over();
      if (!this.#stopping) options.onFailure(event.message);
    });
    const { reachable, tls, limits, places } = options;
    const wakeFd = this.#wakeFd;
    this.#post({ kind: "start", reachable, wakeFd, tls, limits, places }, false);
  }

  /**
   * Changes what clients can reach. Resolves when the thread has taken it over: handshakes see the new
   * table, nobody is accepted on a listener that is gone, and whoever came in before has been handed
   * over. Also resolves when the thread has ended, and then nobody is accepted at all.
   */
  update(reachable: Reachable): Promise<void> {
    if (this.#ended) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#updates.push(resolve);
    this.#post({ kind: "update", reachable }, true);
    return promise;
  }

  /** Stops accepting and ends all handshakes. Connections that were handed over before have arrived. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#post({ kind: "stop" }, true);
    await this.#stopped.promise;
    this.#worker.terminate();
    closeEvent(this.#wakeFd);
  }

  /** The thread serves nobody any more. */
  #over(): void {
    this.#ended = true;
    for (const resolve of this.#updates.splice(0)) resolve();
    this.#stopped.resolve();
  }

  #post(message: ToAcceptor, wake: boolean): void {
    if (wake) postAndWake(this.#worker, this.#wakeFd, message);
    else this.#worker.postMessage(message);
  }
}

/** The thread's side. */
class AcceptorThread {
  readonly #scope: WorkerScope;
  readonly #counter = new WakeCounter();
  #reachable: Reachable = {
    listeners: [],
    exports: { exports: new Map(), defaultExport: null, stopping: false },
  };
  #loop: AcceptLoop<HandshakeResult> | null = null;
  #stopping = false;

  constructor(scope: WorkerScope) {
    this.#scope = scope;
    scope.addEventListener("message", (event) => this.#hear(event.data));
  }

  #hear(message: ToAcceptor): void {
    if (message.kind === "start") {
      this.#reachable = message.reachable;
      // An error must reach the other thread as one of this thread, not as a rejection nobody hears.
      this.#run(message).catch((error: unknown) => reportError(error));
      return;
    }
    if (message.kind === "update") {
      this.#reachable = message.reachable;
      this.#loop?.setListeners(message.reachable.listeners);
      this.#tell({ kind: "updated" });
    } else this.#stopping = true;
    this.#counter.heard();
  }

  async #run(start: ToAcceptor & { kind: "start" }): Promise<void> {
    const { wakeFd, tls, limits, places } = start;
    const settings = {
      current: (): ExportTable => this.#reachable.exports,
      full: (): string | null => {
        const full = Atomics.load(places.taken, 0) >= places.max;
        return full ? `there are ${places.max} connections already` : null;
      },
    };
    const createHandshake = (_: unknown, label: string): ServerHandshake => {
      const listener = this.#reachable.listeners.find((each) => each.label === label);
      const exports = liveTable({ ...settings, scope: listener?.scope ?? null });
      return new ServerHandshake({ exports, tls, secured: false });
    };
    const loop = new AcceptLoop<HandshakeResult>({
      listeners: this.#reachable.listeners,
      wakeFd,
      clock: systemClock,
      limits,
      createHandshake,
      onHandOver: (handOver) => {
        Atomics.add(places.taken, 0, 1);
        this.#tell({ kind: "hand-over", handOver });
      },
      onEvent: (event) => this.#tell({ kind: "event", event }),
    });
    this.#loop = loop;
    this.#tell({ kind: "started" });
    while (!this.#stopping) await this.#counter.caughtUp(loop.run());
    loop.close("the server is shutting down");
    this.#tell({ kind: "stopped" });
  }

  #tell(message: FromAcceptor): void {
    this.#scope.postMessage(message);
  }
}

if (isWorkerNamed(THREAD_NAME)) {
  const scope = workerScope();
  if (scope !== null) new AcceptorThread(scope);
}
