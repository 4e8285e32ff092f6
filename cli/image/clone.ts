/**
 * `dmu image clone`, `gc` and `rm`: disks that share storage, and storage that nothing needs any more.
 *
 * @module
 */
import { formatSize } from "../../lib/block/size.ts";
import { type AnyCommand, collect, command, examples } from "../command.ts";
import type { CliIo } from "../io.ts";
import { plural, printJson } from "../output.ts";
import { printable } from "../safe_text.ts";
import { BACKEND_HELP, registryWith } from "../setup.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import {
  cannot,
  FILE_HELP,
  findImage,
  FORCE_HELP,
  KIND_HELP,
  newImage,
  refuseInUse,
  withImageContext,
} from "./find.ts";

/** The command `dmu image clone`. */
export function imageCloneCommand(io: CliIo): AnyCommand {
  return command("clone", io)
    .summary("make a disk that begins as a snapshot of another")
    .description(
      "Make a disk that begins as a snapshot of another, at once: it shares the storage of what it " +
        "has not written. While it is there the snapshot cannot be deleted. (For qcow2 make an " +
        "image with a backing file instead.)",
    )
    .argument("<file>", FILE_HELP)
    .argument("<new>", "spec of the new disk, of the same kind")
    .option("--snapshot <name>", "the snapshot (required)")
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([[
        "A disk of one's own",
        "dmu image clone s3://disks/base s3://disks/vm1 --snapshot golden",
      ]]),
    )
    .action(async (file, target, { snapshot, kind, backend }) => {
      if (snapshot === undefined) {
        throw new UsageError(`Cannot clone ${file}: give --snapshot NAME`);
      }
      const registry = await registryWith(backend);
      await withImageContext(io, "clone", false, async (context) => {
        const image = findImage(registry, file, kind, context);
        const to = newImage(registry, target, kind);
        if (image.tools.clone === undefined) throw cannot("clone", image);
        if (to.type !== image.type) {
          throw new UsageError(
            `Cannot clone ${file} to ${target}: a clone is of the same kind, ${image.type.name}`,
          );
        }
        await image.tools.clone(image.disk, snapshot, to.disk, context);
      });
      io.out(`cloned ${printable(snapshot)} of ${printable(file)} to ${printable(target)}\n`);
    });
}

/** The command `dmu image gc`. */
export function imageGcCommand(io: CliIo): AnyCommand {
  return command("gc", io)
    .summary("give back storage that nothing needs")
    .description(
      "Give back storage that neither the disk nor a snapshot needs. A daemon that serves the disk " +
        "does so by itself.",
    )
    .argument("<file>", FILE_HELP)
    .option("--force", FORCE_HELP)
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText("after", examples([["A disk at rest", "dmu image gc s3://disks/vm1"]]))
    .action(async (file, { force = false, kind, backend, json }) => {
      const registry = await registryWith(backend);
      const report = await withImageContext(io, "gc", false, async (context) => {
        const image = findImage(registry, file, kind, context);
        if (image.tools.collect === undefined) throw cannot("collect garbage of", image);
        await refuseInUse("collect garbage of", image, force, context);
        return await image.tools.collect(image.disk, context);
      });
      if (json) return printJson(io, report);
      const { deletedObjects, deletedBytes, movedBytes } = report;
      io.out(
        `deleted ${plural(deletedObjects, "object")} of ${formatSize(deletedBytes)}, ` +
          `moved ${formatSize(movedBytes)}\n`,
      );
    });
}

/** The command `dmu image rm`. */
export function imageRmCommand(io: CliIo): AnyCommand {
  return command("rm", io)
    .summary("remove a disk that is many objects")
    .description(
      "Remove a disk with all its snapshots, also one that is damaged. It is refused while a clone " +
        "needs it. (An image that is a file is removed as any file is.)",
    )
    .argument("<file>", FILE_HELP)
    .option("--force", FORCE_HELP)
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText("after", examples([["A disk", "dmu image rm s3://disks/vm1"]]))
    .action(async (file, { force = false, kind, backend, json }) => {
      const registry = await registryWith(backend);
      const deleted = await withImageContext(io, "rm", false, async (context) => {
        const image = findImage(registry, file, kind, context);
        if (image.tools.remove === undefined) throw cannot("remove", image);
        await refuseInUse("remove", image, force, context);
        return await image.tools.remove(image.disk, context);
      });
      if (json) return printJson(io, { deletedObjects: deleted });
      io.out(`removed ${printable(file)}: ${plural(deleted, "object")}\n`);
    });
}
