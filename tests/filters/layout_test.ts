/**
 * The filters that are about where and in which units: readonly, slice, partition, blocksize.
 *
 * @module
 */
import assert from "node:assert/strict";
import { crc32 } from "node:zlib";
import type { Backend } from "../../lib/block/types.ts";
import { makeAsync } from "../support/async_backend.ts";
import { MemoryLog, SeededRandom } from "../support/context.ts";
import {
  deviceOn,
  expectContent,
  filled,
  filtered,
  memoryDisk,
  NO_FUA,
  readFrom,
  stacked,
  watched,
} from "../support/filters.ts";
import { makeRequest } from "../../lib/block/request.ts";

const MIB = 2 ** 20;

Deno.test("readonly refuses changes and passes everything else on", async () => {
  const disk = await memoryDisk(MIB);
  await disk.write(filled(512, 5), 0, NO_FUA);
  const device = deviceOn(await stacked(disk, ["readonly:"]));
  assert.equal(device.features.readOnly, true);
  for (const operation of ["write", "trim", "zero"] as const) {
    const data = operation === "write" ? { data: new Uint8Array(512) } : {};
    assert.throws(() => device.submit(makeRequest(operation, 0, 512, data)), { errno: "EROFS" });
  }
  const data = new Uint8Array(512);
  device.submit(makeRequest("read", 0, 512, { data }));
  assert.deepEqual(data, filled(512, 5));
  await device[Symbol.asyncDispose]();
});

Deno.test("slice shows its part alone, and stays within it", async () => {
  const disk = await memoryDisk(MIB);
  await disk.write(filled(MIB, 9), 0, NO_FUA);
  const part = await stacked(disk, ["slice:?offset=64k&size=128k"]);
  assert.equal(part.geometry.size, 128 * 1024);
  await part.zero?.(0, 128 * 1024, { fua: false, mayTrim: true, fastOnly: false });
  assert.deepEqual(await readFrom(disk, 64 * 1024 - 1, 2), Uint8Array.of(9, 0));
  assert.deepEqual(await readFrom(disk, 192 * 1024 - 1, 2), Uint8Array.of(0, 9));
  const extents = await part.extents?.(64 * 1024, 64 * 1024);
  assert.deepEqual(extents, [{ length: 64 * 1024, allocated: false, zero: true }]);
  assert.equal(part.resize, undefined);
  const rest = await stacked(disk, ["slice:?offset=1000k"]);
  assert.equal(rest.geometry.size, 24 * 1024);
});

Deno.test("slice and partition refuse what is not aligned below", async () => {
  const disk = await memoryDisk(MIB, { minimum: 4096 });
  for (const spec of ["slice:?offset=512", "slice:?size=5000"]) {
    await assert.rejects(stacked(disk, [spec]), { errno: "EINVAL", message: /blocks of 4096/ });
  }
});

interface MbrEntry {
  readonly type: number;
  readonly start: number;
  readonly count: number;
}

/** Writes a sector with a partition table of up to four entries. */
async function writeTable(
  disk: Backend,
  sector: number,
  entries: readonly MbrEntry[],
): Promise<void> {
  const bytes = filled(512, 0);
  const view = new DataView(bytes.buffer);
  bytes.set([0x55, 0xaa], 510);
  entries.forEach(({ type, start, count }, index) => {
    view.setUint8(446 + index * 16 + 4, type);
    view.setUint32(446 + index * 16 + 8, start, true);
    view.setUint32(446 + index * 16 + 12, count, true);
  });
  await disk.write(bytes, sector * 512, NO_FUA);
}

/** A disk whose sectors hold their number. */
async function numbered(): Promise<Backend> {
  const disk = await memoryDisk(MIB);
  const bytes = new Uint8Array(MIB);
  const view = new DataView(bytes.buffer);
  for (let sector = 0; sector < MIB / 512; sector += 1) view.setUint32(sector * 512, sector);
  await disk.write(bytes, 0, NO_FUA);
  return disk;
}

/** Number of the first sector of a part, and its sectors. */
async function placeOf(part: Backend): Promise<[first: number, count: number]> {
  const bytes = await readFrom(part, 0, 4);
  return [new DataView(bytes.buffer).getUint32(0), part.geometry.size / 512];
}

async function mbrDisk(): Promise<Backend> {
  const disk = await numbered();
  await writeTable(disk, 0, [
    { type: 0x83, start: 64, count: 100 },
    { type: 0x05, start: 1000, count: 1000 },
    { type: 0, start: 0, count: 0 },
    { type: 0x82, start: 200, count: 10 },
  ]);
  await writeTable(disk, 1000, [
    { type: 0x83, start: 8, count: 50 },
    { type: 0x05, start: 300, count: 200 },
  ]);
  await writeTable(disk, 1300, [
    { type: 0x83, start: 16, count: 60 },
    { type: 0, start: 0, count: 0 },
  ]);
  return disk;
}

