/**
 * `dmu serve`: targets from the command line and a configuration file, on endpoints, until a signal.
 *
 * @module
 */
import { formatSize } from "../lib/block/size.ts";
import { parseNamedSpec, parseSpec } from "../lib/block/spec.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import type { ControlConfig } from "../lib/daemon/control_config.ts";
import { controlPlace, makeControlFolder } from "../lib/daemon/control_place.ts";
import {
  type ConfigParts,
  type DaemonConfig,
  finishConfig,
  parseFilter,
  readConfig,
  type TargetConfig,
  type TlsConfig,
} from "../lib/daemon/config.ts";
import { type Daemon, startDaemon } from "../lib/daemon/daemon.ts";
import { DM_USER_FOLDER, parseDmUser } from "../lib/daemon/dm_user_config.ts";
import { DRIVER_CHOICES, DRIVER_DEFAULT, isDriverChoice } from "../lib/daemon/driver_choice.ts";
import { parseEndpoint, parseMetricsEndpoint } from "../lib/daemon/endpoint.ts";
import { CHANNELS_MAX } from "../lib/daemon/limits.ts";
import { withTraces } from "../lib/daemon/trace_config.ts";
import { type AnyCommand, collect, command, examples, wholeNumber } from "./command.ts";
import { type CliIo, cliLog } from "./io.ts";
import { EXIT_FAILED, plural, printJson, twoColumns } from "./output.ts";
import { shellQuote } from "./safe_text.ts";
import { BACKEND_HELP, registryWith } from "./setup.ts";
import { defaultSocket, type SocketPlace } from "./socket_place.ts";
import { VERSION } from "./version.ts";

/** What is served if nothing is named. */
const DEFAULT_SPEC = "memory:1G";
/** The name of a target that was given none. */
const DEFAULT_NAME = "default";

interface ServeOptions {
  readonly nbd?: readonly string[] | undefined;
  readonly control?: readonly string[] | undefined;
  readonly xenbus?: readonly string[] | undefined;
  readonly state?: string | undefined;
  readonly bitmaps?: string | undefined;
  readonly logs?: string | undefined;
  readonly metrics?: string | undefined;
  readonly filter?: readonly string[] | undefined;
  readonly trace?: readonly string[] | undefined;
  readonly tracePayload?: true | undefined;
  readonly traceDigest?: true | undefined;
  readonly dmUser?: readonly string[] | undefined;
  readonly channels?: number | undefined;
  readonly dmUserDir?: string | undefined;
  readonly config?: string | undefined;
  readonly default?: string | undefined;
  readonly readOnly?: true | undefined;
  readonly tlsCertificates?: string | undefined;
  readonly tlsRequire?: true | undefined;
  readonly backend?: readonly string[] | undefined;
  readonly driver?: string | undefined;
  readonly json?: true | undefined;
}

function targetOf(text: string, kinds: readonly string[]): TargetConfig {
  const { name, spec } = parseNamedSpec(text, { kinds });
  return { name: name ?? DEFAULT_NAME, spec, description: "", readOnly: false };
}

function tlsOf(options: ServeOptions, fromFile: TlsConfig | null): TlsConfig | null {
  const certificates = options.tlsCertificates ?? fromFile?.certificates;
  if (certificates !== undefined) {
    return { certificates, require: options.tlsRequire ?? fromFile?.require ?? false };
  }
  if (options.tlsRequire !== true) return null;
  throw new UsageError("Cannot require TLS without certificates: add --tls-certificates DIR");
}

/** Targets of the command line; two without a name get an error that says so. */
function targetsOf(specs: readonly string[], kinds: readonly string[]): TargetConfig[] {
  const targets = specs.map((text) => targetOf(text, kinds));
  const unnamed = specs.filter((text) => parseNamedSpec(text, { kinds }).name === null);
  if (unnamed.length > 1) {
    const list = unnamed.map((text) => `"${text}"`).join(" and ");
    throw new UsageError(`Cannot serve ${list} under one name: write NAME=${unnamed[1]}`);
  }
  return targets;
}

/** The dm-user targets of the file and of the command line. */
function dmUsersOf(file: ConfigParts, options: ServeOptions): Partial<ConfigParts> {
  const { dmUser = [], channels, dmUserDir } = options;
  const fromFile = file.dmUser ?? [];
  if (channels !== undefined && dmUser.length === 0) {
    throw new UsageError("Cannot open --channels of nothing: add --dm-user NAME");
  }
  return {
    dmUser: [...fromFile, ...dmUser.map((text) => parseDmUser(text, channels ?? 1))],
    ...(dmUserDir === undefined ? {} : { dmUserFolder: dmUserDir }),
  };
}

