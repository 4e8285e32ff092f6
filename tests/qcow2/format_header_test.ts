/**
 * Headers of images made by qemu-img, decoded, changed and encoded again, and damaged in every byte.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import {
  clusterBytes,
  decodeHeader,
  encodeHeader,
  headerAreaBytes,
  INCOMPATIBLE_DATA_FILE,
  INCOMPATIBLE_EXTENDED_L2,
  l1EntriesFor,
  type QcowHeader,
} from "../../backends/qcow2/format/header.ts";
import { decodeFeatureTable } from "../../backends/qcow2/format/header_extensions.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { interopTest, withTempDir } from "../support/tools.ts";
import { qemuImg } from "../support/qemu_image.ts";
import { SeededRandom } from "../support/context.ts";
import { createImage, SHAPES } from "./sample_images.ts";

/** The first cluster of an image. */
async function firstCluster(path: string): Promise<Uint8Array> {
  const bytes = await Deno.readFile(path);
  const area = new Uint8Array(headerAreaBytes(bytes, path));
  area.set(bytes.subarray(0, area.length));
  return area;
}

interface Told {
  readonly "virtual-size": number;
  readonly "cluster-size": number;
  readonly "format-specific": {
    readonly data: Readonly<Record<string, unknown>>;
  };
}

for (const shape of SHAPES) {
  interopTest(`decodeHeader() agrees with qemu-img: ${shape.name}`, ["qemu-img"], async () => {
    await withTempDir(async (folder) => {
      const path = await createImage(folder, shape);
      const header = decodeHeader(await firstCluster(path), path);
      const told: Told = JSON.parse(await qemuImg("info", "--output=json", path));
      const { data } = told["format-specific"];
      assert.equal(header.size, told["virtual-size"]);
      assert.equal(clusterBytes(header), told["cluster-size"]);
      assert.equal(2 ** header.refcountOrder, data["refcount-bits"] ?? 16);
      assert.equal(header.version === 2 ? "0.10" : "1.1", data["compat"]);
      assert.equal(header.compression === "zstd" ? "zstd" : "zlib", data["compression-type"]);
      assert.equal((header.compatible & 1n) !== 0n, data["lazy-refcounts"] ?? false);
      assert.equal(
        (header.incompatible & INCOMPATIBLE_EXTENDED_L2) !== 0n,
        data["extended-l2"] ?? false,
      );
      assert.ok(header.l1Size >= l1EntriesFor(header, header.size));
    });
  });

  interopTest(
    `encodeHeader() gives back qemu-img's bytes: ${shape.name}`,
    ["qemu-img"],
    async () => {
      await withTempDir(async (folder) => {
        const path = await createImage(folder, shape);
        const bytes = await firstCluster(path);
        assert.deepEqual(encodeHeader(decodeHeader(bytes, path)), bytes);
      });
    },
  );
}

interopTest(
  "decodeHeader() reads backing file, format and feature names",
  ["qemu-img"],
  async () => {
    await withTempDir(async (folder) => {
      await qemuImg("create", "-q", "-f", "raw", join(folder, "base ü.raw"), "1M");
      const path = join(folder, "top.qcow2");
      await qemuImg("create", "-q", "-f", "qcow2", "-b", "base ü.raw", "-F", "raw", path);
      const bytes = await firstCluster(path);
      const header = decodeHeader(bytes, path);
      assert.equal(header.backingFile, "base ü.raw");
      assert.equal(header.backingFormat, "raw");
      assert.deepEqual(encodeHeader(header), bytes);
      const names = decodeFeatureTable(header.featureTable ?? new Uint8Array());
      assert.ok(
        names.some(({ kind, bit, name }) =>
          kind === "incompatible" && bit === 0 && name === "dirty bit"
        ),
      );
    });
  },
);

interopTest("decodeHeader() reads the data file's name", ["qemu-img"], async () => {
  await withTempDir(async (folder) => {
    const path = join(folder, "top.qcow2");
    const options = `data_file=${join(folder, "data")},data_file_raw=on`;
    await qemuImg("create", "-q", "-f", "qcow2", "-o", options, path, "1M");
    const header = decodeHeader(await firstCluster(path), path);
    assert.equal(header.dataFile, join(folder, "data"));
    assert.notEqual(header.incompatible & INCOMPATIBLE_DATA_FILE, 0n);
    assert.equal(header.autoclear, 2n);
  });
});

