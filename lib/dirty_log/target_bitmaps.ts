/**
 * The dirty bitmaps of one target: its Device asks them before each change, protocols read them, and
 * whoever administrates the target makes, freezes and forgets them.
 *
 * @module
 */
import type { BitmapRun, DeviceBitmaps } from "../block/bitmaps.ts";
import type { Log } from "../block/context.ts";
import type { Device } from "../block/device.ts";
import { BlockError, toBlockError } from "../block/errors.ts";
import type { Maybe } from "../block/types.ts";
import type { RawFile } from "../sys/file_access.ts";
import { BitmapMedium, regionsOf } from "./bitmap_medium.ts";
import { type BitmapFacts, DirtyBitmap } from "./dirty_bitmap.ts";
import {
  BITMAP_NAME_LENGTH_MAX,
  BITMAPS_MAX,
  GRANULARITY_BYTES_DEFAULT,
  GRANULARITY_BYTES_MAX,
  GRANULARITY_BYTES_MIN,
  REGIONS_MAX,
} from "./limits.ts";

/** Where the bitmaps of a target outlive the daemon. All calls throw BlockError or SystemError. */
export interface BitmapFolder {
  /** The names of those that are there, sorted. */
  names(): readonly string[];
  /** The two files of one, which are made, durably, if they are missing; locked. */
  open(name: string): readonly [RawFile, RawFile];
  /** Removes the files of one, durably. */
  remove(name: string): void;
}

/** Something that is done to the bitmaps of a target. Plain data. */
export type BitmapCommand =
  | { readonly action: "list" }
  | {
    readonly action: "add";
    readonly name: string;
    /** Bytes: a power of two. GRANULARITY_BYTES_DEFAULT, or what the size needs, if left out. */
    readonly granularity?: number;
    readonly persistent: boolean;
    /** All counts as changed at the beginning. */
    readonly marked?: boolean;
  }
  | { readonly action: "clear" | "freeze" | "drop" | "merge" | "remove"; readonly name: string };

/** What bitmaps need of their target. */
export interface TargetBitmapsOptions {
  /** The disk; its `bitmaps` is the caller's to set. */
  readonly device: Pick<Device, "name" | "geometry" | "quietly">;
  /** Null if none outlives the daemon. */
  readonly folder: BitmapFolder | null;
  /** 32 bytes that say which storage it is: marks of other storage say nothing about it. */
  readonly identity: Uint8Array;
  /** Calls may keep their thread. */
  readonly mayBlock: boolean;
  /** Messages for a human. */
  readonly log: Log;
}

/** Actions after which a region is clean that was not. */
const FLUSHED: readonly BitmapCommand["action"][] = ["add", "clear", "freeze"];

