/**
 * The report of a replay, for people.
 *
 * @module
 */
import { formatDuration, formatSize } from "../../lib/block/size.ts";
import type { Percentiles } from "../../lib/block/statistics.ts";
import type { Mismatch, ReplayReport } from "../../lib/trace/replay_report.ts";
import { formatUs } from "../../lib/trace/units.ts";
import { type Column, columnTable } from "../columns.ts";
import type { CliIo } from "../io.ts";
import { plural, twoColumns } from "../output.ts";

/** Median lag in µs up to which a replay has kept the pace of its recording. */
const LAG_GOOD_US = 1_000;

const COLUMNS: readonly Column[] = [
  { title: "OPERATION" },
  { title: "LATENCY" },
  { title: "COUNT", right: true },
  { title: "BYTES", right: true },
  { title: "P50", right: true },
  { title: "P99", right: true },
  { title: "P99.9", right: true },
  { title: "MAX", right: true },
];

function latencies({ count, p50Us, p99Us, p999Us, maxUs }: Percentiles): string[] {
  return [p50Us, p99Us, p999Us, maxUs].map((each) => count === 0 ? "-" : formatUs(each));
}

function tableOf({ operations }: ReplayReport): string {
  const rows = Object.entries(operations).flatMap((
    [name, { count, bytes, achieved, recorded }],
  ) => [
    [name, "achieved", String(count), formatSize(bytes), ...latencies(achieved)],
    ["", "recorded", String(recorded.count), "", ...latencies(recorded)],
  ]);
  return columnTable(COLUMNS, rows);
}

function timeText({ durationUs, plannedUs }: ReplayReport): string {
  const took = formatDuration(durationUs / 1000);
  return plannedUs === 0 ? took : `${took}, planned were ${formatDuration(plannedUs / 1000)}`;
}

/** The lag in words, and that it is too large if it is. */
function lagText({ count, p50Us, p99Us, maxUs }: Percentiles): string {
  const [median, most, largest] = [p50Us, p99Us, maxUs].map(formatUs);
  const text = `median ${median}, 99 of 100 up to ${most}, at most ${largest}`;
  if (count === 0 || p50Us < LAG_GOOD_US) return text;
  return `${text}: half of all requests came 1 ms late or more, the pace was not kept`;
}

function verifiedText({ verified, unverifiable, mismatchCount }: ReplayReport): string {
  const others = unverifiable === 0
    ? ""
    : `, ${unverifiable} could not be: the trace lacks their data, or those of a write`;
  return `${plural(verified, "read")} compared${others}, ${plural(mismatchCount, "mismatch")}`
    .replace(/mismatchs$/, "mismatches");
}

function told(what: string, count: number, list: readonly Mismatch[]): string {
  if (count === 0) return "";
  const lines = list.map((each) =>
    `  request ${each.id}, ${each.operation} of ${each.length} bytes at ${each.offset}: ${each.what}\n`
  );
  const rest = count > list.length ? `  and ${count - list.length} more\n` : "";
  return `\n${what}\n${lines.join("")}${rest}`;
}

/** Prints a report. `verify` says whether reads were to be compared. */
export function printReplayReport(
  io: CliIo,
  report: ReplayReport,
  target: string,
  verify: boolean,
): void {
  const rows: [string, string][] = [["target", target], ["time", timeText(report)]];
  if (report.lag.count > 0) rows.push(["lag", lagText(report.lag)]);
  if (verify) rows.push(["verified", verifiedText(report)]);
  if (report.failureCount > 0) {
    rows.push(["errors", `${report.failureCount} that the recording does not have`]);
  }
  if (report.skipped > 0) {
    rows.push(["left out", `${plural(report.skipped, "request")} beyond the end of the target`]);
  }
  io.out(`replayed ${plural(report.requests, "request")}\n${twoColumns(rows)}\n${tableOf(report)}`);
  io.out(told("Failed, which the recording does not say:", report.failureCount, report.failures));
  io.out(told("Otherwise than recorded:", report.mismatchCount, report.mismatches));
}
