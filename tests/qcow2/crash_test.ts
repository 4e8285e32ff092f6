/**
 * Crash enumeration, as much of it as takes seconds, and bugs that it has to find. `deno task
 * soak:qcow2` runs more.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { FileChange } from "../support/recorded_files.ts";
import { withLateChanges, withoutFlushes } from "../support/recorded_files.ts";
import { interopTest } from "../support/tools.ts";
import { type CrashRun, enumerateCrashes } from "./crash.ts";
import { randomOperations } from "./operations.ts";
import { crashRuns } from "./rows.ts";

const TOOLS = ["qemu-img", "qemu-io"] as const;
const OPERATIONS = 40;
const BOUNDS = { seed: 1, prefixEvery: 5, singles: 3, subsets: 3 };

for (const [index, run] of crashRuns(BOUNDS).entries()) {
  interopTest(
    `a crash leaves no corruption and all that was flushed: ${run.name}`,
    TOOLS,
    async () => {
      const report = await enumerateCrashes(
        run,
        randomOperations(index + 1, run.shape, OPERATIONS),
      );
      assert.ok(report.states >= 20, `only ${report.states} states`);
      assert.ok(report.flushes > 0);
    },
  );
}

/** A run of plain writes to new clusters, so that what is planted is hit for sure. */
const PLAIN: CrashRun = {
  name: "planted",
  shape: { size: 2 ** 20, cluster: 4096, snapshots: false, resize: false, discardUnit: 4096 },
  options: { cluster_size: 4096 },
  bounds: { seed: 1, prefixEvery: 1, singles: 20, subsets: 20 },
};
const WRITES = Array.from({ length: 8 }, (_, index) => [
  { kind: "write", offset: index * 32_768, length: 8192, byte: index + 1 } as const,
  { kind: "flush" } as const,
]).flat();

interopTest("crash enumeration finds missing barriers", TOOLS, async () => {
  const run: CrashRun = { ...PLAIN, plant: (events) => withoutFlushes(events, () => true) };
  await assert.rejects(enumerateCrashes(run, WRITES), /qemu-img check ends with 2|flushed was/);
  await enumerateCrashes(PLAIN, WRITES);
});

interopTest("crash enumeration finds refcounts that are written too late", TOOLS, async () => {
  // A new image has its first refcount block in the third cluster.
  const isRefcount = (change: FileChange): boolean =>
    change.kind === "write" && Math.floor(change.offset / 4096) === 2;
  const run: CrashRun = { ...PLAIN, plant: (events) => withLateChanges(events, isRefcount) };
  await assert.rejects(enumerateCrashes(run, WRITES), /qemu-img check ends with 2/);
});
