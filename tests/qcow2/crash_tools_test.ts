/**
 * Crashes of what is done to an image as a whole: a repair, giving it another backing file, growing its
 * tables. Wherever the crash comes, the disk reads as before, and nothing is worse than it was.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { firstDifference } from "../../lib/block/compare.ts";
import type { ImageTools } from "../../lib/block/image.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { qemuCheck, qemuContent, qemuCreate, qemuImg, qemuIo } from "../support/qemu_image.ts";
import { crashStates, RecordedFiles, type StateBounds } from "../support/recorded_files.ts";
import { interopTest, withTempDir } from "../support/tools.ts";
import { imageAt, imageContext, openImage, readAll } from "./sides.ts";

const KIB = 1024, MIB = 1024 * KIB;
const TOOLS = ["qemu-img", "qemu-io"] as const;
const BOUNDS: StateBounds = { seed: 1, prefixEvery: 1, singles: 6, subsets: 8 };

/** Something done to an image. */
interface Work {
  readonly disk: unknown;
  readonly tools: ImageTools;
  readonly files: RecordedFiles;
}

interface Trial {
  /** Makes the files in a folder; the image is called "image". */
  readonly make: (folder: string) => Promise<void>;
  /** What is done to it. */
  readonly act: (work: Work) => Promise<void>;
  /** Worst exit code of `qemu-img check` after a crash, besides 0 and 3. */
  readonly worst?: number;
}

async function loaded(folder: string): Promise<CrashFiles> {
  const memory = new CrashFiles({ seed: 1 });
  for await (const { name } of Deno.readDir(folder)) {
    const path = join(folder, name), content = await Deno.readFile(path);
    const options = { readOnly: false, direct: false, lock: false, createSize: content.length };
    const file = memory.open(path, options);
    file.write(content, 0);
    file.flush();
    file.close();
  }
  return memory;
}

/** Looks at every state; gives how many there were. */
async function crashes({ make, act, worst = 0 }: Trial): Promise<number> {
  return await withTempDir(async (folder) => {
    await make(folder);
    const path = join(folder, "image");
    const expected = await qemuContent(path, `${path}.raw`);
    const files = new RecordedFiles(await loaded(folder));
    await act({ ...imageAt(path, "qcow2"), files });
    let count = 0;
    for (const { what, files: content } of crashStates(files.start, files.events, BOUNDS)) {
      for (const [name, bytes] of content) await Deno.writeFile(name, bytes);
      const { code, text } = await qemuCheck(path);
      assert.ok([0, 3, worst].includes(code), `${what}: qemu-img check ends with ${code}: ${text}`);
      await using image = await openImage(path, "qcow2", { readOnly: true });
      const found = (await readAll(image.device)).subarray(0, expected.length);
      const at = firstDifference(found, expected);
      assert.equal(at, -1, `${what}: byte ${at} is ${found[at]} instead of ${expected[at]}`);
      count += 1;
    }
    return count;
  });
}

/** A base of 1 MiB, another that differs from it in part, and an image that has a third of it. */
async function overBase(
  folder: string,
  base: string,
  other: string,
  cluster: number,
): Promise<void> {
  await qemuCreate(join(folder, base), MIB, {}, "raw");
  await qemuIo(join(folder, base), [`write -P 1 0 ${MIB}`], "raw");
  await qemuCreate(join(folder, other), MIB, {}, "raw");
  await qemuIo(join(folder, other), [`write -P 1 0 900k`, `write -P 7 40k 24k`], "raw");
  const image = join(folder, "image");
  await qemuCreate(image, null, { backing_file: base, backing_fmt: "raw", cluster_size: cluster });
  await qemuIo(image, ["write -P 3 100k 300k", "write -z 500k 64k"]);
}

const REBASES = [
  { name: "short names", base: "base", other: "other", cluster: 4 * KIB },
  { name: "names of sectors", base: "b".repeat(250), other: "o".repeat(240), cluster: 4 * KIB },
  { name: "names in clusters of 1 KiB", base: "b".repeat(200), other: "o", cluster: 1 * KIB },
] as const;

