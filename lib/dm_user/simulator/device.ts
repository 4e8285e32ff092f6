/**
 * A simulated dm device: the block layer in front of one target or several. It splits BIOs at target
 * boundaries, turns flushes into what the kernel sends, and refuses what the targets do not declare.
 *
 * @module
 */
import type { Maybe } from "../../block/types.ts";
import { REQUEST_FLAGS, REQUEST_TYPES, SECTOR_BYTES } from "../constants.ts";
import { type Bio, checkBio, type MappedBio, STATUS_EIO, STATUS_EOPNOTSUPP } from "./bio.ts";
import type { Target } from "./target.ts";

/** A target and where it is in the device. */
export interface PlacedTarget {
  /** First sector within the device. */
  readonly start: number;
  /** Sectors, at least 1. */
  readonly sectors: number;
  /** The target. */
  readonly target: Target;
}

const { PREFLUSH, FUA, SYNC } = REQUEST_FLAGS;

/** A dm device. Made by `SimulatedKernel.create`. */
export class SimulatedDevice {
  /** The device's name: `/dev/mapper/NAME`. */
  readonly name: string;
  /** Its targets, in order, without gaps. */
  readonly targets: readonly PlacedTarget[];
  /** Size in sectors. */
  readonly sectors: number;
  #openCount = 0;

  /** A device of `targets`, of which there is at least one. */
  constructor(name: string, targets: readonly PlacedTarget[]) {
    this.name = name;
    this.targets = targets;
    this.sectors = targets.reduce((sum, { sectors }) => sum + sectors, 0);
  }

  /** Size in bytes. */
  get size(): number {
    return this.sectors * SECTOR_BYTES;
  }

  /** How often the block device is open: it cannot be removed while it is. */
  get openCount(): number {
    return this.#openCount;
  }

  /** Opens the block device. Call what it gives to close it again; a second call does nothing. */
  open(): () => void {
    this.#openCount += 1;
    let open = true;
    return () => {
      if (open) this.#openCount -= 1;
      open = false;
    };
  }

  /** True if all targets declare it. */
  declares(what: "flush" | "discard" | "writeZeroes"): boolean {
    return this.targets.every(({ target }) => target.declares[what]);
  }

  /** What `dmsetup table` prints: the type without its arguments. */
  table(): string {
    return this.targets.map(({ start, sectors }) => `${start} ${sectors} user`).join("\n");
  }

  /**
   * Submits a BIO. Gives its status: 0, or minus an errno, which is EIO for all that a target fails or
   * kills and EOPNOTSUPP for what it does not declare. Throws RangeError for an impossible BIO.
   */
  submit(bio: Bio): Maybe<number> {
    const { type } = bio;
    checkBio(bio, type === REQUEST_TYPES.READ || type === REQUEST_TYPES.WRITE);
    if (type === REQUEST_TYPES.DISCARD && !this.declares("discard")) return STATUS_EOPNOTSUPP;
    if (type === REQUEST_TYPES.WRITE_ZEROES && !this.declares("writeZeroes")) {
      return STATUS_EOPNOTSUPP;
    }
    if (type !== REQUEST_TYPES.WRITE || (bio.flags & (PREFLUSH | FUA)) === 0) return this.#map(bio);
    if (!this.declares("flush")) {
      // No write cache, as far as the block layer knows: there is nothing to flush.
      return this.#map({ ...bio, flags: bio.flags - (bio.flags & (PREFLUSH | FUA)) });
    }
    if ((bio.flags & PREFLUSH) === 0) return this.#map(bio);
    return this.#flushFirst(bio);
  }

  /** The flush goes ahead as an empty write, to every target; the data follows when that is done. */
  #flushFirst(bio: Bio): Maybe<number> {
    const { type, flags, sector, length, data } = bio;
    const flush = {
      type,
      flags: flags | PREFLUSH | SYNC,
      sector,
      length: 0,
      data: data.subarray(0, 0),
    };
    const flushed = all(this.targets.map(({ target }) => mapTo(target, flush)));
    if (length === 0) return flushed;
    const follow = (status: number): Maybe<number> =>
      status === 0 ? this.#map({ ...bio, flags: flags - PREFLUSH }) : status;
    return flushed instanceof Promise ? flushed.then(follow) : follow(flushed);
  }

  #map(bio: Bio): Maybe<number> {
    const { type, sector, length } = bio;
    if (length === 0 && type === REQUEST_TYPES.WRITE) return 0;
    const end = sector + length / SECTOR_BYTES;
    if (end > this.sectors || sector >= this.sectors) return STATUS_EIO;
    const parts: Maybe<number>[] = [];
    for (const { start, sectors, target } of this.targets) {
      const from = Math.max(sector, start), to = Math.min(end, start + sectors);
      if (from < to || (length === 0 && from === sector && sector < start + sectors)) {
        parts.push(mapTo(target, partOf(bio, from, to)));
      }
    }
    return all(parts);
  }
}

function partOf(bio: Bio, from: number, to: number): Bio {
  const at = (from - bio.sector) * SECTOR_BYTES, length = (to - from) * SECTOR_BYTES;
  if (length === bio.length) return bio;
  const data = bio.data.subarray(at, at + length);
  return { type: bio.type, flags: bio.flags, sector: from, length, data };
}

function mapTo(target: Target, bio: Bio): Maybe<number> {
  let settled: number | null = null;
  let settle = (status: number): void => {
    settled = status;
  };
  const { type, flags, sector, length, data } = bio;
  const mapped: MappedBio = { type, flags, sector, length, data, done: (status) => settle(status) };
  target.map(mapped);
  if (settled !== null) return settled;
  return new Promise((resolve) => settle = resolve);
}

/** The first status that is not 0, once all are there. */
function all(parts: readonly Maybe<number>[]): Maybe<number> {
  const [only, ...others] = parts;
  if (only !== undefined && others.length === 0) return only;
  const first = (statuses: readonly number[]): number =>
    statuses.find((status) => status !== 0) ?? 0;
  const settled = parts.filter((part) => typeof part === "number");
  return settled.length === parts.length ? first(settled) : Promise.all(parts).then(first);
}
