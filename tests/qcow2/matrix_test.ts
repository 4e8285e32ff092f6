/**
 * Images of all sorts made by QEMU's tools and read by us, and made and written by us and checked by
 * QEMU's tools. Here are the rows for every day; `deno task soak:qcow2` runs all.
 *
 * @module
 */
import assert from "node:assert/strict";
import { interopTest, withTempDir } from "../support/tools.ts";
import { allRows, FEW_ROWS, readTheirs, rowText, writeOurs } from "./matrix.ts";

Deno.test("the rows for every day are some of all", () => {
  const all = new Set(allRows().map(rowText));
  assert.ok(FEW_ROWS.length >= 12 && FEW_ROWS.every((row) => all.has(rowText(row))));
  assert.ok(all.size > 1000);
});

for (const [index, row] of FEW_ROWS.entries()) {
  interopTest(
    `qcow2 reads what QEMU has made: ${rowText(row)}`,
    ["qemu-img", "qemu-io"],
    async () => {
      await withTempDir((folder) => readTheirs(folder, row, index + 1));
    },
  );

  interopTest(
    `QEMU reads what qcow2 has made: ${rowText(row)}`,
    ["qemu-img", "qemu-io"],
    async () => {
      await withTempDir((folder) => writeOurs(folder, row, index + 1));
    },
  );
}
