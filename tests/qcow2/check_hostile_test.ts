/**
 * Images made to do harm: tables of the largest size that lead to one place or to everywhere, thousands of
 * snapshots of one table, refcount tables full of one block, random bytes in all tables. A check ends soon,
 * with a report or a clear error, and a repair keeps to the file.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { encodeHeader, type QcowHeader } from "../../backends/qcow2/format/header.ts";
import { encodeSnapshotTable } from "../../backends/qcow2/format/snapshot_table.ts";
import { mapImage } from "../../backends/qcow2/map_image.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import type { RawFile } from "../../lib/sys/file_access.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { SeededRandom } from "../support/context.ts";
import { interopTest, withTempDir } from "../support/tools.ts";
import { exitCode, imageContext, ourCheck, qemuCheck } from "./check_support.ts";
import { createImage, fillImage } from "./sample_images.ts";

/** Far more than any of these takes, and far less than for ever. */
const MS_MAX = 60_000;
const MIB = 1 << 20;

/** A header whose tables a test puts where it wants them. */
const HEADER: QcowHeader = {
  version: 3,
  backingFile: null,
  backingFormat: null,
  dataFile: null,
  clusterBits: 16,
  size: MIB,
  l1Size: 1,
  l1Offset: 3 << 16,
  refcountTableOffset: 1 << 16,
  refcountTableClusters: 1,
  snapshotCount: 0,
  snapshotsOffset: 0,
  incompatible: 0n,
  compatible: 0n,
  autoclear: 0n,
  refcountOrder: 4,
  headerLength: 112,
  compression: "deflate",
  unknownFields: new Uint8Array(7),
  featureTable: null,
  bitmaps: null,
  unknownExtensions: [],
};

/** Fills `bytes` of a file from `offset` on with entries of 8 bytes. */
function fillTable(
  file: RawFile,
  offset: number,
  bytes: number,
  entry: (index: number) => bigint,
): void {
  for (let at = 0; at < bytes; at += MIB) {
    const part = new Uint8Array(Math.min(MIB, bytes - at));
    const view = new DataView(part.buffer);
    for (let index = 0; index < part.length; index += 8) {
      view.setBigUint64(index, entry((at + index) / 8));
    }
    file.write(part, offset + at);
  }
}

async function withHostile(
  header: QcowHeader,
  make: (file: RawFile) => void,
  use: (path: string) => Promise<void>,
): Promise<void> {
  await withTempDir(async (folder) => {
    const path = join(folder, "hostile.qcow2");
    const file = systemFiles.open(path, {
      readOnly: false,
      direct: false,
      lock: false,
      createSize: 8 * MIB,
    });
    file.write(encodeHeader(header), 0);
    make(file);
    file.close();
    const start = performance.now();
    await use(path);
    const took = performance.now() - start;
    assert.ok(took < MS_MAX, `took ${Math.round(took)} ms`);
  });
}

/** A report that says that the image is damaged, or a clear refusal. */
async function assertDamaged(path: string): Promise<void> {
  try {
    assert.equal(exitCode(await ourCheck(path)), 2);
  } catch (error) {
    assert.ok(error instanceof BlockError, String(error));
  }
}

Deno.test("checkImage() ends soon when four million L1 entries lead to one L2 table", async () => {
  const header = { ...HEADER, l1Size: 4 * MIB, l1Offset: MIB };
  await withHostile(header, (file) => {
    file.truncate(40 * MIB);
    fillTable(file, MIB, 32 * MIB, () => BigInt(34 * MIB));
    fillTable(file, 34 * MIB, 65_536, (index) => BigInt(35 * MIB + (index % 4) * 65_536));
  }, assertDamaged);
});

Deno.test("checkImage() ends soon when four million L1 entries lead everywhere in a huge hole", async () => {
  const header = { ...HEADER, clusterBits: 21, l1Size: 4 * MIB, l1Offset: 2 * MIB };
  const tables = { refcountTableOffset: 40 * MIB, refcountTableClusters: 1 };
  await withHostile({ ...header, ...tables }, (file) => {
    file.truncate(2 ** 43);
    fillTable(file, 2 * MIB, 32 * MIB, (index) => BigInt(index + 30) * BigInt(2 * MIB));
  }, assertDamaged);
});

Deno.test("checkImage() ends soon when 65536 snapshots share the largest L1 table", async () => {
  const header = { ...HEADER, snapshotCount: 65_536, snapshotsOffset: 36 * MIB };
  await withHostile(header, (file) => {
    file.truncate(64 * MIB);
    fillTable(file, MIB, 32 * MIB, () => BigInt(34 * MIB));
    const snapshot = {
      l1Offset: MIB,
      l1Size: 4 * MIB,
      id: "1",
      name: "s",
      seconds: 0,
      nanoseconds: 0,
      guestTimeNs: 0n,
      vmStateBytes: 0n,
      size: MIB,
      instructionCount: null,
      extraBytes: 16,
      unknownExtra: new Uint8Array(),
    };
    file.write(encodeSnapshotTable(Array.from({ length: 65_536 }, () => snapshot), MIB), 36 * MIB);
  }, assertDamaged);
});

