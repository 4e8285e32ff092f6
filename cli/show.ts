/**
 * `dmu show`: everything about one target of the running daemon.
 *
 * @module
 */
import { formatSize } from "../lib/block/size.ts";
import {
  type CountedOperation,
  type ShownFile,
  type TargetDetails,
  targetStateName,
} from "../lib/daemon/control_client.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import { type Column, columnTable } from "./columns.ts";
import { checkName, CONTROL_OPTION, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { exactSize, printJson, twoColumns } from "./output.ts";
import { printable } from "./safe_text.ts";

const FILE_COLUMNS: readonly Column[] = [
  { title: "MINOR", right: true },
  { title: "KIND" },
  { title: "STATE" },
  { title: "ACTIVE", right: true },
  { title: "ONEXIT", right: true },
  { title: "PEER", least: 16 },
];

const OPERATION_COLUMNS: readonly Column[] = [
  { title: "OPERATION" },
  { title: "COUNT", right: true },
  { title: "ERRORS", right: true },
  { title: "BYTES", right: true },
  { title: "MEAN", right: true },
  { title: "P50", right: true },
  { title: "P99", right: true },
  { title: "MAX", right: true },
];

/** A latency for people, from µs: "85 µs", "1.2 ms", "3.4 s". */
export function formatLatency(us: number): string {
  if (us < 999.5) return `${Math.round(us)} µs`;
  const [value, unit] = us < 999_500 ? [us / 1000, "ms"] : [us / 1_000_000, "s"];
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

/** What is known of a target, a line for each fact. */
export function targetRows(target: TargetDetails): (readonly [string, string])[] {
  const state = targetStateName(target.state);
  const rows: [string, string][] = [
    ["state", target.state === null ? "none" : `${target.state} ${state ?? ""}`.trimEnd()],
    ["backend", target.backend],
    ...target.filters.map((each): [string, string] => ["filter", each]),
  ];
  if (target.size !== null) rows.push(["size", exactSize(target.size)]);
  if (target.readOnly) rows.push(["read-only", "yes"]);
  if (target.driver !== null) rows.push(["driver", target.driver]);
  if (target.description !== "") rows.push(["description", target.description]);
  if (target.ephemeral) {
    const end = target.onexit === null ? "" : `, removed when open file ${target.onexit} ends`;
    rows.push(["ephemeral", `yes${end}`]);
  }
  rows.push(...target.uris.map((each): [string, string] => ["uri", each]));
  for (const { name, granularity, persistent, frozen } of target.bitmaps) {
    const words = [persistent ? "persistent" : "transient", ...(frozen ? ["frozen"] : [])];
    rows.push(["bitmap", `${name}, ${formatSize(granularity)}, ${words.join(", ")}`]);
  }
  if (target.error !== null) rows.push(["error", target.error]);
  return rows.map(([key, value]) => [key, printable(value)] as const);
}

function operationRow([name, done]: readonly [string, CountedOperation]): string[] {
  const { count, errors, bytes, latencyTotalUs, latencyP50Us, latencyP99Us, latencyMaxUs } = done;
  return [
    name,
    String(count),
    String(errors),
    formatSize(bytes),
    ...[latencyTotalUs / count, latencyP50Us, latencyP99Us, latencyMaxUs].map(formatLatency),
  ];
}

function fileRow({ minor, kind, state, active, onexit, peer }: ShownFile): string[] {
  return [String(minor), kind, state, String(active), String(onexit.length), peer];
}

function print(io: CliIo, target: TargetDetails): void {
  io.out(`${printable(target.name)}\n${twoColumns(targetRows(target))}`);
  const done = Object.entries(target.statistics.operations);
  if (done.length > 0) {
    io.out(`\n${columnTable(OPERATION_COLUMNS, done.map(operationRow))}`);
    io.out(`${target.statistics.inFlight} in flight\n`);
  }
  if (target.files.length > 0) {
    io.out(`\n${columnTable(FILE_COLUMNS, target.files.map(fileRow))}`);
  }
}

/** The command `dmu show`. */
export function showCommand(io: CliIo): AnyCommand {
  return command("show", io)
    .summary("show everything about one target")
    .description(
      "Show one target of the running daemon: its state, storage and addresses, what was done on " +
        "it, and the open files in it.",
    )
    .argument("<target>", "name of the target")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText("after", examples([["Its address", "dmu show d --json | jq -r '.uris[0]'"]]))
    .action((name, { control: place, json }) =>
      withControl(io, place, async (control) => {
        const target = await control.target(checkName(name));
        if (json) printJson(io, target);
        else print(io, target);
      })
    );
}