function driverOf({ driver }: ServeOptions): Pick<ConfigParts, "driver"> {
  if (driver === undefined) return {};
  if (isDriverChoice(driver)) return { driver };
  const choices = DRIVER_CHOICES.join(", ");
  throw new UsageError(`Cannot use the driver "${driver}": there are ${choices}`);
}

/** The targets with the traces that the command line asks for. */
function tracedTargets(targets: readonly TargetConfig[], options: ServeOptions): TargetConfig[] {
  const { trace = [], tracePayload = false, traceDigest = false } = options;
  if (trace.length === 0 && (tracePayload || traceDigest)) {
    throw new UsageError("Cannot keep data without a trace: add --trace FILE");
  }
  return withTraces(targets, trace, tracePayload ? "payload" : traceDigest ? "digest" : "none");
}

/** The configuration that the file and the command line give together; the command line wins. */
function merge(
  file: ConfigParts,
  specs: readonly string[],
  options: ServeOptions,
  kinds: readonly string[],
): ConfigParts {
  const filters = (options.filter ?? []).map((text) => parseFilter(text));
  const told = targetsOf(specs, kinds).map((target) => ({ ...target, filters }));
  const named = [...file.targets ?? [], ...told];
  const fallback: TargetConfig = {
    name: DEFAULT_NAME,
    spec: parseSpec(DEFAULT_SPEC),
    filters,
    description: "",
    readOnly: false,
  };
  const { control, xenbus, state, logs } = options;
  const steered = [control, xenbus, state, logs ?? file.logDir].some((each) => each !== undefined);
  const targets = named.length > 0 || steered ? named : [fallback];
  const endpoints = (options.nbd ?? []).map((text) => parseEndpoint(text));
  return {
    ...file,
    targets: tracedTargets(targets, options).map((target) => ({
      ...target,
      readOnly: target.readOnly || options.readOnly === true,
    })),
    endpoints: [...file.endpoints ?? [], ...endpoints],
    ...dmUsersOf(file, options),
    tls: tlsOf(options, file.tls ?? null),
    ...(options.default === undefined ? {} : { defaultTarget: options.default }),
    ...driverOf(options),
    ...(options.state === undefined ? {} : { stateDir: options.state }),
    ...(options.bitmaps === undefined ? {} : { bitmapDir: options.bitmaps }),
    ...(logs === undefined ? {} : { logDir: logs }),
    ...(options.metrics === undefined ? {} : { metrics: parseMetricsEndpoint(options.metrics) }),
  };
}

/** What comes of the wish to be steered. */
interface Steering {
  readonly control: ControlConfig | null;
  /** Why there is none although nobody said so. */
  readonly problem: string | null;
}

/** The control sockets that were named, or else the default one. */
function steeringOf(io: CliIo, options: ServeOptions, file: ConfigParts): Steering {
  const { users = new Map(), sockets: fromFile = [], xenbus: filesFromFile = [] } = file.control ??
    {};
  const env = (name: string): string | undefined => io.env(name);
  const xenbus = [...filesFromFile, ...options.xenbus ?? []];
  const steering = (
    sockets: ControlConfig["sockets"],
    ifFree = false,
    problem: string | null = null,
  ): Steering => {
    const any = sockets.length + xenbus.length > 0;
    return { control: any ? { sockets, xenbus, users, ifFree } : null, problem };
  };
  if (options.control !== undefined) {
    const places = options.control.map((text) => controlPlace(text, { env }));
    return steering(places.flatMap((place) => place === null ? [] : [place.endpoint]));
  }
  if (fromFile.length > 0) return steering(fromFile);
  const place = controlPlace(undefined, { env });
  if (place === null) return steering([]);
  try {
    makeControlFolder(place);
    return steering([place.endpoint], !place.named);
  } catch (error) {
    // Nobody has asked for this one, so disks are served without.
    return steering([], false, error instanceof Error ? error.message : String(error));
  }
}

/** The ready line of `--json`. */
function readyFacts(daemon: Daemon): Record<string, unknown> {
  return {
    ready: true,
    pid: Deno.pid,
    version: VERSION,
    endpoints: daemon.endpoints.map(({ label, uri }) => ({
      endpoint: label,
      uri: uri(firstTarget(daemon)),
    })),
    ...(daemon.dmUser.length === 0 ? {} : { dmUser: daemon.dmUser }),
    default: daemon.defaultTarget,
    control: daemon.control.endpoints.length === 0 ? null : daemon.control.endpoints,
    ...(daemon.control.xenbus.length === 0 ? {} : { xenbus: daemon.control.xenbus }),
    ...(daemon.logDir === null ? {} : { logs: daemon.logDir }),
    metrics: daemon.metrics,
    targets: [...daemon.targets].map(([name, { config, device, driver }]) => ({
      name,
      spec: config.spec.text,
      size: device.geometry.size,
      readOnly: device.features.readOnly || config.readOnly,
      driver,
      uris: daemon.endpoints.map(({ uri }) => uri(name)),
    })),
  };
}

