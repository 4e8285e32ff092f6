/**
 * Traces as files of the command line: opened in whatever format they have, written without
 * overwriting anything, "-" for standard input and output.
 *
 * @module
 */
import { BlockError, errnoText, toBlockError } from "../../lib/block/errors.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { formats } from "../../lib/trace/formats/mod.ts";
import type { TraceFormat, TraceSource } from "../../lib/trace/source.ts";
import { TraceError } from "../../lib/trace/trace_error.ts";
import type { CliIo } from "../io.ts";
import { plural } from "../output.ts";
import { type Progress, startProgress } from "../progress.ts";

/** What stands for standard input or output. */
const STANDARD = "-";
/** Bytes that a file is read in at once. */
const CHUNK_BYTES = 256 * 1024;
/** Bytes at the beginning of a trace that tell its format. */
const DETECT_BYTES = 64 * 1024;

/** How an input is read. */
export interface InputOptions {
  /** The name of its format; found out if not told. */
  readonly from?: string | undefined;
  /** The volume or device of a trace of several. */
  readonly device?: string | undefined;
}

/** The format of a name. Throws UsageError. */
export function findFormat(name: string): TraceFormat {
  const found = formats.find((each) => each.name === name);
  if (found !== undefined) return found;
  const names = formats.map((each) => each.name).join(", ");
  throw new UsageError(`Cannot use format "${name}": there is no such format; there are ${names}`);
}

/** The file or stream that a trace is read from. */
export class TraceInput {
  /** As on the command line. */
  readonly path: string;
  /** Bytes of a file; null for what has no size. */
  readonly bytes: number | null;
  /** Bytes that were read so far, of all times that it was opened. */
  bytesRead = 0;
  readonly #io: CliIo;
  readonly #options: InputOptions;
  #opened = 0;

  /** Throws BlockError for a file that is not there, UsageError for an unknown format. */
  constructor(io: CliIo, path: string, options: InputOptions = {}) {
    this.#io = io;
    this.path = path;
    this.#options = options;
    if (options.from !== undefined) findFormat(options.from);
    this.bytes = path === STANDARD ? null : sizeOf(path);
  }

  /** True if it can be opened several times. */
  get repeatable(): boolean {
    return this.bytes !== null;
  }

  /** Opens the trace. Throws BlockError, TraceError; what is no file opens once. */
  async open(): Promise<TraceSource> {
    this.#opened += 1;
    if (this.#opened > 1 && !this.repeatable) {
      throw new UsageError(`Cannot read "${this.path}" twice: give a file`);
    }
    const from = this.path === STANDARD ? this.#io.input() : await fileStream(this.path);
    const { stream, head } = await peek(from, (count) => this.bytesRead += count);
    const { device, from: name } = this.#options;
    const format = name === undefined
      ? formats.find((each) => each.detect(head))
      : findFormat(name);
    if (format === undefined) {
      await stream.cancel();
      throw new TraceError(`${this.path} is in no format that is known; --from FORMAT names one`);
    }
    return await format.read(stream, device === undefined ? {} : { device });
  }
}

function sizeOf(path: string): number | null {
  try {
    const { isFile, isDirectory, size } = Deno.statSync(path);
    if (isDirectory) throw new BlockError("EISDIR", `Cannot read ${path}: it is a directory`);
    return isFile ? size : null;
  } catch (error) {
    throw cannot("read", path, error);
  }
}

function cannot(what: string, path: string, error: unknown): BlockError {
  if (error instanceof BlockError) return error;
  const { errno } = toBlockError(error);
  return new BlockError(errno, `Cannot ${what} ${path}: ${errnoText(errno)}`, { cause: error });
}

/** The bytes of a file; every chunk has memory of its own. */
async function fileStream(path: string): Promise<ReadableStream<Uint8Array>> {
  const file = await Deno.open(path).catch((error: unknown) => {
    throw cannot("read", path, error);
  });
  return new ReadableStream<Uint8Array>({
    async pull(controller): Promise<void> {
      const chunk = new Uint8Array(CHUNK_BYTES);
      const count = await file.read(chunk);
      if (count !== null) return controller.enqueue(chunk.subarray(0, count));
      file.close();
      controller.close();
    },
    cancel: () => file.close(),
  }, { highWaterMark: 1 });
}

