/**
 * `dmu admit`: lets clients into a target again after `dmu revoke`.
 *
 * @module
 */
import { type AnyCommand, command, examples } from "./command.ts";
import { checkName, CONTROL_OPTION, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";

/** The command `dmu admit`. */
export function admitCommand(io: CliIo): AnyCommand {
  return command("admit", io)
    .summary("let clients into a target again")
    .description("Let clients into a target again that was shut by dmu revoke.")
    .argument("<target>", "name of the target")
    .option(...CONTROL_OPTION)
    .option("--verbose", "show stacks of errors")
    .addHelpText("after", examples([["After a revocation", "dmu revoke d && dmu admit d"]]))
    .action((name, { control: place }) =>
      withControl(io, place, (control) => control.admit(checkName(name)))
    );
}