Deno.test("partition finds primary and logical partitions of an MBR", async () => {
  const expected = [[1, 64, 100], [4, 200, 10], [5, 1008, 50], [6, 1316, 60]] as const;
  for (const [number, first, count] of expected) {
    const { backend, management } = await filtered(await mbrDisk(), `partition:?number=${number}`);
    assert.deepEqual(await placeOf(backend), [first, count]);
    assert.equal(management?.describe?.().table, "mbr");
  }
  for (const number of [2, 3, 7]) {
    await assert.rejects(filtered(await mbrDisk(), `partition:?number=${number}`), {
      errno: "EINVAL",
      message: `Cannot use partition ${number}: the MBR has these: 1, 4, 5, 6`,
    });
  }
});

Deno.test("partition bears a chain of logical partitions that is broken or endless", async () => {
  const log = new MemoryLog();
  const broken = await mbrDisk();
  await broken.write(filled(512, 1), 1300 * 512, NO_FUA);
  assert.deepEqual(
    await placeOf((await filtered(broken, "partition:?number=5", { log })).backend),
    [
      1008,
      50,
    ],
  );
  assert.match(log.lines[0] ?? "", /warn: .*chain of logical partitions is broken, at sector 1300/);
  const loop = await mbrDisk();
  await writeTable(loop, 1300, [
    { type: 0x83, start: 16, count: 60 },
    { type: 0x05, start: 300, count: 200 },
  ]);
  await assert.rejects(filtered(loop, "partition:?number=5"), { message: /does not end/ });
});

const LINUX_GUID = "0fc63daf-8483-4772-8e79-3d69d8477de4";
const LINUX_BYTES = [
  0xaf,
  0x3d,
  0xc6,
  0x0f,
  0x83,
  0x84,
  0x72,
  0x47,
  0x8e,
  0x79,
  0x3d,
  0x69,
  0xd8,
  0x47,
  0x7d,
  0xe4,
];

function gptHeader(
  own: number,
  other: number,
  entriesLba: number,
  entries: Uint8Array,
): Uint8Array {
  const header = filled(512, 0);
  const view = new DataView(header.buffer);
  header.set(new TextEncoder().encode("EFI PART"));
  view.setUint32(8, 0x10000, true);
  view.setUint32(12, 92, true);
  view.setBigUint64(24, BigInt(own), true);
  view.setBigUint64(32, BigInt(other), true);
  view.setBigUint64(72, BigInt(entriesLba), true);
  view.setUint32(80, 128, true);
  view.setUint32(84, 128, true);
  view.setUint32(88, crc32(entries), true);
  view.setUint32(16, crc32(header.subarray(0, 92)), true);
  return header;
}

/** A disk with partitions 1 and 3 in a GPT of the given sector size. */
async function gptDisk(sector: number): Promise<Backend> {
  const disk = await numbered();
  const entries = filled(128 * 128, 0);
  const view = new DataView(entries.buffer);
  for (const [index, first, last, name] of [[0, 40, 99, "root"], [2, 100, 100, ""]] as const) {
    entries.set(LINUX_BYTES, index * 128);
    entries[index * 128 + 16] = index + 1;
    view.setBigUint64(index * 128 + 32, BigInt(first), true);
    view.setBigUint64(index * 128 + 40, BigInt(last), true);
    [...name].forEach((char, at) =>
      view.setUint16(index * 128 + 56 + at * 2, char.charCodeAt(0), true)
    );
  }
  const last = MIB / sector - 1, table = last - entries.length / sector;
  await writeTable(disk, 0, [{ type: 0xee, start: 1, count: last }]);
  await disk.write(gptHeader(1, last, 2, entries), sector, NO_FUA);
  await disk.write(entries, 2 * sector, NO_FUA);
  await disk.write(gptHeader(last, 1, table, entries), last * sector, NO_FUA);
  await disk.write(entries, table * sector, NO_FUA);
  return disk;
}

