/**
 * A real file system: ext4 made on an image that goes into a target and comes out again, and ext4 made
 * on the target itself through FUSE where the kernel has it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fuseTest, withFuseFile } from "../support/fuse.ts";
import {
  fileHash,
  interopTest,
  runOk,
  sampleBytes,
  startDmu,
  withTempDir,
} from "../support/tools.ts";

const MIB = 1024 * 1024;
const SIZE = 48 * MIB;

/** Files of a file system: from an empty one to one that needs indirect extents. */
const LENGTHS: readonly number[] = [0, 1, 4095, 4096, 70_000, 3 * MIB + 17];

async function makeTree(folder: string): Promise<void> {
  await Deno.mkdir(join(folder, "deep/er"), { recursive: true });
  for (const [index, length] of LENGTHS.entries()) {
    await Deno.writeFile(join(folder, "deep/er", `file${index}`), sampleBytes(length, index));
  }
}

async function checkTree(image: string, folder: string): Promise<void> {
  await runOk("e2fsck", ["-f", "-n", image]);
  const out = join(folder, "dump");
  for (const [index, length] of LENGTHS.entries()) {
    await runOk("debugfs", ["-R", `dump /deep/er/file${index} ${out}`, image]);
    assert.deepEqual(await Deno.readFile(out), sampleBytes(length, index), `file${index}`);
    await Deno.remove(out);
  }
}

const KINDS: readonly (readonly [kind: string, spec: (folder: string) => string])[] = [
  ["memory", () => `memory:${SIZE}`],
  ["file", (folder) => `file:${join(folder, "disk.img")}?size=${SIZE}`],
];

for (const [kind, spec] of KINDS) {
  interopTest(`an ext4 image survives its way through ${kind}`, [
    ...["mkfs.ext4", "e2fsck", "debugfs", "nbdcopy"] as const,
  ], async () => {
    await withTempDir(async (folder) => {
      const image = join(folder, "image"), back = join(folder, "back"), tree = join(folder, "tree");
      await makeTree(tree);
      await runOk("mkfs.ext4", ["-q", "-F", "-d", tree, image, `${SIZE / 1024}k`]);
      await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, spec(folder)]);
      await runOk("nbdcopy", ["--flush", image, server.uri]);
      await runOk("nbdcopy", [server.uri, back]);
      await server.stop();
      assert.equal(await fileHash(back), await fileHash(image));
      await checkTree(back, folder);
      if (kind === "file") await checkTree(join(folder, "disk.img"), folder);
    });
  });

  fuseTest(`mkfs.ext4 and e2fsck work on ${kind} itself`, [
    ...["mkfs.ext4", "e2fsck", "debugfs", "nbdcopy"] as const,
  ], async () => {
    await withTempDir(async (folder) => {
      const back = join(folder, "back"), tree = join(folder, "tree");
      await makeTree(tree);
      await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, spec(folder)]);
      await withFuseFile(join(folder, "mount"), server.uri, async (disk) => {
        await runOk("mkfs.ext4", ["-q", "-F", "-d", tree, disk]);
        await runOk("e2fsck", ["-f", "-n", disk]);
        await runOk("debugfs", ["-w", "-R", "rm /deep/er/file1", disk]);
        await runOk("debugfs", ["-w", "-R", `write ${join(tree, "deep/er/file1")} x`, disk]);
        await runOk("e2fsck", ["-f", "-y", disk]);
      });
      await runOk("nbdcopy", [server.uri, back]);
      await server.stop();
      await runOk("e2fsck", ["-f", "-n", back]);
      await runOk("debugfs", ["-R", `dump /x ${join(folder, "x")}`, back]);
      assert.deepEqual(await Deno.readFile(join(folder, "x")), sampleBytes(1, 1));
    });
  });
}
