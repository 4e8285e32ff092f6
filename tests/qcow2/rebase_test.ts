/**
 * rebaseImage(): the content stays, whatever the old and the new backing file are; and what is refused.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { rebaseImage } from "../../backends/qcow2/rebase.ts";
import { readHeader } from "../../backends/qcow2/read_tables.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { SeededRandom } from "../support/context.ts";
import { fileHash, interopTest, run, withTempDir } from "../support/tools.ts";
import { qemuImg } from "../support/qemu_image.ts";
import { imageContext } from "./check_support.ts";
import { fillImage } from "./sample_images.ts";

/** Makes an image, with or without a backing file, and fills it. */
async function make(
  path: string,
  options: string,
  backing: readonly [name: string, format: string] | null,
  size: string,
  seed: number,
): Promise<string> {
  const below = backing === null ? [] : ["-b", backing[0], "-F", backing[1]];
  await qemuImg("create", "-q", "-f", "qcow2", "-o", options, ...below, path, size);
  await fillImage(path, size, new SeededRandom(seed), { compressed: true });
  return path;
}

async function contentOf(path: string, copy: string): Promise<string> {
  await qemuImg("convert", "-f", "qcow2", "-O", "raw", path, copy);
  return await fileHash(copy);
}

/** Rebases a copy by this program and checks that it is sound and has the same content. */
async function assertKept(
  folder: string,
  path: string,
  backing: string | null,
  format: string | null,
): Promise<void> {
  const before = await contentOf(path, join(folder, "before"));
  await rebaseImage(path, { backing, format, unsafe: false }, imageContext());
  assert.equal(await contentOf(path, join(folder, "after")), before);
  await qemuImg("check", "-q", path);
  const told: Record<string, unknown> = JSON.parse(await qemuImg("info", "--output=json", path));
  assert.equal(told["backing-filename"], backing ?? undefined);
  if (backing !== null) assert.equal(told["backing-filename-format"], format ?? "raw");
}

for (
  const options of [
    "cluster_size=64k",
    "compat=0.10,cluster_size=4k",
    "cluster_size=32k,extended_l2=on",
    "cluster_size=2M",
    "cluster_size=512",
  ]
) {
  interopTest(`rebaseImage() keeps the content: ${options}`, ["qemu-img", "qemu-io"], async () => {
    await withTempDir(async (folder) => {
      const at = (name: string): string => join(folder, name);
      const base = await make(at("base"), "cluster_size=8k", null, "5M", 1);
      await make(at("mid"), options, [base, "qcow2"], "6M", 2);
      await make(at("other"), "cluster_size=64k", null, "3M", 3);
      await qemuImg("convert", "-f", "qcow2", "-O", "raw", at("other"), at("raw"));
      const path = await make(at("top"), options, ["mid", "qcow2"], "7M", 4);
      await assertKept(folder, path, "base", "qcow2");
      await assertKept(folder, path, "other", "qcow2");
      await assertKept(folder, path, at("mid"), "qcow2");
      await assertKept(folder, path, "raw", null);
      await assertKept(folder, path, null, null);
    });
  });
}

interopTest("rebaseImage() copies as little as qemu-img", ["qemu-img", "qemu-io"], async () => {
  await withTempDir(async (folder) => {
    const at = (name: string): string => join(folder, name);
    await make(at("base"), "cluster_size=64k", null, "8M", 1);
    await make(at("mid"), "cluster_size=64k", ["base", "qcow2"], "8M", 2);
    await make(at("top"), "cluster_size=64k", ["mid", "qcow2"], "8M", 3);
    await Deno.copyFile(at("top"), at("theirs"));
    await rebaseImage(
      at("top"),
      { backing: "base", format: "qcow2", unsafe: false },
      imageContext(),
    );
    await qemuImg("rebase", "-f", "qcow2", "-b", "base", "-F", "qcow2", at("theirs"));
    const allocated = async (name: string): Promise<unknown> => {
      const told: Record<string, unknown> = JSON.parse(
        await qemuImg("check", "--output=json", at(name)),
      );
      return told["allocated-clusters"];
    };
    const ours = Number(await allocated("top")), theirs = Number(await allocated("theirs"));
    assert.ok(ours <= theirs, `${ours} clusters, but qemu-img has ${theirs}`);
    assert.equal((await run("qemu-img", ["compare", at("top"), at("theirs")])).code, 0);
  });
});

interopTest(
  "rebaseImage() unsafely changes the header alone",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await make(at("base"), "cluster_size=64k", null, "2M", 1);
      const path = await make(at("top"), "cluster_size=64k", ["base", "qcow2"], "2M", 2);
      const before = await Deno.readFile(path);
      await Deno.remove(at("base")); // it is not even looked at
      const request = { backing: "somewhere/else", format: "raw", unsafe: true } as const;
      await rebaseImage(path, request, imageContext());
      const after = await Deno.readFile(path);
      assert.deepEqual(after.subarray(65_536), before.subarray(65_536));
      const file = systemFiles.open(path, { readOnly: true, direct: false, lock: false });
      const header = readHeader(file);
      file.close();
      assert.deepEqual([header.backingFile, header.backingFormat], ["somewhere/else", "raw"]);
      await rebaseImage(path, { backing: null, format: null, unsafe: true }, imageContext());
      await qemuImg("check", "-q", path);
    });
  },
);

interopTest(
  "rebaseImage() refuses what cannot be, and changes nothing",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await make(at("base"), "cluster_size=64k", null, "2M", 1);
      const path = await make(at("top"), "cluster_size=64k", ["base", "qcow2"], "2M", 2);
      await make(at("above"), "cluster_size=64k", ["top", "qcow2"], "2M", 3);
      const data = `data_file=${at("data")},data_file_raw=on`;
      await qemuImg("create", "-q", "-f", "qcow2", "-o", data, at("external"), "2M");
      const refused = [
        [path, "top", "qcow2", /lead back/],
        [path, "above", "qcow2", /lead back/],
        [path, "absent", "raw", /absent/],
        [path, "nbd://localhost/x", "raw", /only names of files/],
        [path, "base", "vmdk", /vmdk is not supported/],
        [path, `${"n".repeat(1100)}`, "raw", /name/i],
        [at("external"), "base", "qcow2", /raw image of the disk/],
      ] as const;
      for (const [image, backing, format, reason] of refused) {
        const before = await Deno.readFile(image);
        await assert.rejects(
          rebaseImage(image, { backing, format, unsafe: false }, imageContext()),
          reason,
        );
        assert.deepEqual(await Deno.readFile(image), before);
      }
      const unsafe = { backing: "n".repeat(1100), format: "raw", unsafe: true } as const;
      await assert.rejects(rebaseImage(path, unsafe, imageContext()), BlockError);
    });
  },
);

interopTest(
  "rebaseImage() leaves a sound image when it is broken off",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      const at = (name: string): string => join(folder, name);
      await make(at("base"), "cluster_size=4k", null, "6M", 1);
      const path = await make(at("top"), "cluster_size=4k", ["base", "qcow2"], "6M", 2);
      const before = await contentOf(path, at("before"));
      const stop = new AbortController();
      const context = {
        ...imageContext(),
        signal: stop.signal,
        progress: (done: number) => done > 3 << 20 && stop.abort(new Error("enough")),
      };
      await assert.rejects(
        rebaseImage(path, { backing: null, format: null, unsafe: false }, context),
        /enough/,
      );
      assert.equal(await contentOf(path, at("after")), before);
      const { code } = await run("qemu-img", ["check", path]);
      assert.ok(code === 0 || code === 3, `qemu-img check ended with ${code}`);
    });
  },
);
