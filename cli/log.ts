/**
 * `dmu log`: the daemon of the kernel's userspace mirror logs, and a look at logs on disks and in files.
 *
 * @module
 */
import { join } from "node:path";
import { toBlockError } from "../lib/block/errors.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import { type InspectedLog, inspectLog } from "../lib/dirty_log/inspect.ts";
import { RUNS_MAX } from "../lib/dirty_log/limits.ts";
import type { RegionRun } from "../lib/dirty_log/region_bitmap.ts";
import type { ShownLog as LiveLog } from "../lib/daemon/control_client.ts";
import { systemFiles } from "../lib/sys/file.ts";
import { columnTable } from "./columns.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import { CONTROL_OPTION, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { logServeCommand } from "./log_serve.ts";
import { exactSize, EXIT_FAILED, ExitError, plural, printJson, twoColumns } from "./output.ts";
import { printable } from "./safe_text.ts";

/** A log as it is printed. */
interface ShownLog {
  readonly path: string;
  /** "log", "new" or "damaged". */
  readonly state: string;
  /** What the header says: a number past 2^53 is a text. */
  readonly headerRegions: number | string | null;
  readonly regions: number;
  readonly clean: number;
  readonly dirty: number;
  readonly size: number;
  readonly problems: readonly string[];
}

function showLog(path: string, { header, regions, clean, size, problems }: InspectedLog): ShownLog {
  const told = header.kind === "log" ? header.regions : null;
  const exact = told !== null && told <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(told) : told;
  return {
    path,
    state: header.kind,
    headerRegions: typeof exact === "bigint" ? String(exact) : exact,
    regions,
    clean: clean.count,
    dirty: regions - clean.count,
    size,
    problems,
  };
}

/** Files of a folder in the order of their names, or the path itself. */
function pathsIn(path: string): string[] {
  try {
    if (!Deno.statSync(path).isDirectory) return [path];
    return [...Deno.readDirSync(path)].filter(({ isFile }) => isFile)
      .map(({ name }) => join(path, name)).sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [path]; // opening it says so
    throw error;
  }
}

const COLUMNS = [
  { title: "PLACE", least: 20 },
  { title: "STATE" },
  { title: "REGIONS", right: true },
  { title: "CLEAN", right: true },
  { title: "DIRTY", right: true },
] as const;

/** What stands for the place of a log that is in memory. */
const IN_MEMORY = "-";

const LIVE_COLUMNS = [
  { title: "UUID", least: 16 },
  { title: "STATE" },
  { title: "REGIONS", right: true },
  { title: "IN SYNC", right: true },
  { title: "DIRTY", right: true },
  { title: "REQUESTS", right: true },
  { title: "PLACE", least: 12 },
] as const;

function printLive(io: CliIo, logs: readonly LiveLog[]): void {
  if (logs.length === 0) return io.out("no logs\n");
  const rows = logs.map(({ uuid, state, regions, inSync, dirty, requests, place }) => [
    uuid,
    state,
    ...[regions, inSync, dirty, requests].map(String),
    place ?? IN_MEMORY,
  ]);
  io.out(columnTable(LIVE_COLUMNS, rows));
}

function printPlaces(io: CliIo, places: readonly string[], json: boolean): void {
  const logs = places.flatMap(pathsIn).map((path) => showLog(path, inspectLog(systemFiles, path)));
  if (json) return printJson(io, { logs });
  if (logs.length === 0) return io.out("no logs\n");
  io.out(columnTable(
    COLUMNS,
    logs.map(({ path, state, regions, clean, dirty }) => [
      path,
      state,
      String(regions),
      String(clean),
      String(dirty),
    ]),
  ));
}

function lsCommand(io: CliIo): AnyCommand {
  return command("ls", io)
    .summary("list logs")
    .description(
      "List the logs in files, on block devices, and in all files of folders; without a place those " +
        "that the running daemon (dmu serve --logs) keeps for the kernel.",
    )
    .argument("[place...]", "files, block devices, folders")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["What the daemon keeps", "dmu log ls"],
        ["All logs of a folder", "dmu log ls /var/lib/dmu/logs"],
      ]),
    )
    .action((places, { control: place, json = false }) => {
      if (places.length > 0) return printPlaces(io, places, json);
      return withControl(io, place, async (control) => {
        const logs = await control.logs();
        if (json) printJson(io, { logs });
        else printLive(io, logs);
      });
    });
}