interopTest("encodeHeader() makes headers that qemu-img takes", ["qemu-img"], async () => {
  await withTempDir(async (folder) => {
    const path = await createImage(folder, { name: "image", options: "compat=1.1", size: "3M" });
    const header = decodeHeader(await firstCluster(path), path);
    await qemuImg("create", "-q", "-f", "raw", join(folder, "b"), "1M");
    const changed: QcowHeader = {
      ...header,
      backingFile: "b",
      backingFormat: "raw",
      unknownExtensions: [{ type: 0x12345678, data: new Uint8Array([1, 2, 3]) }],
    };
    using file = await Deno.open(path, { write: true });
    await file.write(encodeHeader(changed));
    const told: Record<string, unknown> = JSON.parse(
      await qemuImg("info", "--output=json", path),
    );
    assert.equal(told["backing-filename"], "b");
    assert.equal(told["backing-filename-format"], "raw");
    await qemuImg("check", "-q", path);
    const again = decodeHeader(await firstCluster(path), path);
    assert.deepEqual(again, changed);
  });
});

const minimal: QcowHeader = {
  version: 3,
  backingFile: null,
  backingFormat: null,
  dataFile: null,
  clusterBits: 12,
  size: 1 << 20,
  l1Size: 1,
  l1Offset: 3 << 12,
  refcountTableOffset: 1 << 12,
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

Deno.test("decodeHeader() keeps unknown fields and unknown extensions as found", () => {
  const header: QcowHeader = {
    ...minimal,
    headerLength: 128,
    unknownFields: Uint8Array.from({ length: 23 }, (_, index) => index + 1),
    autoclear: 0x80n,
    compatible: 0x100n,
    unknownExtensions: [
      { type: 7, data: new Uint8Array([9]) },
      { type: 7, data: new Uint8Array(16) },
      { type: 0xffff_ffff, data: new Uint8Array() },
    ],
  };
  const bytes = encodeHeader(header);
  assert.deepEqual(decodeHeader(bytes, "x"), header);
  assert.deepEqual(encodeHeader(decodeHeader(bytes, "x")), bytes);
});

Deno.test("decodeHeader() drops the bitmaps extension when the autoclear bit is not set", () => {
  const bitmaps = { count: 1, directoryBytes: 32, directoryOffset: 8192 };
  const kept = decodeHeader(encodeHeader({ ...minimal, bitmaps, autoclear: 1n }), "x");
  assert.deepEqual(kept.bitmaps, bitmaps);
  const dropped = decodeHeader(encodeHeader({ ...minimal, bitmaps }), "x");
  assert.equal(dropped.bitmaps, null);
});

/** A header with bytes put over it. */
function patched(at: number, value: bigint, bytes: 1 | 4 | 8, base = minimal): Uint8Array {
  const area = encodeHeader(base);
  const view = new DataView(area.buffer);
  if (bytes === 8) view.setBigUint64(at, value);
  else if (bytes === 4) view.setUint32(at, Number(value));
  else view.setUint8(at, Number(value));
  return area;
}

const REFUSED: readonly (readonly [string, Uint8Array, RegExp])[] = [
  ["no magic", patched(0, 0n, 4), /Cannot use x: it is not a qcow2 image/],
  ["version 1", patched(4, 1n, 4), /qcow2 version 1 is not supported/],
  ["version 4", patched(4, 4n, 4), /qcow2 version 4 is not supported/],
  ["clusters of 256 bytes", patched(20, 8n, 4), /cluster size is 2\^8/],
  ["clusters of 4 MiB", patched(20, 22n, 4), /cluster size is 2\^22/],
  ["AES", patched(32, 1n, 4), /encrypted \(AES\)/],
  ["LUKS", patched(32, 2n, 4), /encrypted \(LUKS\)/],
  ["a size of 2^53", patched(24, 1n << 53n, 8), /size is 9007199254740992 bytes/],
  ["an L1 table that is too small", patched(36, 0n, 4), /L1 table of 0 entries is too small/],
  [
    "an L1 table that is too large",
    patched(36, 0x40_0001n, 4),
    /L1 table has 33554440 bytes \(limit/,
  ],
  ["an unaligned L1 table", patched(40, 513n, 8), /L1 table is at 513/],
  ["an L1 table at 0", patched(40, 0n, 8), /L1 table is at 0/],
  ["an unaligned refcount table", patched(48, 1n, 8), /refcount table is at 1/],
  ["a refcount table past 2^63", patched(48, 1n << 63n, 8), /refcount table is at 9/],
  ["no refcount table", patched(56, 0n, 4), /no refcount table/],
  ["a large refcount table", patched(56, 0xffff_ffffn, 4), /refcount table has .* \(limit/],
  ["many snapshots", patched(60, 0x1_0001n, 4), /has 65537 snapshots \(limit: 65536\)/],
  ["incompatible feature 40", patched(72, 1n << 40n, 8), /incompatible feature 40/],
  ["refcounts of 128 bits", patched(96, 7n, 4), /refcounts have 2\^7 bits/],
  ["a short header", patched(100, 96n, 4), /header length is 96/],
  ["an odd header length", patched(100, 107n, 4), /header length is 107/],
  ["a long header", patched(100, 8192n, 4), /header length is 8192/],
  ["zstd without its bit", patched(104, 1n, 1), /compression type and its .* disagree/],
  ["the compression bit alone", patched(72, 8n, 8), /compression type and its .* disagree/],
  ["subclusters in 4 KiB", patched(72, 16n, 8), /too small for extended L2 entries/],
  ["a backing name elsewhere", patched(8, 4097n, 8), /backing file name .* is not in the first/],
];

for (const [what, bytes, message] of REFUSED) {
  Deno.test(`decodeHeader() refuses ${what}`, () => {
    assert.throws(() => decodeHeader(bytes, "x"), (error) => {
      assert.ok(error instanceof BlockError);
      assert.match(error.message, message);
      return true;
    });
  });
}

Deno.test("decodeHeader() names an unknown incompatible feature from the feature name table", () => {
  const featureTable = new Uint8Array(48);
  featureTable[1] = 33;
  featureTable.set(new TextEncoder().encode("time travel"), 2);
  const bytes = encodeHeader({ ...minimal, featureTable, incompatible: 1n << 33n });
  assert.throws(() => decodeHeader(bytes, "x"), /time travel \(incompatible feature 33\)/);
});

Deno.test("decodeHeader() takes an image without refcount table for a check alone", () => {
  const bytes = patched(56, 0n, 4);
  assert.equal(decodeHeader(bytes, "x", "check").refcountTableClusters, 0);
  assert.throws(() => decodeHeader(bytes, "x", "use"), BlockError);
});

Deno.test("encodeHeader() refuses names that do not fit", () => {
  assert.throws(
    () => encodeHeader({ ...minimal, clusterBits: 9, backingFile: "n".repeat(500) }),
    /a cluster 512/,
  );
  assert.throws(() => encodeHeader({ ...minimal, backingFile: "n".repeat(1024) }), /limit: 1023/);
});

Deno.test("decodeHeader() throws nothing but BlockError when bytes are changed at random", () => {
  const base = encodeHeader({
    ...minimal,
    autoclear: 1n,
    backingFile: "base",
    backingFormat: "raw",
    dataFile: "data",
    featureTable: new Uint8Array(96),
    bitmaps: { count: 1, directoryBytes: 32, directoryOffset: 8192 },
    unknownExtensions: [{ type: 77, data: new Uint8Array(5) }],
  });
  const random = new SeededRandom(5);
  let taken = 0, refused = 0;
  for (let round = 0; round < 20_000; round += 1) {
    const bytes = base.slice();
    for (let count = 1 + random.below(4); count > 0; count -= 1) {
      const at = random.below(320);
      bytes[at] = random.below(2) === 0
        ? random.below(256)
        : (bytes[at] ?? 0) ^ (1 << random.below(8));
    }
    try {
      // What it wants to be given is the whole first cluster: that may be another size now.
      const area = new Uint8Array(headerAreaBytes(bytes, "x"));
      area.set(bytes.subarray(0, area.length));
      const header = decodeHeader(area, "x");
      assert.ok(Number.isSafeInteger(header.size) && Number.isSafeInteger(header.l1Offset));
      assert.deepEqual(decodeHeader(encodeHeader(header), "x"), header);
      taken += 1;
    } catch (error) {
      assert.ok(error instanceof BlockError, String(error));
      refused += 1;
    }
  }
  assert.ok(taken > 1000 && refused > 1000, `${taken} taken, ${refused} refused`);
});
