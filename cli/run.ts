/**
 * All commands put together, and how each of them ends: with an exit code, and with one line on
 * standard error if something went wrong.
 *
 * @module
 */
import { admitCommand } from "./admit.ts";
import { backendsCommand } from "./backends.ts";
import { bitmapCommand } from "./bitmap.ts";
import { type AnyCommand, command, runCommand } from "./command.ts";
import { completeCommand, completionCommand } from "./completion.ts";
import { benchCommand } from "./bench/mod.ts";
import { copyCommand } from "./copy.ts";
import { createCommand } from "./create.ts";
import { filtersCommand } from "./filters.ts";
import { imageCommand } from "./image/mod.ts";
import { infoCommand } from "./info.ts";
import { type CliIo, OutputClosed } from "./io.ts";
import { logCommand } from "./log.ts";
import { lsCommand } from "./ls.ts";
import { mirrorCommand } from "./mirror.ts";
import { onexitCommand } from "./onexit.ts";
import { EXIT_DONE, EXIT_FAILED, EXIT_USAGE, ExitError, printError } from "./output.ts";
import { replayCommand } from "./replay/mod.ts";
import { resizeCommand } from "./resize.ts";
import { revokeCommand } from "./revoke.ts";
import { rmCommand } from "./rm.ts";
import { serveCommand } from "./serve.ts";
import { showCommand } from "./show.ts";
import { simulateCommand } from "./simulate.ts";
import { tableCommand } from "./table.ts";
import { topCommand } from "./top.ts";
import { traceCommand } from "./trace/mod.ts";
import { VERSION, versionCommand } from "./version.ts";
import { watchCommand } from "./watch.ts";

/** All commands, in the groups in which the help lists them. */
const GROUPS = [
  ["Disks:", [
    serveCommand,
    infoCommand,
    copyCommand,
    imageCommand,
    backendsCommand,
    filtersCommand,
  ]],
  ["The running daemon:", [
    createCommand,
    lsCommand,
    showCommand,
    rmCommand,
    resizeCommand,
    topCommand,
    watchCommand,
    revokeCommand,
    admitCommand,
    onexitCommand,
    bitmapCommand,
  ]],
  ["Load and traces:", [benchCommand, traceCommand, replayCommand]],
  ["dm-user:", [simulateCommand, tableCommand]],
  ["Mirrors:", [mirrorCommand, logCommand]],
  ["This program:", [completionCommand, versionCommand]],
] as const;

function program(io: CliIo): AnyCommand {
  const dmu = command("dmu", io)
    .description("Serves block devices whose storage is a TypeScript program")
    .usage("COMMAND …")
    .version(VERSION, "-V, --version", "show the version");
  for (const [heading, commands] of GROUPS) {
    dmu.commandsGroup(heading);
    for (const make of commands) dmu.addCommand(make(io));
  }
  dmu.helpCommand("help [command]", "show the help of a command");
  dmu.addCommand(completeCommand(io, dmu), { hidden: true });
  return dmu;
}

/** True for a command whose exit codes from 2 on say what it found: no error may look like that. */
function hasVerdict([first, second]: readonly string[]): boolean {
  return first === "image" && second === "check";
}

/** Runs `dmu ARGS` and gives its exit code: 0 done, 1 failed, 2 wrong usage (but see `dmu image check`). */
export async function runCli(args: readonly string[], io: CliIo): Promise<number> {
  const own = args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
  io.verbose = own.includes("--verbose");
  try {
    return await runCommand(program(io), args) ? EXIT_DONE : EXIT_USAGE;
  } catch (error) {
    // Whoever read the results has seen enough: nothing to complain about.
    if (error instanceof OutputClosed) return EXIT_FAILED;
    const code = printError(io, error);
    // A command that names its exit code means it.
    if (error instanceof ExitError || !hasVerdict(args)) return code;
    return Math.min(code, EXIT_FAILED);
  }
}
