/**
 * The same operations go to our backend and to QEMU's tools, on twin images. At each checkpoint both
 * are closed and compared: content with the model and with each other, `qemu-img map` of both and our
 * own map, `qemu-img check` of both. A script that fails is made as short as possible, and printed.
 *
 * @module
 */
import assert from "node:assert/strict";
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { firstDifference } from "../../lib/block/compare.ts";
import {
  assertSame,
  joinRuns,
  type MapLine,
  type MapRun,
  qemuCheck,
  qemuCreate,
  qemuMapLines,
} from "../support/qemu_image.ts";
import { withTempDir } from "../support/tools.ts";
import { DiskModel, type DiskShape, type Operation, operationText } from "./operations.ts";
import {
  type Format,
  imageAt,
  imageContext,
  openImage,
  OurSide,
  QemuSide,
  readAll,
} from "./sides.ts";

/** What the twins are. */
export interface Twins {
  readonly name: string;
  readonly format: Format;
  readonly shape: DiskShape;
  /** Options of `qemu-img create`, but for the backing file. */
  readonly options: Readonly<Record<string, string | number>>;
  /** The backing file: none, raw, or qcow2 with half of it written. */
  readonly backing?: Format;
  /** A planted bug: our side is told something else. */
  readonly plant?: (operation: Operation) => Operation;
}

/** Byte that a backing file is made of. */
const BACKING_BYTE = 0xbb;

/** Makes the backing file; gives its content. */
async function makeBacking(path: string, twins: Twins): Promise<Uint8Array> {
  const { backing, shape: { size, cluster } } = twins;
  const content = new Uint8Array(size);
  if (backing === undefined) return content;
  await qemuCreate(path, size, {}, backing);
  const side = new QemuSide(path, backing);
  // Half of it, in pieces that begin and end inside clusters of the image above.
  const step = cluster * 4, length = cluster * 2 + 512;
  for (let offset = 512; offset + length <= size; offset += step) {
    await side.apply({ kind: "write", offset, length, byte: BACKING_BYTE });
    content.fill(BACKING_BYTE, offset, offset + length);
  }
  await side.close();
  return content;
}

async function makeImage(folder: string, name: string, twins: Twins): Promise<string> {
  const { format, options, backing, shape } = twins;
  const path = join(folder, name);
  const own = { ...options };
  if (own["data_file"] !== undefined) own["data_file"] = `${path}.data`;
  const below = backing === undefined ? {} : { backing_file: `${name}.base`, backing_fmt: backing };
  await qemuCreate(path, shape.size, { ...own, ...below }, format);
  return path;
}

async function ourMap(path: string, format: Format): Promise<MapLine[]> {
  const { disk, tools } = imageAt(path, format);
  const entries = await Array.fromAsync(tools.map?.(disk, imageContext()) ?? []);
  return entries.map(({ start, length, depth, present, zero, data, offset }) => (
    { start, length, depth, present, zero, data, offset }
  ));
}

async function ourContent(path: string, format: Format): Promise<Uint8Array> {
  await using image = await openImage(path, format, { readOnly: true });
  return await readAll(image.device);
}

function differenceText(left: Uint8Array, right: Uint8Array): string | null {
  if (left.length !== right.length) return `${left.length} bytes instead of ${right.length}`;
  const at = firstDifference(left, right);
  return at < 0 ? null : `byte ${at} is ${left[at]} instead of ${right[at]}`;
}

/**
 * What both have to agree on. QEMU commits in pieces of 64 KiB and more: zeroes beside data are data of
 * the backing file then. And it reserves nothing for zeroes in part of a cluster, so that it does not
 * see them when all of the cluster is discarded: whether subclusters of zeroes are there may differ.
 */
function comparable(lines: readonly MapLine[], { shape, options }: Twins): MapLine[] {
  const subclusters = options["extended_l2"] === "on";
  return lines.map((line) => {
    if (line.depth > 0 && shape.commits === true) {
      return { ...line, present: true, zero: false, data: true };
    }
    return subclusters && line.zero && !line.data ? { ...line, present: true } : line;
  });
}

