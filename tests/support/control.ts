/**
 * Steering a `dmu serve` in tests: its control socket as a client, waiting for what the tree shows, and
 * the xenstore-* programs.
 *
 * @module
 */
import assert from "node:assert/strict";
import { OPERATION, XenstoreClient, XenstoreError } from "../../lib/xenstore/mod.ts";
import { within } from "./process.ts";
import { runOk } from "./tools.ts";

/** Time that a test waits for what the tree has to show, in ms. */
const WAIT_MS_MAX = 30_000;

/** The value of a node, null if it is not there. */
export async function valueOf(client: XenstoreClient, path: string): Promise<string | null> {
  try {
    return await client.readText(path);
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "ENOENT") return null;
    throw error;
  }
}

/** Resolves when what stands at `path` fulfils `condition`; fails if that takes long. */
export async function untilValue(
  client: XenstoreClient,
  path: string,
  condition: (value: string | null) => boolean,
): Promise<string | null> {
  const events = await client.watch(path);
  const look = async (): Promise<{ readonly value: string | null }> => {
    for (;;) {
      // The first event comes at once.
      await events.next();
      const value = await valueOf(client, path);
      if (condition(value)) return { value };
    }
  };
  const looking = look();
  looking.catch(() => {});
  const found = await within(looking, WAIT_MS_MAX);
  if (found === null) {
    assert.fail(`${path} is ${await valueOf(client, path)} after ${WAIT_MS_MAX} ms: ${condition}`);
  }
  await events.return?.();
  return found.value;
}

/** Resolves when a target is in a state. */
export async function untilState(
  client: XenstoreClient,
  node: string,
  state: string | null,
): Promise<void> {
  await untilValue(client, `/dmu/target/${node}/state`, (value) => value === state);
}

/** Writes a wish for a target in one transaction. */
export async function wish(
  client: XenstoreClient,
  node: string,
  nodes: Readonly<Record<string, string>>,
): Promise<void> {
  await client.transaction(async (store) => {
    for (const [name, value] of Object.entries({ ...nodes, state: "1" })) {
      await store.write(`/dmu/target/${node}/${name}`, value);
    }
  });
}

/** Asks the daemon something; gives its answer, whether it is ok or not. */
export async function ask(
  client: XenstoreClient,
  request: Readonly<Record<string, unknown>>,
): Promise<Record<string, unknown>> {
  const reply = await client.request(OPERATION.CONTROL, `dmu\0${JSON.stringify(request)}\0`);
  const value: unknown = JSON.parse(new TextDecoder().decode(reply).replace(/\0$/, ""));
  assert.ok(typeof value === "object" && value !== null);
  return { ...value };
}

/** Calls `fn` with a connection to the control socket at `path`. */
export async function withControl<T>(
  path: string,
  fn: (client: XenstoreClient) => Promise<T>,
): Promise<T> {
  const client = await XenstoreClient.connectUnix(path);
  try {
    return await fn(client);
  } finally {
    await client.close();
  }
}

/** Runs one of the xenstore-* programs on the control socket at `path`; it has to succeed. */
export function xenstore(path: string, name: string, ...args: string[]): Promise<string> {
  return runOk(`/usr/bin/xenstore-${name}`, args, { env: { XENSTORED_PATH: path } });
}
