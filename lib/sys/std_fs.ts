/**
 * The functions of @std/fs that this project uses, with the signatures they have there, over what
 * the runtime has. The import map gives this file the name @std/fs, so that moving to the package is
 * one line.
 *
 * @module
 */
import { access, constants } from "node:fs/promises";

/** What else `exists` asks for. */
export interface ExistsOptions {
  /** This process may read it. */
  isReadable?: boolean;
  /** It is a directory. Excludes `isFile`. */
  isDirectory?: boolean;
  /** It is a regular file. Excludes `isDirectory`. */
  isFile?: boolean;
}

/** Makes a directory and those above it; nothing to do if it exists. Throws if something else has the name. */
export async function ensureDir(dir: string | URL): Promise<void> {
  try {
    await Deno.mkdir(dir, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    throw new Deno.errors.AlreadyExists(
      `Cannot make the directory ${dir}: something else has that name`,
      { cause: error },
    );
  }
}

/** True if there is such a file or directory and it is what `options` ask for. */
export async function exists(path: string | URL, options: ExistsOptions = {}): Promise<boolean> {
  if (options.isDirectory && options.isFile) {
    throw new TypeError("Cannot look for a file: isDirectory and isFile exclude each other");
  }
  try {
    const found = await Deno.stat(path);
    if (options.isDirectory && !found.isDirectory) return false;
    if (options.isFile && !found.isFile) return false;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
  return !options.isReadable || await access(path, constants.R_OK).then(() => true, () => false);
}
