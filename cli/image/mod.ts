/**
 * `dmu image`: tools for images that nobody has open.
 *
 * @module
 */
import { type AnyCommand, command, examples } from "../command.ts";
import type { CliIo } from "../io.ts";
import { imageCommitCommand, imageRebaseCommand, imageResizeCommand } from "./change.ts";
import { imageCheckCommand } from "./check.ts";
import { imageCloneCommand, imageGcCommand, imageRmCommand } from "./clone.ts";
import { imageCreateCommand } from "./create.ts";
import { imageInfoCommand } from "./info.ts";
import { imageMapCommand } from "./map.ts";
import { imageSnapshotCommand } from "./snapshot.ts";

/** The command `dmu image` with all of its own. */
export function imageCommand(io: CliIo): AnyCommand {
  const group = command("image", io)
    .summary("create, check and change images that nobody has open")
    .description(
      "Create, look at, check and change images that nobody has open: raw files, qcow2, S3. FILE " +
        "is a path, whose kind is found out, or a spec.",
    )
    .usage("COMMAND …")
    .helpCommand("help [command]", "show the help of a command")
    .addHelpText(
      "after",
      examples([
        ["A new disk", "dmu image create vm.qcow2 --kind qcow2 --size 20G"],
        ["What is it?", "dmu image info vm.qcow2"],
      ]),
    );
  const commands = [
    imageCreateCommand,
    imageInfoCommand,
    imageMapCommand,
    imageCheckCommand,
    imageSnapshotCommand,
    imageCommitCommand,
    imageRebaseCommand,
    imageResizeCommand,
    imageCloneCommand,
    imageGcCommand,
    imageRmCommand,
  ];
  for (const make of commands) group.addCommand(make(io));
  return group;
}