function showCommand(io: CliIo): AnyCommand {
  return command("show", io)
    .summary("show what a log says")
    .description("Show the header of a log, and how many of its regions are clean and dirty.")
    .argument("<place>", "a file or a block device")
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .action((path, { json }) => {
      const shown = showLog(path, inspectLog(systemFiles, path));
      if (json) return printJson(io, shown);
      const { state, headerRegions, regions, clean, dirty, size, problems } = shown;
      const rows: [string, string][] = [["state", state], ["medium", exactSize(size)]];
      if (headerRegions !== null) {
        rows.push(["header", `${headerRegions} regions`], ["regions", String(regions)]);
        rows.push(["clean", String(clean)], ["dirty", String(dirty)]);
      }
      for (const problem of problems) rows.push(["problem", problem]);
      io.out(`${printable(path)}\n${twoColumns(rows)}`);
    });
}

function runsOf(log: InspectedLog, clean: boolean): RegionRun[] {
  const runs: RegionRun[] = [];
  for (const run of log.clean.runs(clean)) {
    if (runs.length === RUNS_MAX) {
      throw new UsageError(`Cannot print more than ${RUNS_MAX} runs of regions: dump the others`);
    }
    runs.push(run);
  }
  return runs;
}

function dumpCommand(io: CliIo): AnyCommand {
  return command("dump", io)
    .summary("print which regions are dirty")
    .description(
      "Print the regions that are dirty, or those that are clean, one run of them a line.",
    )
    .argument("<place>", "a file or a block device")
    .option("--clean", "print those that are clean")
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText("after", examples([["What would be copied", "dmu log dump mylog"]]))
    .action((path, { clean = false, json }) => {
      const log = inspectLog(systemFiles, path);
      if (log.header.kind !== "log") {
        throw new ExitError(EXIT_FAILED, `Cannot dump ${path}: ${log.problems.join(", ")}`);
      }
      const runs = runsOf(log, clean);
      if (json) return printJson(io, { path, regions: log.regions, clean, runs });
      io.out(
        runs.map(({ start, count }) => `${start}${count === 1 ? "" : `-${start + count - 1}`}\n`)
          .join(""),
      );
    });
}

function checkCommand(io: CliIo): AnyCommand {
  return command("check", io)
    .summary("check logs")
    .description(
      "Check that places hold a log that a kernel would take. Exit code 1 if one does not. A log " +
        "that does not counts as dirty everywhere.",
    )
    .argument("<place...>", "files, block devices, folders")
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .action((places, { json }) => {
      const logs = places.flatMap(pathsIn).map((path) => {
        try {
          return { path, problems: inspectLog(systemFiles, path).problems };
        } catch (error) {
          return { path, problems: [toBlockError(error).message] };
        }
      });
      const bad = logs.filter(({ problems }) => problems.length > 0);
      if (json) printJson(io, { logs });
      else {
        for (const { path, problems } of bad) {
          io.out(problems.map((problem) => `${printable(path)}: ${printable(problem)}\n`).join(""));
        }
        io.out(`${plural(logs.length, "place")} checked, ${bad.length} bad\n`);
      }
      if (bad.length > 0) throw new ExitError(EXIT_FAILED);
    });
}

/** The command `dmu log`. */
export function logCommand(io: CliIo): AnyCommand {
  return command("log", io)
    .summary("keep and inspect dirty-region logs of dm mirrors")
    .description(
      "Keep the dirty-region logs of device-mapper mirrors whose table says `userspace`, and look at " +
        "logs in files and on block devices. The layout is that of the kernel's own disk logs.",
    )
    .addCommand(logServeCommand(io))
    .addCommand(lsCommand(io))
    .addCommand(showCommand(io))
    .addCommand(dumpCommand(io))
    .addCommand(checkCommand(io));
}
