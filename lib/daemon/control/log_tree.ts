/**
 * Shows the dirty-region logs of the kernel's mirrors in the tree, one node for each mirror: while its
 * table is swapped, two logs stand behind it.
 *
 * @module
 */
import type { Log } from "../../block/context.ts";
import type { LogFacts } from "../../dirty_log/session.ts";
import type { XenstoreClient } from "../../xenstore/client.ts";
import type { XenstoreOperations } from "../../xenstore/client_operations.ts";
import { STATISTICS_NODES_MAX } from "./limits.ts";
import { changeTree, type Nodes, removeIfThere, writeChanges } from "./nodes.ts";
import { logPath, LOGS_PATH } from "./paths.ts";

/** What showing logs needs. */
export interface LogTreeOptions {
  readonly client: XenstoreClient;
  readonly log: Log;
  /** Looks at all logs. */
  facts(): Promise<readonly LogFacts[]>;
}

const NOTHING: Nodes = new Map();

/** Shows what it sees whenever it looks. */
export class LogTree {
  readonly #options: LogTreeOptions;
  /** What stands in the tree, by the uuid of a mirror. */
  readonly #shown = new Map<string, Nodes>();

  /** Shows nothing yet. */
  constructor(options: LogTreeOptions) {
    this.#options = options;
  }

  /** Makes the folder. */
  async start(): Promise<void> {
    await this.#options.client.mkdir(LOGS_PATH);
  }

  /** Writes what has changed since the last look; of very many changes the rest comes next time. */
  async look(): Promise<void> {
    const { client, log, facts } = this.#options;
    const now = mirrorsOf(await facts());
    const changes: { readonly uuid: string; readonly nodes: Nodes | null }[] = [];
    for (const uuid of this.#shown.keys()) {
      if (!now.has(uuid)) changes.push({ uuid, nodes: null });
    }
    let count = 0;
    for (const uuid of this.#inTurn(now)) {
      const nodes = now.get(uuid) ?? NOTHING;
      const changed = changedNodes(this.#shown.get(uuid) ?? NOTHING, nodes);
      if (changed === 0 || count + changed > STATISTICS_NODES_MAX) continue;
      count += changed;
      changes.push({ uuid, nodes });
    }
    if (changes.length === 0) return;
    const change = async (store: XenstoreOperations): Promise<void> => {
      for (const { uuid, nodes } of changes) {
        const before = this.#shown.get(uuid) ?? NOTHING;
        if (nodes === null) await removeIfThere(store, logPath(uuid));
        else await writeChanges(store, logPath(uuid), before, nodes);
      }
    };
    await changeTree(client, change, () => {
      log.warn(`Somebody changes ${LOGS_PATH} all the time: it is written regardless`);
    });
    for (const { uuid, nodes } of changes) {
      // See #inTurn: the order is that of writing.
      this.#shown.delete(uuid);
      if (nodes !== null) this.#shown.set(uuid, nodes);
    }
  }

  /** New ones first, then those that were written longest ago: each has its turn. */
  #inTurn(now: ReadonlyMap<string, Nodes>): string[] {
    const fresh = [...now.keys()].filter((uuid) => !this.#shown.has(uuid));
    return [...fresh, ...[...this.#shown.keys()].filter((uuid) => now.has(uuid))];
  }
}

function changedNodes(before: Nodes, after: Nodes): number {
  let count = 0;
  for (const [name, value] of after) if (before.get(name) !== value) count += 1;
  return count + Math.max(0, before.size - after.size);
}

/** The nodes of each mirror, by its uuid. */
function mirrorsOf(logs: readonly LogFacts[]): ReadonlyMap<string, Nodes> {
  const byUuid = new Map<string, LogFacts[]>();
  for (const log of logs) {
    const same = byUuid.get(log.uuid);
    if (same === undefined) byUuid.set(log.uuid, [log]);
    else same.push(log);
  }
  return new Map([...byUuid].map(([uuid, same]) => [uuid, nodesOf(same)]));
}

/** Of several logs of a mirror the one in use is shown, or else the newest. */
function nodesOf(logs: readonly LogFacts[]): Nodes {
  const used = logs.filter(({ phase }) => phase === "active" || phase === "halted");
  const log = used.at(-1) ?? logs.at(-1);
  if (log === undefined) return NOTHING;
  const sum = (of: (each: LogFacts) => number): string =>
    String(logs.reduce((total, each) => total + of(each), 0));
  const nodes = new Map([
    ["uuid", log.uuid],
    ["type", log.type],
    ["state", log.waitsForMedium ? "waiting" : log.phase],
    ["regions", String(log.regions)],
    ["region-size", String(log.regionSectors * 512)],
    ["in-sync", String(log.inSync)],
    ["dirty", String(log.dirty)],
    ["clients", String(logs.length)],
    ["requests", sum(({ requests }) => requests)],
    ["errors", sum(({ errors }) => errors)],
  ]);
  if (log.place !== null) nodes.set("place", log.place);
  return nodes;
}
