/**
 * QEMU's tools as the oracle for images: qemu-img and qemu-io run, their JSON read, many commands of
 * qemu-io in one process.
 *
 * @module
 */
import assert from "node:assert/strict";
import { run, runOk } from "./tools.ts";

/** A run of a disk as `qemu-img map` tells it; where it lies in the file is left out. */
export interface MapRun {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  /** The chain has something for it. */
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
}

/** The same as it is printed, entry by entry. */
export interface MapLine extends MapRun {
  /** Where it lies in the file. */
  readonly offset?: number | undefined;
}

/** What `qemu-img check` finds. */
export interface QemuCheck {
  /** 0 sound, 1 unchecked, 2 corrupt, 3 leaks. */
  readonly code: number;
  /** What it prints, for messages. */
  readonly text: string;
}

/** Runs qemu-img, which has to succeed. */
export function qemuImg(...args: readonly string[]): Promise<string> {
  return runOk("qemu-img", args);
}

/** Makes an image; `options` are those of -o. */
export async function qemuCreate(
  path: string,
  size: number | null,
  options: Readonly<Record<string, string | number>> = {},
  format = "qcow2",
): Promise<void> {
  const list = Object.entries(options).map(([name, value]) => `${name}=${value}`).join(",");
  await qemuImg(
    ...["create", "-q", "-f", format, ...(list === "" ? [] : ["-o", list]), path],
    ...(size === null ? [] : [String(size)]),
  );
}

/** Runs commands of qemu-io in one process, nothing synced to the disk. All have to succeed. */
export async function qemuIo(
  path: string,
  commands: readonly string[],
  format = "qcow2",
): Promise<void> {
  if (commands.length === 0) return;
  const args = ["-f", format, "-t", "unsafe", "-d", "unmap", path];
  const stdin = [...commands, "quit", ""].join("\n");
  const { code, stdout, stderr } = await run("qemu-io", args, { stdin });
  const failures = `${stdout}\n${stderr}`.split("\n")
    .filter((line) => /fail|error|invalid|not supported|mismatch|out of range|cannot/i.test(line));
  assert.deepEqual({ code, failures }, { code: 0, failures: [] }, `qemu-io ${path}\n${stdin}`);
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}

function numberOf(record: Readonly<Record<string, unknown>>, name: string): number {
  const value = record[name];
  assert.ok(typeof value === "number", `${name} of ${JSON.stringify(record)}`);
  return value;
}

/**
 * Neighbours of the same state joined: where they lie does not count. Data is not zero, though the
 * file that it lies in may have a hole there, of which qemu-img tells now and then.
 */
export function joinRuns(runs: Iterable<MapRun>): MapRun[] {
  const joined: MapRun[] = [];
  for (const { start, length, depth, present, zero: readsAsZero, data } of runs) {
    const zero = readsAsZero && !data;
    const last = joined.at(-1);
    if (
      last?.depth === depth && last.zero === zero && last.data === data && last.present === present
    ) {
      joined[joined.length - 1] = { ...last, length: last.length + length };
    } else joined.push({ start, length, depth, present, zero, data });
  }
  return joined;
}

/** The entries in the JSON of `qemu-img map`, or of anything that prints the same. */
export function parseMap(text: string): MapLine[] {
  const value: unknown = JSON.parse(text);
  assert.ok(Array.isArray(value), text);
  return value.map((each): MapLine => {
    assert.ok(isRecord(each));
    return {
      start: numberOf(each, "start"),
      length: numberOf(each, "length"),
      depth: numberOf(each, "depth"),
      present: each["present"] === true,
      zero: each["zero"] === true,
      data: each["data"] === true,
      offset: "offset" in each ? numberOf(each, "offset") : undefined,
    };
  });
}

/** The entries of `qemu-img map` of an image. */
export async function qemuMapLines(path: string, format = "qcow2"): Promise<MapLine[]> {
  return parseMap(await qemuImg("map", "-U", "-f", format, "--output=json", path));
}

/** What `qemu-img map` says of an image, wherever things lie. */
export async function qemuMap(path: string, format = "qcow2"): Promise<MapRun[]> {
  return joinRuns(await qemuMapLines(path, format));
}

/** What `qemu-img check` says of an image. Nothing is repaired. */
export async function qemuCheck(path: string, format = "qcow2"): Promise<QemuCheck> {
  const { code, stdout, stderr } = await run("qemu-img", ["check", "-U", "-f", format, path]);
  return { code, text: `${stdout}${stderr}`.trim() };
}

/** Asserts that `qemu-img check` finds nothing at all. */
export async function assertSound(path: string, after: string): Promise<void> {
  const { code, text } = await qemuCheck(path);
  assert.equal(code, 0, `qemu-img check of ${path} after ${after}:\n${text}`);
}

/** Asserts that `qemu-img compare` finds both to be the same, sizes included. */
export async function assertSame(
  left: readonly [path: string, format: string],
  right: readonly [path: string, format: string],
  after: string,
): Promise<void> {
  const args = ["compare", "-U", "-f", left[1], "-F", right[1], left[0], right[0]];
  const { code, stdout, stderr } = await run("qemu-img", args);
  const text = `${stdout}${stderr}`.trim();
  assert.ok(!text.includes("size mismatch"), text);
  assert.equal(code, 0, `qemu-img compare ${left[0]} ${right[0]} after ${after}: ${text}`);
}

/** All bytes of the disk in an image, as qemu-img reads them. */
export async function qemuContent(
  path: string,
  scratch: string,
  format = "qcow2",
): Promise<Uint8Array> {
  await qemuImg("convert", "-U", "-f", format, "-O", "raw", path, scratch);
  const content = await Deno.readFile(scratch);
  await Deno.remove(scratch);
  return content;
}
