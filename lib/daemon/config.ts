/**
 * What a daemon is to serve and where: one type, whether it comes from a configuration file (TOML),
 * from the command line or from an embedder. Wrong files get an error with file, line and column.
 *
 * @module
 */
import { LimitedBytesTransformStream, toBytes } from "@std/streams";
import { parse, TomlError } from "smol-toml";
import { join } from "node:path";
import * as v from "valibot";
import { TARGETS_MAX } from "../block/limits.ts";
import {
  choiceOption,
  countOption,
  flagOption,
  omittable,
  type OptionSchema,
  optionSchema,
  type OptionType,
  parseOptions,
  pathOption,
  textOption,
} from "../block/options.ts";
import {
  encodeSpecText,
  parseSpec,
  type Spec,
  type SpecOption,
  targetNameProblem,
} from "../block/spec.ts";
import { UsageError } from "../block/usage_error.ts";
import type { DataKept } from "../trace/recorder.ts";
import { type BitmapConfig, checkBitmaps, parseBitmap } from "./bitmap_config.ts";
import {
  checkControl,
  type ControlConfig,
  type Hooks,
  parseHooks,
  parseUsers,
} from "./control_config.ts";
import { checkDmUsers, DM_USER_FOLDER, type DmUserConfig, parseDmUser } from "./dm_user_config.ts";
import {
  type Endpoint,
  formatEndpoint,
  parseEndpoint,
  parseMetricsEndpoint,
  type TcpEndpoint,
  type UnixEndpoint,
} from "./endpoint.ts";
import {
  CHANNELS_MAX,
  CONFIG_BYTES_MAX,
  CONNECTIONS_DEFAULT,
  CONNECTIONS_MAX,
  ENDPOINTS_MAX,
  FILTERS_MAX,
} from "./limits.ts";
import { DRIVER_CHOICES, DRIVER_DEFAULT, type DriverChoice } from "./driver_choice.ts";
import { TomlPlaces } from "./toml_places.ts";
import { checkTraces, DATA_KEPT, type TraceConfig } from "./trace_config.ts";

/** One target: a block device under a name. */
export interface TargetConfig {
  /** Letters, digits, dots, underscores and hyphens; 1 to 255 of them. */
  readonly name: string;
  /** What to open. */
  readonly spec: Spec;
  /** Filters in front of it, the outermost last; none if left out. */
  readonly filters?: readonly Spec[];
  /** For a human; "" for none. */
  readonly description: string;
  /** Open it read-only and refuse what changes data. */
  readonly readOnly: boolean;
  /** Where its requests are recorded; nowhere if left out. */
  readonly trace?: TraceConfig;
  /** Dirty bitmaps that it has to have, besides those that it has already; none if left out. */
  readonly bitmaps?: readonly BitmapConfig[];
  /** The folder in which its bitmaps outlive the daemon; they cannot if left out. */
  readonly bitmapFolder?: string;
}

/** TLS of all endpoints. */
export interface TlsConfig {
  /** Folder with ca-cert.pem, server-cert.pem and server-key.pem. */
  readonly certificates: string;
  /** Refuse clients that do not switch to TLS. */
  readonly require: boolean;
}

/** What a daemon serves and where. Plain data. */
export interface DaemonConfig {
  /** Up to TARGETS_MAX targets with different names; at least one, unless others can come at run time. */
  readonly targets: readonly TargetConfig[];
  /** Where to listen; at least one, unless there are dm-user targets or a control plane. */
  readonly endpoints: readonly Endpoint[];
  /** Which dm-user targets to serve. */
  readonly dmUser: readonly DmUserConfig[];
  /** The folder of their control devices. */
  readonly dmUserFolder: string;
  /** TLS, or null for none. */
  readonly tls: TlsConfig | null;
  /** The target that clients get who name none, or null. */
  readonly defaultTarget: string | null;
  /** Connections at once, over all endpoints. */
  readonly connectionsMax: number;
  /** How it is steered, or null if it is not. */
  readonly control: ControlConfig | null;
  /** The folder of targets that outlive the daemon, or null. */
  readonly stateDir: string | null;
  /** The folder of dirty bitmaps that outlive the daemon, or null. */
  readonly bitmapDir: string | null;
  /** The folder of dirty-region logs for the kernel's mirrors, or null to keep none. */
  readonly logDir: string | null;
  /** What onexit actions can run. */
  readonly hooks: Hooks;
  /** Where metrics and health are served, or null. */
  readonly metrics: UnixEndpoint | TcpEndpoint | null;
  /** Who moves the bytes of its targets. */
  readonly driver: DriverChoice;
}

