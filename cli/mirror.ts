/**
 * `dmu mirror`: the legs of a mirror that the running daemon serves.
 *
 * @module
 */
import { UsageError } from "../lib/block/usage_error.ts";
import { formatSize } from "../lib/block/size.ts";
import type { LegStatus, MirrorStatus, ResyncStatus } from "../lib/block/types.ts";
import { type Column, columnTable } from "./columns.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import { checkName, CONTROL_OPTION, patiently, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { exactSize, printJson, twoColumns } from "./output.ts";
import { printable } from "./safe_text.ts";

const COLUMNS: readonly Column[] = [
  { title: "LEG", right: true },
  { title: "STATE" },
  { title: "READ", right: true },
  { title: "WRITTEN", right: true },
  { title: "ERRORS", right: true },
  { title: "SPEC", least: 20 },
];

/** A time for people, from seconds: "45 s", "3 min", "2 h 5 min". */
function formatSeconds(seconds: number): string {
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A share in percent that is 100 only if it is all. */
function percent(part: number, whole: number): string {
  return whole === 0 ? "100" : (Math.floor(part / whole * 1000) / 10).toFixed(1);
}

function resyncText({ done, total, rate, eta_s, waitsFor }: ResyncStatus): string {
  const left = eta_s === null ? "" : `, ${formatSize(rate)}/s, ${formatSeconds(eta_s)} left`;
  const waits = waitsFor === null ? "" : `; waits: ${waitsFor}`;
  return `${percent(done, total)} % of ${formatSize(total)}${left}${waits}`;
}

/** What is known of a mirror, a line for each fact. */
function mirrorRows(status: MirrorStatus): [string, string][] {
  const { regions, regionBytes, inSync, dirty, log, id, events, resync, legs } = status;
  const rows: [string, string][] = [
    ["in sync", `${inSync} of ${regions} regions, ${percent(inSync, regions)} %`],
    ["dirty", `${dirty} regions`],
    ["region", exactSize(regionBytes)],
    ["log", log === null ? "in memory" : `${log} (${id ?? ""}, event ${events})`],
  ];
  if (resync !== null) rows.push(["resync", resyncText(resync)]);
  for (const { leg, error } of legs) if (error !== null) rows.push([`leg ${leg}`, error]);
  return rows.map(([key, value]) => [key, printable(value)]);
}

function legRow({ leg, state, readBytes, writtenBytes, readErrors, spec }: LegStatus): string[] {
  return [
    String(leg),
    state,
    formatSize(readBytes),
    formatSize(writtenBytes),
    String(readErrors),
    spec,
  ];
}

function showCommand(io: CliIo): AnyCommand {
  return command("show", io)
    .summary("show the legs of a mirror and how far copying is")
    .description(
      "Show a mirror of the running daemon: each leg, how much is in sync, and how far copying is.",
    )
    .argument("<target>", "name of the target")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText("after", examples([["Bytes left", "dmu mirror show d --json | jq .resync"]]))
    .action((name, { control: place, json }) =>
      withControl(io, place, async (control) => {
        const status = await control.mirror(checkName(name));
        if (json) return printJson(io, status);
        io.out(twoColumns(mirrorRows(status)));
        io.out(`\n${columnTable(COLUMNS, status.legs.map(legRow))}`);
      })
    );
}

function parseLeg(text: string): number {
  if (/^[1-9]\d?$/.test(text)) return Number(text);
  throw new UsageError(`Cannot use "${text}" as leg: it is a number, from 1`, {
    text,
    start: 0,
    end: text.length,
  });
}

function addCommand(io: CliIo): AnyCommand {
  return command("add", io)
    .summary("take a leg into use again")
    .description(
      "Take a leg that failed, or was dropped, into use again. What it missed is copied to it; " +
        "meanwhile the mirror serves on.",
    )
    .argument("<target>", "name of the target")
    .argument("<leg>", "number of the leg, from 1")
    .option("--full", "copy everything: the leg is another disk now, or was written to")
    .option(...CONTROL_OPTION)
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([["After its disk is back", "dmu mirror add d 2"], [
        "After it was replaced",
        "dmu mirror add d 2 --full",
      ]]),
    )
    .action((name, legText, { control: place, full = false }) => {
      const leg = parseLeg(legText);
      checkName(name);
      return withControl(
        io,
        place,
        (control) => patiently(io, `leg ${leg} to open`, control.addLeg(name, leg, full)),
      );
    });
}

function dropCommand(io: CliIo): AnyCommand {
  return command("drop", io)
    .summary("take a leg out of use")
    .description(
      "Take a leg out of use, durably: it is closed, and not believed until it was added again.",
    )
    .argument("<target>", "name of the target")
    .argument("<leg>", "number of the leg, from 1")
    .option(...CONTROL_OPTION)
    .option("--verbose", "show stacks of errors")
    .addHelpText("after", examples([["Before its disk is replaced", "dmu mirror drop d 2"]]))
    .action((name, legText, { control: place }) => {
      const leg = parseLeg(legText);
      checkName(name);
      return withControl(io, place, (control) => control.dropLeg(name, leg));
    });
}

/** The command `dmu mirror`. */
export function mirrorCommand(io: CliIo): AnyCommand {
  return command("mirror", io)
    .summary("show and change the legs of mirrors")
    .description("Look at mirrors that the running daemon serves, and take legs in and out of use.")
    .addCommand(showCommand(io))
    .addCommand(addCommand(io))
    .addCommand(dropCommand(io));
}
