/**
 * What people write below a target's node, and what it becomes: a wish to open a target. The same values
 * are shown there by the daemon.
 *
 * @module
 */
import { describeOptions } from "../../block/options.ts";
import type { Registry } from "../../block/registry.ts";
import { parseSize } from "../../block/size.ts";
import { parseSpec, type Spec, targetNameProblem, withDefaultOption } from "../../block/spec.ts";
import { UsageError } from "../../block/usage_error.ts";
import type { XenstoreOperations } from "../../xenstore/client_operations.ts";
import { parseFilter } from "../config.ts";
import { formatEndpoint, parseEndpoint } from "../endpoint.ts";
import { FILTERS_MAX, TARGET_ENDPOINTS_MAX } from "../limits.ts";
import type { ServedTarget, TargetWish } from "../targets.ts";
import { WISH_LIST_MAX } from "./limits.ts";
import { listOrEmpty, type Nodes, readOrNull } from "./nodes.ts";
import { bitmapNodeName } from "./paths.ts";

/** A wish, and how long it is to last. */
export interface LastingWish {
  /** What to open. */
  readonly wish: TargetWish;
  /** It is not kept over a restart of the daemon. */
  readonly ephemeral: boolean;
  /** The open file at whose end it goes, null for none. */
  readonly onexit: number | null;
}

/** Nodes of a wish, and of what is shown, that hold one value. */
const SINGLE = [
  "backend",
  "size",
  "read-only",
  "description",
  "ephemeral",
  "onexit",
  "error",
  "driver",
];
/** Those that hold a list. */
export const TARGET_LISTS: readonly string[] = ["filters", "endpoints", "uris"];
/** Most entries of the lists of a wish. */
const ENTRIES_MAX = { filters: FILTERS_MAX, endpoints: TARGET_ENDPOINTS_MAX } as const;

/** Reads what stands below a target's node `top`, its state and statistics apart. Throws UsageError. */
export async function readTargetNodes(store: XenstoreOperations, top: string): Promise<Nodes> {
  const nodes = new Map<string, string>();
  const read = async (name: string): Promise<void> => {
    const value = await readOrNull(store, `${top}/${name}`);
    if (value !== null) nodes.set(name, value);
  };
  const reads: Promise<void>[] = SINGLE.map(read);
  for (const list of TARGET_LISTS) {
    const names = await listOrEmpty(store, `${top}/${list}`);
    if (names.length > WISH_LIST_MAX) {
      throw new UsageError(`Cannot use a target: ${list} has more than ${WISH_LIST_MAX} entries`);
    }
    reads.push(...names.map((name) => read(`${list}/${name}`)));
  }
  await Promise.all(reads);
  return nodes;
}

/** What the nodes of a target called `name` wish for. Throws UsageError. */
export function parseWish(name: string, nodes: Nodes, registry: Registry): LastingWish {
  const problem = targetNameProblem(name);
  if (problem !== null) throw refusal(name, problem);
  const backend = nodes.get("backend") ?? "";
  if (backend === "") throw refusal(name, "its backend is missing; write KIND:ARGUMENT there");
  const { kinds } = registry;
  const spec = parseSpec(backend, { kinds });
  const wanted = nodes.get("size") ?? "";
  const size = wanted === "" ? null : parseTargetSize(name, wanted);
  const filters = listOf(name, nodes, "filters").map((text) => parseFilter(text));
  const endpoints = listOf(name, nodes, "endpoints").map((text) => parseEndpoint(text));
  const onexit = parseMinor(name, nodes.get("onexit") ?? "");
  const wish: TargetWish = {
    name,
    spec: size === null ? spec : withSize(spec, size, registry),
    filters,
    description: nodes.get("description") ?? "",
    readOnly: parseFlag(name, "read-only", nodes),
    endpoints,
    ...(size === null ? {} : { size }),
  };
  return { wish, ephemeral: onexit !== null || parseFlag(name, "ephemeral", nodes), onexit };
}

