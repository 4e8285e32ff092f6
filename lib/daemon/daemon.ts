/**
 * The daemon: targets, endpoints, acceptor and connections put together. Starting it opens everything
 * or nothing; stopping it loses nothing that was acknowledged as durable.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import { Device } from "../block/device.ts";
import { BlockError, toBlockError } from "../block/errors.ts";
import { BufferPool, type PoolFigures, sumOfPools } from "../block/pool.ts";
import type { Registry } from "../block/registry.ts";
import type { AcceptEvent } from "../driver/accept_loop.ts";
import { checkServerCertificates, loadCertificates, type TlsServerOptions } from "../driver/tls.ts";
import type { OpenFile } from "../handle/open_file.ts";
import { OpenFileTable } from "../handle/table.ts";
import type { HandshakeState } from "../nbd/export_info.ts";
import type { Service } from "../nbd/server.ts";
import type { NbdAddress } from "../nbd/uri.ts";
import { startXenstoreService, type XenstoreService } from "../xenstore/service.ts";
import { Acceptor } from "./acceptor.ts";
import type { DaemonConfig, TlsConfig } from "./config.ts";
import {
  type ClientLimits,
  Connections,
  peerText,
  type ServiceElsewhere,
  type WayIn,
} from "./connections.ts";
import { systemClock } from "./context.ts";
import { LogService } from "./dirty_log.ts";
import { ControlPlane, type ServiceListener } from "./control/plane.ts";
import { StateStore } from "./control/state_store.ts";
import { type ChannelAccess, type ChannelWay, DmUserDevice } from "./dm_user.ts";
import type { DmUserConfig } from "./dm_user_config.ts";
import { formatEndpoint, nbdUriOf } from "./endpoint.ts";
import { liveTable } from "./export_table.ts";
import { type Listener, openListeners } from "./listeners.ts";
import { Observation } from "./observation.ts";
import type { Target } from "./target.ts";
import { ThreadTarget } from "./target_thread.ts";
import { Targets } from "./targets.ts";

/** What a daemon is started with besides its configuration. */
export interface DaemonOptions {
  /** The kinds of backends there are. */
  readonly registry: Registry;
  /** Messages for a human. */
  readonly log: Log;
  /** The daemon cannot go on: it should be stopped. A BlockError if that is no fault of the program. */
  readonly onFailure?: (error: Error) => void;
  /**
   * There is nothing left to serve, and that is no failure: dm-user targets were removed, or access of
   * their channels taken away.
   */
  readonly onDone?: () => void;
  /** Limits that differ from those in limits.ts of each part. */
  readonly limits?: ClientLimits;
  /** What the control plane says the version is; "" if left out. */
  readonly version?: string;
  /** Files whose backends are in the registry, besides dmu's own: threads of targets load them too. */
  readonly plugins?: readonly string[];
}

/** How a daemon can be steered. */
export interface DaemonControl {
  /** Its control sockets as they would be written; none if it cannot be steered. */
  readonly endpoints: readonly string[];
  /** Its xenbus files. */
  readonly xenbus: readonly string[];
  /** Why it cannot be steered although that was wanted, if it was free; null else. */
  readonly problem: string | null;
}

/** Where a daemon listens. */
export interface DaemonEndpoint {
  /** The endpoint as it would be written, with the real port. */
  readonly label: string;
  /** Where clients connect to. */
  readonly address: NbdAddress;
  /** The NBD URI of a target; of the default one if no name is given. */
  uri(target?: string): string;
}

/** A dm-user target that a daemon serves. */
export interface DaemonDmUser extends DmUserConfig {
  /** Its control device. */
  readonly path: string;
}

/** A daemon that runs. */
export interface Daemon {
  /** Its targets by name, in the order of the configuration. */
  readonly targets: ReadonlyMap<string, Target>;
  /** Where it listens. */
  readonly endpoints: readonly DaemonEndpoint[];
  /** The dm-user targets that it has opened. */
  readonly dmUser: readonly DaemonDmUser[];
  /** How it can be steered. */
  readonly control: DaemonControl;
  /** The folder of the dirty-region logs that it keeps for the kernel, or null. */
  readonly logDir: string | null;
  /** Where its metrics are served, an http URL or "unix:PATH", or null. */
  readonly metrics: string | null;
  /** Every way into its targets: who uses what, to look at and to revoke. */
  readonly files: OpenFileTable;
  /** The target of clients that name none, or null. */
  readonly defaultTarget: string | null;
  /** Connections in their transmission phase, or under way to it through TLS. */
  readonly connectionCount: number;
  /** Buffers of all connections, in whatever thread. */
  readonly buffers: PoolFigures;
  /**
   * Stops accepting, lets what is in flight finish, flushes and closes all targets. Rejects with
   * BlockError if a target could not be flushed. Once; later calls give the same promise.
   */
  stop(): Promise<void>;
}

