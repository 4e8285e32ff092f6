/**
 * `dmu revoke`: takes access away, from everybody who has a target open or from one open file.
 *
 * @module
 */
import { UsageError } from "../lib/block/usage_error.ts";
import { DRAIN_MS_MAX } from "../lib/handle/limits.ts";
import { type AnyCommand, command, examples, seconds } from "./command.ts";
import { CONTROL_OPTION, parseMinorOrTarget, patiently, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { plural, printJson } from "./output.ts";

/** The command `dmu revoke`. */
export function revokeCommand(io: CliIo): AnyCommand {
  return command("revoke", io)
    .summary("take access away from a target or an open file")
    .description(
      "Take access away: from all open files of a target, which then stays shut until dmu admit, " +
        "or from one open file. What is being done is not cut off; --drain waits for it.",
    )
    .argument("<target|minor>", "name of a target (target:NAME if it is all digits), or a minor")
    .option(
      "--drain <seconds>",
      "wait for what is inside, at most so long",
      seconds(DRAIN_MS_MAX / 1000),
    )
    .option("--keep-open", "let new clients in: only those who are inside lose access")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["Shut a target, wait a minute at most", "dmu revoke d --drain 60"],
        ["One client alone", "dmu revoke 7"],
      ]),
    )
    .action((text, { control: place, drain, keepOpen, json }) => {
      const whose = parseMinorOrTarget(text);
      if (keepOpen && "minor" in whose) {
        throw new UsageError("Cannot keep an open file open: --keep-open is for targets");
      }
      return withControl(io, place, async (control) => {
        const result = await patiently(
          io,
          "what is inside",
          control.revoke(whose, {
            ...(drain === undefined ? {} : { drain_ms: Math.round(drain * 1000) }),
            ...(keepOpen === undefined ? {} : { keepOpen }),
          }),
        );
        if (json) return printJson(io, result);
        io.out(
          `${plural(result.files, "open file")} revoked${result.drained ? ", drained" : ""}\n`,
        );
      });
    });
}
