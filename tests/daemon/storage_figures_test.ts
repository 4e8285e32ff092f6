/**
 * What storage counts by itself: in the metrics and in the tree.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BufferPool } from "../../lib/block/pool.ts";
import { Device } from "../../lib/block/device.ts";
import { statisticsNodes } from "../../lib/daemon/control/statistics_nodes.ts";
import { metricsText } from "../../lib/daemon/metrics.ts";
import { memory } from "../../backends/memory.ts";
import { testContext } from "../support/context.ts";

const STORAGE = { puts: 3, "bytes out": 8_388_700 };

Deno.test("metricsText() has a sample for each figure of a target's storage", async () => {
  const target = { kind: "s3", state: "connected", error: null, device: null };
  const text = await metricsText({
    version: "1",
    phase: "serving",
    targets: [{ ...target, name: "a", storage: STORAGE }, { ...target, name: "b", storage: null }],
    files: [],
    connections: { count: 0, max: 1 },
    pool: new BufferPool(),
  });
  const samples = text.split("\n").filter((line) => line.startsWith("dmu_storage_figure"));
  assert.deepEqual(samples, [
    'dmu_storage_figure{target="a",figure="puts"} 3',
    'dmu_storage_figure{target="a",figure="bytes out"} 8388700',
  ]);
});

Deno.test("statisticsNodes() has a node for each figure of a target's storage", async () => {
  const context = testContext();
  const { backend } = await memory.open({ size: 4096, limit: 2 ** 20 }, context);
  const { clock, log } = context;
  await using device = new Device(backend, { name: "d", clock, log });
  const nodes = statisticsNodes(device, new Map(), STORAGE);
  assert.equal(nodes.get("statistics/storage/puts"), "3");
  assert.equal(nodes.get("statistics/storage/bytes-out"), "8388700");
});
