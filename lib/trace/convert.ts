/**
 * Opens traces of any format and writes them in another: finds the format by content, then by the
 * ending of the name; compressed traces (gzip) are read as they are.
 *
 * @module
 */
import { basename, dirname, join } from "node:path/posix";
import { UsageError } from "../block/usage_error.ts";
import type { TraceEvent } from "./event.ts";
import { readBlktrace } from "./formats/blktrace.ts";
import { formats } from "./formats/mod.ts";
import { CPU_FILES_MAX, DETECT_BYTES, READ_BYTES } from "./limits.ts";
import type { ReadOptions, TraceBytes, TraceFormat, TraceNotes, TraceSource } from "./source.ts";
import { TraceError } from "./trace_error.ts";

/** How a trace is opened. */
export interface OpenOptions extends ReadOptions {
  /** Its format, see `formatNamed`; found if not told. */
  readonly format?: TraceFormat;
}

/** A trace that is open. */
export interface OpenTrace {
  /** Its format. */
  readonly format: TraceFormat;
  /** Its events. */
  readonly source: TraceSource;
  /** Bytes of its files; null if unknown. */
  readonly bytes: number | null;
  /** Bytes of them that were read so far. */
  bytesRead(): number;
}

/** What was converted. */
export interface Converted {
  /** Events that were read. */
  readonly events: number;
  /** Bytes that were written. */
  readonly bytes: number;
}

/** The format of that name. Throws UsageError. */
export function formatNamed(name: string): TraceFormat {
  const found = formats.find((format) => format.name === name);
  if (found !== undefined) return found;
  const known = formats.map((format) => format.name).join(", ");
  throw new UsageError(`There is no trace format "${name}"; there are ${known}`);
}

/** The format that the ending of a file name means; null if it means none, or several. */
export function formatByEnding(path: string): TraceFormat | null {
  const plain = path.replace(/\.gz$/, "");
  const found = formats.filter(({ endings }) => endings.some((ending) => plain.endsWith(ending)));
  return found.length === 1 ? found[0] ?? null : null;
}

/** The format of a trace that begins with these bytes; null if it is of none that is known. */
export function detectFormat(head: Uint8Array): TraceFormat | null {
  return formats.find((format) => format.detect(head)) ?? null;
}

/**
 * Opens the trace in a file, or in the files that blktrace makes for each CPU: `sda`, or any of
 * `sda.blktrace.0`, `sda.blktrace.1` and so on, means them all. Throws TraceError, UsageError or what
 * opening a file throws.
 */
export async function openTrace(path: string, options: OpenOptions = {}): Promise<OpenTrace> {
  const files = await cpuFiles(path);
  if (files.length > 1 || files[0] !== path) return await openCpuFiles(files, options);
  const file = await Deno.open(path, { read: true });
  let size: number;
  try {
    const { isFile, size: bytes } = await file.stat();
    size = isFile ? bytes : 0;
  } catch (error) {
    file.close();
    throw error;
  }
  const opened = await openTraceStream(fileChunks(file), path, options);
  return { ...opened, bytes: size === 0 ? null : size };
}

/** Opens the trace in a stream. `name` is where it comes from: its ending may tell the format. */
export async function openTraceStream(
  input: ReadableStream<Uint8Array>,
  name: string,
  options: OpenOptions = {},
): Promise<OpenTrace> {
  let count = 0;
  const { head, stream } = await unpacked(input, (bytes) => count += bytes);
  const format = options.format ?? detectFormat(head) ?? formatByEnding(name);
  if (format === null) {
    await stream.cancel();
    const what = head.length === 0 ? "it is empty" : "its format is not known";
    throw new TraceError(`${what}; known are ${formats.map((each) => each.name).join(", ")}`);
  }
  const source = await format.read(stream, options);
  return { format, source, bytes: null, bytesRead: () => count };
}

/**
 * Makes the bytes of a trace in a format. What the format cannot hold is told in `notes`. Throws
 * UsageError for a format that is not written.
 */
export function encodeTrace(
  source: TraceSource,
  format: TraceFormat,
  notes: TraceNotes,
  each: (batch: readonly TraceEvent[]) => void = () => {},
): TraceBytes {
  if (format.write === undefined) {
    throw new UsageError(`Cannot write a trace as ${format.name}: no tool reads it`);
  }
  return format.write(source.info, seen(source.batches(), each), notes);
}

/**
 * Writes a trace to a new file in a format. What the format cannot hold is told in `notes`; `progress`
 * is told after each batch. Throws TraceError, UsageError, Deno.errors.AlreadyExists; a file that was
 * begun and not finished is removed.
 */
export async function convertTrace(
  source: TraceSource,
  format: TraceFormat,
  path: string,
  notes: TraceNotes,
  progress: (events: number) => void = () => {},
): Promise<Converted> {
  let events = 0, file: Deno.FsFile, chunks: TraceBytes;
  try {
    chunks = encodeTrace(source, format, notes, (batch) => {
      events += batch.length;
      progress(events);
    });
    file = Deno.openSync(path, { write: true, createNew: true });
  } catch (error) {
    await giveUp(source);
    throw error;
  }
  try {
    const bytes = await writeChunks(file, chunks);
    return { events, bytes };
  } catch (error) {
    await Deno.remove(path);
    throw error;
  } finally {
    file.close();
  }
}

