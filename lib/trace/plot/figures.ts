/**
 * What a picture says in words and numbers: title, span, events, what is missing; and the tables of the
 * page around it.
 *
 * @module
 */
import { OPERATIONS } from "../../block/request.ts";
import { formatDuration, formatRate, formatSize } from "../../block/size.ts";
import type { Percentiles } from "../../block/statistics.ts";
import { formatCount, formatUs } from "../units.ts";
import type { PlotData } from "./collect.ts";
import { escapeText } from "./svg.ts";

/** Time of a trace as a whole: exact where it is short. */
export function spanText(us: number): string {
  return us < 60e6 ? formatUs(us) : formatDuration(us / 1000);
}

/** "1 event", "2 events", "12.3 k events". */
function counted(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** The title of a trace that was given none. */
export function titleOf({ info }: PlotData): string {
  return info.target === null ? "Trace" : `Trace of ${info.target}`;
}

/** A time of the calendar; empty for what is none. */
function dateText(ms: number): string {
  const date = new Date(ms);
  return Number.isNaN(date.getTime())
    ? ""
    : date.toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
}

/** What is known, in short phrases. */
export function facts({ info, summary }: PlotData): string[] {
  const phrases = [
    `${spanText(summary.lastUs - summary.firstUs)} of time`,
    counted(summary.events, "event"),
    counted(summary.requests, "request"),
  ];
  const { read, write } = summary.operations;
  if (read !== undefined) phrases.push(`${formatSize(read.bytes)} read`);
  if (write !== undefined) phrases.push(`${formatSize(write.bytes)} written`);
  if (info.size !== null) phrases.push(`device of ${formatSize(info.size)}`);
  if (info.started_ms !== null) phrases.push(`begun ${dateText(info.started_ms)}`);
  return phrases.filter((phrase) => phrase !== "begun ");
}

/** What a reader of the picture has to know: lost events, damage, what the trace does not tell. */
export function warnings({ info, summary, notes }: PlotData): string[] {
  const lines: string[] = [];
  if (notes.lost > 0) lines.push(`Lost while it was recorded: ${counted(notes.lost, "event")}`);
  if (notes.problemCount > 0) {
    lines.push(`Not understood in the trace: ${counted(notes.problemCount, "part")}`);
  }
  lines.push(...notes.remarks.map((remark) => `Note: ${remark}`));
  const errors = Object.values(summary.operations).reduce((sum, each) => sum + each.errors, 0);
  if (errors > 0) lines.push(`Ended with an error: ${counted(errors, "request")}`);
  if (summary.requests > 0 && !info.completes) {
    lines.push("The trace does not tell when requests were done: no latency, no queue depth");
  } else if (summary.unanswered > 0) {
    lines.push(`Without completion in the trace: ${counted(summary.unanswered, "request")}`);
  }
  return lines;
}

function row(cells: readonly string[], cell: "td" | "th"): string {
  return `<tr>${cells.map((each) => `<${cell}>${escapeText(each)}</${cell}>`).join("")}</tr>\n`;
}

function table(
  caption: string,
  head: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  return `<div class="scroll"><table>\n<caption>${escapeText(caption)}</caption>\n` +
    `<thead>${row(head, "th")}</thead>\n<tbody>${rows.map((each) => row(each, "td")).join("")}` +
    `</tbody></table></div>\n`;
}

function latencyCells(latency: Percentiles): string[] {
  const { count, p50Us, p90Us, p99Us, p999Us, maxUs } = latency;
  return count === 0
    ? ["–", "–", "–", "–", "–"]
    : [p50Us, p90Us, p99Us, p999Us, maxUs].map(formatUs);
}

function percent(part: number, whole: number): string {
  return `${Math.round(part / whole * 100)} %`;
}

function operationTable({ summary }: PlotData): string {
  const seconds = (summary.lastUs - summary.firstUs) / 1e6;
  const rows = OPERATIONS.flatMap((operation) => {
    const each = summary.operations[operation];
    if (each === undefined) return [];
    const { count, bytes, errors, lengthMin, lengthMax, sequential, latency } = each;
    const rates = seconds > 0
      ? [formatCount(count / seconds), formatRate(bytes / seconds)]
      : ["–", "–"];
    const lengths = lengthMin === lengthMax
      ? formatSize(lengthMin)
      : `${formatSize(lengthMin)} – ${formatSize(lengthMax)}`;
    return [[
      ...[operation, String(count), formatSize(bytes), ...rates, lengths],
      ...[percent(sequential, count), String(errors), ...latencyCells(latency)],
    ]];
  });
  const head = [
    ...[
      "operation",
      "requests",
      "bytes",
      "requests/s",
      "bytes/s",
      "lengths",
      "sequential",
      "errors",
    ],
    ...["median", "90 %", "99 %", "99.9 %", "highest"],
  ];
  return rows.length === 0 ? "" : table(
    "Operations; latencies are those that so many requests did not exceed, at most 12 % too large",
    head,
    rows,
  );
}

function lengthTable({ summary }: PlotData): string {
  const rows = OPERATIONS.flatMap((operation) =>
    (summary.operations[operation]?.sizes ?? []).filter(({ upToBytes }) => upToBytes > 0)
      .map(({ upToBytes, count }) => {
        const share = percent(count, summary.operations[operation]?.count ?? count);
        return [operation, formatSize(upToBytes), String(count), share];
      })
  );
  return rows.length === 0
    ? ""
    : table("Lengths, by powers of two", ["operation", "up to", "requests", "share"], rows);
}

function traceTable(data: PlotData): string {
  const { info, summary, notes } = data;
  const extent = summary.offsetEnd === 0
    ? "none"
    : `${formatSize(summary.offsetMin)} – ${formatSize(summary.offsetEnd)}`;
  const rows: [string, string][] = [
    ["events", String(summary.events)],
    ["lost events", String(notes.lost)],
    ["requests", String(summary.requests)],
    ["requests without completion", String(summary.unanswered)],
    ["completions without request", String(summary.unasked)],
    ["first event", formatUs(summary.firstUs)],
    ["last event", formatUs(summary.lastUs)],
    ["connections", String(summary.connections)],
    ["offsets", extent],
    ["most requests in flight", summary.depthMax === 0 ? "unknown" : String(summary.depthMax)],
  ];
  if (info.size !== null) rows.push(["size of the device", formatSize(info.size)]);
  return table("The trace", ["figure", "value"], rows);
}

/** Problems of the trace, with where they are. */
function problemTable({ notes }: PlotData): string {
  if (notes.problems.length === 0) return "";
  const caption = `What could not be understood: ${notes.problems.length} of ${notes.problemCount}`;
  return table(caption, ["where", "what"], notes.problems.map(({ where, what }) => [where, what]));
}

/** All figures as HTML tables. */
export function figureTables(data: PlotData): string {
  return operationTable(data) + lengthTable(data) + traceTable(data) + problemTable(data);
}