/** Parts of a configuration, before they are put together and checked as a whole. */
export type ConfigParts = Partial<DaemonConfig>;

interface FileTop {
  readonly default: string | undefined;
  readonly nbd: readonly string[];
  readonly "dm-user-dir": string | undefined;
  readonly driver: DriverChoice | undefined;
  readonly tls: Readonly<Record<string, unknown>> | undefined;
  readonly limits: Readonly<Record<string, unknown>> | undefined;
  readonly control: Readonly<Record<string, unknown>> | undefined;
  readonly state: string | undefined;
  readonly bitmaps: string | undefined;
  readonly logs: string | undefined;
  readonly metrics: string | undefined;
  readonly hook: Readonly<Record<string, unknown>> | undefined;
  readonly target: readonly Readonly<Record<string, unknown>>[];
}

interface FileTarget {
  readonly name: string;
  readonly spec: string | undefined;
  readonly kind: string | undefined;
  readonly options: Readonly<Record<string, unknown>> | undefined;
  readonly filters: readonly string[];
  readonly description: string | undefined;
  readonly "read-only": boolean;
  readonly "dm-user": string | undefined;
  readonly channels: number | undefined;
  readonly trace: string | undefined;
  readonly "trace-data": DataKept | undefined;
  readonly bitmaps: readonly string[];
}

function tableOption(summary: string): OptionType<Readonly<Record<string, unknown>> | undefined> {
  const schema = v.record(v.string(), v.unknown(), "must be a table");
  return omittable(v.pipe(schema, v.metadata({ type: "table", summary })));
}

function listOption<T>(
  item: v.GenericSchema<unknown, T>,
  message: string,
): OptionType<readonly T[]> {
  return v.optional(v.array(item, message), () => []);
}

const topSchema: OptionSchema<FileTop> = optionSchema<FileTop>({
  default: omittable(textOption({ summary: "target of clients that name none" })),
  nbd: listOption(v.string("must be a list of endpoints, each as text"), "must be a list"),
  "dm-user-dir": omittable(pathOption({ summary: "folder of control devices" })),
  driver: omittable(choiceOption(DRIVER_CHOICES, { summary: "who moves the bytes of targets" })),
  tls: tableOption("TLS of all endpoints"),
  limits: tableOption("limits of the daemon"),
  control: tableOption("how the daemon is steered"),
  state: omittable(pathOption({ summary: "folder of targets that outlive the daemon" })),
  bitmaps: omittable(pathOption({ summary: "folder of bitmaps that outlive the daemon" })),
  logs: omittable(pathOption({ summary: "folder of the kernel's dirty-region logs" })),
  metrics: omittable(textOption({ summary: "where metrics are served" })),
  hook: tableOption("commands that onexit actions run"),
  target: listOption(
    v.record(v.string(), v.unknown(), "must be written as [[target]]"),
    "must be written as [[target]]",
  ),
});