/** Closes what a source that is not wanted reads from: its batches do that when they are left. */
async function giveUp(source: TraceSource): Promise<void> {
  const batches = source.batches()[Symbol.asyncIterator]();
  await batches.next();
  await batches.return?.();
}

async function writeChunks(
  file: Deno.FsFile,
  chunks: TraceBytes,
): Promise<number> {
  let bytes = 0;
  for (;;) {
    const next = await chunks.next();
    if (next.done === true) {
      if (next.value !== undefined) {
        file.seekSync(0, Deno.SeekMode.Start);
        writeAll(file, next.value);
      }
      return bytes;
    }
    writeAll(file, next.value);
    bytes += next.value.length;
  }
}

/** Without waiting: a step of the event loop a chunk costs more than the copy to the page cache. */
function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}

async function* seen(
  batches: AsyncIterable<readonly TraceEvent[]>,
  each: (batch: readonly TraceEvent[]) => void,
): AsyncGenerator<readonly TraceEvent[], void> {
  for await (const batch of batches) {
    each(batch);
    yield batch;
  }
}

/** The beginning of a stream, and a stream of all of it; both as they are without compression. */
async function unpacked(
  input: ReadableStream<Uint8Array>,
  counted: (bytes: number) => void,
): Promise<{ head: Uint8Array; stream: ReadableStream<Uint8Array> }> {
  const plain = await peeked(input, counted);
  if (plain.head[0] !== 0x1f || plain.head[1] !== 0x8b) return plain;
  return await peeked(gunzipped(plain.stream), () => {});
}

/** The content of a file, which is closed at its end. */
function fileChunks(
  file: Deno.FsFile,
  counted: (bytes: number) => void = () => {},
): ReadableStream<Uint8Array> {
  async function pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    const bytes = new Uint8Array(READ_BYTES);
    const count = await file.read(bytes).catch((error: unknown) => {
      file.close();
      throw error;
    });
    if (count === null) {
      file.close();
      return controller.close();
    }
    counted(count);
    controller.enqueue(bytes.subarray(0, count));
  }
  return new ReadableStream({ pull, cancel: () => file.close() });
}

function gunzipped(input: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> {
  async function* chunks(): AsyncGenerator<Uint8Array, void> {
    const bytes = input.pipeThrough(
      new TransformStream<Uint8Array, Uint8Array<ArrayBuffer>>({
        transform: (chunk, controller) => controller.enqueue(new Uint8Array(chunk)),
      }),
    );
    try {
      yield* bytes.pipeThrough(new DecompressionStream("gzip"));
    } catch (cause) {
      if (!(cause instanceof TypeError)) throw cause;
      throw new TraceError("it is compressed, and damaged or cut off", { cause });
    }
  }
  return ReadableStream.from(chunks());
}

async function peeked(
  input: ReadableStream<Uint8Array>,
  counted: (bytes: number) => void,
): Promise<{ head: Uint8Array; stream: ReadableStream<Uint8Array> }> {
  const reader = input.getReader();
  const chunks: Uint8Array[] = [];
  let length = 0;
  while (length < DETECT_BYTES) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    counted(value.length);
    length += value.length;
  }
  const head = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    head.set(chunk, at);
    at += chunk.length;
  }
  async function pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    const { done, value } = await reader.read();
    if (done) return controller.close();
    counted(value.length);
    controller.enqueue(value);
  }
  const stream = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(head),
    pull,
    cancel: (reason) => reader.cancel(reason),
  });
  return { head: head.subarray(0, DETECT_BYTES), stream };
}

const CPU_FILE = /\.blktrace\.\d+$/;

/** The files that a path means. */
async function cpuFiles(path: string): Promise<string[]> {
  const base = basename(path).replace(CPU_FILE, "");
  if (base === basename(path) && await exists(path)) return [path];
  const names: string[] = [];
  try {
    for await (const { name } of Deno.readDir(dirname(path))) {
      if (name.startsWith(base) && CPU_FILE.test(name) && name.replace(CPU_FILE, "") === base) {
        names.push(join(dirname(path), name));
      }
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  if (names.length > CPU_FILES_MAX) {
    throw new TraceError(`it has more than ${CPU_FILES_MAX} files of CPUs`);
  }
  return names.length === 0 ? [path] : names.sort();
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function openCpuFiles(paths: readonly string[], options: OpenOptions): Promise<OpenTrace> {
  const inputs: ReadableStream<Uint8Array>[] = [];
  let bytes = 0, read = 0;
  try {
    for (const path of paths) {
      const file = await Deno.open(path, { read: true });
      inputs.push(fileChunks(file, (count) => read += count));
      bytes += (await file.stat()).size;
    }
  } catch (error) {
    for (const input of inputs) await input.cancel();
    throw error;
  }
  const source = await readBlktrace(inputs, options);
  return { format: formatNamed("blktrace"), source, bytes, bytesRead: () => read };
}
