/**
 * Images of all sorts, made and filled by QEMU's tools, for tests of the format and of image tools.
 *
 * @module
 */
import { join } from "node:path";
import type { SeededRandom } from "../support/context.ts";
import { qemuImg, qemuIo } from "../support/qemu_image.ts";

/** An image to make. */
export interface ImageShape {
  /** Name for the test and the file. */
  readonly name: string;
  /** Options of `qemu-img create -o`. */
  readonly options: string;
  /** Size of the disk, as qemu-img takes it. */
  readonly size: string;
}

/** Versions, cluster sizes, refcount widths, compressions, subclusters and data files. */
export const SHAPES: readonly ImageShape[] = [
  { name: "version 2", options: "compat=0.10", size: "7M" },
  { name: "version 3", options: "compat=1.1", size: "7M" },
  { name: "512 B clusters", options: "cluster_size=512", size: "3M" },
  { name: "2 MiB clusters", options: "cluster_size=2M", size: "40M" },
  {
    name: "4 KiB clusters, 1-bit refcounts",
    options: "cluster_size=4k,refcount_bits=1",
    size: "5M",
  },
  { name: "2-bit refcounts", options: "refcount_bits=2,cluster_size=512", size: "2M" },
  { name: "4-bit refcounts", options: "refcount_bits=4,cluster_size=1k", size: "2M" },
  { name: "8-bit refcounts", options: "refcount_bits=8,cluster_size=2k", size: "2M" },
  { name: "32-bit refcounts", options: "refcount_bits=32,cluster_size=8k", size: "9M" },
  { name: "64-bit refcounts", options: "refcount_bits=64,cluster_size=16k", size: "9M" },
  { name: "zstd", options: "compression_type=zstd", size: "7M" },
  { name: "extended L2", options: "extended_l2=on,cluster_size=128k", size: "9M" },
  { name: "extended L2, small", options: "extended_l2=on,cluster_size=16k", size: "5M" },
  { name: "lazy refcounts", options: "lazy_refcounts=on", size: "7M" },
  { name: "size 0", options: "cluster_size=4k", size: "0" },
  { name: "odd size", options: "cluster_size=4k", size: "1234944" },
];

/** Makes an image with qemu-img; gives its path. */
export async function createImage(folder: string, shape: ImageShape): Promise<string> {
  const path = join(folder, `${shape.name.replaceAll(/[^a-z0-9]+/gi, "-")}.qcow2`);
  await qemuImg("create", "-q", "-f", "qcow2", "-o", shape.options, path, shape.size);
  return path;
}

/** Bytes of a size as qemu-img takes it. */
function bytesOf(size: string): number {
  const number = parseInt(size, 10);
  return size.endsWith("M") ? number << 20 : number;
}

/** What to put into an image besides data and zeroes. */
export interface Filling {
  /** Internal snapshots with writes in between. */
  readonly snapshots?: boolean;
  /** Compressed clusters. */
  readonly compressed?: boolean;
  /** Bitmaps. */
  readonly bitmaps?: boolean;
}

/** Writes data, zeroes, discards and more into an image, as the random source has it. */
export async function fillImage(
  path: string,
  size: string,
  random: SeededRandom,
  { snapshots = false, compressed = false, bitmaps = false }: Filling = {},
): Promise<void> {
  const sectors = Math.floor(bytesOf(size) / 512);
  if (sectors === 0) return;
  const some = (): string => {
    const at = random.below(sectors);
    const length = 1 + random.below(Math.min(sectors - at, 700));
    return `${at * 512} ${length * 512}`;
  };
  const writes = (count: number): string[] =>
    Array.from({ length: count }, () => {
      const pattern = 1 + random.below(255);
      return [
        `write -P ${pattern} ${some()}`,
        `write -P ${pattern} ${some()}`,
        `write -z ${some()}`,
        `write -z -u ${some()}`,
        `discard ${some()}`,
      ][random.below(5)] ?? "";
    });
  if (compressed) {
    const told: { readonly "cluster-size": number } = JSON.parse(
      await qemuImg("info", "--output=json", path),
    );
    const cluster = told["cluster-size"];
    const clusters = Math.floor(sectors * 512 / cluster);
    // QEMU writes compressed data to new clusters alone, so each place once and before anything else.
    const places = new Set(Array.from({ length: 12 }, () => random.below(clusters) * cluster));
    await qemuIo(
      path,
      [...places].map((at) => `write -c -P ${1 + random.below(255)} ${at} ${cluster}`),
    );
  }
  await qemuIo(path, writes(12));
  if (snapshots) {
    await qemuImg("snapshot", "-c", "first", path);
    await qemuIo(path, writes(5));
    await qemuImg("snapshot", "-c", "second", path);
    await qemuIo(path, writes(4));
  }
  if (bitmaps) {
    await qemuImg("bitmap", "--add", "-g", "64k", path, "kept");
    await qemuIo(path, writes(2));
  }
}