Deno.test("checkImage() refuses snapshots whose tables have too many entries together", async () => {
  const header = { ...HEADER, snapshotCount: 4096, snapshotsOffset: 36 * MIB };
  await withHostile(header, (file) => {
    file.truncate(64 * MIB);
    const snapshots = Array.from({ length: 4096 }, (_, index) => ({
      l1Offset: MIB,
      l1Size: 4 * MIB - index,
      id: String(index),
      name: "s",
      seconds: 0,
      nanoseconds: 0,
      guestTimeNs: 0n,
      vmStateBytes: 0n,
      size: MIB,
      instructionCount: null,
      extraBytes: 16,
      unknownExtra: new Uint8Array(),
    }));
    file.write(encodeSnapshotTable(snapshots, MIB), 36 * MIB);
  }, async (path) => {
    await assert.rejects(ourCheck(path), /more than 1073741824 entries/);
  });
});

Deno.test("checkImage() ends soon when a refcount table of 8 MiB names one block", async () => {
  const header = { ...HEADER, refcountTableClusters: 128, refcountTableOffset: MIB };
  await withHostile(header, (file) => {
    file.truncate(2 ** 42);
    fillTable(file, MIB, 8 * MIB, () => BigInt(10 * MIB));
    fillTable(file, 10 * MIB, 65_536, () => 0x0001_0001_0001_0001n);
  }, assertDamaged);
});

Deno.test("checkImage() refuses a file of more clusters than it can count", async () => {
  await withHostile({ ...HEADER, clusterBits: 9, l1Size: 32, l1Offset: 512 * 8 }, (file) => {
    file.truncate(2 ** 41);
  }, async (path) => {
    await assert.rejects(ourCheck(path), /4294967296 clusters \(limit: 2147483647\)/);
  });
});

Deno.test("checkImage() repairs an image whose L2 table leads to itself and to all tables", async () => {
  await withHostile(HEADER, (file) => {
    fillTable(file, 1 << 16, 8, () => 2n << 16n);
    fillTable(file, 2 << 16, 65_536, () => 0x0001_0001_0001_0001n);
    fillTable(file, 3 << 16, 8, () => 4n << 16n);
    fillTable(file, 4 << 16, 16 * 8, (index) => BigInt(index % 6) << 16n);
  }, async (path) => {
    await assertDamaged(path);
    const repaired = await ourCheck(path, "all");
    assert.equal(exitCode(repaired), 0, repaired.messages.join("\n"));
  });
});

/** Bytes of an image with some changed at random, most of them in its first clusters. */
function mutated(image: Uint8Array, random: SeededRandom): Uint8Array {
  const bytes = image.slice();
  for (let count = 1 + random.below(12); count > 0; count -= 1) {
    const reach = random.below(3) === 0 ? bytes.length : Math.min(bytes.length, 40_000);
    const at = random.below(4) === 0 ? random.below(200) : random.below(reach);
    bytes[at] = random.below(2) === 0
      ? random.below(256)
      : (bytes[at] ?? 0) ^ (1 << random.below(8));
  }
  return bytes;
}

/** Runs something that may end with a clear error. */
async function attempt<T>(run: () => Promise<T>): Promise<T | null> {
  try {
    return await run();
  } catch (error) {
    assert.ok(error instanceof BlockError || error instanceof SystemError, String(error));
    return null;
  }
}

interopTest("checkImage() and mapImage() end with a report or a clear error on mutated images", [
  "qemu-img",
  "qemu-io",
], async () => {
  await withTempDir(async (folder) => {
    const random = new SeededRandom(17);
    let repaired = 0, refused = 0;
    for (
      const options of [
        "cluster_size=4k",
        "cluster_size=512,refcount_bits=1",
        "cluster_size=16k,extended_l2=on",
      ]
    ) {
      const shape = { name: options, options, size: "2M" };
      const base = await createImage(folder, shape);
      const rich = !options.includes("refcount_bits=1");
      await fillImage(base, "2M", random, { compressed: rich, snapshots: rich, bitmaps: rich });
      const image = await Deno.readFile(base);
      const path = join(folder, "mutated");
      for (let round = 0; round < 60; round += 1) {
        await Deno.writeFile(path, mutated(image, random));
        await attempt(() => Array.fromAsync(mapImage(path, null, imageContext())));
        if (await attempt(() => ourCheck(path)) === null) {
          refused += 1;
          continue;
        }
        const report = await attempt(() => ourCheck(path, "all"));
        repaired += report !== null && exitCode(report) === 0 ? 1 : 0;
        // Holes may make the file longer, but no repair takes much storage.
        const { blocks } = await Deno.stat(path);
        assert.ok((blocks ?? 0) * 512 < image.length * 2 + 64 * MIB);
        if (report !== null && exitCode(report) === 0 && round % 6 === 0) {
          assert.equal((await qemuCheck(path)).code, 0, `round ${round} of ${options}`);
        }
      }
    }
    assert.ok(repaired > 60 && refused > 5, `${repaired} repaired, ${refused} refused`);
  });
});
