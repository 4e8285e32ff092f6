/**
 * Crash enumeration: random operations run through our backend over a file layer that writes down all
 * it is told; then every state in which a crash may leave the files is made, and looked at with
 * `qemu-img check` (0 and 3 are right, 2 never is), with our own check, and by reading: what was
 * flushed has to be there, what was not may be anything that was written since.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { CrashFiles } from "../support/crash_files.ts";
import type { JsonValue } from "../../lib/block/image.ts";
import { allAre } from "../../lib/testing/bytes.ts";
import { qemuCheck, qemuContent, qemuCreate, qemuIo } from "../support/qemu_image.ts";
import {
  type CrashState,
  crashStates,
  type FileEvent,
  RecordedFiles,
  type StateBounds,
} from "../support/recorded_files.ts";
import { withTempDir } from "../support/tools.ts";
import { DiskModel, type DiskShape, type Operation, operationText } from "./operations.ts";
import {
  applyTo,
  type Format,
  imageAt,
  imageContext,
  openImage,
  type OurImage,
  readAll,
} from "./sides.ts";

/** Operations write whole sectors, each full of one byte. */
const SECTOR_BYTES = 512;
/** Of so many states one is read by qemu-img as well. */
const QEMU_READS_EVERY = 8;

/** What is tried. */
export interface CrashRun {
  readonly name: string;
  readonly shape: DiskShape;
  /** Options of `qemu-img create`. */
  readonly options: Readonly<Record<string, string | number>>;
  /** The file below, with a byte in half of it; none if absent. */
  readonly backing?: Format;
  /** How the image is opened. */
  readonly opening?: Readonly<Record<string, JsonValue>>;
  readonly bounds: StateBounds;
  /** A planted bug: the record as such a backend would have left it. */
  readonly plant?: (events: readonly FileEvent[]) => FileEvent[];
}

/** How many states there were. */
export interface CrashReport {
  readonly events: number;
  readonly flushes: number;
  /** States that differ from one another; all were looked at. */
  states: number;
  /** Those in which `qemu-img check` found leaks. */
  leaks: number;
}

interface Version {
  /** Events there were when the operation began. */
  readonly begun: number;
  readonly sector: number;
  readonly byte: number;
}

/** A size that the disk was to have. */
interface SizeVersion {
  readonly begun: number;
  readonly size: number;
}

interface Settled {
  /** Events there were when the flush was done. */
  readonly position: number;
  /** Versions so far: later ones may or may not be there. */
  readonly versions: number;
  /** The same of sizes. */
  readonly sizes: number;
  readonly content: Uint8Array;
}

/** What each sector may hold after a crash. */
class History {
  readonly #versions: Version[] = [];
  readonly #sizes: SizeVersion[] = [];
  readonly #settled: Settled[];
  #content: Uint8Array;

  constructor(content: Uint8Array) {
    this.#content = content.slice();
    this.#settled = [{ position: 0, versions: 0, sizes: 0, content: this.#content }];
  }