/** What is wrong with the name of a bitmap, or null. */
export function bitmapNameProblem(name: string): string | null {
  if (name.length > BITMAP_NAME_LENGTH_MAX) {
    return `a bitmap's name has at most ${BITMAP_NAME_LENGTH_MAX} characters`;
  }
  if (/^[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(name)) return null;
  return "a bitmap's name is made of letters, digits, dots, underscores and hyphens, no dot first";
}

/** What is wrong with a granularity in bytes, or null. */
export function granularityProblem(bytes: number): string | null {
  const inside = bytes >= GRANULARITY_BYTES_MIN && bytes <= GRANULARITY_BYTES_MAX;
  if (inside && Number.isInteger(Math.log2(bytes))) return null;
  return `a granularity is a power of two from ${GRANULARITY_BYTES_MIN} to ` +
    `${GRANULARITY_BYTES_MAX} bytes`;
}

/** The granularity of a bitmap over so many bytes for which none was told. */
export function defaultGranularity(size: number): number {
  let granularity = GRANULARITY_BYTES_DEFAULT;
  while (regionsOf({ size, granularity }) > REGIONS_MAX) granularity *= 2;
  return granularity;
}

/** See the top of the file. */
export class TargetBitmaps implements DeviceBitmaps {
  readonly #options: TargetBitmapsOptions;
  #bitmaps: readonly DirtyBitmap[] = [];
  #names: readonly string[] = [];

  /** None yet. */
  constructor(options: TargetBitmapsOptions) {
    this.#options = options;
  }

  get names(): readonly string[] {
    return this.#names;
  }

  /** What there is to know of each, in the order in which they were made. */
  get facts(): BitmapFacts[] {
    return this.#bitmaps.map(({ facts }) => facts);
  }

  /**
   * Takes up those of the folder, before the target is used. Throws EAGAIN if another daemon has one, EIO
   * if one cannot be kept: changes would go unmarked.
   */
  load(): void {
    const { folder } = this.#options;
    try {
      for (const name of folder?.names() ?? []) this.#take(this.#loaded(name));
    } catch (error) {
      this.close();
      throw toBlockError(error);
    }
  }

  changing(offset: number, length: number): Maybe<void> {
    let waits: Promise<void>[] | null = null;
    for (const bitmap of this.#bitmaps) {
      const wait = bitmap.mark(offset, length);
      if (wait !== undefined) (waits ??= []).push(wait);
    }
    return waits === null ? undefined : Promise.all(waits).then(() => {});
  }

  get wantsAhead(): boolean {
    return this.#options.mayBlock && this.#bitmaps.some(({ facts: { persistent } }) => persistent);
  }

  willChange(offset: number, length: number): void {
    for (const bitmap of this.#bitmaps) bitmap.markSoon(offset, length);
  }

  checkSize(size: number): void {
    for (const { name, facts: { granularity } } of this.#bitmaps) {
      this.#checkRoom(name, size, granularity);
    }
  }

  resized(size: number): void {
    for (const bitmap of this.#bitmaps) bitmap.resize(size);
  }

  runs(name: string, offset: number, length: number): BitmapRun[] {
    return this.#find(name, "read").runs(offset, length);
  }

  /**
   * All of the storage may have changed past the Device: a snapshot was applied, for instance. Call it
   * while nothing is in flight, before that is done.
   */
  async markAll(): Promise<void> {
    for (const bitmap of this.#bitmaps) await bitmap.markAll();
  }

  /**
   * Does it and gives what there is then. Errno: EINVAL for what is not there or wrong, EEXIST, ENOSPC
   * past BITMAPS_MAX, EBUSY for a bitmap with a frozen point, EOPNOTSUPP if none can be kept, EIO.
   */
  async run(command: BitmapCommand): Promise<BitmapFacts[]> {
    const { device } = this.#options;
    try {
      // Between a mark and the write that it is for nothing may be taken for clean; and what was written
      // before must not be undone by a crash afterwards, when no mark tells of it any more.
      if (command.action === "list") return this.facts;
      await device.quietly(async (flush) => {
        if (FLUSHED.includes(command.action)) await flush();
        this.#run(command);
      });
    } catch (error) {
      throw toBlockError(error);
    }
    return this.facts;
  }

  /** Closes what is open; what is marked is durable already. */
  close(): void {
    for (const bitmap of this.#bitmaps) bitmap.close();
    this.#bitmaps = [];
    this.#names = [];
  }

  #run(command: Exclude<BitmapCommand, { action: "list" }>): void {
    switch (command.action) {
      case "add":
        return this.#add(command);
      case "remove":
        return this.#remove(command.name);
      default:
        return this.#find(command.name, command.action)[command.action]();
    }
  }

  #add(command: Extract<BitmapCommand, { action: "add" }>): void {
    const { name, persistent, marked = false } = command;
    const { geometry: { size } } = this.#options.device;
    const { granularity = defaultGranularity(size) } = command;
    const problem = bitmapNameProblem(name) ?? granularityProblem(granularity);
    if (problem !== null) throw this.#refusal("EINVAL", name, problem);
    if (this.#names.includes(name)) {
      throw this.#refusal("EEXIST", name, "there is one of this name");
    }
    if (this.#bitmaps.length >= BITMAPS_MAX) {
      throw this.#refusal("ENOSPC", name, `a target has at most ${BITMAPS_MAX}`);
    }
    this.#checkRoom(name, size, granularity);
    const bitmap = this.#made(
      name,
      granularity,
      persistent ? this.#medium(name, granularity) : null,
    );
    try {
      bitmap.begin(marked);
    } catch (error) {
      bitmap.close();
      if (persistent) this.#options.folder?.remove(name);
      throw error;
    }
    this.#take(bitmap);
  }

  #remove(name: string): void {
    const bitmap = this.#find(name, "remove");
    const { persistent, frozen } = bitmap.facts;
    if (frozen) {
      const reason = "a point is frozen, a backup may be reading it; drop or merge it first";
      const { name: target } = this.#options.device;
      throw new BlockError("EBUSY", `Cannot remove bitmap ${name} of ${target}: ${reason}`);
    }
    if (persistent) this.#options.folder?.remove(name);
    bitmap.close();
    this.#bitmaps = this.#bitmaps.filter((each) => each !== bitmap);
    this.#names = this.#bitmaps.map((each) => each.name);
  }

  #loaded(name: string): DirtyBitmap {
    const { device, log } = this.#options;
    const { size } = device.geometry;
    const medium = this.#medium(name, defaultGranularity(size));
    try {
      const { granularity, clean, frozen, problem } = medium.load(size);
      this.#checkRoom(name, size, granularity);
      if (problem !== null) {
        log.warn(`Bitmap ${name} of ${device.name}: ${problem}: all of the disk is marked`);
      }
      const bitmap = this.#made(name, granularity, medium);
      bitmap.takeUp(clean, frozen);
      return bitmap;
    } catch (error) {
      medium.close();
      throw error;
    }
  }

  #medium(name: string, granularity: number): BitmapMedium {
    const { folder, identity, device: { geometry: { size } } } = this.#options;
    if (folder === null) {
      const reason = "this daemon has no folder for bitmaps; start it with --bitmaps DIR";
      throw this.#refusal("EOPNOTSUPP", name, reason);
    }
    return new BitmapMedium(folder.open(name), identity, { size, granularity });
  }

  #checkRoom(name: string, size: number, granularity: number): void {
    if (regionsOf({ size, granularity }) <= REGIONS_MAX) return;
    const { name: target } = this.#options.device;
    throw new BlockError(
      "EINVAL",
      `Cannot keep bitmap ${name} of ${target} for a disk of ${size} bytes: with a granularity of ` +
        `${granularity} bytes it has at most ${REGIONS_MAX * granularity}`,
    );
  }

  #made(name: string, granularity: number, medium: BitmapMedium | null): DirtyBitmap {
    const { device: { name: target, geometry: { size } }, mayBlock } = this.#options;
    return new DirtyBitmap({ name, target, size, granularity, medium, mayBlock });
  }

  #take(bitmap: DirtyBitmap): void {
    this.#bitmaps = [...this.#bitmaps, bitmap];
    this.#names = this.#bitmaps.map(({ name }) => name);
  }

  #find(name: string, verb: string): DirtyBitmap {
    const found = this.#bitmaps.find((each) => each.name === name);
    if (found !== undefined) return found;
    const { name: target } = this.#options.device;
    throw new BlockError("EINVAL", `Cannot ${verb} bitmap ${name} of ${target}: there is none`);
  }

  #refusal(
    errno: "EINVAL" | "EEXIST" | "ENOSPC" | "EOPNOTSUPP",
    name: string,
    reason: string,
  ): BlockError {
    const { name: target } = this.#options.device;
    return new BlockError(errno, `Cannot add bitmap ${name} to ${target}: ${reason}`);
  }
}