/** The export that examples speak of: "" if there is a default one, else the first by name. */
function firstTarget(daemon: Daemon): string {
  const [first = ""] = daemon.targets.keys();
  return daemon.defaultTarget === null ? first : "";
}

/** Commands to paste that talk to the server. */
function commandsToTry(uri: string, tls: boolean): string[] {
  if (tls) {
    const full = `${uri}${uri.includes("?") ? "&" : "?"}tls-certificates=DIR`;
    return [`nbdinfo ${shellQuote(full)}`];
  }
  // A comma ends an option of qemu, unless it is written twice.
  const drive = `file=${uri.replaceAll(",", ",,")},format=raw,if=virtio`;
  return [
    `nbdinfo ${shellQuote(uri)}`,
    `qemu-img info ${shellQuote(uri)}`,
    `qemu-system-x86_64 -drive ${shellQuote(drive)}`,
  ];
}

function printReady(
  io: CliIo,
  daemon: Daemon,
  config: DaemonConfig,
  noControl: string | null,
): void {
  const rows = [...daemon.targets].map(([name, { config: { spec }, device }]) => {
    const { size, readOnly } = device.geometry;
    return [name, `${spec.text}, ${formatSize(size)}${readOnly ? ", read-only" : ""}`] as const;
  });
  io.out(`${plural(rows.length, "target")}\n${twoColumns(rows)}`);
  const { endpoints, xenbus, problem } = daemon.control;
  const without = problem ?? noControl;
  const control = endpoints.length > 0 ? endpoints.join(" ") : without && `none, ${without}`;
  if (control) io.out(`control: ${control}\n`);
  if (xenbus.length > 0) io.out(`xenbus: ${xenbus.join(" ")}\n`);
  if (daemon.logDir !== null) io.out(`logs: of the kernel, files in ${daemon.logDir}\n`);
  if (daemon.metrics !== null) io.out(`metrics: ${metricsText(daemon.metrics)}\n`);
  const [first] = daemon.endpoints;
  if (first !== undefined && rows.length > 0) {
    const lines = commandsToTry(first.uri(firstTarget(daemon)), config.tls !== null);
    io.out(`\nTry\n${lines.map((line) => `  ${line}\n`).join("")}\n`);
  }
  const uris = daemon.endpoints.map(({ uri }) => uri(firstTarget(daemon)));
  const paths = daemon.dmUser.map(({ path, channels }) =>
    `${path} (${plural(channels, "channel")})`
  );
  io.out(`ready: ${[...uris, ...paths].join(" ")}\n`);
}

/** Where the figures are: the page itself, if it has a URL. */
function metricsText(address: string): string {
  return address.startsWith("http") ? `${address}/metrics` : address;
}

/** What ends the service. */
interface Stop {
  /** True at the first stop signal, or when nothing is left to serve; false at a failure. */
  readonly done: Promise<boolean>;
  /** Nothing is left to serve. */
  nothingLeft(): void;
  /** Hears no more signals. */
  end(): void;
}

/** A second signal ends the process. */
function waitForStop(io: CliIo, failed: Promise<unknown>): Stop {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  let signals = 0;
  const end = io.onStopSignal(() => {
    signals += 1;
    if (signals > 1) {
      io.err("dmu: second signal, ending at once\n");
      io.exitNow(EXIT_FAILED);
    }
    resolve(true);
  });
  failed.then(() => resolve(false));
  return { done: promise, nothingLeft: () => resolve(true), end };
}