for (const { name, base, other, cluster } of REBASES) {
  for (const unsafe of [false, true]) {
    const how = unsafe ? "by name alone" : "with what differs";
    interopTest(`a crash within a rebase ${how} leaves the disk: ${name}`, TOOLS, async () => {
      const count = await crashes({
        make: async (folder) => {
          await overBase(folder, base, other, cluster);
          if (!unsafe) return;
          await Deno.copyFile(join(folder, base), join(folder, other));
        },
        act: async ({ disk, tools, files }) => {
          // A name with a detour, so that it goes over more than a sector.
          const backing = cluster > KIB ? `${"./".repeat(120)}${other}` : other;
          const request = { backing, format: "raw", unsafe };
          await tools.rebase?.(disk, request, imageContext({ files }));
        },
      });
      assert.ok(count >= 3, `only ${count} states`);
    });
  }
}

interopTest("a crash within a rebase to no backing file leaves the disk", TOOLS, async () => {
  await crashes({
    make: (folder) => overBase(folder, "base", "other", 4 * KIB),
    act: async ({ disk, tools, files }) =>
      await tools.rebase?.(
        disk,
        { backing: null, format: null, unsafe: false },
        imageContext({ files }),
      ),
  });
});

/** Bytes of a refcount block of an image with clusters of 4 KiB, the first of which is its third. */
const BLOCK_AT = 2 * 4 * KIB;

const DAMAGE: Readonly<Record<string, (bytes: Uint8Array) => void>> = {
  // Only counts that are too high: leaks, which no crash may make corruptions of.
  leaks: (bytes) => {
    for (let cluster = 0; cluster < bytes.length / (4 * KIB); cluster += 1) {
      const at = BLOCK_AT + 2 * cluster;
      if (bytes[at] === 0 && bytes[at + 1] === 0) bytes[at + 1] = 1;
    }
  },
  "lost refcounts": (bytes) => bytes.fill(0, BLOCK_AT + 40, BLOCK_AT + 200),
  "a lost refcount table": (bytes) => bytes.fill(0, 4 * KIB, 8 * KIB),
};

for (const [name, damage] of Object.entries(DAMAGE)) {
  interopTest(`a crash within a repair of ${name} leaves the disk`, TOOLS, async () => {
    const count = await crashes({
      make: async (folder) => {
        const path = join(folder, "image");
        await qemuCreate(path, MIB, { cluster_size: 4 * KIB });
        await qemuIo(path, ["write -P 1 0 300k", "write -c -P 2 512k 4k"]);
        await qemuImg("snapshot", "-c", "kept", path);
        await qemuIo(path, ["write -P 3 100k 50k", "write -P 4 900k 64k", "discard 900k 64k"]);
        const bytes = await Deno.readFile(path);
        damage(bytes);
        await Deno.writeFile(path, bytes);
      },
      act: async ({ disk, tools, files }) => {
        const repair = name === "leaks" ? "leaks" : "all";
        const report = await tools.check?.(disk, repair, imageContext({ files }));
        assert.equal((report?.corruptions ?? 0) + (report?.leaks ?? 0), 0);
      },
      worst: name === "leaks" ? 0 : 2,
    });
    assert.ok(count >= 3, `only ${count} states`);
  });
}

for (const lazy of ["on", "off"]) {
  interopTest(`a crash while the L1 table grows leaves the disk, lazy ${lazy}`, TOOLS, async () => {
    const count = await crashes({
      make: async (folder) => {
        const path = join(folder, "image");
        await qemuCreate(path, MIB, { cluster_size: 512, lazy_refcounts: lazy });
        await qemuIo(path, ["write -P 1 0 200k", "write -P 2 900k 100k"]);
      },
      act: async ({ disk, tools, files }) =>
        await tools.resize?.(
          disk,
          8 * MIB,
          { shrink: false, preallocation: "off" },
          imageContext({ files }),
        ),
    });
    assert.ok(count >= 3, `only ${count} states`);
  });
}