/** The spec, with the size as an option if its kind has one that the spec does not set. */
function withSize(spec: Spec, size: number, registry: Registry): Spec {
  const type = registry.find(spec);
  const set = type.argument === "size" && spec.argument !== "";
  const has = describeOptions(type.options).some((option) => option.name === "size");
  return has && !set ? withDefaultOption(spec, "size", String(size)) : spec;
}

/**
 * The bytes that a `size` node of a target says, where people write sizes as on the command line.
 * Throws UsageError.
 */
export function parseTargetSize(target: string, text: string): number {
  const size = parseSize(text);
  if (typeof size === "number") return size;
  throw new UsageError(`Cannot give target ${target} a size: it ${size.problem}`);
}

function parseFlag(target: string, name: string, nodes: Nodes): boolean {
  const text = nodes.get(name) ?? "";
  if (text === "" || text === "0") return false;
  if (text === "1") return true;
  throw refusal(target, `its ${name} "${text}" is neither 0 nor 1`);
}

function parseMinor(target: string, text: string): number | null {
  if (text === "") return null;
  if (/^[1-9]\d{0,4}$/.test(text)) return Number(text);
  throw refusal(target, `its onexit "${text}" is no minor of an open file`);
}

/** The values of a list, in the order of the numbers that are their names. */
function listOf(target: string, nodes: Nodes, list: keyof typeof ENTRIES_MAX): string[] {
  const entries: (readonly [number, string])[] = [];
  for (const [name, value] of nodes) {
    if (!name.startsWith(`${list}/`)) continue;
    const index = name.slice(list.length + 1);
    if (!/^\d{1,3}$/.test(index)) throw refusal(target, `${name} is not called by a number`);
    entries.push([Number(index), value]);
  }
  if (entries.length > ENTRIES_MAX[list]) {
    throw refusal(target, `it has more than ${ENTRIES_MAX[list]} ${list}`);
  }
  return entries.sort(([a], [b]) => a - b).map(([, value]) => value);
}

function refusal(target: string, reason: string): UsageError {
  return new UsageError(`Cannot open target ${target}: ${reason}`);
}

/** What is shown of a target, its state and statistics apart. */
export function shownNodes(
  served: ServedTarget,
  terms: { readonly ephemeral: boolean; readonly onexit: number | null },
): Nodes {
  const { wish, target, uris, error } = served;
  const nodes = new Map<string, string>();
  nodes.set("backend", wish.spec.text);
  (wish.filters ?? []).forEach(({ text }, index) => nodes.set(`filters/${index}`, text));
  const size = target?.device.geometry.size ?? wish.size;
  if (size !== undefined) nodes.set("size", String(size));
  const readOnly = target?.device.features.readOnly === true || wish.readOnly;
  nodes.set("read-only", readOnly ? "1" : "0");
  if (target !== null) nodes.set("driver", target.driver);
  nodes.set("description", wish.description);
  (wish.endpoints ?? []).forEach((endpoint, index) =>
    nodes.set(`endpoints/${index}`, formatEndpoint(endpoint))
  );
  uris.forEach((uri, index) => nodes.set(`uris/${index}`, uri));
  nodes.set("ephemeral", terms.ephemeral ? "1" : "0");
  if (terms.onexit !== null) nodes.set("onexit", String(terms.onexit));
  if (error !== null) nodes.set("error", error);
  for (const { name, granularity, persistent, frozen } of target?.bitmaps ?? []) {
    const top = `bitmap/${bitmapNodeName(name)}`;
    nodes.set(`${top}/granularity`, String(granularity));
    nodes.set(`${top}/persistent`, persistent ? "1" : "0");
    nodes.set(`${top}/frozen`, frozen ? "1" : "0");
  }
  return nodes;
}

/** What is worth keeping of nodes: those that make the same target again. */
export function keptNodes(nodes: Nodes): Nodes {
  const wished = (name: string): boolean =>
    /^(?:backend|size|read-only|description|(?:filters|endpoints)\/\d+)$/.test(name);
  return new Map([...nodes].filter(([name]) => wished(name)));
}
