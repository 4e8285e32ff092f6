/**
 * A file whose existence switches a filter: whoever tests makes it and removes it while I/O goes on.
 *
 * @module
 */
import type { OpenContext } from "../../block/context.ts";
import { toBlockError } from "../../block/errors.ts";

/** True if there is something at `path`; what cannot be opened, a folder for instance, is there too. */
export function exists({ files }: OpenContext, path: string): boolean {
  try {
    files.open(path, { readOnly: true, direct: false, lock: false }).close();
    return true;
  } catch (error) {
    const { errno } = toBlockError(error);
    return errno !== "ENOENT" && errno !== "ENOTDIR";
  }
}
