/**
 * `dmu backends`: which kinds of storage there are, and what can be set.
 *
 * @module
 */
import { describeOptions, type OptionHelp } from "../lib/block/options.ts";
import type { AnyBackendType } from "../lib/block/registry.ts";
import { type AnyCommand, collect, command, examples } from "./command.ts";
import type { CliIo } from "./io.ts";
import { findNamed, printOptions } from "./option_help.ts";
import { printJson, twoColumns } from "./output.ts";
import { BACKEND_HELP, registryWith } from "./setup.ts";

interface Description {
  readonly name: string;
  readonly summary: string;
  readonly argument: string | null;
  readonly schemes: readonly string[];
  readonly options: readonly OptionHelp[];
}

function describe(type: AnyBackendType): Description {
  const { name, summary, argument = null, schemes = [] } = type;
  return { name, summary, argument, schemes, options: describeOptions(type.options) };
}

/** How a spec of this kind is written: "file:PATH?option=value". */
function formOf({ name, argument, schemes, options }: Description): string {
  const [scheme] = schemes;
  if (scheme !== undefined) return `${scheme}://…`;
  const others = options.filter((option) => option.name !== argument);
  return `${name}:${argument?.toUpperCase() ?? ""}${others.length > 0 ? "?option=value&…" : ""}`;
}

function printDescription(io: CliIo, description: Description): void {
  const { name, summary, options } = description;
  io.out(`${name}: ${summary}\n\n  ${formOf(description)}\n`);
  printOptions(io, options);
}

/** The command `dmu backends`. */
export function backendsCommand(io: CliIo): AnyCommand {
  return command("backends", io)
    .summary("list the kinds of storage, or describe one")
    .description("List the kinds of storage, or describe one.")
    .argument("[kind]", "describe this kind and its options")
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples([["What can be set on a file", "dmu backends file"]]),
    )
    .action(async (kind, { backend, json }) => {
      const registry = await registryWith(backend);
      if (kind !== undefined) {
        const description = describe(findNamed(registry.backends, kind, "kind"));
        return json ? printJson(io, description) : printDescription(io, description);
      }
      const all = registry.backends.map(describe);
      if (json) return printJson(io, { backends: all });
      io.out(twoColumns(all.map(({ name, summary }) => [name, summary])));
    });
}
