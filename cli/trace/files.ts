/**
 * Traces as files of the command line: opened in whatever format they have, written without
 * overwriting anything, "-" for standard input and output.
 *
 * @module
 */
import { BlockError, errnoText, toBlockError } from "../../lib/block/errors.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { formats } from "../../lib/trace/formats/mod.ts";
import { native } from "../../lib/trace/formats/native.ts";
import { type TraceFormat, TraceNotes, type TraceSource } from "../../lib/trace/source.ts";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { TraceError } from "../../lib/trace/trace_error.ts";
import { interruptible } from "../interrupt.ts";
import type { CliIo } from "../io.ts";
import { plural } from "../output.ts";
import { startProgress } from "../progress.ts";
import { printable } from "../safe_text.ts";

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
  /** The name of its format; known when it is open. */
  format = "";
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
    this.format = format.name;
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

/** A progress line that follows the reading of traces. */
export interface ReadProgress {
  /** Draws it, if it is time. */
  draw(): void;
  /** Removes it. */
  clear(): void;
  /** The same trace, drawing while it is read. */
  over(source: TraceSource): TraceSource;
}

/** Draws how far inputs are read, of all their bytes `times` times; nothing if that is not known. */
export function readProgress(
  io: CliIo,
  what: string,
  inputs: readonly TraceInput[],
  times = 1,
): ReadProgress {
  const total = inputs.reduce<number | null>(
    (sum, { bytes }) => sum === null || bytes === null ? null : sum + bytes * times,
    0,
  );
  const progress = total === null ? null : startProgress(io, what);
  const draw = (): void =>
    progress?.update(inputs.reduce((sum, each) => sum + each.bytesRead, 0), total ?? 0);
  return {
    draw,
    clear: () => progress?.clear(),
    over: (source) => ({ ...source, batches: () => drawing(source.batches(), draw) }),
  };
}

async function* drawing(
  batches: AsyncIterable<readonly TraceEvent[]>,
  draw: () => void,
): AsyncGenerator<readonly TraceEvent[], void> {
  for await (const batch of batches) {
    draw();
    yield batch;
  }
}

/** Tells on standard error what could not be understood or kept, and what is to be known. */
export function tellNotes(
  io: CliIo,
  path: string,
  notes: Pick<TraceNotes, "problems" | "problemCount" | "remarks" | "lost">,
): void {
  const tell = (text: string): void => io.err(`dmu: ${printable(`${path}${text}`)}\n`);
  for (const { where, what } of notes.problems) tell(`, ${where}: ${what}`);
  const more = notes.problemCount - notes.problems.length;
  if (more > 0) tell(`: ${plural(more, "more problem")} like these`);
  for (const remark of notes.remarks) tell(`: ${remark}`);
  if (notes.lost > 0) tell(`: ${plural(notes.lost, "event")} were lost when it was recorded`);
}

/** How a trace is written. */
export interface OutputOptions {
  /** The name of its format; what the file's name ends like, or the native one, if not told. */
  readonly format?: string | undefined;
  /** Replace a file that is there. */
  readonly force: boolean;
}

/** A trace that was written. */
export interface WrittenTrace {
  /** Its format, events and bytes. */
  readonly facts: { readonly format: string; readonly events: number; readonly bytes: number };
  /** What its format could not hold. */
  readonly notes: TraceNotes;
}

/**
 * Writes a trace to a new file, or to standard output for "-", with a progress line that follows the
 * reading of `inputs`. A file that is there is replaced only with `force`, and only when all is written;
 * what is unfinished is removed. Throws BlockError, UsageError, TraceError.
 */
export async function writeTrace(
  io: CliIo,
  inputs: readonly TraceInput[],
  source: TraceSource,
  out: string,
  { format: name, force }: OutputOptions,
): Promise<WrittenTrace> {
  const format = name === undefined ? native : findFormat(name);
  if (format.write === undefined) {
    throw new UsageError(`Cannot write a trace as ${format.name}: no tool reads it`);
  }
  const notes = new TraceNotes();
  const progress = readProgress(io, "write", inputs);
  let events = 0;
  const counted = tapped(progress.over(source).batches(), (batch) => events += batch.length);
  try {
    const pieces = (): AsyncIterable<Uint8Array> | Iterable<Uint8Array> =>
      format.write?.(source.info, counted) ?? [];
    const bytes = await writeNew(io, "trace", out, force, pieces);
    return { facts: { format: format.name, events, bytes }, notes };
  } finally {
    progress.clear();
  }
}

/**
 * Writes what `pieces` gives to a new file, or to standard output for "-", and tells how many bytes that
 * are. `pieces` is called when the file is there, so what cannot be written costs no work. See writeTrace.
 */
export async function writeNew(
  io: CliIo,
  what: "trace" | "picture",
  out: string,
  force: boolean,
  pieces: (signal: AbortSignal) => AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<number> {
  const sink = out === STANDARD ? standardSink(io, what) : new FileSink(out, force);
  return await interruptible(
    io,
    `finish the ${what}`,
    (signal) => drain(pieces(signal), sink, signal),
  );
}

async function* tapped<T>(
  items: AsyncIterable<T>,
  see: (item: T) => void,
): AsyncGenerator<T, void> {
  for await (const item of items) {
    see(item);
    yield item;
  }
}

/** Where bytes go. */
interface Sink {
  write(bytes: Uint8Array): void;
  /** All is written. */
  finish(): void;
  /** It cannot be finished. */
  abandon(): void;
}

function standardSink(io: CliIo, what: string): Sink {
  if (io.outIsTerminal) {
    throw new UsageError(`Cannot write a ${what} to a terminal: name a file, or pipe it on`);
  }
  return { write: (bytes) => io.outBytes(bytes), finish: () => {}, abandon: () => {} };
}

async function drain(
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  sink: Sink,
  signal: AbortSignal,
): Promise<number> {
  let count = 0;
  try {
    for await (const piece of pieces) {
      signal.throwIfAborted();
      sink.write(piece);
      count += piece.length;
    }
    sink.finish();
    return count;
  } catch (error) {
    sink.abandon();
    throw error;
  }
}

/** A new file, which takes the place of another one at the end if that is wanted. */
class FileSink implements Sink {
  readonly #path: string;
  readonly #target: string;
  readonly #file: Deno.FsFile;
  #isOpen = true;

  constructor(path: string, force: boolean) {
    this.#path = path;
    this.#target = force ? `${path}.${Deno.pid}.part` : path;
    try {
      this.#file = Deno.openSync(this.#target, { write: true, createNew: true, mode: 0o600 });
    } catch (error) {
      if (!(error instanceof Deno.errors.AlreadyExists)) throw cannot("write", path, error);
      const reason = "it is there already; --force replaces it";
      throw new BlockError("EEXIST", `Cannot write ${path}: ${reason}`, { cause: error });
    }
  }

  write(bytes: Uint8Array): void {
    try {
      for (let at = 0; at < bytes.length;) at += this.#file.writeSync(bytes.subarray(at));
    } catch (error) {
      throw cannot("write", this.#path, error);
    }
  }

  finish(): void {
    this.#close();
    if (this.#target !== this.#path) Deno.renameSync(this.#target, this.#path);
  }

  abandon(): void {
    this.#close();
    Deno.removeSync(this.#target);
  }

  #close(): void {
    if (this.#isOpen) this.#file.close();
    this.#isOpen = false;
  }
}
