/**
 * `dmu trace`: looks at traces and changes them.
 *
 * @module
 */
import { type AnyCommand, command, examples } from "../command.ts";
import type { CliIo } from "../io.ts";
import { convertCommand, cutCommand, mergeCommand } from "./change.ts";
import { infoCommand } from "./info.ts";
import { plotCommand } from "./plot.ts";

/** The command `dmu trace` with all of its own. */
export function traceCommand(io: CliIo): AnyCommand {
  const group = command("trace", io)
    .summary("look at traces, draw, convert, cut and merge them")
    .description(
      "Look at traces of what disks were asked to do, and change them. Traces come from dmu serve " +
        "--trace and from other tools; their format is found out. dmu replay replays them.",
    )
    .usage("COMMAND …")
    .helpCommand("help [command]", "show the help of a command")
    .addHelpText(
      "after",
      examples([
        ["Record one", "dmu serve d=file:disk.img --trace d.dmutrace"],
        ["Look at it", "dmu trace info d.dmutrace"],
        ["See it", "dmu trace plot d.dmutrace -o d.html"],
      ]),
    );
  for (const make of [infoCommand, plotCommand, convertCommand, cutCommand, mergeCommand]) {
    group.addCommand(make(io));
  }
  return group;
}
