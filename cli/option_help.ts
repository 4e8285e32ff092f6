/**
 * The list of options that `dmu backends KIND` and `dmu filters FILTER` print.
 *
 * @module
 */
import type { OptionHelp } from "../lib/block/options.ts";
import { suggest, UsageError } from "../lib/block/usage_error.ts";
import type { CliIo } from "./io.ts";
import { twoColumns } from "./output.ts";

/** Choices of so many characters stand behind the equals sign; more of them are listed after it. */
const TYPE_LENGTH_MAX = 24;

function row({ name, type, summary, required, default: fallback }: OptionHelp): [string, string] {
  const rest = required ? " (required)" : fallback === null ? "" : ` (default ${fallback})`;
  if (type.length <= TYPE_LENGTH_MAX) return [`${name}=${type.toUpperCase()}`, summary + rest];
  const several = type.includes(",");
  const words = type.split(several ? "," : "|").join(", ");
  const choice = `${several ? "some of" : "one of"} ${words}`;
  return [`${name}=${several ? "LIST" : "WORD"}`, `${summary}: ${choice}${rest}`];
}

/** Prints options, after an empty line; nothing if there are none. */
export function printOptions(io: CliIo, options: readonly OptionHelp[]): void {
  if (options.length > 0) io.out(`\n${twoColumns(options.map(row))}`);
}

/** The one of this name. Throws UsageError with suggestions; `noun` says what they are. */
export function findNamed<T extends { readonly name: string }>(
  all: readonly T[],
  name: string,
  noun: string,
): T {
  const found = all.find((each) => each.name === name);
  if (found !== undefined) return found;
  const hint = suggest(name, all.map((each) => each.name));
  throw new UsageError(`Cannot describe "${name}": there is no such ${noun}; ${hint}`);
}
