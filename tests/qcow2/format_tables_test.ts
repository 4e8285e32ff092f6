/**
 * Entries, refcounts, compressed clusters, snapshot tables and bitmap directories: by definition, against
 * images made by qemu-img, and damaged.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  decodeBitmapDirectory,
  encodeBitmapDirectory,
} from "../../backends/qcow2/format/bitmap_directory.ts";
import { compressCluster, decompressCluster } from "../../backends/qcow2/format/compress.ts";
import {
  compressedBytes,
  compressedHigh,
  compressedOffset,
  entryHigh,
  entryLow,
  entryOffset,
  isCompressed,
  isCopied,
  refcountCodec,
  subclusterRun,
  subclusterState,
} from "../../backends/qcow2/format/entries.ts";
import { clusterBytes } from "../../backends/qcow2/format/header.ts";
import {
  decodeSnapshotTable,
  encodeSnapshotTable,
  type Snapshot,
  type TableSource,
} from "../../backends/qcow2/format/snapshot_table.ts";
import { readBitmaps, readHeader, readSnapshots } from "../../backends/qcow2/read_tables.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import type { RawFile } from "../../lib/sys/file_access.ts";
import { SeededRandom } from "../support/context.ts";
import { interopTest, sampleBytes, withTempDir } from "../support/tools.ts";
import { qemuImg, qemuIo } from "../support/qemu_image.ts";
import { createImage } from "./sample_images.ts";

function openFile(path: string): RawFile {
  return systemFiles.open(path, { readOnly: true, direct: false, lock: false });
}

Deno.test("entryHigh() and entryLow() keep offsets of up to 56 bits and flags", () => {
  for (const offset of [0, 512, 2 ** 31, 2 ** 32 - 512, 2 ** 32, 2 ** 53 + 4096, 2 ** 56 - 512]) {
    for (const [copied, zero] of [[false, false], [true, false], [false, true], [true, true]]) {
      const high = entryHigh(offset, copied ?? false), low = entryLow(offset, zero ?? false);
      const value = BigInt(offset) | (copied ? 1n << 63n : 0n) | (zero ? 1n : 0n);
      assert.equal((BigInt(high) << 32n) | BigInt(low), value);
      assert.equal(entryOffset(high, low), offset);
      assert.equal(isCopied(high), copied);
    }
  }
});

Deno.test("compressedHigh() keeps offset and sectors for every cluster size", () => {
  const random = new SeededRandom(3);
  for (let bits = 9; bits <= 21; bits += 1) {
    for (let round = 0; round < 200; round += 1) {
      const offset = random.below(2) === 0 ? random.below(2 ** 31) : random.below(2 ** 48);
      const length = 1 + random.below(2 ** bits);
      const high = compressedHigh(offset, length, bits), low = offset % 2 ** 32;
      assert.ok(isCompressed(high) && !isCopied(high));
      assert.equal(compressedOffset(high, low, bits), offset);
      const end = Math.ceil((offset + length) / 512) * 512;
      assert.equal(compressedBytes(high, low, bits), end - offset);
    }
  }
});

Deno.test("subclusterRun() ends where the state changes", () => {
  const random = new SeededRandom(4);
  for (let round = 0; round < 2000; round += 1) {
    const some = (): number => random.uint32() & random.uint32();
    const bits = round < 4 ? [0, 0xffff_ffff, 0xffff_0000, 1][round] ?? 0 : some();
    const [zero, allocated] = round % 2 === 0 ? [bits, some() & ~bits] : [some() & ~bits, bits];
    for (let index = 0; index < 32; index += 1) {
      let end = index + 1;
      const first = subclusterState(zero, allocated, index);
      while (end < 32 && subclusterState(zero, allocated, end) === first) end += 1;
      assert.equal(subclusterRun(zero, allocated, index), end - index);
    }
  }
});

for (let order = 0; order <= 6; order += 1) {
  Deno.test(`refcountCodec() stores refcounts of ${2 ** order} bits as the format says`, () => {
    const codec = refcountCodec(order);
    const bits = 2 ** order, count = 64;
    const block = new Uint8Array(count * bits / 8);
    const random = new SeededRandom(order);
    const values = Array.from({ length: count }, () => random.below(codec.max + 1));
    values[7] = codec.max;
    values.forEach((value, index) => codec.set(block, index, value));
    const view = new DataView(block.buffer);
    values.forEach((value, index) => {
      assert.equal(codec.get(block, index), value);
      if (bits >= 8) {
        let stored = 0n;
        for (let at = 0; at < bits / 8; at += 1) {
          stored = stored * 256n + BigInt(view.getUint8(index * bits / 8 + at));
        }
        assert.equal(stored, BigInt(value));
      } else {
        const byte = view.getUint8(Math.floor(index * bits / 8));
        assert.equal((byte >> (index * bits % 8)) % 2 ** bits, value);
      }
    });
  });
}

for (const compression of ["deflate", "zstd"] as const) {
  Deno.test(`compressCluster() and decompressCluster() are inverse: ${compression}`, () => {
    for (const length of [512, 65_536, 2_097_152]) {
      const cluster = new Uint8Array(length);
      cluster.set(sampleBytes(length / 4, 7), length / 8);
      const packed = compressCluster(compression, cluster);
      assert.ok(packed !== null && packed.length < length);
      const padded = new Uint8Array(Math.ceil(packed.length / 512) * 512 + 512).fill(0xa5);
      padded.set(packed);
      assert.deepEqual(Uint8Array.from(decompressCluster(compression, padded, length)), cluster);
      assert.equal(compressCluster(compression, sampleBytes(length, 1)), null);
    }
  });

  Deno.test(`decompressCluster() refuses bombs, short data and damage: ${compression}`, () => {
    const bomb = compressCluster(compression, new Uint8Array(2 ** 21));
    assert.ok(bomb !== null);
    assert.throws(() => decompressCluster(compression, bomb, 65_536), BlockError);
    assert.throws(() => decompressCluster(compression, bomb, 2 ** 21 + 512), BlockError);
    const random = new SeededRandom(9);
    const good = new Uint8Array(65_536);
    good.set(sampleBytes(9000, 3));
    const packed = compressCluster(compression, good);
    assert.ok(packed !== null);
    for (let round = 0; round < 1500; round += 1) {
      const length: number = round % 3 === 0 ? random.below(packed.length) : packed.length;
      const bytes: Uint8Array = packed.slice(0, length);
      for (let count = 0; count < 3 && bytes.length > 0; count += 1) {
        bytes[random.below(Math.min(bytes.length, 40))] = random.below(256);
      }
      try {
        assert.equal(decompressCluster(compression, bytes, 65_536).length, 65_536);
      } catch (error) {
        assert.ok(error instanceof BlockError, String(error));
      }
    }
  });
}

Deno.test("decompressCluster() takes a cluster of several zstd frames", () => {
  const half = compressCluster("zstd", new Uint8Array(4096).fill(7));
  assert.ok(half !== null);
  const both = Uint8Array.from([...half, ...half, 1, 2, 3]);
  assert.deepEqual(
    Uint8Array.from(decompressCluster("zstd", both, 8192)),
    new Uint8Array(8192).fill(7),
  );
});

interopTest("readSnapshots() agrees with qemu-img", ["qemu-img", "qemu-io"], async () => {
  await withTempDir(async (folder) => {
    for (const compat of ["0.10", "1.1"]) {
      const name = `v${compat}`;
      const path = await createImage(folder, { name, options: `compat=${compat}`, size: "1M" });
      await qemuImg("snapshot", "-c", "first", path);
      await qemuIo(path, ["write 0 64k"]);
      await qemuImg("snapshot", "-c", "zweiter Stand ü", path);
      const told: { readonly snapshots: readonly Record<string, unknown>[] } = JSON.parse(
        await qemuImg("info", "--output=json", path),
      );
      const file = openFile(path);
      const header = readHeader(file);
      const snapshots = readSnapshots(file, header);
      assert.deepEqual(
        snapshots.map(({ id, name, seconds, nanoseconds }) => ({ id, name, seconds, nanoseconds })),
        told.snapshots.map((each) => ({
          id: each["id"],
          name: each["name"],
          seconds: each["date-sec"],
          nanoseconds: each["date-nsec"],
        })),
      );
      assert.ok(snapshots.every(({ size }) => size === 1 << 20));
      const stored = new Uint8Array(encodeSnapshotTable(snapshots, header.size).length);
      file.read(stored, header.snapshotsOffset);
      assert.deepEqual(encodeSnapshotTable(snapshots, header.size), stored);
      file.close();
    }
  });
});

interopTest("readBitmaps() agrees with qemu-img", ["qemu-img"], async () => {
  await withTempDir(async (folder) => {
    const path = await createImage(folder, { name: "bitmaps", options: "compat=1.1", size: "1M" });
    await qemuImg("bitmap", "--add", path, "one");
    await qemuImg("bitmap", "--add", "--disable", "-g", "512", path, "two ü");
    const file = openFile(path);
    const header = readHeader(file);
    const bitmaps = readBitmaps(file, header);
    assert.deepEqual(
      bitmaps.map(({ name, granularityBits, flags }) => [name, granularityBits, flags]),
      [["one", 16, 2], ["two ü", 9, 0]],
    );
    const stored = new Uint8Array(header.bitmaps?.directoryBytes ?? 0);
    file.read(stored, header.bitmaps?.directoryOffset ?? 0);
    assert.deepEqual(encodeBitmapDirectory(bitmaps), stored);
    assert.deepEqual(
      decodeBitmapDirectory(stored, 2, clusterBytes(header), path),
      bitmaps,
    );
    file.close();
  });
});

const SNAPSHOT: Snapshot = {
  l1Offset: 65_536,
  l1Size: 3,
  id: "1",
  name: "a name",
  seconds: 1_700_000_000,
  nanoseconds: 5,
  guestTimeNs: 1n << 40n,
  vmStateBytes: 1n << 33n,
  size: 1 << 30,
  instructionCount: 77n,
  extraBytes: 29,
  unknownExtra: new Uint8Array([1, 2, 3, 4, 5]),
};

function sourceOf(bytes: Uint8Array): TableSource {
  return (offset, length) => {
    assert.ok(length <= 65_536, `asks for ${length} bytes`);
    const piece = new Uint8Array(length);
    piece.set(bytes.subarray(offset, offset + length));
    return piece;
  };
}

Deno.test("decodeSnapshotTable() keeps unknown extra data as found", () => {
  const list = [SNAPSHOT, { ...SNAPSHOT, id: "2", unknownExtra: new Uint8Array(), extraBytes: 24 }];
  const bytes = encodeSnapshotTable(list, 0);
  assert.deepEqual(decodeSnapshotTable(sourceOf(bytes), 2, "x").snapshots, list);
});

Deno.test("decodeSnapshotTable() cuts extra data past the limit when told, and refuses it otherwise", () => {
  const bytes = new Uint8Array(4096).fill(0x61);
  bytes.set(encodeSnapshotTable([SNAPSHOT], 0));
  new DataView(bytes.buffer).setUint32(36, 1025);
  assert.throws(() => decodeSnapshotTable(sourceOf(bytes), 1, "x"), /1025 bytes of extra data/);
  const { extraCut, snapshots } = decodeSnapshotTable(sourceOf(bytes), 1, "x", "cut");
  assert.equal(extraCut, 1);
  assert.equal(snapshots[0]?.unknownExtra.length, 0);
});

Deno.test("decodeSnapshotTable() ends at the limit of the table when told", () => {
  const hostile = new Uint8Array(40);
  new DataView(hostile.buffer).setUint32(36, 0xffff_fff0);
  const source: TableSource = (offset, length) =>
    length === 40 && offset === 0 ? hostile : new Uint8Array(length);
  assert.equal(decodeSnapshotTable(source, 9, "x", "cut").dropped, 9);
  assert.throws(() => decodeSnapshotTable(source, 9, "x"), BlockError);
});

Deno.test("decodeSnapshotTable() and decodeBitmapDirectory() throw nothing but BlockError", () => {
  const random = new SeededRandom(6);
  const table = encodeSnapshotTable([SNAPSHOT, SNAPSHOT, SNAPSHOT], 0);
  const bitmap = { tableOffset: 65_536, tableEntries: 1, flags: 2, granularityBits: 16 };
  const directory = encodeBitmapDirectory([{ ...bitmap, name: "one" }, { ...bitmap, name: "two" }]);
  let taken = 0, refused = 0;
  const attempt = (run: () => unknown): void => {
    try {
      run();
      taken += 1;
    } catch (error) {
      assert.ok(error instanceof BlockError, String(error));
      refused += 1;
    }
  };
  for (let round = 0; round < 4000; round += 1) {
    const some = (round % 2 === 0 ? table : directory).slice();
    some[random.below(some.length)] = random.below(256);
    if (round % 2 === 0) {
      attempt(() => decodeSnapshotTable(sourceOf(some), 3, "x"));
    } else {
      attempt(() => decodeBitmapDirectory(some, 2, 65_536, "x"));
    }
  }
  assert.ok(taken > 500 && refused > 500, `${taken} taken, ${refused} refused`);
});