/** Closes both sides and compares them with each other and with the model. */
async function checkpoint(
  ours: OurSide,
  theirs: QemuSide,
  model: DiskModel,
  twins: Twins,
): Promise<void> {
  const { format } = twins;
  await ours.close();
  await theirs.close();
  const wrong = differenceText(await ourContent(ours.path, format), model.content);
  assert.equal(wrong, null, `our content: ${wrong}`);
  await assertSame([ours.path, format], [theirs.path, format], "the script");
  if (format === "raw") return; // what is a hole is the file system's business
  for (const path of [theirs.path, ours.path]) {
    const { code, text } = await qemuCheck(path, format);
    assert.equal(code, 0, `qemu-img check of ${path}:\n${text}`);
  }
  const theirMap = await qemuMapLines(theirs.path, format);
  const found = await qemuMapLines(ours.path, format);
  const same = (lines: readonly MapLine[]): MapRun[] => joinRuns(comparable(lines, twins));
  assert.deepEqual(same(found), same(theirMap), "qemu-img map of our image");
  assert.deepEqual(await ourMap(ours.path, format), found, "our map of our image");
  assert.deepEqual(await ourMap(theirs.path, format), theirMap, "our map of their image");
  if (twins.options["data_file_raw"] !== "on") return;
  for (const path of [theirs.path, ours.path]) {
    // QEMU makes the file whole clusters long.
    const data = (await Deno.readFile(`${path}.data`)).subarray(0, model.content.length);
    const difference = differenceText(data, model.content);
    assert.equal(difference, null, `the data file ${path}.data: ${difference}`);
  }
}

/** Runs operations on new twins; throws at the first difference. */
async function runScript(
  twins: Twins,
  operations: readonly Operation[],
  every: number,
): Promise<void> {
  await withTempDir(async (folder) => {
    const model = new DiskModel(
      twins.shape,
      await makeBacking(join(folder, "ours.base"), twins),
    );
    await makeBacking(join(folder, "theirs.base"), twins);
    const ours = new OurSide(await makeImage(folder, "ours", twins), twins.format);
    const theirs = new QemuSide(await makeImage(folder, "theirs", twins), twins.format);
    try {
      let count = 0;
      for (const operation of operations) {
        if (!model.fits(operation)) continue; // what it needs was left out of a shorter script
        model.apply(operation);
        await ours.apply(twins.plant?.(operation) ?? operation);
        await theirs.apply(operation);
        count += 1;
        if (count % every === 0) await checkpoint(ours, theirs, model, twins);
      }
      await checkpoint(ours, theirs, model, twins);
    } catch (error) {
      await keepFailure(folder);
      throw error;
    } finally {
      await ours.close().catch(() => {});
    }
  });
}

/** Copies the images of a failure to the folder that DMU_KEEP_FAILURES names, if it does. */
async function keepFailure(folder: string): Promise<void> {
  const keep = Deno.env.get("DMU_KEEP_FAILURES");
  if (keep === undefined) return;
  for await (const { name } of Deno.readDir(folder)) {
    await copyFile(join(folder, name), join(keep, name));
  }
}

/** Longest time that is spent on making a script shorter, in ms. */
const SHRINK_MS_MAX = 60_000;

async function failureOf(twins: Twins, operations: readonly Operation[]): Promise<Error | null> {
  try {
    await runScript(twins, operations, operations.length + 1);
    return null;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** A shorter script that fails as well: parts are left out as long as that goes. */
async function shrink(
  twins: Twins,
  failing: readonly Operation[],
  known: Error,
): Promise<{ operations: readonly Operation[]; error: Error }> {
  const startMs = performance.now();
  let operations = failing, error = known;
  for (let size = Math.ceil(operations.length / 2); size >= 1;) {
    let shorter = false;
    for (let at = 0; at < operations.length && performance.now() - startMs < SHRINK_MS_MAX;) {
      const rest = [...operations.slice(0, at), ...operations.slice(at + size)];
      const failure = rest.length === 0 ? null : await failureOf(twins, rest);
      if (failure === null) at += size;
      else {
        operations = rest;
        error = failure;
        shorter = true;
      }
    }
    if (size === 1 && !shorter) break;
    size = size === 1 ? 1 : Math.ceil(size / 2);
    if (performance.now() - startMs >= SHRINK_MS_MAX) break;
  }
  return { operations, error };
}

/**
 * Runs operations on twins and compares them every so many. Throws an error that has a script as short
 * as possible.
 */
export async function compareTwins(
  twins: Twins,
  operations: readonly Operation[],
  every: number,
): Promise<void> {
  try {
    await runScript(twins, operations, every);
  } catch (error) {
    assert.ok(error instanceof Error);
    const found = await shrink(twins, operations, error);
    const options = Object.entries(twins.options).map(([name, value]) => `${name}=${value}`);
    const lines = [
      `${twins.name}: ${twins.format} ${twins.shape.size} ${options.join(",")} ` +
      `backing ${twins.backing ?? "none"}`,
      ...found.operations.map(operationText),
    ];
    throw new Error(`${found.error.message}\nThe shortest script:\n${lines.join("\n")}`, {
      cause: found.error,
    });
  }
}
