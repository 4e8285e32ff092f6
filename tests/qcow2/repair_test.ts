/**
 * checkImage() on damaged images: the same verdict and figures as `qemu-img check`, and after a repair of
 * everything an image that both find sound, with the content that it had.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { BlockError } from "../../lib/block/errors.ts";
import { SeededRandom } from "../support/context.ts";
import { interopTest, run, withTempDir } from "../support/tools.ts";
import { qemuImg, qemuIo } from "../support/qemu_image.ts";
import { exitCode, figuresOf, imageContext, ourCheck, qemuCheck } from "./check_support.ts";
import { type Damage, DAMAGE_NAMES, doDamage } from "./damage.ts";
import { createImage, fillImage, type ImageShape } from "./sample_images.ts";
import { checkImage } from "../../backends/qcow2/check/mod.ts";

const VICTIMS: readonly ImageShape[] = [
  { name: "version 3", options: "cluster_size=4k", size: "3M" },
  { name: "version 2", options: "compat=0.10,cluster_size=1k", size: "2M" },
  {
    name: "extended L2",
    options: "extended_l2=on,cluster_size=16k,refcount_bits=8",
    size: "5M",
  },
];

/** The images that are damaged, made once. */
let made: Promise<readonly Uint8Array[]> | null = null;

function victims(): Promise<readonly Uint8Array[]> {
  made ??= withTempDir(async (folder) => {
    const images: Uint8Array[] = [];
    for (const [seed, shape] of VICTIMS.entries()) {
      const path = await createImage(folder, shape);
      const snapshots = seed % 2 === 0;
      await fillImage(path, shape.size, new SeededRandom(seed), { snapshots, compressed: true });
      images.push(await Deno.readFile(path));
    }
    return images;
  });
  return made;
}

/** Where qemu-img ends with 1, "could not check", and why this program can say more. */
const QEMU_GIVES_UP: Partial<Record<Damage, string>> = {
  "a refcount block within a cluster": "it reads no refcounts through a block that is not aligned",
  "a refcount table elsewhere": "what is there can look like such blocks",
};

interface Trial {
  readonly path: string;
  readonly copy: string;
  readonly damage: Damage;
  readonly seed: number;
}

async function assertSameVerdict({ path, damage, seed }: Trial): Promise<void> {
  const ours = await ourCheck(path), theirs = await qemuCheck(path);
  const label = `${damage}, seed ${seed}\n${ours.messages.slice(0, 9).join("\n")}`;
  if (theirs.code === 1 && QEMU_GIVES_UP[damage] !== undefined) {
    assert.equal(exitCode(ours), 2, label);
    return;
  }
  assert.equal(exitCode(ours), theirs.code, label);
  assert.deepEqual(figuresOf(ours), theirs.figures, label);
}

async function assertRepaired({ path, copy, damage, seed }: Trial): Promise<void> {
  await Deno.copyFile(path, copy);
  const repaired = await ourCheck(path, "all");
  const label = `${damage}, seed ${seed}\n${repaired.messages.slice(0, 9).join("\n")}`;
  assert.equal(exitCode(repaired), 0, label);
  const theirs = await qemuCheck(path);
  assert.equal(theirs.code, 0, label);
  const again = await ourCheck(path);
  assert.equal(exitCode(again), 0, label);
  assert.deepEqual(again.messages, []);
  const compared = await run("qemu-img", ["compare", "-f", "qcow2", "-F", "qcow2", copy, path]);
  // 0 is the same; with 2 or more the damaged one cannot be read at all.
  assert.notEqual(compared.code, 1, `${label}\n${compared.stdout}`);
  const told: { readonly "dirty-flag": boolean } = JSON.parse(
    await qemuImg("info", "--output=json", path),
  );
  assert.equal(told["dirty-flag"], false);
}

for (const damage of DAMAGE_NAMES) {
  interopTest(
    `checkImage() finds what qemu-img finds and repairs it: ${damage}`,
    ["qemu-img", "qemu-io"],
    async () => {
      await withTempDir(async (folder) => {
        for (const [seed, image] of (await victims()).entries()) {
          const path = join(folder, "victim"), copy = join(folder, "copy");
          await Deno.writeFile(path, image);
          doDamage(path, damage, new SeededRandom(seed));
          await assertSameVerdict({ path, copy, damage, seed });
          await assertRepaired({ path, copy, damage, seed });
        }
      });
    },
  );
}

interopTest(
  "checkImage() gives leaks back and touches nothing else",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      const shape = { name: "x", options: "cluster_size=4k", size: "3M" };
      const path = await createImage(folder, shape);
      await fillImage(path, shape.size, new SeededRandom(4), { snapshots: true });
      const sound = await Deno.readFile(path);
      // A refcount that is too high, of a cluster that is shared: its flags stay as they are.
      const view = new DataView(sound.slice().buffer);
      const block = Number(view.getBigUint64(Number(view.getBigUint64(48))));
      let at = block;
      while (view.getUint16(at) !== 2) at += 2;
      view.setUint16(at, 7);
      await Deno.writeFile(path, new Uint8Array(view.buffer));
      assert.deepEqual((await qemuCheck(path)).code, 3);
      assert.equal(exitCode(await ourCheck(path)), 3);
      const repaired = await ourCheck(path, "leaks");
      assert.deepEqual([repaired.leaksFixed, repaired.leaks, exitCode(repaired)], [
        1,
        undefined,
        0,
      ]);
      assert.deepEqual(await Deno.readFile(path), sound);
    });
  },
);

