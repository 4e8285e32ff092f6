/**
 * Images for tests of the qcow2 backend: made with a few words, opened with defaults, looked at by
 * QEMU's tools.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { qcow2, type Qcow2Options } from "../../backends/qcow2/mod.ts";
import type { OpenContext } from "../../lib/block/context.ts";
import type { ImageContext } from "../../lib/block/image.ts";
import { parseOptions } from "../../lib/block/options.ts";
import type { Opened } from "../../lib/block/types.ts";
import type { FileAccess } from "../../lib/sys/file_access.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { testClock, testContext } from "../../lib/testing/mod.ts";
import { qemuCheck } from "../support/qemu_image.ts";
import { withTempDir } from "../support/tools.ts";

/** Options of a new image as they are written on a command line. */
export type ImageWords = Readonly<Record<string, string>>;

/** The context of these tests: real files unless told otherwise, flushes on the spot. */
export function imageContext(different: Partial<OpenContext> = {}): ImageContext {
  const context = { files: systemFiles, mayBlock: true, clock: testClock, ...different };
  return { ...testContext(context), progress: () => {} };
}

/** What can be told of a qcow2 image when it is opened, from words. */
export function openOptions(path: string, words: ImageWords = {}): Qcow2Options {
  const values = new Map<string, unknown>([["path", path], ...Object.entries(words)]);
  return parseOptions(qcow2.options, values, { action: "open qcow2" });
}

/** Makes an image; `size` in bytes, or null for that of its backing file. */
export async function makeImage(
  path: string,
  size: number | null,
  words: ImageWords = {},
  different: Partial<OpenContext> = {},
): Promise<void> {
  const tools = qcow2.image;
  assert.ok(tools !== undefined);
  const options = parseOptions(tools.createOptions, new Map(Object.entries(words)), {
    action: "create qcow2",
  });
  const disk = openOptions(path);
  await tools.create(disk, { size, replace: false }, options, imageContext(different));
}

/** Opens an image. */
export function openQcow2(
  path: string,
  words: ImageWords = {},
  different: Partial<OpenContext> = {},
): Promise<Opened> {
  return qcow2.open(openOptions(path, words), imageContext(different));
}

/** What qemu-img finds in a copy of an image that is in other files than real ones. */
export function checkCopy(
  files: FileAccess,
  path: string,
): Promise<{ code: number; text: string }> {
  return withTempDir(async (folder) => {
    const copy = join(folder, "copy.qcow2");
    const file = files.open(path, { readOnly: true, direct: false, lock: false });
    const bytes = new Uint8Array(file.size());
    file.read(bytes, 0);
    file.close();
    await Deno.writeFile(copy, bytes);
    return await qemuCheck(copy);
  });
}