const targetSchema: OptionSchema<FileTarget> = optionSchema<FileTarget>({
  name: textOption({ summary: "name of the target" }),
  spec: omittable(textOption({ summary: "KIND:ARGUMENT?option=value" })),
  kind: omittable(textOption({ summary: "kind of the backend, if there is no spec" })),
  options: tableOption("options of the backend, if there is no spec"),
  filters: listOption(v.string("must be a list of filters, each as text"), "must be a list"),
  description: omittable(textOption({ summary: "for a human" })),
  "read-only": flagOption({ summary: "refuse what changes data", default: false }),
  "dm-user": omittable(textOption({ summary: "name of the dm-user target that it serves" })),
  channels: omittable(countOption({
    summary: "how often its control device is opened",
    min: 1,
    max: CHANNELS_MAX,
  })),
  trace: omittable(pathOption({ summary: "file that its requests are recorded in" })),
  "trace-data": omittable(choiceOption(DATA_KEPT, { summary: "what is recorded of the data" })),
  bitmaps: listOption(v.string("must be a list of bitmaps, each as text"), "must be a list"),
});

const tlsSchema: OptionSchema<TlsConfig> = optionSchema<TlsConfig>({
  certificates: pathOption({ summary: "folder with the certificates" }),
  require: flagOption({ summary: "refuse clients without TLS", default: false }),
});

interface FileLimits {
  readonly connections: number;
}

const limitsSchema: OptionSchema<FileLimits> = optionSchema<FileLimits>({
  connections: countOption({
    summary: "connections at once",
    default: CONNECTIONS_DEFAULT,
    min: 1,
    max: CONNECTIONS_MAX,
  }),
});

interface FileControl {
  readonly listen: readonly string[];
  readonly xenbus: readonly string[];
  readonly users: Readonly<Record<string, unknown>> | undefined;
}

const controlSchema: OptionSchema<FileControl> = optionSchema<FileControl>({
  listen: listOption(v.string("must be a list of endpoints, each as text"), "must be a list"),
  xenbus: listOption(v.string("must be a list of paths"), "must be a list"),
  users: tableOption("domains by user id"),
});

/** What reading a configuration file may know, for better errors. */
export interface ConfigContext {
  /** The name of the file in messages. */
  readonly path: string;
  /** The kinds of backends that there are. */
  readonly kinds?: readonly string[];
}

interface Reader {
  readonly context: ConfigContext;
  readonly places: TomlPlaces;
}

/** Reads a table against a schema; `path` is where the table stands, "" for the whole document. */
function readTable<O>(
  reader: Reader,
  schema: OptionSchema<O>,
  table: Readonly<Record<string, unknown>>,
  path: string,
  shown: string,
): O {
  return parseOptions(schema, new Map(Object.entries(table)), {
    action: `read ${shown}`,
    place: (key, part) => reader.places.find(path === "" ? key : `${path}.${key}`, part),
  });
}

/**
 * Parses a configuration file. Throws UsageError with file, line and column of what is wrong.
 *
 * @example
 * ```ts
 * import { parseConfig } from "./config.ts";
 * const { targets } = parseConfig('[[target]]\nname = "disk"\nspec = "file:disk.img"', {
 *   path: "dmu.toml",
 * });
 * if (targets?.[0]?.spec.argument !== "disk.img") throw new Error("misread");
 * ```
 */
export function parseConfig(text: string, context: ConfigContext): ConfigParts {
  const reader: Reader = { context, places: new TomlPlaces(context.path, text) };
  const top = readTable(reader, topSchema, parseToml(reader, text), "", "the configuration");
  const { tls, limits, control, hook = {}, state, metrics, bitmaps, logs } = top;
  const folder = top["dm-user-dir"];
  return {
    ...readTargets(reader, top.target),
    ...(folder === undefined ? {} : { dmUserFolder: folder }),
    ...(top.driver === undefined ? {} : { driver: top.driver }),
    endpoints: top.nbd.map((each) =>
      parseEndpoint(each, reader.places.findItem("nbd", each).origin)
    ),
    ...(tls === undefined ? {} : { tls: readTable(reader, tlsSchema, tls, "tls", "[tls]") }),
    ...(top.default === undefined ? {} : { defaultTarget: readDefault(reader, top) }),
    ...(limits === undefined ? {} : {
      connectionsMax: readTable(reader, limitsSchema, limits, "limits", "[limits]").connections,
    }),
    ...(control === undefined ? {} : { control: readControl(reader, control) }),
    ...(state === undefined ? {} : { stateDir: state }),
    ...(bitmaps === undefined ? {} : { bitmapDir: bitmaps }),
    ...(logs === undefined ? {} : { logDir: logs }),
    ...(metrics === undefined ? {} : {
      metrics: parseMetricsEndpoint(metrics, reader.places.find("metrics", "value").origin),
    }),
    hooks: parseHooks(hook, (key, part) => reader.places.find(`hook.${key}`, part)),
  };
}

