/**
 * A part of the tree as plain data: names of nodes relative to its top ("filters/0") with their values.
 * Reading and writing it over a client.
 *
 * @module
 */
import { XenstoreError } from "../../xenstore/errors.ts";
import type { XenstoreOperations } from "../../xenstore/client_operations.ts";
import type { XenstoreClient } from "../../xenstore/client.ts";
import { CHANGE_TRIES, VALUE_BYTES_MAX } from "./limits.ts";

/** Values by relative path. */
export type Nodes = ReadonlyMap<string, string>;

/** The value of a node, null if there is none. */
export async function readOrNull(store: XenstoreOperations, path: string): Promise<string | null> {
  try {
    return await store.readText(path);
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** The names below a node; none if it is not there. */
export async function listOrEmpty(store: XenstoreOperations, path: string): Promise<string[]> {
  try {
    return await store.directory(path);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** Removes a node with all below it; that there is none is fine. */
export async function removeIfThere(store: XenstoreOperations, path: string): Promise<void> {
  try {
    await store.remove(path);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}

/** True for the error of a node that is not there. */
export function isMissing(error: unknown): boolean {
  return error instanceof XenstoreError && error.code === "ENOENT";
}

/**
 * Runs a change as a transaction; if others always come first, without, and `onLost` hears of it: whoever
 * writes all the time must not keep the daemon from showing what is.
 */
export async function changeTree(
  client: XenstoreClient,
  change: (store: XenstoreOperations) => Promise<void>,
  onLost: () => void,
): Promise<void> {
  try {
    await client.transaction(change, CHANGE_TRIES);
  } catch (error) {
    if (!(error instanceof XenstoreError) || error.code !== "EAGAIN") throw error;
    onLost();
    await change(client);
  }
}

/** Writes what differs between two states of the part below `top`, and removes what is gone. */
export async function writeChanges(
  store: XenstoreOperations,
  top: string,
  before: Nodes,
  after: Nodes,
): Promise<void> {
  const changes: Promise<void>[] = [];
  const left = new Set([...after.keys()].flatMap(placesOf));
  const removed = new Set<string>();
  for (const name of before.keys()) {
    if (!left.has(name)) removed.add(placesOf(name).find((each) => !left.has(each)) ?? name);
  }
  for (const name of removed) changes.push(removeIfThere(store, `${top}/${name}`));
  for (const [name, value] of after) {
    if (before.get(name) !== value) changes.push(store.write(`${top}/${name}`, shortened(value)));
  }
  await Promise.all(changes);
}

/** The nodes on the way to one, and that one: from the top down. */
function placesOf(name: string): string[] {
  const parts = name.split("/");
  return parts.map((_, at) => parts.slice(0, at + 1).join("/"));
}

const ENCODER = new TextEncoder();

/** A value that fits a message; a longer one ends in "…". */
export function shortened(value: string): string {
  if (value.length * 3 <= VALUE_BYTES_MAX) return value;
  if (ENCODER.encode(value).length <= VALUE_BYTES_MAX) return value;
  const into = new Uint8Array(VALUE_BYTES_MAX - 3);
  const { read } = ENCODER.encodeInto(value, into);
  return `${value.slice(0, read)}…`;
}
