/**
 * `dmu create`: a new target in the running daemon.
 *
 * @module
 */
import type { Registry } from "../lib/block/registry.ts";
import { parseSize } from "../lib/block/size.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import type { TargetWish } from "../lib/daemon/control_client.ts";
import { parseEndpoint } from "../lib/daemon/endpoint.ts";
import { absoluteEndpoint, absoluteFilter, absoluteSpec } from "./absolute_spec.ts";
import { type AnyCommand, collect, command, examples } from "./command.ts";
import { checkName, CONTROL_OPTION, parseMinor, patiently, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { printJson, twoColumns } from "./output.ts";
import { printable } from "./safe_text.ts";
import { registryWith } from "./setup.ts";
import { targetRows } from "./show.ts";

/** The variable in which `dmu onexit exec` tells its command the number of its open file. */
export const MINOR_VARIABLE = "DMU_ONEXIT_MINOR";

interface CreateOptions {
  readonly size?: string | undefined;
  readonly nbd?: readonly string[] | undefined;
  readonly filter?: readonly string[] | undefined;
  readonly readOnly?: true | undefined;
  readonly ephemeral?: true | undefined;
  readonly onexit?: string | undefined;
}

/** Bytes of a size. Throws UsageError. */
export function sizeOf(text: string): number {
  const bytes = parseSize(text);
  if (typeof bytes === "number") return bytes;
  throw new UsageError(`The size ${bytes.problem}`, { text, start: 0, end: text.length });
}

/** The open file whose end removes the target: named, or that of the surrounding `dmu onexit exec`. */
function onexitOf(io: CliIo, { onexit, ephemeral }: CreateOptions): number | undefined {
  if (onexit !== undefined) return parseMinor(onexit);
  const around = io.env(MINOR_VARIABLE) ?? "";
  return ephemeral && around !== "" ? parseMinor(around) : undefined;
}

function wishOf(io: CliIo, spec: string, options: CreateOptions, registry: Registry): TargetWish {
  const size = options.size === undefined ? undefined : sizeOf(options.size);
  const onexit = onexitOf(io, options);
  for (const endpoint of options.nbd ?? []) parseEndpoint(endpoint);
  return {
    backend: absoluteSpec(spec, registry, size),
    filters: (options.filter ?? []).map((each) => absoluteFilter(each, registry)),
    endpoints: (options.nbd ?? []).map(absoluteEndpoint),
    readOnly: options.readOnly ?? false,
    ephemeral: options.ephemeral ?? false,
    ...(size === undefined ? {} : { size }),
    ...(onexit === undefined ? {} : { onexit }),
  };
}

/** The command `dmu create`. */
export function createCommand(io: CliIo): AnyCommand {
  return command("create", io)
    .summary("create a target in the running daemon")
    .description(
      "Create a target in the running daemon and wait until clients can connect. Relative paths " +
        "mean this working directory. It is kept over a restart of the daemon if that has " +
        "--state, unless it is ephemeral.",
    )
    .argument("<name>", "name of the new target")
    .argument("<spec>", "KIND:ARGUMENT?option=value, or an NBD URI")
    .option("--size <size>", "its size, for instance 64M or 1.5T")
    .option("--nbd <endpoint>", "an endpoint for this target alone (repeatable)", collect)
    .option("--filter <spec>", "a filter above the storage, outermost last (repeatable)", collect)
    .option("--read-only", "refuse what changes data")
    .option(
      "--ephemeral",
      "do not keep it over a restart; below dmu onexit exec remove it when that ends",
    )
    .option("--onexit <minor>", "remove it when this open file ends")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["Memory", "dmu create scratch memory:64M"],
        ["An image on a socket of its own", "dmu create d file:disk.img --nbd unix:d.sock"],
        [
          "For as long as a command runs",
          "dmu onexit exec -- sh -c 'dmu create t memory:1G --ephemeral && make test'",
        ],
      ]),
    )
    .action(async (name, spec, { control: place, json, ...options }) => {
      const wish = wishOf(io, spec, options, await registryWith());
      checkName(name);
      await withControl(io, place, async (control) => {
        const created = await patiently(io, `${name} to open`, control.create(name, wish));
        if (json) return printJson(io, created);
        io.out(`${printable(name)}\n${twoColumns(targetRows(created))}`);
      });
    });
}
