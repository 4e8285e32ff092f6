/**
 * Raw images at rest: made with or without storage reserved, looked at, mapped, resized. A raw image
 * has no metadata: byte n of the file is byte n of the disk, and a hole reads as zeroes.
 *
 * @module
 */
import type { RawFile } from "../sys/file_access.ts";
import type { OpenContext } from "./context.ts";
import { BlockError, toBlockError } from "./errors.ts";
import {
  checkShrink,
  type CreateRequest,
  type ImageContext,
  type ImageInfo,
  type ImageTools,
  type MapEntry,
  type Preallocation,
  type ResizeOptions,
} from "./image.ts";
import { EXTENTS_PER_CALL_MAX, ZERO_CHUNK_BYTES } from "./limits.ts";
import { choiceOption, optionSchema } from "./options.ts";

/** Bytes that are reserved between two looks at whether to go on. */
const ALLOCATE_BYTES = 2 ** 30;

/** What can be told of a new raw image. */
export interface RawCreateOptions {
  /** What is reserved of its storage. */
  readonly preallocation: "off" | "falloc" | "full";
}

/** Opens the file at `path` for the span of `use`. */
async function withFile<T>(
  path: string,
  readOnly: boolean,
  context: OpenContext,
  use: (file: RawFile) => T | Promise<T>,
): Promise<T> {
  const file = context.files.open(path, { readOnly, direct: false, lock: !readOnly });
  try {
    return await use(file);
  } finally {
    file.close();
  }
}

/** True if there is something at `path` that can be looked at. Throws what else hinders that. */
function exists(path: string, context: OpenContext): boolean {
  try {
    context.files.open(path, { readOnly: true, direct: false, lock: false }).close();
    return true;
  } catch (error) {
    if (toBlockError(error).errno === "ENOENT") return false;
    throw error;
  }
}

/**
 * Opens a file for a new image: made with no bytes in it or, with `replace`, emptied. It is locked. A
 * block device keeps its size. Throws EEXIST, having changed nothing, if there is a file that is to stay.
 */
export function createImageFile(path: string, replace: boolean, context: OpenContext): RawFile {
  const refusal = (): BlockError =>
    new BlockError("EEXIST", `Cannot create ${path}: it is there already, --force replaces it`);
  if (!replace && exists(path, context)) throw refusal();
  const file = context.files.open(path, {
    readOnly: false,
    direct: false,
    lock: true,
    createSize: 0,
  });
  try {
    // Somebody else may have made it in between: what has bytes in it is theirs.
    if (!replace && file.size() > 0) throw refusal();
    if (!file.isBlockDevice) file.truncate(0);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

/**
 * Reserves the storage of a range that reads as zeroes: `falloc` through the file system alone, `full`
 * by writing. Throws ENOSPC.
 */
export async function preallocate(
  file: RawFile,
  offset: number,
  length: number,
  how: RawCreateOptions["preallocation"],
  { clock, signal, progress }: ImageContext,
): Promise<void> {
  if (how === "off") return;
  const zeroes = new Uint8Array(how === "full" ? Math.min(ZERO_CHUNK_BYTES, length) : 0);
  const step = how === "full" ? zeroes.length : ALLOCATE_BYTES;
  for (let done = 0; done < length;) {
    signal.throwIfAborted();
    const size = Math.min(step, length - done);
    if (how === "full") file.write(zeroes.subarray(0, size), offset + done);
    else file.allocate(offset + done, size);
    done += size;
    progress(done, length);
    // Writing never waits: without a turn of the event loop no signal would come through.
    await clock.sleep(0);
  }
}

/** What a raw file can do of a preallocation. Throws EINVAL for metadata, which it has none of. */
function rawPreallocation(path: string, how: Preallocation): RawCreateOptions["preallocation"] {
  if (how !== "metadata") return how;
  throw new BlockError("EINVAL", `Cannot preallocate ${path}: a raw image has no metadata`);
}

function requireRoom(file: RawFile, size: number): void {
  const room = file.size();
  if (size <= room) return;
  const reason = `the device has ${room} bytes, ${size} are wanted`;
  throw new BlockError("ENOSPC", `Cannot create ${file.path}: ${reason}`);
}

async function create(
  { path }: { readonly path: string },
  { size, replace }: CreateRequest,
  { preallocation }: RawCreateOptions,
  context: ImageContext,
): Promise<void> {
  if (size === null) throw new BlockError("EINVAL", `Cannot create ${path}: it needs a size`);
  const file = createImageFile(path, replace, context);
  try {
    if (file.isBlockDevice) return requireRoom(file, size);
    file.truncate(size);
    await preallocate(file, 0, size, preallocation, context);
    await file.flushAsync();
  } finally {
    file.close();
  }
}

function info({ path }: { readonly path: string }, context: ImageContext): Promise<ImageInfo> {
  return withFile(path, true, context, (file) => ({
    virtualSize: file.size(),
    filename: path,
    format: "raw",
    actualSize: file.allocated(),
    dirtyFlag: false,
  }));
}

function entry(start: number, data: boolean, filename: string): MapEntry {
  const state = { depth: 0, present: true, zero: !data, data, compressed: false };
  return { start, length: 0, ...state, offset: start, filename };
}

/** Where the data and the holes of a raw file are. Neighbours of the same kind are one entry. */
export function* mapRawFile(file: RawFile): Generator<MapEntry> {
  const size = file.size();
  let last: MapEntry | null = null;
  for (let at = 0; at < size;) {
    for (const { length, data } of file.extents(at, size - at, EXTENTS_PER_CALL_MAX)) {
      if (last !== null && last.data !== data) {
        yield last;
        last = null;
      }
      const run: MapEntry = last ?? entry(at, data, file.path);
      last = { ...run, length: run.length + length };
      at += length;
    }
  }
  if (last !== null) yield last;
}

async function* map(
  { path }: { readonly path: string },
  context: ImageContext,
): AsyncGenerator<MapEntry> {
  const file = context.files.open(path, { readOnly: true, direct: false, lock: false });
  try {
    yield* mapRawFile(file);
  } finally {
    file.close();
  }
}

function resize(
  { path }: { readonly path: string },
  size: number,
  { shrink, preallocation }: ResizeOptions,
  context: ImageContext,
): Promise<void> {
  return withFile(path, false, context, async (file) => {
    const now = file.size(), how = rawPreallocation(path, preallocation);
    checkShrink(path, now, size, shrink);
    file.truncate(size);
    await preallocate(file, now, Math.max(0, size - now), how, context);
    await file.flushAsync();
  });
}

/**
 * Image tools of raw files and block devices.
 *
 * @example
 * ```ts
 * import { rawImage } from "./raw_image.ts";
 * import { testContext } from "../testing/mod.ts";
 * import { systemFiles } from "../sys/file.ts";
 *
 * const path = await Deno.makeTempFile();
 * const context = { ...testContext(), files: systemFiles, progress: () => {} };
 * await rawImage.create({ path }, { size: 2 ** 20, replace: true }, { preallocation: "full" }, context);
 * const { virtualSize, actualSize = 0 } = await rawImage.info({ path }, context);
 * if (virtualSize !== 2 ** 20 || actualSize < 2 ** 20) throw new Error("storage is reserved");
 * await Deno.remove(path);
 * ```
 */
export const rawImage: ImageTools<{ readonly path: string }, RawCreateOptions> = {
  format: "raw",
  createOptions: optionSchema<RawCreateOptions>({
    preallocation: choiceOption(["off", "falloc", "full"], {
      summary: "reserve storage: not, without writing, by writing zeroes",
      default: "off",
    }),
  }),
  create,
  info,
  map,
  resize,
};