  /** An operation that began when there were `begun` events has left `content`. */
  changed(begun: number, content: Uint8Array): void {
    if (content.length !== this.#content.length) {
      this.#sizes.push({ begun, size: content.length });
    }
    // What is cut off can be gone, as zeroes, before the size tells.
    const end = Math.max(content.length, this.#content.length);
    for (let at = 0; at < end; at += SECTOR_BYTES) {
      const byte = content[at] ?? 0;
      if (byte !== (this.#content[at] ?? 0)) {
        this.#versions.push({ begun, sector: at / SECTOR_BYTES, byte });
      }
    }
    this.#content = content.slice();
  }

  /** A flush is done, at that number of events. */
  flushed(position: number): void {
    const versions = this.#versions.length, sizes = this.#sizes.length;
    this.#settled.push({ position, versions, sizes, content: this.#content });
  }

  /** What is wrong with a content after a crash at that number of events, or null. */
  problem(found: Uint8Array, position: number): string | null {
    const settled = this.#settled.findLast((each) => each.position <= position);
    assert.ok(settled !== undefined);
    const later = new Map<number, Set<number>>();
    for (const { begun, sector, byte } of this.#versions.slice(settled.versions)) {
      if (begun >= position) continue;
      const bytes = later.get(sector) ?? new Set();
      later.set(sector, bytes.add(byte));
    }
    const sizes = this.#sizes.slice(settled.sizes).filter(({ begun }) => begun < position);
    const isSize = found.length === settled.content.length ||
      sizes.some(({ size }) => size === found.length);
    if (!isSize) return `the disk has ${found.length} bytes`;
    for (let at = 0; at < found.length; at += SECTOR_BYTES) {
      const byte = found[at] ?? -1, flushed = settled.content[at] ?? 0;
      const whole = allAre(found.subarray(at, at + SECTOR_BYTES), byte);
      if (whole && (byte === flushed || later.get(at / SECTOR_BYTES)?.has(byte) === true)) continue;
      const also = [...later.get(at / SECTOR_BYTES) ?? []].join(", ") || "nothing";
      return `byte ${at} is ${byte}${
        whole ? "" : " in part"
      }, flushed was ${flushed}, later ${also}`;
    }
    return null;
  }
}

/** Files of one run. States are written to the same places, whose names are in the images. */
function placesIn(folder: string): { image: string; base: string; data: string } {
  return { image: join(folder, "image"), base: join(folder, "base"), data: join(folder, "data") };
}

interface Recorded {
  readonly history: History;
  readonly files: RecordedFiles;
}

/** Operations after which everything is durable. */
const DURABLE: ReadonlySet<Operation["kind"]> = new Set(
  ["flush", "reopen", "resize", "snapshot", "apply", "delete", "commit"] as const,
);
/** Byte that a backing file is made of. */
const BASE_BYTE = 0xbb;

/** Makes the files of a run with QEMU's tools; gives the content of the disk. */
async function makeFiles(
  folder: string,
  { shape, options, backing }: CrashRun,
): Promise<Uint8Array> {
  const { image, base, data } = placesIn(folder);
  const content = new Uint8Array(shape.size);
  const own: Record<string, string | number> = { ...options };
  if (own["data_file"] !== undefined) own["data_file"] = data;
  if (backing !== undefined) {
    await qemuCreate(base, shape.size, {}, backing);
    const length = Math.floor(shape.size / 2);
    await qemuIo(base, [`write -P ${BASE_BYTE} 512 ${length}`], backing);
    content.fill(BASE_BYTE, 512, 512 + length);
    own["backing_file"] = "base";
    own["backing_fmt"] = backing;
  }
  await qemuCreate(image, shape.size, own);
  return content;
}

/** Copies a file of this machine, if it is there, into files in memory. */
async function load(files: CrashFiles, path: string): Promise<void> {
  const content = await Deno.readFile(path).catch(() => null);
  if (content === null) return;
  const options = { readOnly: false, direct: false, lock: false, createSize: content.length };
  const file = files.open(path, options);
  file.write(content, 0);
  file.flush();
  file.close();
}

/** Runs the operations over a new image, in memory. */
async function record(
  folder: string,
  run: CrashRun,
  operations: readonly Operation[],
): Promise<Recorded> {
  const places = placesIn(folder);
  const content = await makeFiles(folder, run);
  const memory = new CrashFiles({ seed: 1 });
  for (const path of Object.values(places)) await load(memory, path);
  const files = new RecordedFiles(memory);
  const model = new DiskModel(run.shape, content);
  const history = new History(model.content);
  let image: OurImage | null = null;
  for (const operation of operations) {
    if (!model.fits(operation)) continue;
    const begun = files.events.length;
    if (operation.kind === "reopen") {
      await image?.[Symbol.asyncDispose]();
      image = null;
    } else {
      image ??= await openImage(places.image, "qcow2", { files }, run.opening ?? {});
      await applyTo(image, operation);
    }
    model.apply(operation);
    history.changed(begun, model.content);
    if (DURABLE.has(operation.kind)) history.flushed(files.events.length);
  }
  await image?.[Symbol.asyncDispose]();
  history.flushed(files.events.length);
  return { history, files };
}

function digestOf({ files, position }: CrashState): string {
  const hash = createHash("sha256").update(`${position}`);
  for (const [path, content] of files) hash.update(path).update(content);
  return hash.digest("hex");
}

/** Looks at one state. Gives what is wrong, or the exit code of qemu-img check. */
async function inspect(
  folder: string,
  state: CrashState,
  history: History,
  run: CrashRun,
  readByQemu: boolean,
): Promise<string | number> {
  const { image: path, base } = placesIn(folder);
  for (const [name, content] of state.files) await Deno.writeFile(name, content);
  try {
    const { code, text } = await qemuCheck(path);
    if (code !== 0 && code !== 3) return `qemu-img check ends with ${code}:\n${text}`;
    if (run.backing === "qcow2") {
      const below = await qemuCheck(base);
      if (below.code !== 0 && below.code !== 3) return `the backing file: ${below.text}`;
    }
    const own = await ourVerdict(path);
    if (own !== null && own !== code) {
      return `our check says ${own}, qemu-img check ${code}:\n${text}`;
    }
    await using image = await openImage(path, "qcow2", { readOnly: true });
    const problem = history.problem(await readAll(image.device), state.position);
    if (problem !== null) return problem;
    if (!readByQemu) return code;
    const content = await qemuContent(path, `${path}.raw`);
    return history.problem(content, state.position) ?? code;
  } catch (error) {
    return error instanceof Error ? error.stack ?? error.message : String(error);
  }
}

/** What our own check says, as an exit code; null if there is none. */
async function ourVerdict(path: string): Promise<number | null> {
  const { disk, tools } = imageAt(path, "qcow2");
  const report = await tools.check?.(disk, "none", imageContext());
  if (report === undefined) return null;
  if (report.checkErrors > 0) return 1;
  return (report.corruptions ?? 0) > 0 ? 2 : (report.leaks ?? 0) > 0 ? 3 : 0;
}

/** Runs operations and looks at all states. Throws at the first one that is wrong. */
export async function enumerateCrashes(
  run: CrashRun,
  operations: readonly Operation[],
): Promise<CrashReport> {
  return await withTempDir(async (folder) => {
    const { history, files } = await record(folder, run, operations);
    const events = run.plant?.(files.events) ?? files.events;
    const flushes = events.filter(({ kind }) => kind === "flush").length;
    const report: CrashReport = { events: events.length, flushes, states: 0, leaks: 0 };
    const seen = new Set<string>();
    const states = crashStates(files.start, events, run.bounds);
    for (const state of states) {
      const digest = digestOf(state);
      if (seen.has(digest)) continue;
      seen.add(digest);
      report.states += 1;
      const readByQemu = report.states % QEMU_READS_EVERY === 0;
      const found = await inspect(folder, state, history, run, readByQemu);
      if (typeof found === "string") throw new Error(failureText(run, operations, state, found));
      if (found === 3) report.leaks += 1;
    }
    return report;
  });
}

function failureText(
  run: CrashRun,
  operations: readonly Operation[],
  { what }: CrashState,
  found: string,
): string {
  const options = Object.entries(run.options).map(([name, value]) => `${name}=${value}`).join(",");
  const script = operations.map(operationText).join("\n");
  return `${found}\nafter a crash, ${what}\n${run.name}: qcow2 ${run.shape.size} ${options}\n${script}`;
}
