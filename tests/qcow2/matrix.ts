/**
 * The matrix: what an image can be, as rows; images made by QEMU's tools and read by us, and the other
 * way round. A few rows in which every two values meet once are for every day, all of them for a soak.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { firstDifference } from "../../lib/block/compare.ts";
import type { JsonValue } from "../../lib/block/image.ts";
import type { Device } from "../../lib/block/device.ts";
import { describeOptions } from "../../lib/block/options.ts";
import { makeRequest } from "../../lib/block/request.ts";
import { type SeededRandom, seededRandom } from "../../lib/testing/random.ts";
import {
  assertSame,
  assertSound,
  joinRuns,
  type MapRun,
  qemuContent,
  qemuCreate,
  qemuImg,
  qemuIo,
  qemuMap,
} from "../support/qemu_image.ts";
import { DiskModel, type DiskShape, operationText, randomOperations } from "./operations.ts";
import {
  applyTo,
  createImage,
  imageAt,
  imageContext,
  kindOf,
  openImage,
  readAll,
} from "./sides.ts";

const KIB = 1024, MIB = 1024 * KIB;

/** What an image is. */
export interface Row {
  readonly compat: "0.10" | "1.1";
  /** Bytes of a cluster. */
  readonly cluster: number;
  readonly refcountBits: number;
  readonly compression: "none" | "zlib" | "zstd";
  /** Extended L2 entries: subclusters. */
  readonly extended: boolean;
  /** Data in a file of its own. */
  readonly dataFile: boolean;
  /** What is below: nothing, a raw file, an image, or an image over a raw file. */
  readonly backing: "none" | "raw" | "qcow2" | "chain";
  readonly lazy: boolean;
}

type Values = { readonly [K in keyof Row]: readonly Row[K][] };

const ALL: Values = {
  compat: ["0.10", "1.1"],
  cluster: [512, 4 * KIB, 64 * KIB, 2 * MIB],
  refcountBits: [1, 2, 4, 8, 16, 32, 64],
  compression: ["none", "zlib", "zstd"],
  extended: [false, true],
  dataFile: [false, true],
  backing: ["none", "raw", "qcow2", "chain"],
  lazy: [false, true],
};

const EVERY_DAY: Values = {
  ...ALL,
  cluster: [512, 64 * KIB, 2 * MIB],
  refcountBits: [1, 16, 64],
  backing: ["none", "raw", "chain"],
};

/** Smallest cluster that has subclusters: 32 of 512 bytes. */
const EXTENDED_CLUSTER_MIN = 16 * KIB;

/** What the format does not have, or qemu-img refuses. */
function isPossible(row: Row): boolean {
  const { compat, refcountBits, compression, extended, dataFile, lazy, cluster } = row;
  if (compat === "0.10" && (refcountBits !== 16 || extended || dataFile || lazy)) return false;
  if (compat === "0.10" && compression === "zstd") return false;
  if (extended && cluster < EXTENDED_CLUSTER_MIN) return false;
  return !dataFile || compression === "none";
}

function product(values: Values): Row[] {
  const rows: Row[] = [];
  for (const compat of values.compat) {
    for (const cluster of values.cluster) {
      for (const refcountBits of values.refcountBits) {
        for (const compression of values.compression) {
          for (const extended of values.extended) {
            for (const dataFile of values.dataFile) {
              for (const backing of values.backing) {
                for (const lazy of values.lazy) {
                  rows.push({
                    ...{ compat, cluster, refcountBits, compression },
                    ...{ extended, dataFile, backing, lazy },
                  });
                }
              }
            }
          }
        }
      }
    }
  }
  return rows.filter(isPossible);
}

function pairsOf(row: Row): string[] {
  const values = Object.entries(row).map(([name, value]) => `${name}=${value}`);
  return values.flatMap((left, at) => values.slice(at + 1).map((right) => `${left} ${right}`));
}

/** Rows of which each pair of values that can meet does so at least once. */
function covering(rows: readonly Row[]): Row[] {
  const open = new Set(rows.flatMap(pairsOf));
  const chosen: Row[] = [];
  while (open.size > 0) {
    let best: Row | null = null, most = 0;
    for (const row of rows) {
      const count = pairsOf(row).filter((pair) => open.has(pair)).length;
      if (count > most) [best, most] = [row, count];
    }
    assert.ok(best !== null);
    chosen.push(best);
    for (const pair of pairsOf(best)) open.delete(pair);
  }
  return chosen;
}