async function serve(io: CliIo, specs: readonly string[], options: ServeOptions): Promise<void> {
  const registry = await registryWith(options.backend);
  const { kinds } = registry;
  const file = options.config === undefined ? {} : await readConfig(options.config, kinds);
  const parts = merge(file, specs, options, kinds);
  for (const { spec, filters = [] } of parts.targets ?? []) {
    registry.prepare(spec);
    for (const filter of filters) registry.prepareFilter(filter);
  }
  const { control, problem } = steeringOf(io, options, file);
  let place: SocketPlace | null = null;
  if ((parts.endpoints ?? []).length === 0 && (parts.dmUser ?? []).length === 0) {
    place = await defaultSocket((name) => io.env(name));
  }
  const endpoints = place === null ? parts.endpoints ?? [] : [place.endpoint];
  const failure = Promise.withResolvers<Error>();
  const stop = waitForStop(io, failure.promise);
  try {
    const config = finishConfig({ ...parts, endpoints, control });
    const log = cliLog(io);
    const daemon = await startDaemon(config, {
      registry,
      log,
      version: VERSION,
      plugins: options.backend ?? [],
      onFailure: failure.resolve,
      onDone: stop.nothingLeft,
    });
    let asked = false;
    try {
      if (options.json) printJson(io, readyFacts(daemon));
      else printReady(io, daemon, config, problem);
      asked = await stop.done;
      const count = daemon.connectionCount;
      if (asked && count > 0) log.info(`stopping, ${plural(count, "connection")} to finish`);
    } finally {
      await daemon.stop();
    }
    if (!asked) throw await failure.promise;
  } finally {
    stop.end();
    await place?.remove();
  }
}

/** The command `dmu serve`. */
export function serveCommand(io: CliIo): AnyCommand {
  return command("serve", io)
    .summary("serve disks over NBD, or to dm-user, until a signal")
    .description(
      "Serve disks over NBD, or to dm-user devices, until SIGTERM or SIGINT, or until all dm-user " +
        "targets were removed where there is no NBD. Without a spec: 1 GiB of memory. Without an " +
        "endpoint: a unix socket in a private place.",
    )
    .argument("[spec...]", "NAME=KIND:ARGUMENT?option=value; a single one needs no name")
    .option("--nbd <endpoint>", "unix:PATH, tcp:HOST:PORT or systemd: (repeatable)", collect)
    .option(
      "--dm-user <name>",
      "serve the dm-user target NAME from the target of that name, or as TARGET=NAME (repeatable)",
      collect,
    )
    .option(
      "--channels <count>",
      "how often each control device is opened, 1 if not told",
      wholeNumber(1, CHANNELS_MAX),
    )
    .option("--dm-user-dir <dir>", `folder of control devices, ${DM_USER_FOLDER} if not told`)
    .option(
      "--filter <spec>",
      "a filter before all targets of this command line (repeatable)",
      collect,
    )
    .option(
      "--trace <file>",
      "record all requests in a new FILE, or those of one target as NAME=FILE (repeatable)",
      collect,
    )
    .option("--trace-payload", "record what is read and written as well")
    .option("--trace-digest", "record checksums of what is read and written")
    .option(
      "--control <endpoint>",
      "control socket unix:PATH, or none; DMU_CONTROL or a default place if not told (repeatable)",
      collect,
    )
    .option("--xenbus <path>", "be steered through a xenbus file at PATH (repeatable)", collect)
    .option("--state <dir>", "keep targets that are made at run time over a restart, in DIR")
    .option("--bitmaps <dir>", "keep dirty bitmaps over a restart, in DIR; else in that of --state")
    .option("--logs <dir>", "keep dirty-region logs of the kernel's mirrors, files in DIR")
    .option("--metrics <endpoint>", "figures for Prometheus and health: tcp:HOST:PORT or unix:PATH")
    .option("--config <file>", "read targets and endpoints from a TOML file (- for stdin)")
    .option("--default <name>", "the target of clients that name none")
    .option("--read-only", "refuse what changes data, on all targets")
    .option("--tls-certificates <dir>", "folder with ca-cert, server-cert and server-key .pem")
    .option("--tls-require", "refuse clients without TLS")
    .option("--backend <file>", BACKEND_HELP, collect)
    .option(
      "--driver <name>",
      `who moves the bytes: the main thread (streams), a thread of each target (blocking), or (auto) ` +
        `such threads where the storage never waits; ${DRIVER_DEFAULT} if not told`,
    )
    .option("--json", "print the ready line as JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["An image for one virtual machine", "dmu serve file:disk.img --nbd unix:disk.sock"],
        ["Two disks on a port", "dmu serve a=file:a.img b=memory:4G --nbd tcp:10809"],
        ["A dm-user device of this kernel", "dmu serve d=file:disk.img --dm-user d --channels 2"],
        [
          "No targets yet: they come and go at run time, and outlive the server",
          "dmu serve --control unix:/run/dmu.sock --state /var/lib/dmu --nbd tcp:10809",
        ],
        ["Record what a client does", "dmu serve file:disk.img --trace disk.dmutrace"],
        ["Everything from a file", "dmu serve --config /etc/dmu.toml"],
      ]),
    )
    .action((specs, options) => serve(io, specs, options));
}