/** The first DETECT_BYTES of a stream, and a stream of all of it. */
async function peek(
  from: ReadableStream<Uint8Array>,
  count: (bytes: number) => void,
): Promise<{ readonly stream: ReadableStream<Uint8Array>; readonly head: Uint8Array }> {
  const reader = from.getReader();
  const chunks: Uint8Array[] = [];
  let have = 0;
  while (have < DETECT_BYTES) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    have += value.length;
  }
  const head = new Uint8Array(have);
  chunks.reduce((at, chunk) => (head.set(chunk, at), at + chunk.length), 0);
  count(have);
  let first = have > 0;
  const stream = new ReadableStream<Uint8Array>({
    async pull(controller): Promise<void> {
      if (first) {
        first = false;
        return controller.enqueue(head);
      }
      const { done, value } = await reader.read();
      if (done) return controller.close();
      count(value.length);
      controller.enqueue(value);
    },
    cancel: (reason) => reader.cancel(reason),
  }, { highWaterMark: 0 });
  return { stream, head: head.subarray(0, DETECT_BYTES) };
}

/** Draws how far inputs are read, of all their bytes `times` times; nothing if that is not known. */
export function readProgress(
  io: CliIo,
  what: string,
  inputs: readonly TraceInput[],
  times = 1,
): { draw(): void; readonly clear: Progress["clear"] } {
  const total = inputs.reduce<number | null>(
    (sum, { bytes }) => sum === null || bytes === null ? null : sum + bytes * times,
    0,
  );
  if (total === null) return { draw: () => {}, clear: () => {} };
  const progress = startProgress(io, what);
  return {
    draw: () => progress.update(inputs.reduce((sum, each) => sum + each.bytesRead, 0), total),
    clear: progress.clear,
  };
}

/** Tells on standard error what a reader could not understand, and what it remarks. */
export function tellNotes(io: CliIo, path: string, { notes }: TraceSource): void {
  for (const { where, what } of notes.problems) io.err(`dmu: ${path}, ${where}: ${what}\n`);
  const more = notes.problemCount - notes.problems.length;
  if (more > 0) io.err(`dmu: ${path}: ${plural(more, "more problem")} like these\n`);
  for (const remark of notes.remarks) io.err(`dmu: ${path}: ${remark}\n`);
  if (notes.lost > 0) {
    io.err(`dmu: ${path}: ${plural(notes.lost, "event")} were lost when it was recorded\n`);
  }
}

/** Where a trace is written. */
export interface OutputOptions {
  /** Replace a file that is there. */
  readonly force: boolean;
}

/**
 * Writes pieces to a new file, or to standard output for "-". A file that is there is replaced only with
 * `force`, and only when all is written; what is unfinished is removed. Throws BlockError.
 */
export async function writeOutput(
  io: CliIo,
  path: string,
  pieces: AsyncIterable<Uint8Array>,
  { force }: OutputOptions,
): Promise<void> {
  if (path === STANDARD) {
    if (io.outIsTerminal) {
      throw new UsageError("Cannot write a trace to a terminal: name a file, or pipe it on");
    }
    for await (const piece of pieces) io.outBytes(piece);
    return;
  }
  const target = force ? `${path}.${Deno.pid}.part` : path;
  const file = createFile(target, path);
  try {
    for await (const piece of pieces) writeAll(file, piece, path);
    file.close();
    if (force) Deno.renameSync(target, path);
  } catch (error) {
    closeQuietly(file);
    Deno.removeSync(target);
    throw error;
  }
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array, path: string): void {
  try {
    for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
  } catch (error) {
    throw cannot("write", path, error);
  }
}

function closeQuietly(file: Deno.FsFile): void {
  try {
    file.close();
  } catch {
    // It was closed before the rename failed.
  }
}

function createFile(target: string, path: string): Deno.FsFile {
  try {
    return Deno.openSync(target, { write: true, createNew: true, mode: 0o600 });
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) {
      throw cannot("write", path, error);
    }
    throw new BlockError(
      "EEXIST",
      `Cannot write ${path}: it is there already; --force replaces it`,
    );
  }
}