interopTest(
  "checkImage() with leaks alone leaves corruptions and says so",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      const shape = { name: "x", options: "cluster_size=4k", size: "3M" };
      const path = await createImage(folder, shape);
      await fillImage(path, shape.size, new SeededRandom(4));
      doDamage(path, "no refcount table", new SeededRandom(1));
      const before = await Deno.readFile(path);
      const report = await ourCheck(path, "leaks");
      assert.equal(exitCode(report), 2);
      assert.match(report.messages.join("\n"), /Leaks are not repaired/);
      assert.deepEqual(await Deno.readFile(path), before);
    });
  },
);

/** A sound image with the snapshot "first"; `change` gets its bytes and where the snapshot table is. */
async function withSnapshotTable(
  folder: string,
  change: (bytes: Uint8Array, view: DataView, table: number) => void,
): Promise<string> {
  const shape = { name: "x", options: "cluster_size=4k", size: "3M" };
  const path = await createImage(folder, shape);
  await fillImage(path, shape.size, new SeededRandom(4));
  await qemuImg("snapshot", "-c", "first", path);
  const bytes = await Deno.readFile(path);
  const view = new DataView(bytes.buffer);
  change(bytes, view, Number(view.getBigUint64(64)));
  await Deno.writeFile(path, bytes);
  return path;
}

interopTest("checkImage() repairs a snapshot table with too little extra data", [
  "qemu-img",
  "qemu-io",
], async () => {
  await withTempDir(async (folder) => {
    const path = await withSnapshotTable(folder, (bytes, view, table) => {
      view.setUint32(table + 36, 8); // of 24 bytes; id and name follow at once
      bytes.copyWithin(table + 48, table + 64, table + 72);
    });
    const found = await ourCheck(path), theirs = await qemuCheck(path);
    assert.match(found.messages.join("\n"), /incomplete/);
    assert.deepEqual([exitCode(found), found.corruptions], [
      theirs.code,
      theirs.figures["corruptions"],
    ]);
    const repaired = await ourCheck(path, "all");
    assert.equal(exitCode(repaired), 0, repaired.messages.join("\n"));
    assert.equal((await qemuCheck(path)).code, 0);
    assert.match(await qemuImg("snapshot", "-l", path), /first/);
  });
});

interopTest("checkImage() repairs a snapshot table with too much extra data", [
  "qemu-img",
  "qemu-io",
], async () => {
  await withTempDir(async (folder) => {
    const path = await withSnapshotTable(folder, (bytes, view, table) => {
      view.setUint32(table + 36, 1032);
      bytes.copyWithin(table + 40 + 1032, table + 64, table + 72);
    });
    assert.equal(exitCode(await ourCheck(path)), 2);
    assert.equal(exitCode(await ourCheck(path, "all")), 0);
    assert.equal((await qemuCheck(path)).code, 0);
    assert.match(await qemuImg("snapshot", "-l", path), /first/);
  });
});

interopTest(
  "checkImage() gives up bitmaps that cannot be read",
  ["qemu-img", "qemu-io"],
  async () => {
    await withTempDir(async (folder) => {
      const shape = { name: "x", options: "cluster_size=4k", size: "3M" };
      const path = await createImage(folder, shape);
      await fillImage(path, shape.size, new SeededRandom(4), { bitmaps: true });
      const bytes = await Deno.readFile(path);
      const at = bytes.findIndex((_, index) =>
        bytes.subarray(index, index + 4).join() === [0x23, 0x85, 0x28, 0x75].join()
      );
      const view = new DataView(bytes.buffer);
      const directory = Number(view.getBigUint64(at + 8 + 16));
      view.setUint8(directory + 16, 9); // a type that does not exist
      await Deno.writeFile(path, bytes);
      assert.equal(exitCode(await ourCheck(path)), 2);
      const repaired = await ourCheck(path, "all");
      assert.equal(exitCode(repaired), 0, repaired.messages.join("\n"));
      assert.equal((await qemuCheck(path)).code, 0);
      const told = JSON.parse(await qemuImg("info", "--output=json", path));
      assert.equal(told["format-specific"].data.bitmaps, undefined);
    });
  },
);

interopTest("checkImage() gives up when told, and needs the file for itself to repair it", [
  "qemu-img",
  "qemu-io",
], async () => {
  await withTempDir(async (folder) => {
    const shape = { name: "x", options: "cluster_size=512", size: "8M" };
    const path = await createImage(folder, shape);
    await qemuIo(path, ["write 0 8M"]);
    const signal = AbortSignal.abort(new Error("enough"));
    await assert.rejects(checkImage(path, "none", { ...imageContext(), signal }), /enough/);
    const context = imageContext();
    const file = context.files.open(path, { readOnly: false, direct: false, lock: true });
    try {
      await assert.rejects(checkImage(path, "all", context), /in use|busy|lock/i);
    } finally {
      file.close();
    }
    await Deno.writeFile(join(folder, "raw"), new Uint8Array(100_000));
    await assert.rejects(ourCheck(join(folder, "raw")), BlockError);
  });
});
