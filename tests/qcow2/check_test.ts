/**
 * checkImage() against `qemu-img check` on sound images: the same figures over versions, cluster sizes,
 * refcount widths, compressions, subclusters, snapshots, bitmaps, data files and backing files.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { SeededRandom } from "../support/context.ts";
import { interopTest, withTempDir } from "../support/tools.ts";
import { qemuImg, qemuIo } from "../support/qemu_image.ts";
import { exitCode, figuresOf, ourCheck, qemuCheck } from "./check_support.ts";
import { createImage, fillImage, SHAPES } from "./sample_images.ts";

async function assertSame(path: string): Promise<void> {
  const ours = await ourCheck(path), theirs = await qemuCheck(path);
  assert.deepEqual(figuresOf(ours), theirs.figures, ours.messages.join("\n"));
  assert.equal(exitCode(ours), theirs.code);
  assert.equal(exitCode(ours), 0);
}

for (const [index, shape] of SHAPES.entries()) {
  const wide = !/1-bit/.test(shape.name); // a refcount of one bit cannot tell of a snapshot
  interopTest(
    `checkImage() gives qemu-img's figures: ${shape.name}`,
    ["qemu-img", "qemu-io"],
    async () => {
      await withTempDir(async (folder) => {
        const path = await createImage(folder, shape);
        await assertSame(path);
        const random = new SeededRandom(index);
        await fillImage(path, shape.size, random, {
          compressed: wide,
          snapshots: wide,
          bitmaps: shape.name !== "version 2",
        });
        await assertSame(path);
      });
    },
  );
}

interopTest(
  "checkImage() gives qemu-img's figures: data file",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      for (const raw of ["on", "off"]) {
        const path = join(folder, `${raw}.qcow2`);
        const options = `data_file=${join(folder, `data-${raw}`)},data_file_raw=${raw}`;
        await qemuImg("create", "-q", "-f", "qcow2", "-o", options, path, "20M");
        await qemuIo(path, ["write 0 1M", "write 5M 64k", "write -z 7M 2M", "discard 0 128k"]);
        await assertSame(path);
      }
    });
  },
);

interopTest(
  "checkImage() gives qemu-img's figures: backing file",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      const base = await createImage(folder, { name: "base", options: "compat=1.1", size: "8M" });
      await fillImage(base, "8M", new SeededRandom(1));
      const path = join(folder, "top.qcow2");
      await qemuImg("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path, "9M");
      await fillImage(path, "9M", new SeededRandom(2), { snapshots: true });
      await assertSame(path);
    });
  },
);

interopTest("checkImage() gives qemu-img's figures: preallocation", ["qemu-img"], async () => {
  await withTempDir(async (folder) => {
    for (const mode of ["metadata", "falloc", "full"]) {
      const options = `preallocation=${mode},cluster_size=4k`;
      await assertSame(await createImage(folder, { name: mode, options, size: "5M" }));
    }
  });
});

interopTest(
  "checkImage() leaves the file as it is unless it repairs",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      const path = await createImage(folder, { name: "x", options: "compat=1.1", size: "8M" });
      await fillImage(path, "8M", new SeededRandom(3), { snapshots: true, bitmaps: true });
      const before = await Deno.readFile(path);
      for (const repair of ["none", "leaks", "all"] as const) {
        assert.equal(exitCode(await ourCheck(path, repair)), 0);
        assert.deepEqual(await Deno.readFile(path), before);
      }
    });
  },
);
