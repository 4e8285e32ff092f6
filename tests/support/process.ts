/**
 * Child processes of tests: collecting what they say, waiting for their end or for a line under a
 * deadline, ending them by pid.
 *
 * @module
 */

/** Collects a stream while its process runs. */
export class Collector {
  readonly #chunks: Uint8Array[] = [];
  /** Resolves when the stream has ended. */
  readonly done: Promise<void>;

  /** `onLine` gets each complete line, without its end. */
  constructor(stream: ReadableStream<Uint8Array>, onLine?: (line: string) => void) {
    this.done = this.#collect(stream, onLine);
  }

  async #collect(
    stream: ReadableStream<Uint8Array>,
    onLine?: (line: string) => void,
  ): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of stream) {
      this.#chunks.push(chunk);
      if (onLine === undefined) continue;
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      lines.forEach(onLine);
    }
  }

  /** What has come so far. */
  bytes(): Uint8Array {
    const whole = new Uint8Array(this.#chunks.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const chunk of this.#chunks) {
      whole.set(chunk, at);
      at += chunk.length;
    }
    return whole;
  }

  /** What has come so far, as text. */
  text(): string {
    return new TextDecoder().decode(this.bytes());
  }
}

/** Writes all of `stdin` to a process and closes it. */
export async function feed(
  child: Deno.ChildProcess,
  stdin: string | Uint8Array<ArrayBuffer>,
): Promise<void> {
  try {
    await new Blob([stdin]).stream().pipeTo(child.stdin);
  } catch (error) {
    // A program that has read enough closes its end: its exit code says whether that is an error.
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}

/** Sends a signal; that the process has ended by itself is no error. */
export function killQuietly(child: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    child.kill(signal);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
}

/** What `promise` gives, or null if that takes more than `timeoutMs`. */
export async function within<T>(promise: Promise<T>, timeoutMs: number): Promise<T | null> {
  const signal = AbortSignal.timeout(timeoutMs);
  const { promise: late, resolve } = Promise.withResolvers<null>();
  const onAbort = (): void => resolve(null);
  signal.addEventListener("abort", onAbort);
  try {
    return await Promise.race([promise, late]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** Waits for the end of a process; null if that takes more than `timeoutMs`. */
export function ended(
  child: Deno.ChildProcess,
  timeoutMs: number,
): Promise<Deno.CommandStatus | null> {
  return within(child.status, timeoutMs);
}
