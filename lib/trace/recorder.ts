/**
 * Recording: a tap of a Device that puts events into a ring, and the thread that takes them out and
 * writes a native trace. The data path never waits for either; what the thread cannot keep up with is
 * counted as lost, and the trace says so. Both sides of the thread are in this one module, since a
 * thread of a bundled program can be started from the bundle alone.
 *
 * @module
 */
import type { Clock, Log } from "../block/context.ts";
import { BlockError, type Errno, errnoText, isErrno, toBlockError } from "../block/errors.ts";
import type { Request, Tap } from "../block/request.ts";
import { isWorkerNamed, type WorkerScope, workerScope } from "../sys/worker_scope.ts";
import type { TraceInfo } from "./event.ts";
import { BLOCK_BYTES, RECORDER_WAIT_MS, RING_BYTES, RING_PAYLOAD_BYTES } from "./limits.ts";
import { BlockBuilder, encodeHeader } from "./native.ts";
import { digestOf, recordLength, recordTimeUs } from "./record.ts";
import { RingConsumer, ringMemory, RingProducer } from "./ring.ts";

/** The name of the thread. */
const THREAD_NAME = "dmu:trace";

/** What of the data is kept: nothing, digests of what is read and written, or all of it. */
export type DataKept = "none" | "digest" | "payload";

/** Settings of a recorder. */
export interface RecorderOptions {
  /** Where the trace goes; a file that is there already is refused. */
  readonly path: string;
  /** What the trace says of itself. */
  readonly info: TraceInfo;
  /** What of the data is kept. */
  readonly data: DataKept;
  /** The clock of the Device that is tapped. */
  readonly clock: Clock;
  /** Hears of lost events and of a trace that cannot be written. */
  readonly log: Log;
}

/** What a recorder has done so far. */
export interface RecorderCounts {
  /** Events that were put into the ring. */
  readonly events: number;
  /** Events that were lost, because the ring was full or the trace cannot be written any more. */
  readonly lost: number;
}

interface Start {
  readonly memory: SharedArrayBuffer;
  readonly path: string;
  readonly info: TraceInfo;
}

type FromThread =
  | { readonly kind: "started" }
  | { readonly kind: "failed"; readonly errno: Errno; readonly reason: string }
  | { readonly kind: "stopped" };

/** Bytes of the control word that tells the thread to stop, in memory of its own. */
const STOP_WORDS = 1;

/** A trace that is being recorded. Its `tap` goes into a Device. */
export class Recorder implements AsyncDisposable {
  /** What sees the requests of the Device. */
  readonly tap: Tap;
  /** Where the trace goes. */
  readonly path: string;
  readonly #producer: RingProducer;
  readonly #worker: Worker;
  readonly #stop: Int32Array<SharedArrayBuffer>;
  readonly #log: Log;
  readonly #started = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<void>();
  #closing: Promise<void> | null = null;
  #begun = false;
  #events = 0;
  #lostTold = false;
  #broken = 0;
  #failed = false;

  /** Begins a trace; resolves when its file is there. Errno: EEXIST, EACCES, ENOSPC, ENOENT … */
  static async start(options: RecorderOptions): Promise<Recorder> {
    const recorder = new Recorder(options);
    try {
      await recorder.#started.promise;
    } catch (error) {
      recorder.#worker.terminate();
      throw error;
    }
    return recorder;
  }