function readControl(
  reader: Reader,
  table: Readonly<Record<string, unknown>>,
): ControlConfig {
  const { listen, xenbus, users = {} } = readTable(
    reader,
    controlSchema,
    table,
    "control",
    "[control]",
  );
  const sockets = listen.map((text) => {
    const place = reader.places.findItem("control.listen", text);
    const endpoint = parseEndpoint(text, place.origin);
    if (endpoint.kind === "unix") return endpoint;
    throw new UsageError(`Cannot be steered on "${text}": write unix:PATH`, place);
  });
  const domains = parseUsers(
    users,
    (key, part) => reader.places.find(`control.users.${key}`, part),
  );
  return { sockets, xenbus, users: domains, ifFree: false };
}

function parseToml(reader: Reader, text: string): Record<string, unknown> {
  try {
    return parse(text, { unsafeKeyBehaviour: "throw" });
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [first = ""] = error.message.split("\n", 1);
    const reason = first.replace("Invalid TOML document: ", "");
    const place = reader.places.at(error.line, error.column);
    throw new UsageError(`Cannot read the configuration: ${reason}`, place, { cause: error });
  }
}

function readDefault(reader: Reader, top: FileTop): string | null {
  const name = top.default ?? null;
  const names = top.target.map((target) => target["name"]);
  if (name === null || names.includes(name)) return name;
  throw new UsageError(
    `Cannot make "${name}" the default: there is no such target`,
    reader.places.find("default", "value"),
  );
}

function readTargets(
  reader: Reader,
  tables: FileTop["target"],
): { targets: TargetConfig[]; dmUser: DmUserConfig[] } {
  const names = new Set<string>();
  const dmUser: DmUserConfig[] = [];
  const targets = tables.map((table, index) => {
    const path = `target[${index}]`;
    const found = readTable(reader, targetSchema, table, path, "[[target]]");
    const { name, description = "" } = found;
    const problem = names.has(name) ? "another target has this name" : targetNameProblem(name);
    if (problem !== null) {
      const place = reader.places.find(`${path}.name`, "value");
      throw new UsageError(`Cannot add target "${name}": ${problem}`, place);
    }
    names.add(name);
    const spec = readSpec(reader, found, path);
    const filters = readFilters(reader, found, path);
    dmUser.push(...readDmUser(reader, found, path));
    const trace = readTrace(reader, found, path);
    const readOnly = found["read-only"];
    const bitmaps = found.bitmaps.map((text) =>
      parseBitmap(text, reader.places.findItem(`${path}.bitmaps`, text))
    );
    return {
      ...{ name, spec, filters, description, readOnly, bitmaps },
      ...(trace === null ? {} : { trace }),
    };
  });
  return { targets, dmUser };
}

function readDmUser(reader: Reader, target: FileTarget, path: string): DmUserConfig[] {
  const { name, "dm-user": dmUser, channels } = target;
  if (dmUser !== undefined) {
    const place = reader.places.find(`${path}.dm-user`, "value");
    return [parseDmUser(`${name}=${dmUser}`, channels ?? 1, place)];
  }
  if (channels === undefined) return [];
  const place = reader.places.find(`${path}.channels`, "name");
  throw new UsageError("Cannot read [[target]]: it has channels, but no dm-user", place);
}

