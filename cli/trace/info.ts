/**
 * `dmu trace info`: what a trace is, in figures and sparklines.
 *
 * @module
 */
import { formatSize } from "../../lib/block/size.ts";
import {
  type OperationSummary,
  sparkRows,
  summarize,
  type TraceSummary,
} from "../../lib/trace/summary.ts";
import type { TraceSource } from "../../lib/trace/source.ts";
import { formatUs } from "../../lib/trace/units.ts";
import { type AnyCommand, command, examples } from "../command.ts";
import { type Column, columnTable } from "../columns.ts";
import type { CliIo } from "../io.ts";
import { COLUMNS_MAX, exactSize, plural, printJson, twoColumns } from "../output.ts";
import { printable } from "../safe_text.ts";
import { readProgress, tellNotes, TraceInput } from "./files.ts";
import { DEVICE_OPTION, FROM_OPTION } from "./options.ts";

const COLUMNS: readonly Column[] = [
  { title: "OPERATION" },
  { title: "COUNT", right: true },
  { title: "ERRORS", right: true },
  { title: "BYTES", right: true },
  { title: "LENGTH", right: true },
  { title: "SEQ", right: true },
  { title: "P50", right: true },
  { title: "P99", right: true },
  { title: "MAX", right: true },
];

/** Columns before and behind a sparkline, of the label and of what its top means. */
const SPARK_LABEL_COLUMNS = 16, SPARK_SCALE_COLUMNS = 24;

function operationRow([name, done]: readonly [string, OperationSummary]): string[] {
  const { count, errors, bytes, lengthMin, lengthMax, sequential, latency } = done;
  const { p50Us, p99Us, maxUs } = latency;
  const lengths = lengthMin === lengthMax
    ? formatSize(lengthMin)
    : `${formatSize(lengthMin)}–${formatSize(lengthMax)}`;
  return [
    ...[name, String(count), String(errors), formatSize(bytes)],
    ...[bytes === 0 ? "-" : lengths, bytes === 0 ? "-" : percent(sequential, count)],
    ...[p50Us, p99Us, maxUs].map((each) => latency.count === 0 ? "-" : formatUs(each)),
  ];
}

function percent(part: number, whole: number): string {
  return `${Math.round(part / Math.max(1, whole) * 100)}%`;
}

/** What data the trace keeps. */
function dataText({ digests, payloads }: TraceSummary): string {
  if (payloads > 0) return `kept, for ${plural(payloads, "event")}`;
  return digests > 0 ? `checksums, for ${plural(digests, "event")}` : "not kept";
}

function rowsOf(source: TraceSource, summary: TraceSummary, format: string): [string, string][] {
  const { info, notes } = source;
  const { events, requests, firstUs, lastUs, connections, unanswered, unasked } = summary;
  const rows: [string, string][] = [["format", format]];
  if (info.target !== null) rows.push(["target", printable(info.target)]);
  if (info.size !== null) rows.push(["size", exactSize(info.size)]);
  if (info.started_ms !== null) rows.push(["begun", new Date(info.started_ms).toISOString()]);
  rows.push(["time", `${formatUs(lastUs - firstUs)}, from ${formatUs(firstUs)}`]);
  rows.push(["events", `${events}, of ${plural(requests, "request")}`]);
  rows.push(["connections", String(connections)]);
  if (summary.offsetEnd > 0) {
    const { offsetMin, offsetEnd } = summary;
    rows.push([
      "touches",
      `bytes ${offsetMin} to ${offsetEnd} (${formatSize(offsetEnd - offsetMin)})`,
    ]);
  }
  rows.push(["in flight", info.completes ? `at most ${summary.depthMax}` : "not told"]);
  rows.push(["data", dataText(summary)]);
  if (info.completes && unanswered > 0) {
    rows.push(["without an end", plural(unanswered, "request")]);
  }
  if (unasked > 0) rows.push(["without a request", plural(unasked, "completion")]);
  if (notes.lost > 0) rows.push(["lost", `${plural(notes.lost, "event")} when it was recorded`]);
  if (notes.problemCount > 0) rows.push(["problems", String(notes.problemCount)]);
  rows.push(...notes.remarks.map((each): [string, string] => ["note", printable(each)]));
  return rows;
}

function sparkText(summary: TraceSummary): string {
  const width = COLUMNS_MAX - SPARK_LABEL_COLUMNS - SPARK_SCALE_COLUMNS;
  const rows = sparkRows(summary, { width });
  return rows.map(({ label, line, scale }) => {
    const shown = line.padEnd(width);
    return `${`  ${label}`.padEnd(SPARK_LABEL_COLUMNS)}${shown}  ${scale}`.trimEnd() + "\n";
  }).join("");
}

async function info(
  io: CliIo,
  path: string,
  options: { readonly from?: string; readonly device?: string; readonly json?: true },
): Promise<void> {
  const input = new TraceInput(io, path, options);
  const source = await input.open();
  const progress = readProgress(io, "read", [input]);
  let summary: TraceSummary;
  try {
    summary = await summarize(progress.over(source));
  } finally {
    progress.clear();
  }
  const format = input.format;
  if (options.json) {
    const { lost, problemCount, problems, remarks } = source.notes;
    const notes = { lost, problemCount, problems, remarks };
    return printJson(io, { trace: path, format, ...source.info, ...summary, ...notes });
  }
  io.out(`${printable(path)}\n${twoColumns(rowsOf(source, summary, format))}\n`);
  const operations = Object.entries(summary.operations);
  if (operations.length > 0) io.out(`${columnTable(COLUMNS, operations.map(operationRow))}\n`);
  io.out(sparkText(summary));
  tellNotes(io, path, { ...source.notes, remarks: [], lost: 0 });
}

/** The command `dmu trace info`. */
export function infoCommand(io: CliIo): AnyCommand {
  return command("info", io)
    .summary("show what a trace is")
    .description(
      "Show what a trace is: its format, times, requests by operation with their latencies, what " +
        "is missing or wrong in it, and how it went over time.",
    )
    .argument("<file>", "a trace in any format that is known, - for standard input")
    .option(...FROM_OPTION)
    .option(...DEVICE_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText("after", examples([["What happened?", "dmu trace info disk.dmutrace"]]))
    .action((path, options) => info(io, path, options));
}
