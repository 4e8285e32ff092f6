/**
 * The differential test, as much of it as takes seconds: seeded random operations on our backend and on
 * QEMU's tools. `deno task soak:qcow2` runs the whole.
 *
 * @module
 */
import assert from "node:assert/strict";
import { interopTest } from "../support/tools.ts";
import { compareTwins, type Twins } from "./differential.ts";
import { randomOperations } from "./operations.ts";
import { TWINS } from "./rows.ts";

const MIB = 2 ** 20;
const TOOLS = ["qemu-img", "qemu-io"] as const;

const RAW: Twins = {
  name: "raw",
  format: "raw",
  shape: { size: 2 * MIB, cluster: 4096, snapshots: false, resize: true, discardUnit: 1 },
  options: {},
};

interopTest(
  "raw files and qemu-io agree over random operations",
  TOOLS,
  async () => {
    for (const seed of [1, 2]) await compareTwins(RAW, randomOperations(seed, RAW.shape, 200), 100);
  },
);

for (const [index, twins] of TWINS.entries()) {
  interopTest(`qcow2 and QEMU agree over random operations: ${twins.name}`, TOOLS, async () => {
    const operations = randomOperations(index + 1, twins.shape, 160);
    await compareTwins(twins, operations, 80);
  });
}

interopTest(
  "a difference is found and shrinks to a short script",
  TOOLS,
  async () => {
    const plant: Twins["plant"] = (operation) =>
      operation.kind === "zero" && operation.length > 512
        ? { ...operation, length: operation.length - 512 }
        : operation;
    const operations = randomOperations(4, RAW.shape, 100);
    await assert.rejects(compareTwins({ ...RAW, plant }, operations, 50), (error) => {
      assert.ok(error instanceof Error);
      const script = error.message.split("The shortest script:\n")[1]?.split("\n") ?? [];
      assert.match(error.message, /our content: byte \d+ is \d+ instead of 0/);
      assert.ok(script.length <= 3, `the script has ${script.length} lines:\n${script.join("\n")}`);
      assert.match(script.at(-1) ?? "", /^write -z /);
      return true;
    });
  },
);
