/**
 * `dmu filters`: which filters there are, and what can be set.
 *
 * @module
 */
import { defaultRegistry } from "../backends/mod.ts";
import { describeOptions, type OptionHelp } from "../lib/block/options.ts";
import type { AnyFilterType } from "../lib/block/registry.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import type { CliIo } from "./io.ts";
import { findNamed, printOptions } from "./option_help.ts";
import { printJson, twoColumns } from "./output.ts";

interface Description {
  readonly name: string;
  readonly summary: string;
  readonly options: readonly OptionHelp[];
}

function describe({ name, summary, options }: AnyFilterType): Description {
  return { name, summary, options: describeOptions(options) };
}

function printDescription(io: CliIo, { name, summary, options }: Description): void {
  io.out(`${name}: ${summary}\n\n  ${name}${options.length > 0 ? ":?option=value&…" : ""}\n`);
  printOptions(io, options);
}

/** The command `dmu filters`. */
export function filtersCommand(io: CliIo): AnyCommand {
  return command("filters", io)
    .summary("list the filters, or describe one")
    .description("List the filters that can stand before storage, or describe one.")
    .argument("[filter]", "describe this filter and its options")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples([["What can be set on a delay", "dmu filters delay"]]),
    )
    .action((name, { json }) => {
      const { filters } = defaultRegistry();
      if (name !== undefined) {
        const description = describe(findNamed(filters, name, "filter"));
        return json ? printJson(io, description) : printDescription(io, description);
      }
      if (json) return printJson(io, { filters: filters.map(describe) });
      io.out(twoColumns(filters.map((filter) => [filter.name, filter.summary])));
    });
}