function readTrace(reader: Reader, target: FileTarget, path: string): TraceConfig | null {
  const { trace, "trace-data": data } = target;
  if (trace !== undefined) return { path: trace, data: data ?? "none" };
  if (data === undefined) return null;
  const place = reader.places.find(`${path}.trace-data`, "name");
  throw new UsageError("Cannot read [[target]]: it has trace-data, but no trace", place);
}

function readFilters(reader: Reader, { filters }: FileTarget, path: string): Spec[] {
  return filters.map((text) => {
    const { origin } = reader.places.findItem(`${path}.filters`, text);
    return parseFilter(text, origin);
  });
}

/**
 * Parses a filter with its options: `NAME`, or `NAME:?option=value`. `origin` says where the text is from,
 * if from a file. Throws UsageError.
 */
export function parseFilter(text: string, origin?: string): Spec {
  const whole = /^[a-z][a-z0-9-]*$/.test(text) ? `${text}:` : text;
  return parseSpec(whole, origin === undefined ? {} : { origin });
}

function readSpec(reader: Reader, target: FileTarget, path: string): Spec {
  const { places, context } = reader;
  const { spec, kind, options = {} } = target;
  if (spec !== undefined) {
    const other = kind !== undefined ? "kind" : target.options !== undefined ? "options" : null;
    if (other !== null) {
      const place = places.find(`${path}.${other}`, "name");
      throw new UsageError(`Cannot read [[target]]: it has a spec, so no "${other}"`, place);
    }
    const origin = places.find(`${path}.spec`, "value").origin;
    const { kinds } = context;
    return parseSpec(spec, {
      ...(origin === undefined ? {} : { origin }),
      ...(kinds === undefined ? {} : { kinds }),
    });
  }
  if (kind === undefined) {
    const reason = 'write spec = "KIND:ARGUMENT", or kind and a table of options';
    throw new UsageError(
      `Cannot read [[target]]: it says not what to open; ${reason}`,
      places.find(path, "name"),
    );
  }
  return specOf(reader, kind, options, path);
}

/** The spec that a kind and a table of options stand for. */
function specOf(
  reader: Reader,
  kind: string,
  table: Readonly<Record<string, unknown>>,
  path: string,
): Spec {
  const { places } = reader;
  const options = new Map<string, SpecOption>();
  const shown: string[] = [];
  for (const [key, value] of Object.entries(table)) {
    const whole = `${path}.options.${key}`;
    const namePlace = places.find(whole, "name");
    options.set(key, { value, namePlace, valuePlace: places.find(whole, "value") });
    shown.push(`${key}=${encodeSpecText(String(value))}`);
  }
  const kindPlace = places.find(`${path}.kind`, "value");
  return {
    text: `${kind}:${shown.length === 0 ? "" : `?${shown.join("&")}`}`,
    kind,
    uri: false,
    argument: "",
    options,
    kindPlace,
    argumentPlace: kindPlace,
  };
}

/** All of a file, or of standard input for "-"; a RangeError past CONFIG_BYTES_MAX. */
async function readBounded(path: string): Promise<Uint8Array> {
  const source = path === "-" ? Deno.stdin.readable : (await Deno.open(path)).readable;
  // The package comes without types.
  const bound: TransformStream<Uint8Array, Uint8Array> = new LimitedBytesTransformStream(
    CONFIG_BYTES_MAX,
    { error: true },
  );
  const bytes: Uint8Array = await toBytes(source.pipeThrough(bound));
  return bytes;
}

/** Reads and parses a configuration file. Throws UsageError, also if it cannot be read. */
export async function readConfig(
  path: string,
  kinds: readonly string[] = [],
): Promise<ConfigParts> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await readBounded(path));
  } catch (error) {
    const reason = error instanceof Deno.errors.NotFound
      ? "there is no such file"
      : error instanceof TypeError
      ? "it is not UTF-8 text"
      : error instanceof Deno.errors.IsADirectory
      ? "it is a directory"
      : error instanceof RangeError
      ? `it has more than ${CONFIG_BYTES_MAX} bytes`
      : error instanceof Error
      ? error.message
      : String(error);
    throw new UsageError(`Cannot read the configuration "${path}": ${reason}`, null, {
      cause: error,
    });
  }
  return parseConfig(text, { path, kinds });
}