Deno.test("partition finds the partitions of a GPT, with sectors of 512 or 4096 bytes", async () => {
  for (const sector of [512, 4096]) {
    const { backend, management } = await filtered(await gptDisk(sector), "partition:?number=1");
    const scale = sector / 512;
    assert.deepEqual(await placeOf(backend), [40 * scale, 60 * scale]);
    assert.deepEqual(management?.describe?.(), {
      table: "gpt",
      partition: 1,
      start: 40 * sector,
      type: LINUX_GUID,
      name: "root",
    });
    const third = await filtered(await gptDisk(sector), "partition:?number=3");
    assert.deepEqual(await placeOf(third.backend), [100 * scale, scale]);
    await assert.rejects(filtered(await gptDisk(sector), "partition:?number=2"), {
      message: /the GPT has these: 1, 3/,
    });
  }
});

Deno.test("partition falls back on the backup of a GPT, and refuses when that is bad too", async () => {
  const damage = async (disk: Backend, offset: number): Promise<void> => {
    const bytes = await readFrom(disk, offset, 1);
    await disk.write(Uint8Array.of((bytes[0] ?? 0) ^ 1), offset, NO_FUA);
  };
  for (const offset of [512, 512 + 40, 512 + 73, 2 * 512 + 32]) {
    const log = new MemoryLog();
    const disk = await gptDisk(512);
    await damage(disk, offset);
    const { backend } = await filtered(disk, "partition:?number=1", { log });
    assert.deepEqual(await placeOf(backend), [40, 60], `damage at ${offset}`);
    assert.match(log.lines[0] ?? "", /the primary GPT cannot be used, the backup at sector 2047/);
    await damage(disk, MIB - 512 + 40);
    await assert.rejects(filtered(disk, "partition:?number=1"), {
      errno: "EINVAL",
      message: /nor has its backup/,
    });
  }
});

Deno.test("partition refuses a partition that is not on the disk", async () => {
  const disk = await numbered();
  await writeTable(disk, 0, [{ type: 0x83, start: 2000, count: 100 }]);
  await assert.rejects(filtered(disk, "partition:?number=1"), { message: /device below ends at/ });
});

Deno.test("partition reads a disk of large blocks", async () => {
  const disk = await gptDisk(4096);
  const large: Backend = { ...disk, geometry: { ...disk.geometry, minimum: 4096 } };
  assert.deepEqual(await placeOf((await filtered(large, "partition:?number=1")).backend), [
    320,
    480,
  ]);
});

Deno.test("blocksize makes what is aligned below of what is not above", async () => {
  const { backend, calls } = watched(await memoryDisk(MIB + 512, { minimum: 512 }));
  const top = await stacked(backend, ["blocksize:?block=4k"]);
  assert.equal(top.geometry.minimum, 1);
  await top.write(filled(4096 + 10, 1), 4090, NO_FUA);
  assert.deepEqual(
    calls.splice(0),
    [
      "read 0+4096",
      "write 0+4096",
      "write 4096+4096",
      "read 8192+4096",
      "write 8192+4096",
    ],
  );
  await top.write(filled(10, 2), MIB + 500, NO_FUA);
  assert.deepEqual(calls.splice(0), [`read ${MIB}+512`, `write ${MIB}+512`]);
  await top.trim?.(100, 8192, NO_FUA);
  assert.deepEqual(calls.splice(0), ["trim 4096+4096"]);
  await top.zero?.(100, 8192, { fua: false, mayTrim: true, fastOnly: false });
  assert.deepEqual(calls.splice(0), [
    "zero 4096+4096",
    "read 0+4096",
    "write 0+4096",
    "read 8192+4096",
    "write 8192+4096",
  ]);
  assert.throws(() => top.zero?.(1, 10, { fua: false, mayTrim: true, fastOnly: true }), {
    errno: "EOPNOTSUPP",
  });
});

Deno.test("blocksize loses no byte of writes that meet in a block", async () => {
  for (const seed of [1, 2, 3, 4, 5]) {
    const random = new SeededRandom(seed);
    const disk = makeAsync(await memoryDisk(MIB, { minimum: 512 }), seed);
    const top = await stacked(disk, ["blocksize:?block=4k"]);
    const expected = new Uint8Array(64 * 1024);
    const ranges: { readonly at: number; readonly bytes: Uint8Array }[] = [];
    for (let at = 0; at < expected.length;) {
      const length = Math.min(1 + random.below(3000), expected.length - at);
      const bytes = filled(length, 1 + random.below(255));
      expected.set(bytes, at);
      // In no order: neighbours that come in a row wait for each other, one after another.
      ranges.splice(random.below(ranges.length + 1), 0, { at, bytes });
      at += length;
    }
    await Promise.all(ranges.map(({ at, bytes }) => top.write(bytes, at, NO_FUA)));
    await expectContent(top, expected);
    assert.ok(disk.inFlightMax > 4, "blocks that differ are written at the same time");
  }
});
