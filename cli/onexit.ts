/**
 * `dmu onexit`: what the daemon does when an open file ends, for whatever reason.
 *
 * @module
 */
import type { ShownFile } from "../lib/daemon/control_client.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import { type Column, columnTable } from "./columns.ts";
import { CONTROL_OPTION, parseHandle, parseMinor, withControl } from "./control.ts";
import { BlockError } from "../lib/block/errors.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import type { CliIo } from "./io.ts";
import { onexitExec } from "./onexit_exec.ts";
import { printJson } from "./output.ts";
import { printable, shellQuote } from "./safe_text.ts";

const COLUMNS: readonly Column[] = [
  { title: "MINOR", right: true },
  { title: "HANDLE", right: true },
  { title: "ACTION", least: 16 },
  { title: "KIND" },
  { title: "PEER", least: 16 },
];

/** An action of an open file, with what the file is. */
interface Row {
  readonly minor: number;
  readonly handle: number;
  readonly action: string;
  readonly kind: string;
  readonly peer: string;
}

function rowsOf({ minor, kind, peer, onexit }: ShownFile): Row[] {
  return onexit.map(({ handle, action }) => ({ minor, handle, action, kind, peer }));
}

function lsCommand(io: CliIo): AnyCommand {
  return command("ls", io)
    .summary("list actions")
    .description("List the actions of all open files, or of one, in the order of their running.")
    .argument("[minor]", "an open file")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .action((text, { control: place, json }) => {
      const minor = text === undefined ? null : parseMinor(text);
      return withControl(io, place, async (control) => {
        const files = minor === null ? await control.files() : [await control.file(minor)];
        const rows = files.flatMap(rowsOf);
        if (json) return printJson(io, { actions: rows });
        if (rows.length === 0) return io.out("no actions\n");
        io.out(columnTable(
          COLUMNS,
          rows.map((row) => [
            String(row.minor),
            String(row.handle),
            row.action,
            row.kind,
            row.peer,
          ]),
        ));
      });
    });
}

function showCommand(io: CliIo): AnyCommand {
  return command("show", io)
    .summary("show one action")
    .description("Print an action as dmu onexit add takes it.")
    .argument("<minor>", "an open file")
    .argument("<handle>", "the handle of the action")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .action((minorText, handleText, { control: place, json }) => {
      const minor = parseMinor(minorText), handle = parseHandle(handleText);
      return withControl(io, place, async (control) => {
        const row = rowsOf(await control.file(minor)).find((each) => each.handle === handle);
        if (row === undefined) {
          throw new BlockError("ENOENT", `Cannot find action ${handle} of open file ${minor}`);
        }
        if (json) printJson(io, row);
        else io.out(`${printable(row.action)}\n`);
      });
    });
}

/** Several words are one action; a single one may hold the whole text. */
function actionOf(words: readonly string[]): string {
  return words.length === 1 ? words[0] ?? "" : words.map(shellQuote).join(" ");
}

function addCommand(io: CliIo): AnyCommand {
  return command("add", io)
    .summary("add an action, print its handle")
    .description(
      "Add an action behind those that an open file has, and print its handle. Actions are: " +
        "remove TARGET, snapshot TARGET [NAME], flush TARGET, commit TARGET, gc TARGET, " +
        "merge TARGET BITMAP, hook NAME.",
    )
    .argument("<minor>", "an open file")
    .argument("<action...>", "what to do")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([["Flush d at the end", 'dmu onexit add "$DMU_ONEXIT_MINOR" flush d']]),
    )
    .action((text, words, { control: place, json }) => {
      const minor = parseMinor(text);
      return withControl(io, place, async (control) => {
        const handle = await control.addOnexit(minor, actionOf(words)).catch(asUsage);
        if (json) printJson(io, { minor, handle });
        else io.out(`${handle}\n`);
      });
    });
}

/** The daemon knows which actions there are: one that it does not know was written wrongly. */
function asUsage(error: unknown): never {
  const isWrong = error instanceof BlockError && error.errno === "EINVAL";
  throw isWrong ? new UsageError(error.message) : error;
}

function rmCommand(io: CliIo): AnyCommand {
  return command("rm", io)
    .summary("take an action back")
    .description("Take an action of an open file back, so that it is not done; or do it now.")
    .argument("<minor>", "an open file")
    .argument("<handle>", "the handle of the action")
    .option("--fire", "do it now")
    .option(...CONTROL_OPTION)
    .option("--verbose", "show stacks of errors")
    .action((minorText, handleText, { control: place, fire = false }) => {
      const minor = parseMinor(minorText), handle = parseHandle(handleText);
      return withControl(io, place, (control) => control.removeOnexit(minor, handle, { fire }));
    });
}

function execCommand(io: CliIo): AnyCommand {
  return command("exec", io)
    .summary("open a file and become a command that holds it")
    .description(
      "Open a file of the daemon and become the command, which inherits it. The file ends, and " +
        "its actions are done, when the last process that holds it has ended, for whatever " +
        "reason. The command finds its number in DMU_ONEXIT_MINOR, and the daemon in DMU_CONTROL.",
    )
    .usage("[options] -- COMMAND [ARGUMENT…]")
    .argument("<command...>", "the command and its arguments")
    .option(...CONTROL_OPTION)
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([[
        "A disk that goes with the shell",
        "dmu onexit exec -- sh -c 'dmu create t memory:1G --ephemeral && exec bash'",
      ]]),
    )
    .action((words, { control: place }) => onexitExec(io, words, place));
}

/** The command `dmu onexit`. */
export function onexitCommand(io: CliIo): AnyCommand {
  return command("onexit", io)
    .summary("what is done when an open file ends")
    .description(
      "Actions that the daemon does when an open file ends, for whatever reason: each once, in " +
        "their order. Open files are the ways into the daemon: /dmu/file of its tree.",
    )
    .usage("COMMAND …")
    .helpCommand("help [command]", "show the help of a command")
    .addCommand(lsCommand(io))
    .addCommand(showCommand(io))
    .addCommand(addCommand(io))
    .addCommand(rmCommand(io))
    .addCommand(execCommand(io));
}
