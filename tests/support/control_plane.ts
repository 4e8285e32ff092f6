/**
 * A control plane in one thread for tests: a store over memory pairs, targets behind an acceptor that
 * only remembers, so that what is shown can be compared with who would be let in.
 *
 * @module
 */
import assert from "node:assert/strict";
import { defaultRegistry } from "../../backends/mod.ts";
import { BufferPool } from "../../lib/block/pool.ts";
import type { Registry } from "../../lib/block/registry.ts";
import { systemClock } from "../../lib/daemon/context.ts";
import { ControlPlane, type ServiceListener } from "../../lib/daemon/control/plane.ts";
import type { StateStore } from "../../lib/daemon/control/state_store.ts";
import { Targets } from "../../lib/daemon/targets.ts";
import type { Reachable } from "../../lib/daemon/acceptor.ts";
import { OpenFileTable } from "../../lib/handle/table.ts";
import { memoryPair } from "../../lib/stream/mod.ts";
import {
  serveXenstore,
  Store,
  XenstoreClient,
  type XenstoreService,
} from "../../lib/xenstore/mod.ts";
import { MemoryLog } from "./context.ts";

/** A plane with all that it works on. */
export interface PlaneUnderTest {
  readonly plane: ControlPlane;
  readonly targets: Targets;
  readonly files: OpenFileTable;
  readonly log: MemoryLog;
  readonly store: Store;
  /** A client as people have one; its open file is in `minor`. */
  readonly client: XenstoreClient;
  readonly minor: number;
  /** Ends that client as if its process had died. */
  readonly hangUp: () => void;
  /** What the acceptor would let in, by name. */
  readonly admitted: () => ReadonlySet<string>;
  /** Asks the daemon as that client. */
  readonly ask: (request: Readonly<Record<string, unknown>>) => Promise<Record<string, unknown>>;
}

/** What a plane is made with. */
export interface PlaneSettings {
  readonly state?: StateStore;
  readonly hooks?: ReadonlyMap<string, readonly string[]>;
  readonly registry?: Registry;
  /** Called whenever the acceptor has taken over what can be reached, with the names and the store. */
  readonly onUpdate?: (admitted: ReadonlySet<string>, store: Store) => void;
}

/** The number of the connection of the client of people. */
const CLIENT = 1;

/** Calls `fn` with a plane and stops it. */
export async function withPlane(
  fn: (under: PlaneUnderTest) => Promise<void>,
  settings: PlaneSettings = {},
): Promise<void> {
  const { registry = defaultRegistry(), state = null, hooks = new Map(), onUpdate } = settings;
  const log = new MemoryLog();
  const files = new OpenFileTable({ clock: systemClock, log });
  const pool = new BufferPool();
  const targets = new Targets({ registry, pool, log, files, tls: false, defaultTarget: null });
  const store = new Store();
  let admitted: ReadonlySet<string> = new Set();
  targets.admitThrough({
    update: async ({ exports }: Reachable): Promise<void> => {
      // Another thread takes it over some time later.
      await new Promise<void>((resolve) => setTimeout(resolve, 0));
      admitted = new Set(exports.exports.keys());
      onUpdate?.(admitted, store);
    },
  });
  const own = connect(store), peer = connect(store);
  let listener: ServiceListener | null = null;
  const hangUp = (): void => peer.end.abort();
  const service: XenstoreService = {
    client: own.client,
    kick: (id) => id === CLIENT ? hangUp() : undefined,
    close: () => own.close(),
    [Symbol.asyncDispose]: () => own.close(),
  };
  const plane = await ControlPlane.start({
    targets,
    files,
    registry,
    clock: systemClock,
    log,
    state,
    hooks,
    control: null,
    facts: () => ({
      pid: 1,
      version: "test",
      control: [],
      nbd: [],
      metrics: null,
      stateDir: null,
      hooks: [...hooks.keys()],
      defaultTarget: null,
    }),
    startService: (given) => {
      listener = given;
      return Promise.resolve(service);
    },
  });
  const heard = listener ?? assert.fail("nobody listens to the service");
  told(heard).opened({ id: CLIENT, kind: "control", peer: "process 1 of user 0", domid: 0 });
  peer.over.then(() => told(heard).closed(CLIENT, "it has gone"));
  const [file] = files;
  const ask = async (
    request: Readonly<Record<string, unknown>>,
  ): Promise<Record<string, unknown>> => {
    const reply: unknown = JSON.parse(
      await told(heard).control(CLIENT, [JSON.stringify(request)]),
    );
    assert.ok(typeof reply === "object" && reply !== null);
    return { ...reply };
  };
  try {
    const minor = file?.minor ?? assert.fail("the client is no open file");
    const { client } = peer;
    await fn({
      plane,
      targets,
      files,
      log,
      store,
      client,
      minor,
      hangUp,
      ask,
      admitted: () => admitted,
    });
  } finally {
    hangUp();
    await plane.stopReconciling();
    await files.stop();
    await targets.stop();
    await plane.stop();
    await peer.close();
  }
}

/** For the compiler, which does not see that it was set. */
function told(listener: ServiceListener): ServiceListener {
  return listener;
}

interface Connected {
  readonly client: XenstoreClient;
  readonly end: AbortController;
  /** Resolves when the server is done with it. */
  readonly over: Promise<void>;
  close(): Promise<void>;
}

function connect(store: Store): Connected {
  const [here, there] = memoryPair();
  const end = new AbortController();
  const over = serveXenstore(there, store, { domid: 0, signal: end.signal }).catch(() => {});
  const client = new XenstoreClient(here);
  const close = async (): Promise<void> => {
    await client.close().catch(() => {});
    end.abort();
    await over;
  };
  return { client, end, over, close };
}
