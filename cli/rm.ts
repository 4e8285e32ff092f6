/**
 * `dmu rm`: closes targets of the running daemon and takes them off its tree.
 *
 * @module
 */
import type { ControlClient } from "../lib/daemon/control_client.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import { checkName, CONTROL_OPTION, patiently, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { EXIT_FAILED, ExitError, printError } from "./output.ts";
import { printable } from "./safe_text.ts";

/** Removes one target; false if that failed, which has been told then. */
async function removeOne(io: CliIo, control: ControlClient, name: string): Promise<boolean> {
  try {
    const error = await patiently(io, `${name} to close`, control.remove(name));
    if (error === null) return true;
    io.err(`dmu: ${printable(`"${name}" was removed, but closed with an error: ${error}`)}\n`);
  } catch (error) {
    printError(io, error);
  }
  return false;
}

/** The command `dmu rm`. */
export function rmCommand(io: CliIo): AnyCommand {
  return command("rm", io)
    .summary("close targets and remove them")
    .description(
      "Close targets and remove them: takes access away from all who have them open, waits for " +
        "what is being done, flushes, closes. What they store stays where it is.",
    )
    .argument("<target...>", "names of targets")
    .option(...CONTROL_OPTION)
    .option("--verbose", "show stacks of errors")
    .addHelpText("after", examples([["Two of them", "dmu rm a b"]]))
    .action((names, { control: place }) =>
      withControl(io, place, async (control) => {
        let failed = false;
        for (const name of names.map(checkName)) {
          if (!await removeOne(io, control, name)) failed = true;
        }
        if (failed) throw new ExitError(EXIT_FAILED);
      })
    );
}
