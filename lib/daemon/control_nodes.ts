/**
 * The daemon's tree in its XenStore as whoever looks at it from outside sees it: paths, and nodes read
 * into plain data. Nodes may be missing, half written or gone a moment later: what cannot be read is
 * null or left out.
 *
 * @module
 */
import type { XenstoreOperations } from "../xenstore/client_operations.ts";
import { listOrEmpty, readOrNull } from "./control/nodes.ts";
import {
  bitmapOfNodeName,
  filePath,
  FILES_PATH,
  LOGS_PATH,
  targetOfNodeName,
  targetPath,
  TARGETS_PATH,
  XENBUS_STATE,
} from "./control/paths.ts";

/**
 * The name of a state of a target: it is to be opened; it does not answer, since it is being opened or
 * access was revoked; clients can connect; it is being closed; it is closed.
 */
export type TargetStateName = "initialising" | "waiting" | "connected" | "closing" | "closed";

/** The states of a target, as XenBus numbers them. */
export const TARGET_STATES: Readonly<Record<TargetStateName, number>> = {
  initialising: Number(XENBUS_STATE.INITIALISING),
  waiting: Number(XENBUS_STATE.INIT_WAIT),
  connected: Number(XENBUS_STATE.CONNECTED),
  closing: Number(XENBUS_STATE.CLOSING),
  closed: Number(XENBUS_STATE.CLOSED),
};

/** The name of a state; null for a number that is none. */
export function targetStateName(state: number | null): TargetStateName | null {
  for (const [name, number] of Object.entries(TARGET_STATES)) {
    if (number === state && isStateName(name)) return name;
  }
  return null;
}

function isStateName(name: string): name is TargetStateName {
  return Object.hasOwn(TARGET_STATES, name);
}

/** What was counted of one operation of a target since it was opened. Latencies in µs. */
export interface CountedOperation {
  /** Requests that are done, failed ones included. */
  readonly count: number;
  /** Requests that failed. */
  readonly errors: number;
  /** Bytes of the requests that succeeded. */
  readonly bytes: number;
  /** Sum of all latencies. */
  readonly latencyTotalUs: number;
  /** The largest latency. */
  readonly latencyMaxUs: number;
  /** 50th percentile. */
  readonly latencyP50Us: number;
  /** 99th percentile. */
  readonly latencyP99Us: number;
}

/** What a target has done; at most a second old. */
export interface ShownStatistics {
  /** By name: the operations that were done at least once. */
  readonly operations: Readonly<Record<string, CountedOperation>>;
  /** Operations inside now. */
  readonly inFlight: number;
}

/** A target as the tree shows it. */
export interface ShownTarget {
  /** Its name. */
  readonly name: string;
  /** One of TARGET_STATES, null if there is none yet. */
  readonly state: number | null;
  /** The spec of its storage. */
  readonly backend: string;
  /** The specs of its filters, outermost last. */
  readonly filters: readonly string[];
  /** Bytes; null if it is not open. */
  readonly size: number | null;
  /** It refuses what changes data. */
  readonly readOnly: boolean;
  /** Who moves its bytes, "streams" or "blocking"; null if it is not open. */
  readonly driver: string | null;
  /** For a human; "" for none. */
  readonly description: string;
  /** Endpoints of its own. */
  readonly endpoints: readonly string[];
  /** The NBD URIs by which it is reached. */
  readonly uris: readonly string[];
  /** It is not kept over a restart of the daemon. */
  readonly ephemeral: boolean;
  /** The open file with whose end it is removed, or null. */
  readonly onexit: number | null;
  /** The text of the last failure, or null. */
  readonly error: string | null;
  /** Its dirty bitmaps, in the order of their names. */
  readonly bitmaps: readonly ShownBitmap[];
}

/** A dirty bitmap as the tree shows it. */
export interface ShownBitmap {
  /** Its name. */
  readonly name: string;
  /** Bytes of a region. */
  readonly granularity: number;
  /** It outlives the daemon. */
  readonly persistent: boolean;
  /** A point of it is frozen. */
  readonly frozen: boolean;
}

/** An onexit action of an open file. */
export interface ShownAction {
  /** Its handle. */
  readonly handle: number;
  /** What is done: `flush d`. */
  readonly action: string;
}

