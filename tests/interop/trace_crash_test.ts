/**
 * Crash points of a real file system: ext4 on a disk that is recorded, with files that are synced one
 * after the other. Whenever the machine stops, the file system has to be sound, and every file that was
 * synced has to be there. A disk that answers flushes too early is found.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { canMount, withLoopDevice } from "../support/mounts.ts";
import { fuseTest, withFuseFile } from "../support/fuse.ts";
import { runOk, sampleBytes, startDmu, withTempDir } from "../support/tools.ts";
import { dmu, type Run } from "../cli/captured_io.ts";

const SIZE = 16 * 1024 * 1024;
const FILES = 16;
const EARLY_FLUSH = fileURLToPath(new URL("../support/early_flush_backend.ts", import.meta.url));

const contentOf = (index: number): Uint8Array<ArrayBuffer> =>
  sampleBytes(3_000 + index * 2_500, index + 1);

/** Each file is synced before the next one is made; what is not synced comes and goes in between. */
async function work(mount: string): Promise<void> {
  for (let index = 0; index < FILES; index += 1) {
    using file = await Deno.open(join(mount, `f${index}`), { write: true, createNew: true });
    const content = contentOf(index);
    for (let at = 0; at < content.length;) at += await file.write(content.subarray(at));
    await file.sync();
    await Deno.mkdir(join(mount, `d${index}`));
    await Deno.writeFile(join(mount, `d${index}/loose`), sampleBytes(10_000, 99));
    if (index > 2) await Deno.remove(join(mount, `d${index - 2}`), { recursive: true });
  }
}

/** Makes a file system, then records what work does to it. */
async function record(folder: string, buggy: boolean): Promise<void> {
  const path = (name: string): string => join(folder, name);
  await runOk("mkfs.ext4", ["-q", "-F", path("base.img"), `${SIZE / 1024}k`]);
  await Deno.copyFile(path("base.img"), path("disk.img"));
  await using disk = await startDmu([
    ...["--nbd", `unix:${path("disk.sock")}`, "--trace", path("trace"), "--trace-payload"],
    `file:${path("disk.img")}`,
  ]);
  const through = async (uri: string): Promise<void> => {
    await withFuseFile(path("fuse"), uri, async (file) => {
      await withLoopDevice(file, ["--direct-io=on"], async (device) => {
        await Deno.mkdir(path("mount"));
        await runOk("mount", [device, path("mount")]);
        try {
          await work(path("mount"));
        } finally {
          await runOk("umount", [path("mount")]);
        }
      });
    });
  };
  if (!buggy) await through(disk.uri);
  else {
    await using front = await startDmu([
      ...["--nbd", `unix:${path("front.sock")}`, "--backend", EARLY_FLUSH],
      `early-flush:${disk.uri.replaceAll("?", "%3F")}`,
    ]);
    await through(front.uri);
    await front.stop();
  }
  await disk.stop();
}

/** A check of an image: sound, and all files before the last one are whole. */
async function makeCheck(folder: string): Promise<string> {
  const path = (name: string): string => join(folder, name);
  const names = Array.from({ length: FILES }, (_, index) => `f${index}`);
  await Deno.mkdir(path("expected"));
  for (const [index, name] of names.entries()) {
    await Deno.writeFile(join(path("expected"), name), contentOf(index));
  }
  const sums = await runOk("sha256sum", names, { cwd: path("expected") });
  await Deno.writeTextFile(path("sums"), sums);
  const dumps = names.map((name) => `dump /${name} ${name}\n`).join("");
  await Deno.writeTextFile(path("dumps"), dumps);
  await Deno.writeTextFile(
    path("check.sh"),
    `
PATH=$PATH:/usr/sbin:/sbin
e2fsck -fp "$1"
[ $? -le 1 ] || { echo "not sound"; exit 1; }
rm -rf "${folder}/out"; mkdir "${folder}/out"; cd "${folder}/out"
debugfs -f ../dumps "$1" >/dev/null 2>&1
last=$(ls | sed s/f// | sort -n | tail -n 1)
[ "${"$"}{last:-0}" -gt 0 ] || exit 0
head -n "$last" ../sums | sha256sum --check --quiet
`,
  );
  return `sh ${path("check.sh")} {}`;
}

function crashPoints(folder: string, moments: string, check: string): Promise<Run> {
  return dmu([
    ...["replay", join(folder, "trace"), "--crash-points", moments, "--check", check],
    ...["--base", join(folder, "base.img"), "--keep", join(folder, "kept"), "--json"],
  ]);
}

if (await canMount()) {
  const tools = ["mkfs.ext4", "e2fsck", "debugfs"] as const;
  fuseTest(
    "ext4 on a recorded disk survives every crash",
    tools,
    () =>
      withTempDir(async (folder) => {
        await record(folder, false);
        const check = await makeCheck(folder);
        for (const moments of ["flush", "sample:40"]) {
          const { code, stdout, stderr } = await crashPoints(folder, moments, check);
          assert.equal(code, 0, stdout + stderr);
          const report = JSON.parse(stdout);
          assert.ok(report.points >= FILES, stdout);
          assert.equal(report.failed, 0);
        }
      }),
  );

  fuseTest(
    "a disk that answers flushes too early is found by its crash points",
    tools,
    () =>
      withTempDir(async (folder) => {
        await record(folder, true);
        const check = await makeCheck(folder);
        const { code, stdout, stderr } = await crashPoints(folder, "sample:200", check);
        assert.equal(code, 1, stdout + stderr);
        const { failures: [failure] } = JSON.parse(stdout);
        assert.ok(failure.lost.length > 0 && failure.event > 0, stdout);
        assert.equal(failure.image, join(folder, "kept/failed.img"));
        assert.match(failure.output, /not sound|FAILED/);
        // The image that is kept is the one that fails, before the check has changed it.
        const again = await new Deno.Command("sh", {
          args: ["-c", check.replace("{}", failure.image)],
        })
          .output();
        assert.equal(again.code, 1);
      }),
  );
}