/** The target of clients that name none: the one told, the only one, or the one named "default". */
function chooseDefault(parts: ConfigParts, targets: readonly TargetConfig[]): string | null {
  const { defaultTarget } = parts;
  if (defaultTarget !== undefined) return defaultTarget;
  const [first] = targets;
  if (targets.length === 1 && first !== undefined) return first.name;
  return targets.some(({ name }) => name === "default") ? "default" : null;
}

/**
 * Puts a configuration together: fills in defaults and checks what no single part shows. Throws
 * UsageError.
 */
export function finishConfig(parts: ConfigParts): DaemonConfig {
  const { targets = [], endpoints = [], tls = null, control = null, stateDir = null } = parts;
  const { logDir = null } = parts;
  const steered = control !== null || stateDir !== null || logDir !== null;
  if (targets.length === 0 && !steered) throw new UsageError("Cannot serve: there is no target");
  if (targets.length > TARGETS_MAX) {
    throw new UsageError(`Cannot serve: there are more than ${TARGETS_MAX} targets`);
  }
  const names = new Set<string>();
  for (const { name } of targets) {
    const problem = names.has(name) ? "the name is given twice" : targetNameProblem(name);
    // No place: a spec does not know where its target's name was written.
    if (problem !== null) throw new UsageError(`Cannot add target "${name}": ${problem}`);
    names.add(name);
  }
  const defaultTarget = chooseDefault(parts, targets);
  if (defaultTarget !== null && !names.has(defaultTarget) && !steered) {
    throw new UsageError(
      `Cannot make "${defaultTarget}" the default: there is no such target; ` +
        `there are ${[...names].join(", ")}`,
    );
  }
  const { dmUser = [], dmUserFolder = DM_USER_FOLDER } = parts;
  checkDmUsers(dmUser, names);
  if (endpoints.length === 0 && dmUser.length === 0 && !steered) {
    throw new UsageError("Cannot serve: there is no endpoint; add --nbd unix:PATH");
  }
  checkEndpoints(endpoints);
  checkTraces(targets);
  if (control !== null) checkControl(control);
  const { bitmapDir = stateDir === null ? null : join(stateDir, "bitmaps") } = parts;
  for (const { name, filters = [], bitmaps = [] } of targets) {
    checkBitmaps(name, bitmaps, bitmapDir);
    if (filters.length <= FILTERS_MAX) continue;
    throw new UsageError(`Cannot add target "${name}": it has more than ${FILTERS_MAX} filters`);
  }
  const { connectionsMax = CONNECTIONS_DEFAULT, hooks = new Map(), metrics = null } = parts;
  const { driver = DRIVER_DEFAULT } = parts;
  return {
    targets,
    endpoints,
    dmUser,
    dmUserFolder,
    tls,
    defaultTarget,
    connectionsMax,
    control,
    stateDir,
    bitmapDir,
    logDir,
    hooks,
    metrics,
    driver,
  };
}

function checkEndpoints(endpoints: readonly Endpoint[]): void {
  if (endpoints.length > ENDPOINTS_MAX) {
    throw new UsageError(`Cannot serve: there are more than ${ENDPOINTS_MAX} endpoints`);
  }
  const seen = new Set<string>();
  for (const endpoint of endpoints) {
    const text = endpoint.kind === "unix"
      ? formatEndpoint({ ...endpoint, mode: 0 })
      : formatEndpoint(endpoint);
    const free = endpoint.kind === "tcp" && endpoint.port === 0;
    if (seen.has(text) && !free) {
      throw new UsageError(`Cannot listen on "${formatEndpoint(endpoint)}": it is given twice`);
    }
    seen.add(text);
  }
}
