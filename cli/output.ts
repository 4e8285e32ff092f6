/**
 * How results and errors look: aligned lists, JSON, and errors in one line with a caret below where
 * a text is wrong. Text from elsewhere (names that a server sends) is made safe for a terminal.
 *
 * @module
 */
import { BlockError, hasErrno } from "../lib/block/errors.ts";
import { formatSize } from "../lib/block/size.ts";
import { caretLines, UsageError } from "../lib/block/usage_error.ts";
import { SystemError } from "../lib/sys/system_error.ts";
import { TraceError } from "../lib/trace/trace_error.ts";
import type { CliIo } from "./io.ts";
import { printable } from "./safe_text.ts";

/** Exit code: everything was done. */
export const EXIT_DONE = 0;
/** Exit code: it failed. */
export const EXIT_FAILED = 1;
/** Exit code: the command line, or a file it names, is wrong. */
export const EXIT_USAGE = 2;

/** Prints a value as one line of JSON. */
export function printJson(io: CliIo, value: unknown): void {
  io.out(`${JSON.stringify(value)}\n`);
}

/** Columns that lists keep to. */
export const COLUMNS_MAX = 80;
/** Blanks before and between columns. */
const GAP = "  ";

/** Rows of two columns: the first padded to the widest of its cells, the second wrapped at words. */
export function twoColumns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  const room = Math.max(20, COLUMNS_MAX - width - 2 * GAP.length);
  return rows.flatMap(([name, value]) =>
    wrapped(value, room).map((line, index) =>
      `${GAP}${(index === 0 ? name : "").padEnd(width)}${GAP}${line}`.trimEnd() + "\n"
    )
  ).join("");
}

/** Lines of at most `room` characters, but for words that are longer. */
function wrapped(text: string, room: number): string[] {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines.at(-1) ?? "";
    if (last === "") lines[lines.length - 1] = word;
    else if (last.length + 1 + word.length <= room) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

/** A size for people and, where that is rounded or large, the exact one. */
export function exactSize(bytes: number): string {
  return bytes < 1024 ? `${bytes} bytes` : `${formatSize(bytes)} (${bytes} bytes)`;
}

/** "1 target", "2 targets". */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/**
 * Ends a command with an exit code. The message is printed like any other error; without one everything
 * has been said already.
 */
export class ExitError extends Error {
  /** The exit code, 1 to 255. */
  readonly code: number;
  /** What is still to be said. */
  readonly words: string | null;

  /** `words` reads "Cannot do X: reason". */
  constructor(code: number, words?: string, options?: { cause?: unknown }) {
    super(words ?? `Ended with exit code ${code}`, options);
    this.name = "ExitError";
    this.code = code;
    this.words = words ?? null;
  }
}

/** Prints an error in the form that all commands share. Gives the exit code that it means. */
export function printError(io: CliIo, error: unknown): number {
  if (error instanceof ExitError) {
    if (error.words !== null) io.err(`dmu: ${printable(error.words)}\n`);
    return error.code;
  }
  const message = error instanceof Error ? error.message : String(error);
  const line = printable(isOwn(error) ? message : message.split("\n", 1)[0] ?? "");
  if (error instanceof UsageError) {
    io.err(`dmu: ${line}\n`);
    if (error.place !== null) io.err(`${caretLines(error.place, io.columns).join("\n")}\n`);
    printStack(io, error);
    return EXIT_USAGE;
  }
  const expected = error instanceof BlockError
    ? !isBug(error)
    : hasErrno(error) || error instanceof TraceError;
  const hint = expected || io.verbose ? "" : "; this should not happen: --verbose shows where";
  io.err(`dmu: ${line}${hint}\n`);
  printStack(io, error);
  return EXIT_FAILED;
}

/** Written here, so a line break in the message comes from a name in it, and more follows. */
function isOwn(error: unknown): boolean {
  return [UsageError, BlockError, SystemError, TraceError].some((own) => error instanceof own);
}

/** A BlockError that was made of something that has no errno stands for a fault of a program. */
function isBug(error: BlockError): boolean {
  return error.errno === "EIO" && error.cause instanceof Error && !hasErrno(error.cause);
}

function printStack(io: CliIo, error: unknown): void {
  if (!io.verbose || !(error instanceof Error)) return;
  for (let each: unknown = error; each instanceof Error; each = each.cause) {
    io.err(`${each.stack ?? each.message}\n`);
  }
}
