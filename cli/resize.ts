/**
 * `dmu resize`: another size for a target of the running daemon.
 *
 * @module
 */
import { type AnyCommand, command, examples } from "./command.ts";
import { checkName, CONTROL_OPTION, patiently, withControl } from "./control.ts";
import { sizeOf } from "./create.ts";
import type { CliIo } from "./io.ts";
import { exactSize, printJson } from "./output.ts";

/** The command `dmu resize`. */
export function resizeCommand(io: CliIo): AnyCommand {
  return command("resize", io)
    .summary("change the size of a target")
    .description(
      "Change the size of a target of the running daemon, and of what it is stored in. What is " +
        "beyond a smaller size is lost. Clients that are connected keep the size they know.",
    )
    .argument("<target>", "name of the target")
    .argument("<size>", "the new size, or +SIZE for that much more")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([["To 2 GiB", "dmu resize d 2G"], ["By 512 MiB", "dmu resize d +512M"]]),
    )
    .action((name, text, { control: place, json }) => {
      const more = text.startsWith("+");
      const bytes = sizeOf(more ? text.slice(1) : text);
      checkName(name);
      return withControl(io, place, async (control) => {
        const wanted = (size: number): number => more ? size + bytes : bytes;
        const resizing = control.resize(name, wanted);
        const { before, after } = await patiently(io, `${name} to be resized`, resizing);
        if (json) printJson(io, { name, before, after });
        else io.out(`${exactSize(before)} → ${exactSize(after)}\n`);
      });
    });
}
