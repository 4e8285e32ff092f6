/**
 * Where tables keep their logs on this machine: block devices by numbers or path, files by path, and
 * files of a folder by name.
 *
 * @module
 */
import { join } from "node:path";
import { BlockError, errnoText, toBlockError } from "../block/errors.ts";
import { targetNameProblem } from "../block/spec.ts";
import type { FindPlace, LogPlace } from "../dirty_log/places.ts";
import { fileStatus } from "../sys/file_status.ts";

const NUMBERS = /^\d+:\d+$/;

/** The node of a block device, which need not be among those that udev makes. */
function nodeOf(numbers: string): string {
  const byNumbers = `/dev/block/${numbers}`;
  if (fileStatus({ path: byNumbers }, true) !== null) return byNumbers;
  try {
    const facts = Deno.readTextFileSync(`/sys/dev/block/${numbers}/uevent`);
    const name = /^DEVNAME=(.+)$/m.exec(facts)?.[1];
    if (name !== undefined) return `/dev/${name}`;
  } catch {
    // There is no such device: said below.
  }
  throw new BlockError("ENODEV", `Cannot find the block device ${numbers}`);
}

function placeAt(path: string): LogPlace {
  const status = fileStatus({ path });
  if (status.kind === "block") return { path, create: false, device: status.device };
  return { path: Deno.realPathSync(path), create: false, device: null };
}

/** Finds the media of logs; `folder` is for names without a slash, and they are refused without it. */
export function systemPlaces(folder: string | null): FindPlace {
  return (name) => {
    if (NUMBERS.test(name)) return placeAt(nodeOf(name));
    if (name.includes("/")) return placeAt(name);
    const problem = targetNameProblem(name);
    if (problem !== null) {
      throw new BlockError("EINVAL", `Cannot use "${name}" as the name of a log: ${problem}`);
    }
    if (folder === null) {
      throw new BlockError("EINVAL", `Cannot keep the log ${name}: no folder for logs was given`);
    }
    return { path: join(folder, name), create: true, device: null };
  };
}

/** The real path of the folder for logs, which is made if it is missing (mode 0700). Throws BlockError. */
export function prepareLogFolder(path: string): string {
  try {
    Deno.mkdirSync(path, { recursive: true, mode: 0o700 });
    return Deno.realPathSync(path);
  } catch (error) {
    const { errno } = toBlockError(error);
    const message = `Cannot keep logs in ${path}: ${errnoText(errno)}`;
    throw new BlockError(errno, message, { cause: error });
  }
}
