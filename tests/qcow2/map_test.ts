/**
 * mapImage() against `qemu-img map --output=json`, entry by entry.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { mapImage } from "../../backends/qcow2/map_image.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { SeededRandom } from "../support/context.ts";
import { interopTest, withTempDir } from "../support/tools.ts";
import { qemuImg, qemuIo } from "../support/qemu_image.ts";
import { imageContext } from "./check_support.ts";
import { createImage, fillImage, SHAPES } from "./sample_images.ts";

/** An entry as qemu-img tells it; older versions do not say what is compressed. */
type Told = Readonly<Record<string, number | boolean>>;

async function ourMap(path: string): Promise<Told[]> {
  const entries: Told[] = [];
  for await (
    const { filename: _, compressed: __, ...entry } of mapImage(path, null, imageContext())
  ) {
    entries.push({ ...entry });
  }
  return entries;
}

async function assertSame(path: string): Promise<void> {
  const text = await qemuImg("map", "--output=json", "-f", "qcow2", path);
  const told: Told[] = JSON.parse(text);
  // Of a disk without a byte qemu-img tells an entry without a byte.
  const theirs = told.filter(({ length }) => length !== 0)
    .map(({ compressed: _, ...entry }) => entry);
  assert.deepEqual(await ourMap(path), theirs);
}

for (const [index, shape] of SHAPES.entries()) {
  interopTest(
    `mapImage() agrees with qemu-img: ${shape.name}`,
    ["qemu-img", "qemu-io"],
    async () => {
      await withTempDir(async (folder) => {
        const path = await createImage(folder, shape);
        await assertSame(path);
        await fillImage(path, shape.size, new SeededRandom(index), { compressed: true });
        await assertSame(path);
      });
    },
  );
}

interopTest(
  "mapImage() agrees with qemu-img over backing chains",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      for (
        const options of ["cluster_size=64k", "cluster_size=16k,extended_l2=on", "compat=0.10"]
      ) {
        const raw = join(folder, "base.raw");
        await qemuImg("create", "-q", "-f", "raw", raw, "3M");
        await qemuImg(
          "bench",
          "-q",
          "-w",
          "-c",
          "3",
          "-s",
          "65536",
          "-S",
          "262144",
          "-f",
          "raw",
          raw,
        );
        let below = raw, format = "raw";
        for (const [index, size] of ["5M", "4M", "6M"].entries()) {
          const path = join(folder, `${index}.qcow2`);
          const backing = ["-b", below, "-F", format];
          await qemuImg("create", "-q", "-f", "qcow2", "-o", options, ...backing, path, size);
          const random = new SeededRandom(index + 10);
          await fillImage(path, size, random, { compressed: true });
          await assertSame(path);
          [below, format] = [path, "qcow2"];
        }
      }
    });
  },
);

interopTest(
  "mapImage() agrees with qemu-img on images with a data file",
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
  "mapImage() agrees with qemu-img on preallocated images",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      for (const mode of ["metadata", "falloc", "full"]) {
        const options = `preallocation=${mode},cluster_size=64k`;
        const path = await createImage(folder, { name: mode, options, size: "8M" });
        await assertSame(path);
        await qemuIo(path, ["write 1M 200k", "write -z 3M 1M", "write 8000k 10k"]);
        await assertSame(path);
      }
    });
  },
);

interopTest("mapImage() tells which clusters are compressed, and the file of an offset", [
  "qemu-img",
  "qemu-io",
], async () => {
  await withTempDir(async (folder) => {
    const path = await createImage(folder, { name: "x", options: "compat=1.1", size: "1M" });
    await qemuIo(path, ["write -c 0 64k", "write 64k 64k"]);
    const entries = await Array.fromAsync(mapImage(path, null, imageContext()));
    assert.deepEqual(
      entries.map(({ compressed, filename }) => [compressed, filename]),
      [[true, undefined], [false, path], [false, undefined]],
    );
  });
});

interopTest(
  "mapImage() maps the disk as it was at a snapshot",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      const path = await createImage(folder, { name: "x", options: "compat=1.1", size: "1M" });
      await qemuImg("snapshot", "-c", "empty", path);
      await qemuIo(path, ["write 0 1M"]);
      const [entry, ...more] = await Array.fromAsync(mapImage(path, "empty", imageContext()));
      assert.deepEqual([entry?.present, entry?.length, more.length], [false, 1 << 20, 0]);
      await assert.rejects(Array.fromAsync(mapImage(path, "other", imageContext())), BlockError);
    });
  },
);