/** The rows for every day. */
export const FEW_ROWS: readonly Row[] = covering(product(EVERY_DAY));

/** All rows of the matrix. */
export function allRows(): Row[] {
  return product(ALL);
}

/** A row in one line. */
export function rowText(row: Row): string {
  const { compat, cluster, refcountBits, compression, extended, dataFile, backing, lazy } = row;
  return `v${compat === "1.1" ? 3 : 2} cluster ${cluster} refcounts ${refcountBits} ` +
    `compression ${compression} backing ${backing}${extended ? " extended" : ""}` +
    `${dataFile ? " data file" : ""}${lazy ? " lazy" : ""}`;
}

/** Options of `qemu-img create`, which are ours as well, but for files. */
function optionsOf(row: Row): Record<string, string | number> {
  const options: Record<string, string | number> = {
    compat: row.compat,
    cluster_size: row.cluster,
    refcount_bits: row.refcountBits,
  };
  if (row.extended) options["extended_l2"] = "on";
  if (row.lazy) options["lazy_refcounts"] = "on";
  if (row.compression === "zstd") options["compression_type"] = "zstd";
  return options;
}

/** The disk of a row. A discard in a version 2 image with something below it does nothing. */
function shapeOf(row: Row): DiskShape {
  const { cluster, compat, backing } = row;
  return {
    size: Math.max(2 * MIB, 6 * cluster) + 512 * 3,
    cluster,
    snapshots: false,
    resize: false,
    discardUnit: compat === "0.10" && backing !== "none" ? 0 : cluster,
  };
}

/** Content of all sorts: noise, words, one byte over and over, zeroes. */
function sampleContent(random: SeededRandom, size: number): Uint8Array {
  const content = new Uint8Array(size);
  for (let at = 0; at < size;) {
    const piece = content.subarray(at, at + 512 * (1 + random.below(400)));
    const sort = random.below(4);
    if (sort === 0) random.fill(piece);
    if (sort === 1) piece.fill(1 + random.below(255));
    if (sort === 2) {
      for (let index = 0; index < piece.length; index += 1) piece[index] = index % 97;
    }
    at += piece.length;
  }
  return content;
}

async function makeBacking(folder: string, row: Row, random: SeededRandom): Promise<string | null> {
  if (row.backing === "none") return null;
  // Shorter than what is above: behind its end there are zeroes.
  const size = Math.floor(shapeOf(row).size * 3 / 4 / 512) * 512;
  await Deno.writeFile(join(folder, "base.raw"), sampleContent(random, size));
  if (row.backing === "raw") return "base.raw";
  const base = join(folder, "base.qcow2");
  if (row.backing === "qcow2") {
    await qemuImg("convert", "-f", "raw", "-O", "qcow2", join(folder, "base.raw"), base);
    return "base.qcow2";
  }
  await qemuCreate(base, null, { backing_file: "base.raw", backing_fmt: "raw" });
  await qemuIo(base, [`write -P 77 ${64 * KIB} ${100 * KIB}`, `write -z 0 ${64 * KIB}`]);
  return "base.qcow2";
}

function filesOf(folder: string, row: Row, backing: string | null): Record<string, string> {
  return {
    ...(row.dataFile ? { data_file: join(folder, "image.data") } : {}),
    ...(backing === null ? {} : { backing_file: backing, backing_fmt: backing.slice(5) }),
  };
}

/** Commands of qemu-io that leave clusters of all kinds, some of them compressed. */
function qemuCommands(row: Row, random: SeededRandom): string[] {
  const shape = shapeOf(row);
  // A cluster that has data already is not compressed.
  const clusters = Math.floor(shape.size / row.cluster);
  const count = row.compression === "none" ? 0 : 6;
  const chosen = new Set(Array.from({ length: count }, () => random.below(clusters)));
  const compressed = [...chosen].map((cluster) =>
    `write -c -P ${1 + random.below(255)} ${cluster * row.cluster} ${row.cluster}`
  );
  const others = randomOperations(random.uint32(), shape, 40)
    .filter(({ kind }) => kind !== "reopen").map(operationText);
  return [...compressed, ...others];
}

