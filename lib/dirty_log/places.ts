/**
 * Where disk logs are kept: what a table names as the device of its log, found on this machine. A name
 * with a slash is a path, two numbers are a block device, and any other name is a file in a folder for
 * logs, which is made when it is missing.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import type { FileAccess, RawFile } from "../sys/file_access.ts";
import { DEVICE_NAME_BYTES_MAX } from "./limits.ts";
import { SECTOR_BYTES } from "./constants.ts";
import { checkRoom, logBytes } from "./disk_layout.ts";

/** A medium that was found. */
export interface LogPlace {
  /** What to open. */
  readonly path: string;
  /** It is to be made if it is missing. */
  readonly create: boolean;
  /** Numbers of a block device, "8:1"; null for a file. */
  readonly device: string | null;
}

/** Finds media. Throws BlockError or SystemError for a name that leads nowhere. */
export type FindPlace = (name: string) => LogPlace;

/** Bytes to which new log files are rounded up. */
const FILE_UNIT_BYTES = 4096;

/** A medium that is open, and who uses it. */
export interface OpenPlace {
  /** Where it is. */
  readonly place: LogPlace;
  /** The medium; whoever gave it out closes it. */
  readonly file: RawFile;
  /** The mirror whose log it keeps. */
  readonly uuid: string;
}

interface Held extends OpenPlace {
  users: number;
}

/** Media that are open, each once, for all logs of the same mirror. */
export class OpenPlaces {
  readonly #files: FileAccess;
  readonly #find: FindPlace;
  readonly #open = new Map<string, Held>();

  /** None open yet. */
  constructor(files: FileAccess, find: FindPlace) {
    this.#files = files;
    this.#find = find;
  }

  /**
   * Opens the medium of a mirror's log, or joins who has it open. Throws EBUSY if another mirror has it,
   * EINVAL if it is too small for so many regions, and what the opening throws.
   */
  acquire(name: string, uuid: string, regions: number): OpenPlace {
    const place = this.#find(name);
    let held = this.#open.get(keyOf(place));
    if (held === undefined) {
      held = { place, uuid, users: 0, file: this.#openFile(place, regions) };
      this.#open.set(keyOf(place), held);
    } else if (held.uuid !== uuid) {
      throw new BlockError(
        "EBUSY",
        `Cannot keep the log of ${uuid} on ${place.path}: that of ${held.uuid} is there`,
      );
    }
    held.users += 1;
    try {
      this.#checkRoom(held, regions);
    } catch (error) {
      this.release(held);
      throw error;
    }
    return held;
  }

  /** Gives a medium back; the last one closes it. */
  release(place: OpenPlace): void {
    const held = this.#open.get(keyOf(place.place));
    if (held === undefined) return;
    held.users -= 1;
    if (held.users > 0) return;
    this.#open.delete(keyOf(place.place));
    held.file.close();
  }

  #openFile({ path, create, device }: LogPlace, regions: number): RawFile {
    // The kernel claims a device for itself when it hears of it, so nobody else can; and what it
    // writes there goes past the page cache.
    if (device !== null) {
      return this.#files.open(path, { readOnly: false, direct: true, lock: false });
    }
    const size = logBytes(regions, FILE_UNIT_BYTES);
    const options = { readOnly: false, direct: false, lock: true };
    return this.#files.open(path, create ? { ...options, createSize: size } : options);
  }

  #checkRoom({ place, file }: OpenPlace, regions: number): void {
    const unit = Math.max(SECTOR_BYTES, file.alignment);
    const needed = logBytes(regions, unit);
    if (place.device === null && file.size() < needed) {
      file.truncate(logBytes(regions, FILE_UNIT_BYTES));
    }
    checkRoom(place.path, file.size(), regions, unit);
  }
}

/** A device has many names and one pair of numbers. */
export function keyOf({ device, path }: LogPlace): string {
  return device ?? path;
}

/** The name of a device that may go into the reply to CTR, or null if it is too long for it. */
export function replyDevice(place: LogPlace): string | null {
  const { device } = place;
  return device !== null && device.length <= DEVICE_NAME_BYTES_MAX ? device : null;
}