/** Starts a daemon; resolves when it accepts clients. Throws UsageError or BlockError. */
export async function startDaemon(config: DaemonConfig, options: DaemonOptions): Promise<Daemon> {
  const daemon = new RunningDaemon(config, options);
  try {
    await daemon.start();
  } catch (error) {
    await daemon.stop().catch(() => {});
    throw error;
  }
  return daemon;
}

class RunningDaemon implements Daemon {
  readonly files: OpenFileTable;
  readonly defaultTarget: string | null;
  endpoints: readonly DaemonEndpoint[] = [];
  control: DaemonControl = { endpoints: [], xenbus: [], problem: null };

  readonly #config: DaemonConfig;
  readonly #options: DaemonOptions;
  readonly #pool: BufferPool;
  readonly #targets: Targets;
  #listeners: readonly Listener[] = [];
  #acceptor: Acceptor | null = null;
  #connections: Connections | null = null;
  #state: StateStore | null = null;
  #plane: ControlPlane | null = null;
  #logs: LogService | null = null;
  readonly #observation: Observation;
  #dmUserDevices: readonly DmUserDevice[] = [];
  #dmUserDone = false;
  #stopped: Promise<void> | null = null;

  constructor(config: DaemonConfig, options: DaemonOptions) {
    this.#config = config;
    this.#options = options;
    const { limits = {}, plugins = [] } = options;
    const { plentyBytes } = limits;
    this.#pool = new BufferPool(plentyBytes === undefined ? {} : { plentyBytesMax: plentyBytes });
    this.files = new OpenFileTable({ clock: systemClock, log: options.log });
    this.defaultTarget = config.defaultTarget;
    this.#targets = new Targets({
      registry: options.registry,
      log: options.log,
      pool: this.#pool,
      files: this.files,
      tls: config.tls !== null,
      defaultTarget: config.defaultTarget,
      bitmapFolder: config.bitmapDir,
      driving: {
        driver: config.driver,
        plugins,
        limits,
        bound: (name) => {
          const used = config.dmUser.some(({ target }) => target === name);
          return used ? "dm-user channels use it on the main thread" : null;
        },
      },
      onAdmit: (name) => this.#admitDmUser(name),
    });
    this.#observation = new Observation({
      version: options.version ?? "",
      targets: this.#targets,
      files: this.files,
      buffers: () => this.buffers,
      connections: () => ({ count: this.connectionCount, max: config.connectionsMax }),
      log: options.log,
    });
  }

  get metrics(): string | null {
    return this.#observation.address;
  }

  get logDir(): string | null {
    return this.#logs?.folder ?? null;
  }

  get targets(): ReadonlyMap<string, Target> {
    return this.#targets.open;
  }

  get buffers(): PoolFigures {
    const own = [...this.targets.values()].flatMap(({ buffers }) => buffers ?? []);
    return sumOfPools([this.#pool, ...own]);
  }

  get connectionCount(): number {
    return this.#connections?.count ?? 0;
  }

  get dmUser(): readonly DaemonDmUser[] {
    return this.#dmUserDevices.map(({ config, path }) => ({ ...config, path }));
  }

  async start(): Promise<void> {
    const { targets, endpoints, tls: tlsConfig, control, stateDir, metrics } = this.#config;
    await this.#observation.start(metrics);
    if (stateDir !== null) this.#state = new StateStore(stateDir);
    await this.#startLogs();
    const steered = control !== null || stateDir !== null;
    const tls = tlsConfig === null ? null : await loadTls(tlsConfig);
    for (const target of targets) await this.#targets.add(target);
    this.#openDmUser();
    this.#listeners = await openListeners(endpoints);
    this.endpoints = this.#listeners.map((listener) => this.#endpointOf(listener));
    this.#targets.listen(this.#listeners);
    if (this.#listeners.length > 0 || steered) await this.#startAccepting(tls);
    if (steered) await this.#startControl();
    this.#serveDmUser();
    this.#observation.enter("serving");
  }

  /** Keeps logs for the kernel. */
  async #startLogs(): Promise<void> {
    const { logDir } = this.#config, { log, onFailure } = this.#options;
    if (logDir === null) return;
    const service = await LogService.start({ folder: logDir, traced: false, log });
    this.#logs = service;
    service.ended.catch((error: Error) => {
      log.error(error.message, error);
      this.#observation.enter("failed");
      onFailure?.(error);
    });
  }

  /** Serves NBD. */
  async #startAccepting(tls: TlsServerOptions | null): Promise<void> {
    const { tls: tlsConfig, connectionsMax } = this.#config;
    const { log, limits = {} } = this.#options;
    const targets = this.#targets;
    const current = (): typeof targets.exports => targets.exports;
    const open = (state: HandshakeState, way: WayIn): Service | ServiceElsewhere =>
      this.#serviceOf(state, way);
    const connections = new Connections({
      exportsAt: (label) => liveTable({ current, scope: targets.scopeOf(label) }),
      open,
      tls,
      connectionsMax,
      limits,
      pool: this.#pool,
      clock: systemClock,
      log,
    });
    this.#connections = connections;
    this.#acceptor = await Acceptor.start({
      reachable: targets.reachable,
      tls: tlsConfig === null ? "off" : tlsConfig.require ? "required" : "optional",
      limits,
      places: { taken: connections.taken, max: connectionsMax },
      onHandOver: (handOver) => connections.take(handOver),
      onEvent: (event) => this.#heard(event),
      onFailure: (reason) => {
        log.error(`The acceptor has failed, nobody can connect any more: ${reason}`);
        this.#observation.enter("failed");
        this.#options.onFailure?.(new Error(reason));
      },
    });
    targets.admitThrough(this.#acceptor);
  }

  /** Lets itself be steered; without sockets too, if there are targets that were kept. */
  async #startControl(): Promise<void> {
    const { control, hooks, stateDir, defaultTarget } = this.#config;
    const sockets = control?.sockets ?? [];
    const labels = sockets.map(formatEndpoint);
    const { registry, log, version = "" } = this.#options;
    const service = this.#logs;
    this.#plane = await ControlPlane.start({
      targets: this.#targets,
      files: this.files,
      registry,
      clock: systemClock,
      log,
      state: this.#state,
      hooks,
      control: labels[0] ?? null,
      facts: () => ({
        pid: Deno.pid,
        version,
        control: this.control.endpoints,
        nbd: this.endpoints.map(({ label }) => label),
        metrics: this.metrics,
        stateDir,
        hooks: [...hooks.keys()],
        defaultTarget,
      }),
      ...(service === null ? {} : { logs: () => service.facts() }),
      startService: async (listener) => {
        const service = await this.#startService(listener);
        const endpoints = this.control.problem === null ? labels : [];
        this.control = { ...this.control, endpoints, xenbus: control?.xenbus ?? [] };
        return service;
      },
    });
  }

  async #startService(listener: ServiceListener): Promise<XenstoreService> {
    const { sockets = [], xenbus = [], users = new Map(), ifFree = false } = this.#config.control ??
      {};
    const settings = { ...listener, domains: users, xenbus };
    try {
      return await startXenstoreService({ ...settings, sockets });
    } catch (error) {
      const { errno, message } = toBlockError(error);
      if (!ifFree || errno !== "EADDRINUSE") throw new BlockError(errno, message, { cause: error });
      const [path = ""] = sockets.map((each) => each.path);
      this.control = { ...this.control, problem: `${path} belongs to another daemon` };
      return await startXenstoreService({ ...settings, sockets: [] });
    }
  }

  #openDmUser(): void {
    for (const config of this.#config.dmUser) {
      this.#dmUserDevices = [...this.#dmUserDevices, this.#openDevice(config)];
    }
  }

  #openDevice(config: DmUserConfig): DmUserDevice {
    const device = this.targets.get(config.target)?.device;
    if (!(device instanceof Device)) {
      throw new BlockError("ENOENT", `Cannot serve dm-user target ${config.name}: no target`);
    }
    const admit = (way: ChannelWay): ChannelAccess => this.#admitChannel(config.target, way);
    const { log } = this.#options;
    const folder = this.#config.dmUserFolder;
    return new DmUserDevice({ config, folder, device, admit, clock: systemClock, log });
  }

  #admitChannel(target: string, way: ChannelWay): ChannelAccess {
    const file = this.files.open({ kind: "dm-user", target, ...way });
    file.activate();
    return { gate: file, close: () => void file.close() };
  }

  #serveDmUser(): void {
    for (const device of this.#dmUserDevices) this.#serveDevice(device);
  }

  #serveDevice(device: DmUserDevice): void {
    void device.serve().then(() => this.#dmUserOver());
  }

  /** Channels that were ended with their target's access are opened again. */
  #admitDmUser(target: string): void {
    for (const before of this.#dmUserDevices) {
      if (before.config.target !== target || !before.ending) continue;
      void before.serve().then((end) => {
        if (end === "stopped" && this.#stopped === null) this.#replaceDevice(before);
      });
    }
  }

  #replaceDevice(before: DmUserDevice): void {
    try {
      const device = this.#openDevice(before.config);
      this.#dmUserDevices = this.#dmUserDevices.map((each) => each === before ? device : each);
      this.#serveDevice(device);
    } catch (error) {
      this.#options.log.error(toBlockError(error).message, error);
    }
  }

  /** If all dm-user targets are over, and nothing else is served, so is the daemon. */
  #dmUserOver(): void {
    const { onFailure, onDone } = this.#options;
    const { control, stateDir } = this.#config;
    const devices = this.#dmUserDevices;
    // They come back when their target is let in to again.
    const shut = devices.some(({ config: { target } }) =>
      this.#targets.get(target)?.state === "init-wait"
    );
    if (shut || this.#dmUserDone || !devices.every(({ end }) => end !== null)) return;
    // Whoever has asked for a control plane may bring more to serve.
    const awaited = stateDir !== null || this.#logs !== null || control?.ifFree === false;
    if (this.#stopped !== null || this.#listeners.length > 0 || awaited) return;
    this.#dmUserDone = true;
    if (!devices.some(({ end }) => end === "lost")) return onDone?.();
    onFailure?.(new BlockError("EIO", "Cannot go on: no dm-user channel works any more"));
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop().finally(() => this.#observation.stop());
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#observation.enter("stopping");
    this.#targets.refuse();
    await this.#plane?.stopReconciling();
    await this.#targets.beginStop();
    await this.#acceptor?.stop();
    for (const listener of this.#listeners) listener.close();
    await Promise.all([
      this.#connections?.stop(),
      ...this.#dmUserDevices.map((device) => device.stop()),
    ]);
    // Actions at the end of open files may need their targets.
    await this.files.stop();
    const failures = await this.#targets.stop();
    await this.#plane?.stop();
    await this.#logs?.stop();
    this.#state?.[Symbol.dispose]();
    for (const reason of failures) this.#options.log.error(reason);
    if (failures.length > 0) {
      throw new BlockError(
        "EIO",
        `Cannot close ${failures.length} target(s): see the messages above`,
      );
    }
  }

  #endpointOf({ label, address }: Listener): DaemonEndpoint {
    const tls = this.#config.tls !== null;
    return { label, address, uri: (target = "") => nbdUriOf(address, target, tls) };
  }

  /** Opens a file for a connection that has chosen its target. */
  #serviceOf(state: HandshakeState, way: WayIn): Service | ServiceElsewhere {
    const target = this.targets.get(state.exportName);
    const device = target?.device;
    const elsewhere = target instanceof ThreadTarget ? target : null;
    const gone = `Cannot serve "${state.exportName}": the target is gone`;
    const open = (): OpenFile => {
      const file = this.files.open({ kind: "nbd", target: state.exportName, ...way });
      file.activate();
      return file;
    };
    if (elsewhere !== null) {
      const file = open();
      return {
        serve: (fd, settled, unread) => elsewhere.serve(fd, settled, unread, file),
        close: () => void file.close(),
      };
    }
    if (!(device instanceof Device)) throw new BlockError("ENOENT", gone);
    const file = open();
    return { device, gate: file, close: () => void file.close() };
  }

  #heard(event: AcceptEvent): void {
    const { kind, reason, listener, peer } = event;
    const { log } = this.#options;
    if (kind === "listener-lost") log.error(`${listener} does not work any more: ${reason}`);
    else if (kind === "accept-failed") log.warn(`${listener}: ${reason}`);
    else log.debug(`Handshake of ${peer === null ? "a client" : peerText(peer)} ended: ${reason}`);
  }
}

async function loadTls(config: TlsConfig): Promise<TlsServerOptions> {
  try {
    const certificates = await loadCertificates(config.certificates);
    const options = { certificates, verifyPeer: certificates.ca !== undefined };
    checkServerCertificates(options);
    return options;
  } catch (error) {
    throw new BlockError("EINVAL", error instanceof Error ? error.message : String(error), {
      cause: error,
    });
  }
}