/** An open file as the tree shows it. */
export interface ShownFile {
  /** Its number. */
  readonly minor: number;
  /** The way in: `nbd`, `dm-user`, `control` … */
  readonly kind: string;
  /** Who is at the other end. */
  readonly peer: string;
  /** The target that it is in, or null. */
  readonly target: string | null;
  /** new, active, draining or drained. */
  readonly state: string;
  /** Operations inside now. */
  readonly active: number;
  /** What is done when it ends, in order. */
  readonly onexit: readonly ShownAction[];
}

/** The name of the target that a path below `below` of a target's node belongs to; null for others. */
export function targetNameOf(path: string, below: string): string | null {
  const [node = "", child] = path.slice(TARGETS_PATH.length + 1).split("/", 2);
  const fits = path.startsWith(`${TARGETS_PATH}/`) && child === below;
  return fits ? targetOfNodeName(node) : null;
}

/** The names of all targets, sorted. */
export async function readNames(store: XenstoreOperations): Promise<string[]> {
  const nodes = await listOrEmpty(store, TARGETS_PATH);
  return nodes.map(targetOfNodeName).sort();
}

/** A decimal number; null for anything else. */
function numberIn(text: string | null): number | null {
  if (text === null || !/^\d+$/.test(text)) return null;
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : null;
}

/** The values of numbered children, in the order of their numbers. */
async function readList(store: XenstoreOperations, path: string): Promise<string[]> {
  const names = (await listOrEmpty(store, path)).filter((each) => numberIn(each) !== null);
  names.sort((a, b) => Number(a) - Number(b));
  const values = await Promise.all(names.map((each) => readOrNull(store, `${path}/${each}`)));
  return values.filter((each) => each !== null);
}

/** The texts of the children `keys` of a node; null for those that are not there. */
async function readTexts<K extends string>(
  store: XenstoreOperations,
  path: string,
  keys: readonly K[],
): Promise<(key: K) => string | null> {
  const texts = new Map<K, string | null>();
  await Promise.all(keys.map(async (key) => {
    texts.set(key, await readOrNull(store, `${path}/${key}`));
  }));
  return (key) => texts.get(key) ?? null;
}

/** The state of a target; null if it has none. */
export async function readState(store: XenstoreOperations, name: string): Promise<number | null> {
  return numberIn(await readOrNull(store, `${targetPath(name)}/state`));
}

const TARGET_TEXTS = [
  "state",
  "backend",
  "size",
  "read-only",
  "driver",
  "description",
  "ephemeral",
  "onexit",
  "error",
] as const;

/** Reads a target; null if there is none of that name. */
export async function readTarget(
  store: XenstoreOperations,
  name: string,
): Promise<ShownTarget | null> {
  const path = targetPath(name);
  if (await readOrNull(store, path) === null) return null;
  const [text, filters, endpoints, uris, bitmaps] = await Promise.all([
    readTexts(store, path, TARGET_TEXTS),
    readList(store, `${path}/filters`),
    readList(store, `${path}/endpoints`),
    readList(store, `${path}/uris`),
    readBitmaps(store, `${path}/bitmap`),
  ]);
  return {
    name,
    state: numberIn(text("state")),
    backend: text("backend") ?? "",
    filters,
    size: numberIn(text("size")),
    readOnly: text("read-only") === "1",
    driver: text("driver"),
    description: text("description") ?? "",
    endpoints,
    uris,
    ephemeral: text("ephemeral") === "1" || text("onexit") !== null,
    onexit: numberIn(text("onexit")),
    error: text("error"),
    bitmaps,
  };
}

async function readBitmaps(store: XenstoreOperations, path: string): Promise<ShownBitmap[]> {
  const nodes = (await listOrEmpty(store, path)).sort();
  return await Promise.all(nodes.map(async (node) => {
    const keys = ["granularity", "persistent", "frozen"] as const;
    const text = await readTexts(store, `${path}/${node}`, keys);
    return {
      name: bitmapOfNodeName(node),
      granularity: numberIn(text("granularity")) ?? 0,
      persistent: text("persistent") === "1",
      frozen: text("frozen") === "1",
    };
  }));
}

/** Reads all targets, in the order of their names. */
export async function readTargets(store: XenstoreOperations): Promise<ShownTarget[]> {
  const names = await readNames(store);
  const targets = await Promise.all(names.map((each) => readTarget(store, each)));
  return targets.filter((each) => each !== null);
}

const COUNTERS = [
  "count",
  "errors",
  "bytes",
  "latency-total-us",
  "latency-max-us",
  "latency-p50-us",
  "latency-p99-us",
] as const;