/** Reads an image that QEMU's tools have made, all of it, and compares bytes and map. */
export async function readTheirs(folder: string, row: Row, seed: number): Promise<void> {
  const random = seededRandom(seed);
  const path = join(folder, "image");
  const backing = await makeBacking(folder, row, random);
  await qemuCreate(path, shapeOf(row).size, {
    ...optionsOf(row),
    ...filesOf(folder, row, backing),
  });
  await qemuIo(path, qemuCommands(row, random));
  const expected = await qemuContent(path, join(folder, "content"));
  {
    await using image = await openImage(path, "qcow2", { readOnly: true });
    assert.deepEqual(image.device.geometry.size, expected.length);
    assertBytes(await readAll(image.device), expected, "what we read of it");
    assert.deepEqual(await zeroRuns(image.device), zeroesOf(await qemuMap(path)), "our extents");
  }
  const { disk, tools } = imageAt(path, "qcow2");
  assert.ok(tools.map !== undefined);
  const ours = joinRuns(await Array.fromAsync(tools.map(disk, imageContext())));
  assert.deepEqual(ours, await qemuMap(path), "our map");
}

/** What of a map extents tell as well: where zeroes begin and end. */
function zeroesOf(runs: readonly MapRun[]): MapRun[] {
  return joinRuns(runs.map((run) => ({ ...run, depth: 0, present: true, data: !run.zero })));
}

/** The extents of a disk, in the same form. */
async function zeroRuns(device: Device): Promise<MapRun[]> {
  const runs: MapRun[] = [];
  const { size } = device.geometry;
  for (let at = 0; at < size;) {
    const request = makeRequest("extents", at, size - at);
    await device.submit(request);
    for (const { length, zero } of request.extents ?? []) {
      runs.push({ start: at, length, depth: 0, present: true, zero, data: !zero });
      at += length;
    }
  }
  return joinRuns(runs);
}

function assertBytes(found: Uint8Array, expected: Uint8Array, what: string): void {
  const at = firstDifference(found, expected);
  if (at < 0) return;
  assert.fail(`${what}: byte ${at} is ${found[at]} instead of ${expected[at]}`);
}

/** Writes `content` through an open image that compresses, then closes it. */
async function fill(path: string, content: Uint8Array): Promise<void> {
  await using image = await openImage(path, "qcow2", {}, { compress: true });
  const step = image.device.geometry.preferred;
  for (let offset = 0; offset < content.length; offset += step) {
    const data = content.slice(offset, offset + step);
    await image.device.submit(makeRequest("write", offset, data.length, { data }));
  }
}

/** Makes and writes an image with our own tools, and lets qemu-img check and compare it. */
export async function writeOurs(folder: string, row: Row, seed: number): Promise<void> {
  const random = seededRandom(seed);
  const path = join(folder, "image"), raw = join(folder, "expected");
  const shape = shapeOf(row);
  const backing = await makeBacking(folder, row, random);
  const options: Record<string, JsonValue> = {
    ...optionsOf(row),
    ...filesOf(folder, row, backing),
  };
  await createImage(path, "qcow2", shape.size, options);
  await assertSound(path, "it was made");
  let content = await qemuContent(path, raw);
  if (row.compression !== "none") {
    assert.ok(describeOptions(kindOf("qcow2").options).some(({ name }) => name === "compress"));
    content = sampleContent(random, shape.size);
    await fill(path, content);
    await assertSound(path, "compressed clusters were written");
  }
  const model = new DiskModel(shape, content);
  const operations = randomOperations(random.uint32(), shape, 120);
  {
    await using image = await openImage(path, "qcow2");
    for (const operation of operations.filter(({ kind }) => kind !== "reopen")) {
      model.apply(operation);
      await applyTo(image, operation);
    }
    assertBytes(await readAll(image.device), model.content, "what we read back");
  }
  await assertSound(path, "it was written");
  await Deno.writeFile(raw, model.content);
  await assertSame([path, "qcow2"], [raw, "raw"], "it was written");
}
