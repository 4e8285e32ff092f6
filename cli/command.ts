/**
 * The one file that knows the command line package. Commands are built with its `.argument`,
 * `.option` and `.action` only, so that another package of the same shape can take its place here.
 *
 * @module
 */
import {
  Argument,
  Command,
  CommanderError,
  type CommandUnknownOpts,
  InvalidArgumentError,
  Option,
} from "@commander-js/extra-typings";
import { UsageError } from "../lib/block/usage_error.ts";
import type { CliIo } from "./io.ts";

/** A command whatever its options are. */
export type AnyCommand = CommandUnknownOpts;

/** Columns of help pages. */
const HELP_COLUMNS = 80;

/** A new command that writes to `io` and throws instead of ending the process. */
export function command(name: string, io: CliIo): Command {
  return new Command(name)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => io.out(text),
      writeErr: (text) => io.err(text),
      // The caller prints every error, in one form.
      outputError: () => {},
      getOutHelpWidth: () => HELP_COLUMNS,
      getErrHelpWidth: () => HELP_COLUMNS,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .configureHelp({ subcommandTerm: (each) => each.name() })
    .helpOption("-h, --help", "show this help");
}

/** The text that goes below a command's options: each example with what it does. */
export function examples(rows: readonly (readonly [does: string, line: string])[]): string {
  return ["", "Examples:", ...rows.flatMap(([does, line]) => [`  ${does}`, `    ${line}`])]
    .join("\n");
}

/** Collects the values of an option that can be given several times. */
export function collect(value: string, before: readonly string[] | undefined): string[] {
  return [...before ?? [], value];
}

/** An argument that is one word of a few. */
export function oneOf<const A extends string, const C extends string>(
  name: A,
  summary: string,
  choices: readonly C[],
): Argument<A, undefined, undefined, undefined, C> {
  return new Argument(name, summary).choices(choices);
}

/** An option whose value is one word of a few. */
export function oneOfOption<const F extends string, const C extends string>(
  flags: F,
  summary: string,
  choices: readonly C[],
): Option<F, undefined, undefined, undefined, false, C> {
  return new Option(flags, summary).choices(choices);
}

/** Reads a whole number within bounds. */
export function wholeNumber(min: number, max: number): (value: string) => number {
  return (value) => {
    const number = /^\d+$/.test(value) ? Number(value) : Number.NaN;
    if (number >= min && number <= max) return number;
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  };
}

/** Reads a number of seconds, decimals allowed, from `least` (0 if not told) to `max`. */
export function seconds(max: number, least = 0): (value: string) => number {
  return (value) => {
    const number = /^\d+(\.\d+)?$/.test(value) ? Number(value) : Number.NaN;
    if (number >= least && number <= max) return number;
    throw new InvalidArgumentError(`It must be a number of seconds from ${least} to ${max}.`);
  };
}

/** Reads what `parse` understands; it gives null for what it does not. `mustBe` completes "It must be". */
export function parsedBy<T>(
  parse: (value: string) => T | null,
  mustBe: string,
): (value: string) => T {
  return (value) => {
    const parsed = parse(value);
    if (parsed !== null) return parsed;
    throw new InvalidArgumentError(`It must be ${mustBe}.`);
  };
}

/**
 * Runs the command that `args` name. False if none was named: the help has been printed instead.
 * Throws UsageError for arguments that are wrong. Help that was asked for counts as done.
 */
export async function runCommand(program: AnyCommand, args: readonly string[]): Promise<boolean> {
  try {
    await program.parseAsync([...args], { from: "user" });
    return true;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return true;
    if (error.code === "commander.help") return false;
    const message = error.message.replace(/^error: /, "").replaceAll("\n", " ").replace(/\.$/, "");
    const page = ["dmu", ...namesIn(program, args), "--help"].join(" ");
    throw new UsageError(`${message}; see ${page}`, null, { cause: error });
  }
}

/** The names of the command and of the command below it that `args` begin with. */
function namesIn(program: AnyCommand, args: readonly string[]): string[] {
  const found = program.commands.find((each) => each.name() === args[0]);
  return found === undefined ? [] : [found.name(), ...namesIn(found, args.slice(1))];
}