async function readCounters(store: XenstoreOperations, path: string): Promise<CountedOperation> {
  const text = await readTexts(store, path, COUNTERS);
  const number = (key: typeof COUNTERS[number]): number => numberIn(text(key)) ?? 0;
  return {
    count: number("count"),
    errors: number("errors"),
    bytes: number("bytes"),
    latencyTotalUs: number("latency-total-us"),
    latencyMaxUs: number("latency-max-us"),
    latencyP50Us: number("latency-p50-us"),
    latencyP99Us: number("latency-p99-us"),
  };
}

/** Reads what a target has done. */
export async function readStatistics(
  store: XenstoreOperations,
  name: string,
): Promise<ShownStatistics> {
  const path = `${targetPath(name)}/statistics`;
  const inFlight = "in-flight";
  const names = (await listOrEmpty(store, path)).filter((each) => each !== inFlight);
  const [inside, ...counted] = await Promise.all([
    readOrNull(store, `${path}/${inFlight}`),
    ...names.map(async (each) => [each, await readCounters(store, `${path}/${each}`)] as const),
  ]);
  const done = counted.filter(([, { count }]) => count > 0);
  return { operations: Object.fromEntries(done), inFlight: numberIn(inside) ?? 0 };
}

/** Reads an open file; null if there is none of that number. */
export async function readFile(
  store: XenstoreOperations,
  minor: number,
): Promise<ShownFile | null> {
  const path = filePath(minor);
  if (await readOrNull(store, path) === null) return null;
  const text = await readTexts(store, path, ["kind", "peer", "target", "state", "active"]);
  const handles = (await listOrEmpty(store, `${path}/onexit`)).map(numberIn)
    .filter((each) => each !== null).sort((a, b) => a - b);
  const actions = await Promise.all(handles.map(async (handle) => {
    const action = await readOrNull(store, `${path}/onexit/${handle}`);
    return action === null ? null : { handle, action };
  }));
  return {
    minor,
    kind: text("kind") ?? "",
    peer: text("peer") ?? "",
    target: text("target") || null,
    state: text("state") ?? "",
    active: numberIn(text("active")) ?? 0,
    onexit: actions.filter((each) => each !== null),
  };
}

/** Reads all open files, in the order of their numbers. */
export async function readFiles(store: XenstoreOperations): Promise<ShownFile[]> {
  const minors = (await listOrEmpty(store, FILES_PATH)).map(numberIn)
    .filter((each) => each !== null).sort((a, b) => a - b);
  const files = await Promise.all(minors.map((each) => readFile(store, each)));
  return files.filter((each) => each !== null);
}

/** A dirty-region log of a mirror of the kernel, as the tree shows it. */
export interface ShownLog {
  /** The name that the mirror's table gives. */
  readonly uuid: string;
  /** The type as its table has it. */
  readonly type: string;
  /** Numbers of the device or path of the file that it is kept in; null if it is in memory. */
  readonly place: string | null;
  /** pending, active, halted, suspended, or waiting for its medium. */
  readonly state: string;
  /** Regions of the mirror. */
  readonly regions: number;
  /** Bytes of a region. */
  readonly regionSize: number;
  /** Regions that all legs have. */
  readonly inSync: number;
  /** Regions that may differ. */
  readonly dirty: number;
  /** Tables of the kernel that use it: two while one is swapped. */
  readonly clients: number;
  /** Requests that were answered. */
  readonly requests: number;
  /** Of these, answered with an error. */
  readonly errors: number;
}

const LOG_TEXTS = [
  "uuid",
  "type",
  "place",
  "state",
  "regions",
  "region-size",
  "in-sync",
  "dirty",
  "clients",
  "requests",
  "errors",
] as const;

/** Reads all dirty-region logs, in the order of the names of their nodes. */
export async function readLogs(store: XenstoreOperations): Promise<ShownLog[]> {
  const names = (await listOrEmpty(store, LOGS_PATH)).sort();
  const logs = await Promise.all(names.map(async (name) => {
    const text = await readTexts(store, `${LOGS_PATH}/${name}`, LOG_TEXTS);
    const uuid = text("uuid");
    if (uuid === null) return null; // gone a moment later
    const number = (key: typeof LOG_TEXTS[number]): number => numberIn(text(key)) ?? 0;
    return {
      uuid,
      type: text("type") ?? "",
      place: text("place"),
      state: text("state") ?? "",
      regions: number("regions"),
      regionSize: number("region-size"),
      inSync: number("in-sync"),
      dirty: number("dirty"),
      clients: number("clients"),
      requests: number("requests"),
      errors: number("errors"),
    };
  }));
  return logs.filter((each) => each !== null);
}
