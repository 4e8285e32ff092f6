/**
 * State 4 means that clients can connect: a daemon in this process with its real acceptor, somebody who
 * makes, removes and revokes targets at random, and an NBD client that connects at each sight of a 4.
 *
 * @module
 */
import assert from "node:assert/strict";
import { defaultRegistry } from "../../../backends/mod.ts";
import { parseSpec } from "../../../lib/block/spec.ts";
import { finishConfig } from "../../../lib/daemon/config.ts";
import { systemContext } from "../../../lib/daemon/context.ts";
import { startDaemon } from "../../../lib/daemon/daemon.ts";
import { parseEndpoint } from "../../../lib/daemon/endpoint.ts";
import type { XenstoreClient } from "../../../lib/xenstore/mod.ts";
import { MemoryLog, SeededRandom } from "../../support/context.ts";
import { ask, valueOf, wish, withControl } from "../../support/control.ts";
import { withTempDir } from "../../support/tools.ts";

/** Steps at least; more follow until each target was visited so often, within a limit. */
const STEPS = 100, STEPS_MAX = 5_000, VISITS = 3;
const NAMES = ["a", "b"];

/** True if an NBD client gets through its handshake. */
async function answers(socket: string, name: string): Promise<boolean> {
  const uri = parseSpec(`nbd+unix:///${name}?socket=${socket}`);
  try {
    const { opened } = await defaultRegistry().open(uri, systemContext({ log: new MemoryLog() }));
    try {
      await opened.backend[Symbol.asyncDispose]();
    } catch {
      // It was cut off: it had been let in.
    }
    return true;
  } catch {
    return false;
  }
}

/** What is counted of a target. */
interface Visits {
  count: number;
}

/** Visits a target whenever it is shown as connected, until the watch ends; counts in `visits`. */
async function visit(
  client: XenstoreClient,
  socket: string,
  name: string,
  visits: Visits,
  stop: AbortSignal,
): Promise<void> {
  const path = `/dmu/target/${name}/state`;
  const events = await client.watch(path);
  let changes = 0;
  let wake: () => void = () => {};
  const hearing = (async (): Promise<void> => {
    for await (const _ of events) {
      changes += 1;
      wake();
    }
  })();
  stop.addEventListener("abort", () => wake());
  for (let seen = 0; !stop.aborted;) {
    if (seen === changes) await new Promise<void>((resolve) => wake = resolve);
    seen = changes;
    if (await valueOf(client, path) !== "4") continue;
    visits.count += 1;
    if (await answers(socket, name)) continue;
    // Not if it has changed meanwhile: events come before the reply to a later read.
    const state = await valueOf(client, path);
    assert.ok(
      state !== "4" || changes !== seen,
      `${name} is shown as connected and does not answer`,
    );
  }
  await events.return?.();
  await hearing;
}

async function step(client: XenstoreClient, random: SeededRandom): Promise<void> {
  const name = NAMES[random.below(NAMES.length)] ?? "";
  const top = `/dmu/target/${name}`;
  switch (random.below(7)) {
    case 0:
    case 1:
      return await wish(client, name, { backend: "memory:1M" });
    case 2:
      return await client.write(`${top}/state`, "5");
    case 3:
      return await client.remove(top).catch(() => {});
    case 4:
      return void await ask(client, { verb: "revoke", target: name });
    case 5:
      return await client.write(`${top}/state`, "1");
    default:
      return void await ask(client, { verb: "admit", target: name });
  }
}

for (const seed of [1, 2]) {
  Deno.test(`a daemon answers in state 4 whatever is done to its targets, seed ${seed}`, () =>
    withTempDir(async (folder) => {
      const random = new SeededRandom(seed);
      const sockets = [{ kind: "unix", path: `${folder}/control`, mode: 0o600 } as const];
      const config = finishConfig({
        endpoints: [parseEndpoint(`unix:${folder}/nbd`)],
        control: { sockets, xenbus: [], users: new Map(), ifFree: false },
      });
      const log = new MemoryLog();
      const daemon = await startDaemon(config, { registry: defaultRegistry(), log });
      const stop = new AbortController();
      try {
        await withControl(
          `${folder}/control`,
          (watcher) =>
            withControl(`${folder}/control`, async (client) => {
              const visits = NAMES.map((): Visits => ({ count: 0 }));
              const visiting = Promise.all(
                NAMES.map((name, at) => {
                  const own = visits[at] ?? { count: 0 };
                  return visit(watcher, `${folder}/nbd`, name, own, stop.signal);
                }),
              );
              // It is told below, in its turn.
              visiting.catch(() => {});
              const isEnough = (): boolean => visits.every(({ count }) => count >= VISITS);
              for (let turn = 0; turn < STEPS || (turn < STEPS_MAX && !isEnough()); turn += 1) {
                await step(client, random);
                // Now and then the daemon gets to what was asked.
                if (random.below(2) === 0) await answers(`${folder}/nbd`, "nobody");
              }
              stop.abort();
              await visiting;
              assert.ok(isEnough(), `visits: ${visits.map(({ count }) => count)}`);
            }),
        );
      } finally {
        stop.abort();
        await daemon.stop();
      }
      assert.deepEqual(log.lines.filter((line) => line.startsWith("error")), []);
    }));
}
