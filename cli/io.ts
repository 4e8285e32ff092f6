/**
 * What commands know of the world: two streams, a few facts about the terminal, signals. The real
 * one is made here; tests hand in another and run commands in their own process.
 *
 * @module
 */
import type { Log } from "../lib/block/context.ts";
import { BlockError, errnoText, hasErrno, toBlockError } from "../lib/block/errors.ts";
import { printable } from "./safe_text.ts";

/** Standard streams, terminal, environment and signals. */
export interface CliIo {
  /** Writes to standard output: results and nothing else. Throws OutputClosed if nobody reads it. */
  out(text: string): void;
  /** Writes bytes to standard output, all of them. Throws as `out`. */
  outBytes(bytes: Uint8Array): void;
  /** Standard input; once. */
  input(): ReadableStream<Uint8Array>;
  /** Writes to standard error: errors, warnings, progress. Never throws. */
  err(text: string): void;
  /** Standard error is a terminal: progress can be drawn. */
  readonly errIsTerminal: boolean;
  /** Standard output is a terminal. */
  readonly outIsTerminal: boolean;
  /** Columns of the terminal. */
  readonly columns: number;
  /** Rows of the terminal. */
  readonly rows: number;
  /**
   * Calls `handler` with what is typed, key by key and without an echo, until what is returned is
   * called. Ctrl-c comes as "\x03" then and sends no signal. Does nothing if no terminal is read.
   */
  onKeys(handler: (keys: string) => void): () => void;
  /** No colours are wanted (NO_COLOR). */
  readonly plain: boolean;
  /** A variable of the environment. */
  env(name: string): string | undefined;
  /**
   * Calls `handler` for each SIGTERM, SIGINT or SIGHUP (a terminal that goes away) until what is
   * returned is called. SIGHUP stays ignored if it was from the start, as under nohup(1).
   */
  onStopSignal(handler: () => void): () => void;
  /** Ends the process at once. */
  exitNow(code: number): void;
  /** Details are wanted: debug messages, and stacks of errors. Set by `--verbose`. */
  verbose: boolean;
}

/** Standard output was closed by whoever read it: no fault, and nothing more to do. */
export class OutputClosed extends Error {
  /** A message for stacks; it is never printed. */
  constructor(options?: { cause?: unknown }) {
    super("Cannot write: standard output is closed", options);
    this.name = "OutputClosed";
  }
}

const COLUMNS_DEFAULT = 80, ROWS_DEFAULT = 24;

function terminalSize(): { readonly columns: number; readonly rows: number } {
  try {
    const { columns, rows } = Deno.consoleSize();
    return { columns: columns || COLUMNS_DEFAULT, rows: rows || ROWS_DEFAULT };
  } catch {
    // No terminal anywhere.
    return { columns: COLUMNS_DEFAULT, rows: ROWS_DEFAULT };
  }
}

function readKeys(handler: (keys: string) => void): () => void {
  if (!Deno.stdin.isTerminal()) return () => {};
  Deno.stdin.setRaw(true);
  let wanted = true;
  // A read of the terminal cannot be taken back: the last one ends with the process.
  const read = async (): Promise<void> => {
    const bytes = new Uint8Array(64);
    while (wanted) {
      const count = await Deno.stdin.read(bytes);
      if (count === null) return;
      if (wanted) handler(new TextDecoder().decode(bytes.subarray(0, count)));
    }
  };
  // A terminal that goes away says so by SIGHUP.
  read().catch(() => {});
  return () => {
    wanted = false;
    Deno.stdin.setRaw(false);
  };
}

/** True if whoever started this process wants it to survive its terminal. See proc(5), SigIgn. */
function hangUpIsIgnored(): boolean {
  try {
    const mask = /^SigIgn:\s*([0-9a-f]+)$/m.exec(Deno.readTextFileSync("/proc/self/status"))?.[1];
    return mask !== undefined && (BigInt(`0x${mask}`) & 1n) !== 0n;
  } catch {
    // No /proc here.
    return false;
  }
}

interface Sink {
  writeSync(bytes: Uint8Array): number;
}

function writeAll(to: Sink, bytes: Uint8Array): void {
  for (let rest = bytes; rest.length > 0;) rest = rest.subarray(to.writeSync(rest));
}

function writeOut(bytes: Uint8Array): void {
  try {
    writeAll(Deno.stdout, bytes);
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) throw new OutputClosed({ cause: error });
    if (!hasErrno(error)) throw error;
    const { errno } = toBlockError(error);
    const message = `Cannot write to standard output: ${errnoText(errno)}`;
    throw new BlockError(errno, message, { cause: error });
  }
}

/** The streams, terminal and signals of this process. */
export function processIo(): CliIo {
  const survivesHangUp = hangUpIsIgnored();
  return {
    verbose: false,
    out: (text) => writeOut(new TextEncoder().encode(text)),
    outBytes: writeOut,
    input: () => Deno.stdin.readable,
    err(text: string): void {
      try {
        writeAll(Deno.stderr, new TextEncoder().encode(text));
      } catch {
        // There is nobody left to tell.
      }
    },
    errIsTerminal: Deno.stderr.isTerminal(),
    outIsTerminal: Deno.stdout.isTerminal(),
    get columns() {
      return terminalSize().columns;
    },
    get rows() {
      return terminalSize().rows;
    },
    onKeys: readKeys,
    plain: Deno.noColor,
    env: (name) => Deno.env.get(name),
    onStopSignal(handler: () => void): () => void {
      // With the first listener of any signal Deno lets SIGHUP end the process, ignored or not.
      const handlers = [
        ["SIGTERM", handler],
        ["SIGINT", handler],
        ["SIGHUP", survivesHangUp ? () => {} : handler],
      ] as const;
      for (const [signal, each] of handlers) Deno.addSignalListener(signal, each);
      return () => {
        for (const [signal, each] of handlers) Deno.removeSignalListener(signal, each);
      };
    },
    exitNow: (code) => Deno.exit(code),
  };
}

/** Messages of the library, on standard error: one line each, stacks and debug only if verbose. */
export function cliLog(io: CliIo): Log {
  const line = (text: string): void => io.err(`dmu: ${printable(text)}\n`);
  return {
    error(message: string, cause?: unknown): void {
      line(message);
      if (io.verbose && cause instanceof Error) io.err(`${cause.stack ?? cause.message}\n`);
    },
    warn: (message) => line(`warning: ${message}`),
    info: (message) => line(message),
    debug(message: string): void {
      if (io.verbose) line(message);
    },
  };
}
