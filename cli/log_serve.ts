/**
 * `dmu log serve`: the daemon of the kernel's userspace mirror logs.
 *
 * @module
 */
import { LogService } from "../lib/daemon/dirty_log.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import { type CliIo, cliLog } from "./io.ts";
import { EXIT_FAILED, plural, printJson } from "./output.ts";
import { VERSION } from "./version.ts";

interface ServeOptions {
  readonly state?: string | undefined;
  readonly trace?: true | undefined;
  readonly json?: true | undefined;
}

async function serve(io: CliIo, options: ServeOptions): Promise<void> {
  const log = cliLog(io);
  const asked = Promise.withResolvers<void>();
  let signals = 0;
  const endSignals = io.onStopSignal(() => {
    signals += 1;
    if (signals > 1) io.exitNow(EXIT_FAILED);
    asked.resolve();
  });
  try {
    const service = await LogService.start({
      folder: options.state ?? null,
      traced: options.trace === true,
      log,
    });
    try {
      const { folder } = service;
      if (options.json) printJson(io, { ready: true, pid: Deno.pid, version: VERSION, folder });
      else io.out(`ready: logs of the kernel${folder === null ? "" : `, files in ${folder}`}\n`);
      await Promise.race([asked.promise, service.ended]);
    } finally {
      await service.stop();
    }
    const { requests, errors } = service.counts;
    log.debug(`${plural(requests, "request")} answered, ${plural(errors, "error")}`);
  } finally {
    endSignals();
  }
}

/** The command `dmu log serve`. */
export function logServeCommand(io: CliIo): AnyCommand {
  return command("serve", io)
    .summary("keep the logs of the kernel's mirrors")
    .description(
      "Answer the kernel's requests for mirrors with a userspace log, until SIGTERM or SIGINT. The " +
        "tables say where each log is kept. Needs root (CAP_SYS_ADMIN). Without a daemon the " +
        "kernel waits, and goes on with the next one.",
    )
    .option("--state <dir>", "folder for logs that tables call by a name without a slash")
    .option("--trace", "tell each request, and the error of its answer, on standard error")
    .option("--json", "print the ready line as JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["Keep logs in files, too", "dmu log serve --state /var/lib/dmu/logs"],
        [
          "A mirror whose log is in the file m1 of that folder",
          "echo '0 65536 mirror userspace 4 m1 disk m1 1024 2 /dev/sda 0 /dev/sdb 0' | " +
          "dmsetup create m1",
        ],
      ]),
    )
    .action((options) => serve(io, options));
}
