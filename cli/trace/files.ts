/**
 * Traces as files of the command line: opened in whatever format they have, written without
 * overwriting anything, "-" for standard input and output.
 *
 * @module
 */
import { BlockError, errnoText, toBlockError } from "../../lib/block/errors.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import {
  convertTrace,
  encodeTrace,
  formatByEnding,
  formatNamed,
  openTrace,
  openTraceStream,
} from "../../lib/trace/convert.ts";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { native } from "../../lib/trace/formats/native.ts";
import { nativeEndUs } from "../../lib/trace/native_end.ts";
import { type TraceFormat, TraceNotes, type TraceSource } from "../../lib/trace/source.ts";
import { interruptible } from "../interrupt.ts";
import type { CliIo } from "../io.ts";
import { plural } from "../output.ts";
import { startProgress } from "../progress.ts";
import { printable } from "../safe_text.ts";

/** What stands for standard input or output. */
export const STANDARD = "-";

/** How an input is read. */
export interface InputOptions {
  /** The name of its format; found out if not told. */
  readonly from?: string | undefined;
  /** The volume or device of a trace of several. */
  readonly device?: string | undefined;
}

/** The file or stream that a trace is read from. */
export class TraceInput {
  /** As on the command line. */
  readonly path: string;
  /** The name of its format; known when it is open. */
  format = "";
  /** Bytes that it has; null if that is not known, or not yet. */
  bytes: number | null = null;
  readonly #io: CliIo;
  readonly #format: TraceFormat | null;
  readonly #device: string | undefined;
  /** Bytes that were read in earlier rounds. */
  #readBefore = 0;
  #readNow: () => number = () => 0;

  /** Throws UsageError for an unknown format. */
  constructor(io: CliIo, path: string, { from, device }: InputOptions = {}) {
    this.path = path;
    this.#io = io;
    this.#format = from === undefined ? null : formatNamed(from);
    this.#device = device;
  }

  /** True if it can be opened several times. */
  get repeatable(): boolean {
    return this.path !== STANDARD;
  }

  /** Bytes that were read so far, of all times that it was opened. */
  get bytesRead(): number {
    return this.#readBefore + this.#readNow();
  }

  /** When a native trace in a file ends, µs; null for others, which have to be read for that. */
  endUs(): number | null {
    if (this.bytes === null || this.format !== native.name) return null;
    const options = { readOnly: true, direct: false, lock: false } as const;
    const file = systemFiles.open(this.path, options);
    try {
      return nativeEndUs(file);
    } finally {
      file.close();
    }
  }

  /** Opens the trace. Throws BlockError, UsageError, TraceError. */
  async open(): Promise<TraceSource> {
    const options = {
      ...(this.#format === null ? {} : { format: this.#format }),
      ...(this.#device === undefined ? {} : { device: this.#device }),
    };
    this.#readBefore = this.bytesRead;
    this.#readNow = () => 0;
    const { format, source, bytes, bytesRead } = this.repeatable
      ? await openTrace(this.path, options).catch((error: unknown) => {
        throw explained("read", this.path, error);
      })
      : await openTraceStream(this.#io.input(), "standard input", options);
    this.format = format.name;
    this.bytes = bytes;
    this.#readNow = bytesRead;
    return source;
  }
}

/** What a file system says, as one sentence; other errors as they are. */
function explained(what: string, path: string, error: unknown): unknown {
  const isSystem = Object.values(Deno.errors).some((each) => error instanceof each);
  if (!isSystem) return error;
  const { errno } = toBlockError(error);
  return new BlockError(errno, `Cannot ${what} ${path}: ${errnoText(errno)}`, { cause: error });
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

/**
 * Draws how far inputs are read, of all their bytes `times` times; nothing where that is not known.
 */
export function readProgress(
  io: CliIo,
  what: string,
  inputs: readonly TraceInput[],
  times = 1,
): ReadProgress {
  const progress = startProgress(io, what);
  const draw = (): void => {
    let done = 0, total = 0;
    for (const { bytes, bytesRead } of inputs) {
      if (bytes === null) return;
      done += bytesRead;
      total += bytes * times;
    }
    progress.update(done, total);
  };
  return {
    draw,
    clear: progress.clear,
    over: (source) => ({ ...source, batches: () => tapped(source.batches(), draw) }),
  };
}

async function* tapped(
  batches: AsyncIterable<readonly TraceEvent[]>,
  see: () => void,
): AsyncGenerator<readonly TraceEvent[], void> {
  for await (const batch of batches) {
    see();
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
  const format = name === undefined ? formatByEnding(out) ?? native : formatNamed(name);
  const notes = new TraceNotes();
  const progress = readProgress(io, "write", inputs);
  try {
    return await interruptible(io, "finish the trace", async (signal) => {
      const see = (): void => {
        signal.throwIfAborted();
        progress.draw();
      };
      const watched = { ...source, batches: () => tapped(source.batches(), see) };
      const written = out === STANDARD
        ? await writeStandard(io, watched, format, notes)
        : await intoNewFile(
          out,
          force,
          (target) => convertTrace(watched, format, target, notes),
        );
      return { facts: { format: format.name, ...written }, notes };
    });
  } finally {
    progress.clear();
  }
}

interface Written {
  readonly events: number;
  readonly bytes: number;
}

async function writeStandard(
  io: CliIo,
  source: TraceSource,
  format: TraceFormat,
  notes: TraceNotes,
): Promise<Written> {
  if (io.outIsTerminal) {
    throw new UsageError("Cannot write a trace to a terminal: name a file, or pipe it on");
  }
  let events = 0, bytes = 0;
  const chunks = encodeTrace(source, format, notes, (batch) => events += batch.length);
  for (;;) {
    const { done, value } = await chunks.next();
    if (done === true) {
      if (value === undefined) return { events, bytes };
      const reason = "it begins with what is known at its end; name a file";
      throw new BlockError("ESPIPE", `Cannot write ${format.name} to standard output: ${reason}`);
    }
    io.outBytes(value);
    bytes += value.length;
  }
}

/**
 * Lets `write` make a file, which must not be there, and put it in place: with `force` it takes the place
 * of another one when it is finished. Throws BlockError, and what `write` throws.
 */
export async function intoNewFile<T>(
  path: string,
  force: boolean,
  write: (target: string) => Promise<T>,
): Promise<T> {
  const target = force ? `${path}.${Deno.pid}.part` : path;
  try {
    const written = await write(target);
    if (force) await Deno.rename(target, path);
    return written;
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw explained("write", path, error);
    const reason = "it is there already; --force replaces it";
    throw new BlockError("EEXIST", `Cannot write ${path}: ${reason}`, { cause: error });
  }
}
