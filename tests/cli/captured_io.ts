/**
 * The command line in this process: what it prints is kept, and signals come from the test.
 *
 * @module
 */
import assert from "node:assert/strict";
import { type CliIo, OutputClosed } from "../../cli/io.ts";
import { runCli } from "../../cli/run.ts";

/** A CliIo that keeps what it gets. */
export class CapturedIo implements CliIo {
  stdout = "";
  /** Bytes that are no text: traces. */
  output = new Uint8Array(0);
  stderr = "";
  verbose = false;
  readonly exits: number[] = [];
  readonly errIsTerminal: boolean;
  readonly outIsTerminal: boolean;
  readonly columns = 80;
  readonly rows = 24;
  readonly plain = true;
  /** Resolves with the first line on standard output that `lineWanted` matches. */
  readonly line: Promise<string>;

  readonly #environment: Readonly<Record<string, string>>;
  readonly #lineWanted: RegExp;
  readonly #closed: boolean;
  readonly #input: Uint8Array<ArrayBuffer>;
  readonly #resolveLine: (line: string) => void;
  /** Resolves when somebody waits for a signal. */
  readonly listening: Promise<void>;
  #resolveListening: () => void = () => {};
  #handlers: (() => void)[] = [];
  #keyHandlers: ((keys: string) => void)[] = [];

  constructor(
    rest: {
      errIsTerminal?: boolean;
      outIsTerminal?: boolean;
      environment?: Record<string, string>;
      lineWanted?: RegExp;
      /** What standard input holds. */
      input?: Uint8Array<ArrayBuffer>;
      /** Nobody reads standard output. */
      closed?: boolean;
    } = {},
  ) {
    this.errIsTerminal = rest.errIsTerminal ?? false;
    this.outIsTerminal = rest.outIsTerminal ?? false;
    // No test is steered unless it says so: the default place belongs to the user.
    this.#environment = { DMU_CONTROL: "none", ...rest.environment };
    this.#lineWanted = rest.lineWanted ?? /^ready: |^\{"ready"/;
    this.#closed = rest.closed ?? false;
    this.#input = rest.input ?? new Uint8Array(0);
    const { promise, resolve } = Promise.withResolvers<string>();
    this.line = promise;
    this.#resolveLine = resolve;
    this.listening = new Promise((resolve) => this.#resolveListening = resolve);
  }

  out(text: string): void {
    if (this.#closed) throw new OutputClosed();
    this.stdout += text;
    const found = this.stdout.split("\n").slice(0, -1).find((line) => this.#lineWanted.test(line));
    if (found !== undefined) this.#resolveLine(found);
  }

  outBytes(bytes: Uint8Array): void {
    if (this.#closed) throw new OutputClosed();
    const both = new Uint8Array(this.output.length + bytes.length);
    both.set(this.output);
    both.set(bytes, this.output.length);
    this.output = both;
  }

  input(): ReadableStream<Uint8Array> {
    return new Blob([this.#input]).stream();
  }

  err(text: string): void {
    this.stderr += text;
  }

  env(name: string): string | undefined {
    return this.#environment[name];
  }

  onStopSignal(handler: () => void): () => void {
    this.#handlers.push(handler);
    this.#resolveListening();
    return () => {
      this.#handlers = this.#handlers.filter((each) => each !== handler);
    };
  }

  onKeys(handler: (keys: string) => void): () => void {
    this.#keyHandlers.push(handler);
    return () => {
      this.#keyHandlers = this.#keyHandlers.filter((each) => each !== handler);
    };
  }

  exitNow(code: number): void {
    this.exits.push(code);
  }

  /** How many wait for a signal or a key. */
  get handlerCount(): number {
    return this.#handlers.length + this.#keyHandlers.length;
  }

  /** Types something. */
  type(keys: string): void {
    for (const handler of [...this.#keyHandlers]) handler(keys);
  }

  /** Sends a stop signal. */
  signal(): void {
    for (const handler of [...this.#handlers]) handler();
  }
}

/** What a run of the command line gave. */
export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `dmu ARGS` to its end. */
export async function dmu(
  args: readonly string[],
  io: CapturedIo = new CapturedIo(),
): Promise<Run> {
  const code = await runCli(args, io);
  return { code, stdout: io.stdout, stderr: io.stderr };
}

/** `dmu serve` in this process. */
export interface Serving {
  /** What it prints. */
  readonly io: CapturedIo;
  /** The ready line. */
  readonly ready: string;
  /** Sends a stop signal and waits for the end. */
  stop(): Promise<Run>;
}

/** Starts `dmu serve ARGS` and waits for its ready line. */
export async function serve(
  args: readonly string[],
  io: CapturedIo = new CapturedIo(),
): Promise<Serving> {
  const ended = dmu(["serve", ...args], io);
  const ready = await Promise.race([io.line, ended.then(() => null)]);
  assert.ok(ready !== null, `it ended: ${io.stderr}`);
  return {
    io,
    ready,
    stop(): Promise<Run> {
      io.signal();
      return ended;
    },
  };
}

/** A temporary folder that is removed at the end. */
export async function temporaryFolder(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await Deno.makeTempDir();
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}
