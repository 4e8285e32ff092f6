/**
 * `dmu image commit`, `rebase` and `resize`: changes of an image as a whole.
 *
 * @module
 */
import { PREALLOCATIONS } from "../../lib/block/image.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { type AnyCommand, collect, command, examples, oneOfOption } from "../command.ts";
import type { CliIo } from "../io.ts";
import { exactSize } from "../output.ts";
import { printable } from "../safe_text.ts";
import { BACKEND_HELP, registryWith } from "../setup.ts";
import {
  cannot,
  FILE_HELP,
  findImage,
  KIND_HELP,
  sizeArgument,
  withImageContext,
  withManagement,
} from "./find.ts";

/** The command `dmu image commit`. */
export function imageCommitCommand(io: CliIo): AnyCommand {
  return command("commit", io)
    .summary("write what an image holds into its backing file")
    .description(
      "Write what an image holds into its backing file; the image is then empty. Other images on " +
        "top of that backing file change with it.",
    )
    .argument("<file>", FILE_HELP)
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText("after", examples([["Keep what was done", "dmu image commit vm.qcow2"]]))
    .action(async (file, { kind, backend }) => {
      const registry = await registryWith(backend);
      await withImageContext(io, "commit", false, async (context) => {
        const image = findImage(registry, file, kind, context);
        await withManagement(io, registry, image, context.signal, async (management) => {
          if (management.commit === undefined) {
            throw new UsageError(`Cannot commit ${file}: it has no backing file`);
          }
          await management.commit(context.progress);
        });
      });
      io.out(`committed ${printable(file)}\n`);
    });
}

/** The command `dmu image rebase`. */
export function imageRebaseCommand(io: CliIo): AnyCommand {
  return command("rebase", io)
    .summary("give an image another backing file")
    .description(
      "Give an image another backing file. What differs is copied into the image first, so that " +
        "the disk stays as it is. With --unsafe only the name changes: for a backing file that " +
        "was moved.",
    )
    .argument("<file>", FILE_HELP)
    .option("--backing <path>", "the new backing file, as the image is to name it")
    .option("--backing-format <format>", "its format: raw, qcow2")
    .option("--no-backing", "have none: the image gets all that it needs")
    .option("--unsafe", "change the name alone")
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["The base has moved", "dmu image rebase vm.qcow2 --unsafe --backing /srv/base.img"],
        ["Stand alone", "dmu image rebase vm.qcow2 --no-backing"],
      ]),
    )
    .action(async (file, { backing, backingFormat = null, unsafe = false, kind, backend }) => {
      if (backing === undefined) {
        throw new UsageError(`Cannot rebase ${file}: give --backing PATH, or --no-backing`);
      }
      const name = backing === false ? null : backing; // false is --no-backing
      const registry = await registryWith(backend);
      await withImageContext(io, "rebase", false, (context) => {
        const image = findImage(registry, file, kind, context);
        if (image.tools.rebase === undefined) throw cannot("rebase", image);
        const request = { backing: name, format: backingFormat, unsafe };
        return image.tools.rebase(image.disk, request, context);
      });
      const now = name === null ? "has no backing file now" : `is backed by ${printable(name)} now`;
      io.out(`${printable(file)} ${now}\n`);
    });
}

/** The size that is meant: `2G`, or `+1G` and `-1G` from the one of now. Throws UsageError. */
function wantedSize(text: string, now: number): number {
  const sign = /^[+-]/.exec(text)?.[0];
  if (sign === undefined) return sizeArgument(text);
  const change = sizeArgument(text.slice(1));
  const size = sign === "+" ? now + change : now - change;
  if (size >= 0 && Number.isSafeInteger(size)) return size;
  throw new UsageError(`Cannot resize to ${size} bytes: the image has ${now} now`);
}

/** The command `dmu image resize`. */
export function imageResizeCommand(io: CliIo): AnyCommand {
  return command("resize", io)
    .summary("change the size of an image")
    .description("Change the size of an image. What is cut off by a smaller size is lost.")
    .argument("<file>", FILE_HELP)
    .argument("<size>", "the new size, 20G; or the difference, +5G (after -- also -5G)")
    .option("--shrink", "cut off data if the size is smaller")
    .addOption(
      oneOfOption("--preallocation <how>", "reserve the storage of what is new", PREALLOCATIONS),
    )
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText("after", examples([["Five GiB more", "dmu image resize vm.qcow2 +5G"]]))
    .action(async (file, text, { shrink = false, preallocation = "off", kind, backend }) => {
      const registry = await registryWith(backend);
      const size = await withImageContext(io, "resize", false, async (context) => {
        const image = findImage(registry, file, kind, context);
        const { tools, disk } = image;
        if (tools.resize === undefined) throw cannot("resize", image);
        const { virtualSize } = await tools.info(disk, context);
        const wanted = wantedSize(text, virtualSize);
        await tools.resize(disk, wanted, { shrink, preallocation }, context);
        return wanted;
      });
      io.out(`${printable(file)} has ${exactSize(size)} now\n`);
    });
}
