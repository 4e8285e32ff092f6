/**
 * Backing files: finding the file that a name in an image stands for, and opening what is there as a
 * layer, with everything below it.
 *
 * @module
 */
import { dirname, isAbsolute, join, resolve } from "node:path";
import type { OpenContext } from "../../../lib/block/context.ts";
import { BlockError } from "../../../lib/block/errors.ts";
import { QCOW_MAGIC, type QcowHeader } from "../format/header.ts";
import { viewOf } from "../format/numbers.ts";
import { type Layer, rawLayer } from "./backing.ts";
import { BACKING_DEPTH_MAX } from "./limits.ts";

/** How the layers of a chain are opened. */
export interface ChainSettings {
  /** Take read locks. */
  readonly lock: boolean;
  /** Most memory for the L2 tables of each image, bytes. */
  readonly cacheBytes: number;
  /** Opens an image of the chain, read-only, with what is below it. */
  readonly openImage: (path: string, above: readonly string[]) => Layer;
}

/** A backing file as an image, or whoever opens it, names it. */
export interface BackingName {
  /** The name, relative to the folder of the image. */
  readonly name: string;
  /** "raw", "qcow2", another, or null if it is to be found out. */
  readonly format: string | null;
}

/**
 * The path that a name in the image at `path` stands for: relative names are relative to its folder.
 * Throws EOPNOTSUPP for what names no file.
 */
export function pathInImage(path: string, name: string): string {
  const plain = name.startsWith("file:") ? name.slice("file:".length) : name;
  const colon = plain.indexOf(":"), slash = plain.indexOf("/");
  if (name.startsWith("json:") || (plain === name && colon > 0 && (slash < 0 || colon < slash))) {
    throw new BlockError(
      "EOPNOTSUPP",
      `Cannot open what ${path} names as "${name}": only names of files are supported`,
    );
  }
  return isAbsolute(plain) ? plain : join(dirname(path), plain);
}

/** The backing file that an image names; null if it has none. */
export function backingNameOf(header: QcowHeader): BackingName | null {
  if (header.backingFile === null) return null;
  return { name: header.backingFile, format: header.backingFormat };
}

/** "qcow2" if the file at `path` begins like one, else "raw". */
function probe(path: string, { files }: OpenContext): "raw" | "qcow2" {
  const file = files.open(path, { readOnly: true, direct: false, lock: false });
  try {
    const start = new Uint8Array(4);
    file.read(start, 0);
    return viewOf(start).getUint32(0) === QCOW_MAGIC ? "qcow2" : "raw";
  } finally {
    file.close();
  }
}

/**
 * Opens the backing file of the image at the end of `above`, the paths from the topmost image down.
 * Throws ELOOP for a chain that leads back into itself or is too long, EOPNOTSUPP for other formats, and
 * what files throw, naming who wanted the file.
 */
export function openBacking(
  { name, format }: BackingName,
  above: readonly string[],
  settings: ChainSettings,
  context: OpenContext,
): Layer {
  const owner = above.at(-1) ?? "";
  const path = pathInImage(owner, name);
  if (above.some((each) => resolve(each) === resolve(path))) {
    throw new BlockError("ELOOP", `Cannot open ${owner}: its backing files lead back to ${path}`);
  }
  if (above.length > BACKING_DEPTH_MAX) {
    throw new BlockError(
      "ELOOP",
      `Cannot open ${owner}: there are more than ${BACKING_DEPTH_MAX} backing files`,
    );
  }
  const found = format ?? probe(path, context);
  if (format === null) {
    context.log.warn(
      `The format of ${path}, backing file of ${owner}, is not recorded; it looks like ${found}. ` +
        "Record it: a guest that writes to a raw disk can make it look like another format",
    );
  }
  if (found === "qcow2") return settings.openImage(path, above);
  if (found === "raw" || found === "file" || found === "host_device") {
    return rawLayer(
      context.files.open(path, { readOnly: true, direct: false, lock: settings.lock }),
    );
  }
  throw new BlockError(
    "EOPNOTSUPP",
    `Cannot open ${path}, backing file of ${owner}: format ${found} is not supported`,
  );
}
