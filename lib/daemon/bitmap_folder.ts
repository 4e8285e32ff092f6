/**
 * Where dirty bitmaps outlive the daemon: a folder with one folder for each target, and in it two files
 * for each bitmap.
 *
 * @module
 */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmdirSync,
  unlinkSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { BlockError, toBlockError } from "../block/errors.ts";
import type { BitmapFolder } from "../dirty_log/target_bitmaps.ts";
import type { FileAccess, RawFile } from "../sys/file_access.ts";

/** Only for the user of the daemon. */
const FOLDER_MODE = 0o700;

function syncFolder(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function isMissing(error: unknown): boolean {
  return toBlockError(error).errno === "ENOENT";
}

/** The bitmaps of a target in its part of the folder `top`, which need not be there. */
export function bitmapFolder(top: string, target: string, files: FileAccess): BitmapFolder {
  const folder = join(top, target);
  const pathOf = (name: string, slot: number): string => join(folder, `${name}.${slot}.bitmap`);
  const openSlot = (name: string, slot: number): RawFile =>
    files.open(pathOf(name, slot), { readOnly: false, createSize: 0, direct: false, lock: true });

  const attempt = <T>(what: string, step: () => T): T => {
    try {
      return step();
    } catch (error) {
      const { errno, message } = toBlockError(error);
      const reason = errno === "EAGAIN" ? "another daemon has it" : message;
      throw new BlockError(errno, `Cannot ${what} of ${target}: ${reason}`, { cause: error });
    }
  };

  return {
    names: () =>
      attempt("look for bitmaps", () => {
        try {
          const found = readdirSync(folder).map((name) => /^(.+)\.[01]\.bitmap$/.exec(name)?.[1]);
          return [...new Set(found.filter((name) => name !== undefined))].sort();
        } catch (error) {
          if (isMissing(error)) return [];
          throw error;
        }
      }),

    open: (name) =>
      attempt(`open bitmap ${name}`, () => {
        const made = mkdirSync(folder, { recursive: true, mode: FOLDER_MODE });
        if (made !== undefined) {
          for (const each of [folder, top, dirname(top)]) syncFolder(each);
        }
        const first = openSlot(name, 0);
        try {
          return [first, openSlot(name, 1)];
        } catch (error) {
          first.close();
          throw error;
        }
      }),

    remove: (name) =>
      attempt(`remove bitmap ${name}`, () => {
        for (const slot of [0, 1]) {
          try {
            unlinkSync(pathOf(name, slot));
          } catch (error) {
            if (!isMissing(error)) throw error;
          }
        }
        syncFolder(folder);
        try {
          rmdirSync(folder);
        } catch {
          // Others are in there.
        }
      }),
  };
}