  private constructor(options: RecorderOptions) {
    const { path, info, data, clock, log } = options;
    this.path = path;
    this.#log = log;
    const memory = ringMemory(data === "payload" ? RING_PAYLOAD_BYTES : RING_BYTES);
    this.#producer = new RingProducer(memory);
    this.#stop = new Int32Array(new SharedArrayBuffer(STOP_WORDS * Int32Array.BYTES_PER_ELEMENT));
    this.tap = this.#makeTap(data, clock.now());
    this.#worker = new Worker(import.meta.url, { type: "module", name: THREAD_NAME });
    this.#worker.addEventListener("message", (event: MessageEvent) => this.#hear(event.data));
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.#hear({ kind: "failed", errno: "EIO", reason: event.message });
      this.#ended.resolve();
    });
    const start: Start & { stop: Int32Array<SharedArrayBuffer> } = {
      ...{ memory, path, info, stop: this.#stop },
    };
    this.#worker.postMessage(start);
  }

  /** It could not be written to its end: the log has said why. */
  get broken(): boolean {
    return this.#failed;
  }

  /** What was done so far. */
  get counts(): RecorderCounts {
    return { events: this.#events, lost: this.#producer.lost + this.#broken };
  }

  /** Writes what is in the ring and ends the trace. Once; never rejects. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    Atomics.store(this.#stop, 0, 1);
    this.#producer.wake();
    await this.#ended.promise;
    this.#worker.terminate();
    const { events, lost } = this.counts;
    if (lost > 0) this.#log.warn(`The trace ${this.path} lacks ${lost} of ${events + lost} events`);
  }

  #hear(message: FromThread): void {
    if (message.kind === "started") {
      this.#begun = true;
      return this.#started.resolve();
    }
    if (message.kind === "stopped") return this.#ended.resolve();
    const { errno, reason } = message;
    this.#failed = true;
    this.#ended.resolve();
    const hint = errno === "EEXIST" ? ", and no trace is overwritten" : "";
    const error = new BlockError(errno, `Cannot write the trace ${this.path}: ${reason}${hint}`);
    if (this.#begun) this.#log.error(`${error.message}; the rest is not recorded`);
    else this.#started.reject(error);
  }

  #put(event: Parameters<RingProducer["put"]>[0]): void {
    if (this.#failed) {
      this.#broken += 1;
      return;
    }
    if (this.#producer.put(event)) {
      this.#events += 1;
    } else if (!this.#lostTold) {
      this.#lostTold = true;
      this.#log.warn(`The trace ${this.path} loses events: its disk is too slow`);
    }
  }

  #makeTap(data: DataKept, startUs: number): Tap {
    let lastId = 0;
    const digest = (bytes: Uint8Array): number | null =>
      data === "none" || bytes.length === 0 ? null : digestOf(bytes);
    const payload = (bytes: Uint8Array): Uint8Array | null =>
      data !== "payload" || bytes.length === 0 ? null : bytes;
    return {
      submitted: (request: Request, timeUs: number): number => {
        lastId += 1;
        const { operation, offset, length, flags, gate } = request;
        const bytes = operation === "write" ? request.data : NO_BYTES;
        this.#put({
          ...{ kind: "submit", timeUs: timeUs - startUs, id: lastId, connection: gate.id },
          ...{ operation, offset, length, flags, digest: digest(bytes), payload: payload(bytes) },
        });
        return lastId;
      },
      completed: (id: number, request: Request, name: string | null, timeUs: number): void => {
        const errno = name === null ? null : isErrno(name) ? name : "EIO";
        const bytes = request.operation === "read" && errno === null ? request.data : NO_BYTES;
        this.#put({
          ...{ kind: "complete", timeUs: timeUs - startUs, id, errno },
          ...{ digest: digest(bytes), payload: payload(bytes) },
        });
      },
    };
  }
}

const NO_BYTES = new Uint8Array(0);

/** The thread's side. */
class RecorderThread {
  readonly #scope: WorkerScope;

  constructor(scope: WorkerScope) {
    this.#scope = scope;
    scope.addEventListener("message", (event) => this.#run(event.data));
  }

  #run(start: Start & { stop: Int32Array<SharedArrayBuffer> }): void {
    try {
      using file = Deno.openSync(start.path, { write: true, createNew: true, mode: 0o600 });
      writeAll(file, encodeHeader(start.info));
      this.#tell({ kind: "started" });
      record(file, new RingConsumer(start.memory), start.stop);
      file.syncDataSync();
    } catch (error) {
      const { errno, message } = toBlockError(error);
      const reason = errno === "EIO" ? message : errnoText(errno);
      this.#tell({ kind: "failed", errno, reason });
    }
    this.#tell({ kind: "stopped" });
  }

  #tell(message: FromThread): void {
    this.#scope.postMessage(message);
  }
}

/** Takes records out and writes blocks until it is told to stop and nothing is left. */
function record(file: Deno.FsFile, ring: RingConsumer, stop: Int32Array<SharedArrayBuffer>): void {
  const builder = new BlockBuilder();
  for (;;) {
    const { wakes } = ring;
    const stopping = Atomics.load(stop, 0) !== 0;
    const run = ring.next(recordLength, BLOCK_BYTES);
    if (run !== null) {
      addRun(builder, run.records);
      ring.release();
      if (!builder.full) continue;
    }
    // Nothing is left, or a block is full: in both cases what there is goes to the file.
    builder.lost = ring.lost;
    const block = builder.take();
    if (block !== null) writeAll(file, block);
    if (run !== null) continue;
    if (stopping) return;
    ring.wait(wakes, RECORDER_WAIT_MS);
  }
}

function addRun(builder: BlockBuilder, records: Uint8Array): void {
  const view = new DataView(records.buffer, records.byteOffset, records.byteLength);
  let events = 0, last = 0;
  for (let at = 0; at < records.length; at += recordLength(view, at)) {
    events += 1;
    last = at;
  }
  builder.addRecords(records, events, recordTimeUs(view, 0), recordTimeUs(view, last));
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}

if (isWorkerNamed(THREAD_NAME)) {
  const scope = workerScope();
  if (scope !== null) new RecorderThread(scope);
}
