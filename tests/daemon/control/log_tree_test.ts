/** Dirty-region logs in the tree of a daemon. @module */
import assert from "node:assert/strict";
import { STATISTICS_NODES_MAX } from "../../../lib/daemon/control/limits.ts";
import { LogTree } from "../../../lib/daemon/control/log_tree.ts";
import { logPath, LOGS_PATH } from "../../../lib/daemon/control/paths.ts";
import { readLogs } from "../../../lib/daemon/control_nodes.ts";
import type { LogFacts } from "../../../lib/dirty_log/session.ts";
import { withPlane } from "../../support/control_plane.ts";

function factsOf(uuid: string, more: Partial<LogFacts> = {}): LogFacts {
  return {
    uuid,
    luid: 1n,
    type: "core",
    place: null,
    phase: "active",
    waitsForMedium: false,
    regions: 64,
    regionSectors: 1024,
    inSync: 60,
    dirty: 5,
    requests: 7,
    errors: 1,
    ...more,
  };
}

Deno.test("LogTree shows each mirror once, with the log in use, and forgets those that are gone", async () => {
  await withPlane(async ({ client, log }) => {
    let logs: LogFacts[] = [];
    const tree = new LogTree({ client, log, facts: () => Promise.resolve(logs) });
    await tree.start();
    logs = [
      factsOf("swapped", { place: "/tmp/x", type: "disk" }),
      factsOf("swapped", { luid: 2n, phase: "pending", inSync: 0, requests: 2, errors: 0 }),
      factsOf("a.b@ü"),
      factsOf("lost", { phase: "pending", waitsForMedium: true }),
    ];
    await tree.look();
    const shown = await readLogs(client);
    assert.deepEqual(shown.map(({ uuid }) => uuid).sort(), ["a.b@ü", "lost", "swapped"]);
    assert.deepEqual(shown.find(({ uuid }) => uuid === "swapped"), {
      uuid: "swapped",
      type: "disk",
      place: "/tmp/x",
      state: "active",
      regions: 64,
      regionSize: 524_288,
      inSync: 60,
      dirty: 5,
      clients: 2,
      requests: 9,
      errors: 1,
    });
    assert.equal(shown.find(({ uuid }) => uuid === "lost")?.state, "waiting");
    assert.equal(logPath("a.b@ü"), `${LOGS_PATH}/a@2eb@40@c3@bc`);

    logs = [factsOf("swapped", { luid: 2n, inSync: 64, dirty: 0 })];
    await tree.look();
    const [only, ...others] = await readLogs(client);
    assert.deepEqual([others, only?.inSync, only?.clients, only?.place], [[], 64, 1, null]);
  });
});

Deno.test("LogTree writes a bounded number of nodes at once, and each log has its turn", async () => {
  await withPlane(async ({ client, log }) => {
    let logs = Array.from({ length: 300 }, (_, index) => factsOf(`log${index}`));
    const tree = new LogTree({ client, log, facts: () => Promise.resolve(logs) });
    await tree.start();
    const perLook = Math.floor(STATISTICS_NODES_MAX / 10);
    await tree.look();
    assert.equal((await readLogs(client)).length, perLook);
    for (let look = 0; look < 2; look += 1) await tree.look();
    assert.equal((await readLogs(client)).length, 300);
    // All of them change before each look, by more nodes than one look may write.
    const seen = new Set<string>();
    for (let look = 1; look <= 3; look += 1) {
      const changed = { inSync: look, dirty: look, requests: 10 + look, errors: look + 1 };
      logs = logs.map(({ uuid }) => factsOf(uuid, changed));
      await tree.look();
      for (const { uuid, inSync } of await readLogs(client)) if (inSync === look) seen.add(uuid);
    }
    assert.equal(seen.size, 300);
  });
});
