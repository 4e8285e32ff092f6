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
import { qemuCheck, qemuContent, qemuCreate, qemuImg } from "../support/qemu_image.ts";
import {
  type CrashState,
  crashStates,
  type FileEvent,
  RecordedFiles,
  type StateBounds,
} from "../support/recorded_files.ts";
import { withTempDir } from "../support/tools.ts";
import { DiskModel, type DiskShape, type Operation, operationText } from "./operations.ts";
import { applyTo, imageAt, imageContext, openImage, type OurImage, readAll } from "./sides.ts";

/** Operations write whole sectors, each full of one byte. */
const SECTOR_BYTES = 512;
/** States that are looked at at the same time. */
const PARALLEL = 2;
/** Of so many states one is read by qemu-img as well. */
const QEMU_READS_EVERY = 8;

/** What is tried. */
export interface CrashRun {
  readonly name: string;
  readonly shape: DiskShape;
  /** Options of `qemu-img create`. */
  readonly options: Readonly<Record<string, string | number>>;
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

interface Settled {
  /** Events there were when the flush was done. */
  readonly position: number;
  /** Versions so far: later ones may or may not be there. */
  readonly versions: number;
  readonly content: Uint8Array;
}

/** What each sector may hold after a crash. */
class History {
  readonly #versions: Version[] = [];
  readonly #settled: Settled[];
  #content: Uint8Array;

  constructor(content: Uint8Array) {
    this.#content = content.slice();
    this.#settled = [{ position: 0, versions: 0, content: this.#content }];
  }

  /** An operation that began when there were `begun` events has left `content`. */
  changed(begun: number, content: Uint8Array): void {
    for (let at = 0; at < content.length; at += SECTOR_BYTES) {
      const byte = content[at] ?? 0;
      if (byte !== this.#content[at]) {
        this.#versions.push({ begun, sector: at / SECTOR_BYTES, byte });
      }
    }
    this.#content = content.slice();
  }

  /** A flush is done, at that number of events. */
  flushed(position: number): void {
    this.#settled.push({ position, versions: this.#versions.length, content: this.#content });
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
    if (found.length < settled.content.length) return `the disk has only ${found.length} bytes`;
    for (let at = 0; at < settled.content.length; at += SECTOR_BYTES) {
      const byte = found[at] ?? -1, flushed = settled.content[at];
      const whole = found.subarray(at, at + SECTOR_BYTES).every((each) => each === byte);
      if (whole && (byte === flushed || later.get(at / SECTOR_BYTES)?.has(byte) === true)) continue;
      const also = [...later.get(at / SECTOR_BYTES) ?? []].join(", ") || "nothing";
      return `byte ${at} is ${byte}${
        whole ? "" : " in part"
      }, flushed was ${flushed}, later ${also}`;
    }
    return null;
  }
}

const IMAGE = "image";

interface Recorded {
  readonly history: History;
  readonly files: RecordedFiles;
}

/** Copies a file of this machine into files in memory. */
async function load(files: CrashFiles, name: string, path: string): Promise<void> {
  const content = await Deno.readFile(path);
  const options = { readOnly: false, direct: false, lock: false, createSize: content.length };
  const file = files.open(name, options);
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
  const path = join(folder, "new");
  await qemuCreate(path, run.shape.size, run.options);
  const memory = new CrashFiles({ seed: 1 });
  await load(memory, IMAGE, path);
  const files = new RecordedFiles(memory);
  const model = new DiskModel(run.shape, new Uint8Array(run.shape.size));
  const history = new History(model.content);
  let image: OurImage | null = null;
  for (const operation of operations) {
    const begun = files.events.length;
    if (operation.kind === "reopen") {
      await image?.[Symbol.asyncDispose]();
      image = null;
    } else {
      image ??= await openImage(IMAGE, "qcow2", { files });
      await applyTo(image, operation);
    }
    model.apply(operation);
    history.changed(begun, model.content);
    if (operation.kind === "flush" || operation.kind === "reopen") {
      history.flushed(files.events.length);
    }
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
  lazy: boolean,
  readByQemu: boolean,
): Promise<string | number> {
  const path = join(folder, `state-${crypto.randomUUID()}`);
  await Deno.writeFile(path, state.files.get(IMAGE) ?? new Uint8Array(0));
  try {
    // Refcounts that are late on purpose count as errors, and as none once they are made anew.
    if (lazy) await qemuImg("check", "-q", "-r", "all", path).catch(() => {});
    const { code, text } = await qemuCheck(path);
    if (code !== 0 && code !== 3) return `qemu-img check ends with ${code}:\n${text}`;
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
  } finally {
    await Deno.remove(path);
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
    const lazy = run.options["lazy_refcounts"] === "on";
    let failure: Error | null = null;
    const look = async (): Promise<void> => {
      for (const state of states) {
        if (failure !== null) return;
        const digest = digestOf(state);
        if (seen.has(digest)) continue;
        seen.add(digest);
        report.states += 1;
        const readByQemu = report.states % QEMU_READS_EVERY === 0;
        const found = await inspect(folder, state, history, lazy, readByQemu);
        if (typeof found === "string") {
          failure ??= new Error(failureText(run, operations, state, found));
        } else if (found === 3) report.leaks += 1;
      }
    };
    await Promise.all(Array.from({ length: PARALLEL }, look));
    if (failure !== null) throw failure;
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
