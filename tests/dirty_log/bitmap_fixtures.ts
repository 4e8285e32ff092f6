/**
 * What tests of dirty bitmaps share: a Device in memory with bitmaps that outlive it in files that can
 * crash, and a model of what such a bitmap has to say.
 *
 * @module
 */
import { memory } from "../../backends/memory.ts";
import { Device } from "../../lib/block/device.ts";
import { makeRequest } from "../../lib/block/request.ts";
import type { Backend } from "../../lib/block/types.ts";
import { type BitmapFolder, TargetBitmaps } from "../../lib/dirty_log/target_bitmaps.ts";
import type { FileAccess, RawFile } from "../../lib/sys/file_access.ts";
import { testClock } from "../../lib/testing/mod.ts";
import { MemoryLog, type SeededRandom, testContext } from "../support/context.ts";

/** Which storage the bitmaps of the tests are about. */
export const IDENTITY: Uint8Array = new Uint8Array(32).fill(7);

/** Bitmaps in files by name; the names that were opened are there. */
export class MemoryFolder implements BitmapFolder {
  readonly #files: FileAccess;
  readonly #names: Set<string>;

  /** `names` outlive this object. */
  constructor(files: FileAccess, names: Set<string>) {
    this.#files = files;
    this.#names = names;
  }

  names(): readonly string[] {
    return [...this.#names].sort();
  }

  open(name: string): readonly [RawFile, RawFile] {
    this.#names.add(name);
    const options = { readOnly: false, createSize: 0, direct: false, lock: true };
    return [this.#files.open(`${name}.0`, options), this.#files.open(`${name}.1`, options)];
  }

  remove(name: string): void {
    this.#names.delete(name);
  }
}

/** A memory disk of so many bytes. */
export async function memoryDisk(size: number): Promise<Backend> {
  return (await memory.open({ size, limit: 2 ** 40 }, testContext())).backend;
}

/** How a disk with bitmaps is made. */
export interface BitmapDiskOptions {
  readonly folder?: BitmapFolder | null;
  readonly identity?: Uint8Array;
  readonly mayBlock?: boolean;
  readonly log?: MemoryLog;
  /** False plants a bug: what is done to bitmaps does not wait for what is in flight. */
  readonly waits?: boolean;
}

/** A Device over `backend`, and its bitmaps. */
export function bitmapDisk(
  backend: Backend,
  options: BitmapDiskOptions = {},
): { readonly device: Device; readonly bitmaps: TargetBitmaps } {
  const { folder = null, identity = IDENTITY, mayBlock = true, log = new MemoryLog() } = options;
  const device = new Device(backend, { name: "disk", clock: testClock, log });
  const hasty: Pick<Device, "name" | "geometry" | "quietly"> = {
    name: device.name,
    get geometry() {
      return device.geometry;
    },
    quietly: (work) => Promise.resolve(work(() => undefined)),
  };
  const disk = options.waits === false ? hasty : device;
  const bitmaps = new TargetBitmaps({ device: disk, folder, identity, mayBlock, log });
  bitmaps.load();
  device.bitmaps = bitmaps;
  return { device, bitmaps };
}

/** Every run of a bitmap over the whole disk, as the offsets and ends of what is dirty. */
export async function dirtyRanges(device: Device, bitmap: string): Promise<[number, number][]> {
  const { size } = device.geometry;
  const ranges: [number, number][] = [];
  for (let at = 0; at < size;) {
    const request = makeRequest("extents", at, size - at, { bitmap });
    await device.submit(request);
    for (const { length, dirty } of request.runs ?? []) {
      const last = ranges.at(-1);
      if (dirty && last?.[1] === at) last[1] = at + length;
      else if (dirty) ranges.push([at, at + length]);
      at += length;
    }
  }
  return ranges;
}

/** A change of a disk, at random. */
export interface RandomChange {
  readonly operation: "write" | "zero" | "trim";
  readonly offset: number;
  readonly length: number;
}

/** Some change within `size` bytes, at any byte, mostly short. */
export function randomChange(random: SeededRandom, size: number): RandomChange {
  const operations = ["write", "write", "zero", "trim"] as const;
  const operation = operations[random.below(operations.length)] ?? "write";
  const longest = random.below(8) === 0 ? size : Math.min(size, 20_000);
  const length = 1 + random.below(longest);
  return { operation, offset: random.below(size - length + 1), length };
}

/** Does it; data of writes is random. */
export async function submitChange(
  device: Device,
  { operation, offset, length }: RandomChange,
  random: SeededRandom,
): Promise<void> {
  const data = new Uint8Array(operation === "write" ? length : 0);
  random.fill(data);
  await device.submit(makeRequest(operation, offset, length, { data }));
}

/** The regions of `granularity` bytes that changes touch, in order. */
export function touched(changes: readonly RandomChange[], granularity: number): number[] {
  const regions = new Set<number>();
  for (const { offset, length } of changes) {
    const last = Math.floor((offset + length - 1) / granularity);
    for (let at = Math.floor(offset / granularity); at <= last; at += 1) regions.add(at);
  }
  return [...regions].sort((a, b) => a - b);
}

/** Regions as the ranges of bytes that `dirtyRanges` gives. */
export function rangesOf(
  regions: readonly number[],
  granularity: number,
  size: number,
): [number, number][] {
  const ranges: [number, number][] = [];
  for (const region of regions) {
    const start = region * granularity, end = Math.min(size, start + granularity);
    const last = ranges.at(-1);
    if (last?.[1] === start) last[1] = end;
    else ranges.push([start, end]);
  }
  return ranges;
}
