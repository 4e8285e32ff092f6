/**
 * `dmu image create`: a new image, of any kind that has image tools.
 *
 * @module
 */
import { defaultRegistry } from "../../backends/mod.ts";
import { describeOptions, type OptionHelp, parseOptions } from "../../lib/block/options.ts";
import type { PreparedImage } from "../../lib/block/registry.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { type AnyCommand, collect, command, examples } from "../command.ts";
import type { CliIo } from "../io.ts";
import { exactSize, printJson, twoColumns } from "../output.ts";
import { printable } from "../safe_text.ts";
import { BACKEND_HELP, registryWith } from "../setup.ts";
import { FILE_HELP, newImage, sizeArgument, withImageContext } from "./find.ts";
import { infoJson } from "./json.ts";

/** Help of `-o`. */
export const OPTION_HELP = "what the new image is to be (repeatable); the list is below";

function optionRow({ name, type, summary, required, default: fallback }: OptionHelp): [
  string,
  string,
] {
  const rest = required ? " (required)" : fallback === null ? "" : ` (default ${fallback})`;
  // Choices are long: they go with the words.
  const choices = type.includes("|");
  const text = choices ? `${type.split("|").join(", ")}: ${summary}` : summary;
  return [choices ? name : `${name}=${type.toUpperCase()}`, text + rest];
}

/** Below the options of a command: what can be told of a new image, kind by kind. */
export function createOptionsHelp(): string {
  const lists = defaultRegistry().backends.flatMap(({ name, image }) => {
    const options = image === undefined ? [] : describeOptions(image.createOptions);
    return options.length === 0
      ? []
      : [`Options -o of ${name}:\n${twoColumns(options.map(optionRow))}`];
  });
  return `\n${lists.join("\n")}`.trimEnd();
}

/**
 * The options of a new image from `name=value` texts; hyphens and underscores are one. Throws
 * UsageError with the place of what is wrong.
 */
export function parseCreateOptions(image: PreparedImage, texts: readonly string[]): unknown {
  const values = new Map<string, string>(), places = new Map<string, string>();
  for (const text of texts) {
    const equals = text.indexOf("=");
    const name = (equals < 0 ? text : text.slice(0, equals)).replaceAll("_", "-");
    if (values.has(name)) {
      const place = { text, start: 0, end: name.length };
      throw new UsageError(`Cannot create the image: option "${name}" is given twice`, place);
    }
    values.set(name, equals < 0 ? "" : text.slice(equals + 1));
    places.set(name, text);
  }
  return parseOptions(image.tools.createOptions, values, {
    action: `create a ${image.tools.format} image`,
    place: (key, part) => {
      const text = places.get(key);
      if (text === undefined) return null;
      const end = Math.min(key.length, text.length);
      if (part === "name") return { text, start: 0, end };
      return { text, start: Math.min(end + 1, text.length), end: text.length };
    },
  });
}

/** The command `dmu image create`. */
export function imageCreateCommand(io: CliIo): AnyCommand {
  return command("create", io)
    .summary("create an image")
    .description(
      "Create an image. What is there already stays, unless --force is given. (A running daemon " +
        "is not needed, and is not told.)",
    )
    .argument("<file>", FILE_HELP)
    .option("--kind <kind>", "kind of the image, if FILE is a path")
    .option("--size <size>", "size of the disk, for instance 20G; not needed with a backing file")
    .option("-o <option=value>", OPTION_HELP, collect)
    .option("--force", "replace what is there")
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print what was made as JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["A disk of 20 GiB", "dmu image create vm.qcow2 --kind qcow2 --size 20G"],
        [
          "What is written to a base image goes to a file of its own",
          "dmu image create vm.qcow2 --kind qcow2 -o backing-file=base.img -o backing-fmt=raw",
        ],
      ]) + "\n" + createOptionsHelp(),
    )
    .action(async (file, { kind, size, o = [], force = false, backend, json }) => {
      const registry = await registryWith(backend);
      const image = newImage(registry, file, kind);
      const options = parseCreateOptions(image, o);
      const request = { size: size === undefined ? null : sizeArgument(size), replace: force };
      const info = await withImageContext(io, "create", false, async (context) => {
        await image.tools.create(image.disk, request, options, context);
        return await image.tools.info(image.disk, context);
      });
      if (json) return printJson(io, infoJson(info));
      io.out(
        `created ${printable(info.filename)}: ${info.format}, ${exactSize(info.virtualSize)}\n`,
      );
    });
}
