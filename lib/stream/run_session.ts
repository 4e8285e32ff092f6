/**
 * The streams driver: runs a byte session over a pair of Web Streams, with back-pressure both ways.
 * It reads only while the session is ready, and has one write under way at a time, so that replies
 * which become ready meanwhile leave together. What a client may pile up by not reading its replies is
 * bounded by the session's `ready`: the driver must not bound it, because a client that sends all of a
 * long write before it reads would then be locked up.
 *
 * @module
 */
import { COALESCE_BUFFER_BYTES, COALESCE_BYTES_MAX } from "./limits.ts";
import type { BytePair, ByteSession, OutputBuffer } from "./session.ts";

/** Settings of a run. */
export interface RunSessionOptions {
  /** Ends the connection at once; the run then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/**
 * Runs `session` until it is finished, its input ends, or it fails. At the end of the input the output
 * that is ready is sent, but work in flight is not waited for before the session's `end`. Resolves when
 * everything is over: the last bytes sent, both streams closed, all outputs released, `session.end`
 * called once and the session finished. Rejects, after the same clean-up, with the first error: a
 * ProtocolError of the session, a failed stream, or the reason of the abort signal.
 */
export function runSession(
  pair: BytePair,
  session: ByteSession,
  options: RunSessionOptions = {},
): Promise<void> {
  return new SessionRun(pair, session).run(options.signal);
}

function ignore(): void {}

class SessionRun {
  readonly #session: ByteSession;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #over = Promise.withResolvers<void>();
  #failure: { readonly cause: unknown } | null = null;
  #inputEnded = false;
  #closing = false;
  #writing = false;
  #pumpQueued = false;
  /** Wakes the reader, or whoever waits for the session to finish. */
  #changed: (() => void) | null = null;
  /** An output that was taken and did not fit the write before it. */
  #held: OutputBuffer | null = null;
  /** Where small outputs are put together. */
  #scratch: Uint8Array<ArrayBuffer> | null = null;

  constructor(pair: BytePair, session: ByteSession) {
    this.#session = session;
    this.#reader = pair.readable.getReader();
    this.#writer = pair.writable.getWriter();
  }

  async run(signal: AbortSignal | undefined): Promise<void> {
    const abort = (): void => this.#fail(signal?.reason);
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    this.#session.onWake = this.#wake;
    this.#writer.closed.catch(this.#fail);
    const reading = this.#readAll();
    this.#pump();
    await this.#over.promise;
    if (this.#failure === null) await this.#writer.close().catch(this.#fail);
    await this.#shutDown(reading);
    signal?.removeEventListener("abort", abort);
    if (this.#failure !== null) throw this.#failure.cause;
  }

  readonly #fail = (cause: unknown): void => {
    if (this.#closing) return;
    this.#failure ??= { cause };
    this.#over.resolve();
    this.#notify();
    // Settles a read or a write that hangs, also one of a writer that is being closed.
    this.#writer.abort(cause).catch(ignore);
    this.#reader.cancel(cause).catch(ignore);
  };

  /** Ends the session, and waits until nothing of this run and of the session is under way. */
  async #shutDown(reading: Promise<void>): Promise<void> {
    this.#closing = true;
    this.#notify();
    const cause = this.#failure?.cause;
    try {
      this.#session.end(cause);
    } catch (error) {
      this.#failure ??= { cause: error };
    }
    await this.#reader.cancel(cause).catch(ignore);
    await reading;
    while (this.#writing || !this.#session.finished) await this.#change();
    this.#session.onWake = null;
    this.#held?.release();
    this.#held = null;
    this.#reader.releaseLock();
    this.#writer.releaseLock();
  }

  async #readAll(): Promise<void> {
    try {
      while (this.#failure === null && !this.#closing && !this.#session.finished) {
        if (!this.#session.ready) {
          await this.#change();
          continue;
        }
        const { done, value } = await this.#reader.read();
        if (this.#failure !== null || this.#closing) return;
        if (done) {
          this.#inputEnded = true;
          this.#pump();
          return;
        }
        if (value.length > 0) this.#session.receive(value);
        this.#pump();
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  readonly #wake = (): void => {
    this.#notify();
    if (this.#pumpQueued) return;
    this.#pumpQueued = true;
    // Replies that get ready in one turn leave in one write.
    queueMicrotask(this.#queuedPump);
  };

  readonly #queuedPump = (): void => {
    this.#pumpQueued = false;
    this.#pump();
  };

  #notify(): void {
    const changed = this.#changed;
    this.#changed = null;
    changed?.();
  }

  #change(): Promise<void> {
    // Never awaited twice at a time: the shut-down waits only when the reader is done.
    return new Promise((resolve) => this.#changed = resolve);
  }

  #pump(): void {
    try {
      this.#startWrite();
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Starts the next write, if none is under way. */
  #startWrite(): void {
    if (this.#writing || this.#failure !== null || this.#closing) return;
    const output = this.#nextOutput();
    if (output === null) {
      if (this.#inputEnded || this.#session.finished) this.#over.resolve();
      return;
    }
    this.#writing = true;
    this.#writer.write(output.bytes).then(
      () => this.#written(output),
      (error: unknown) => {
        this.#written(output);
        this.#fail(error);
      },
    );
  }

  #written(output: OutputBuffer): void {
    this.#writing = false;
    output.release();
    this.#notify();
    this.#pump();
  }

  /** The next bytes to write: one output, or several small ones copied together. */
  #nextOutput(): OutputBuffer | null {
    const first = this.#held ?? this.#session.takeOutput();
    this.#held = null;
    if (first === null || first.bytes.length > COALESCE_BYTES_MAX) return first;
    this.#held = this.#session.takeOutput();
    if (this.#held === null || this.#held.bytes.length > COALESCE_BYTES_MAX) return first;
    const scratch = this.#scratch ??= new Uint8Array(COALESCE_BUFFER_BYTES);
    let length = 0;
    let next: OutputBuffer | null = first;
    while (
      next !== null && next.bytes.length <= COALESCE_BYTES_MAX &&
      length + next.bytes.length <= scratch.length
    ) {
      scratch.set(next.bytes, length);
      length += next.bytes.length;
      next.release();
      next = next === first ? this.#held : this.#session.takeOutput();
    }
    this.#held = next;
    return { bytes: scratch.subarray(0, length), release: ignore };
  }
}
