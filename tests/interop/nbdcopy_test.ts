/**
 * nbdcopy of libnbd, into and out of every kind of storage, with checksums, over one connection and
 * over several.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import {
  fileHash,
  interopTest,
  runOk,
  sampleBytes,
  startDmu,
  withTempDir,
} from "../support/tools.ts";

const MIB = 1024 * 1024;
const SIZE = 24 * MIB;

/** An image with data, holes, and data again up to its odd end. */
async function makeImage(path: string): Promise<void> {
  using file = await Deno.open(path, { write: true, createNew: true });
  const parts: readonly [at: number, length: number][] = [
    [0, 3 * MIB],
    [7 * MIB + 512, 4 * MIB + 1536],
    [SIZE - MIB, MIB],
  ];
  await file.truncate(SIZE);
  for (const [at, length] of parts) {
    const bytes = sampleBytes(length, at + 1);
    await file.seek(at, Deno.SeekMode.Start);
    for (let done = 0; done < length;) done += await file.write(bytes.subarray(done));
  }
}

const storages: readonly (readonly [name: string, spec: (folder: string) => string])[] = [
  ["memory", () => `memory:${SIZE}`],
  ["file", (folder) => `file:${join(folder, "disk.img")}`],
];

for (const [name, spec] of storages) {
  for (const options of [["--connections=1"], ["--connections=4"], ["--synchronous"]]) {
    interopTest(
      `nbdcopy ${options} gives back from ${name} what it put there`,
      ["nbdcopy"],
      async () => {
        await withTempDir(async (folder) => {
          const image = join(folder, "image"), copy = join(folder, "copy");
          await makeImage(image);
          await Deno.writeFile(join(folder, "disk.img"), new Uint8Array(0));
          await Deno.truncate(join(folder, "disk.img"), SIZE);
          await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, spec(folder)]);
          await runOk("nbdcopy", [...options, "--flush", image, server.uri]);
          await runOk("nbdcopy", [...options, server.uri, copy]);
          assert.equal(await fileHash(copy), await fileHash(image));
          await server.stop();
          if (name === "file") {
            assert.equal(await fileHash(join(folder, "disk.img")), await fileHash(image));
          }
        });
      },
    );
  }
}

interopTest(
  "nbdcopy of a sparse image leaves the holes of a file unallocated",
  ["nbdcopy"],
  async () => {
    await withTempDir(async (folder) => {
      const image = join(folder, "image"), disk = join(folder, "disk.img");
      await makeImage(image);
      await Deno.writeFile(disk, sampleBytes(SIZE, 9)); // full before: the copy has to punch
      await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, `file:${disk}`]);
      await runOk("nbdcopy", ["--flush", image, server.uri]);
      await server.stop();
      assert.equal(await fileHash(disk), await fileHash(image));
      const allocated = (Deno.statSync(disk).blocks ?? 0) * 512;
      assert.ok(allocated < 10 * MIB, `${allocated} bytes are allocated`);
    });
  },
);

interopTest("nbdcopy from one dmu to another goes through both", ["nbdcopy"], async () => {
  await withTempDir(async (folder) => {
    const copy = join(folder, "copy"), direct = join(folder, "direct");
    const args = (
      name: string,
      spec: string,
    ): string[] => ["--nbd", `unix:${join(folder, name)}`, spec];
    await using source = await startDmu(args("a", "pattern:8M"));
    await using target = await startDmu(args("b", "memory:8M"));
    await runOk("nbdcopy", [source.uri, target.uri]);
    await runOk("nbdcopy", [target.uri, copy]);
    await runOk("nbdcopy", [source.uri, direct]);
    assert.equal(await fileHash(copy), await fileHash(direct));
    await Promise.all([source.stop(), target.stop()]);
  });
});
