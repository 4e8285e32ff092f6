/**
 * The report of a load, for people.
 *
 * @module
 */
import { formatDuration, formatRate, formatSize } from "../../lib/block/size.ts";
import type { LoadFigures, LoadReport, VerifyReport } from "../../lib/bench/tally.ts";
import { formatCount, formatUs } from "../../lib/trace/units.ts";
import { type Column, columnTable } from "../columns.ts";
import type { CliIo } from "../io.ts";
import { plural, twoColumns } from "../output.ts";
import { type BenchPlan, planText } from "./options.ts";

/** What a load was run on. */
export interface BenchSubject {
  /** The target. */
  readonly shown: string;
  /** How requests got there. */
  readonly how: string;
  /** Bytes that were used. */
  readonly size: number;
}

const COLUMNS: readonly Column[] = [
  { title: "OP" },
  { title: "COUNT", right: true },
  { title: "IOPS", right: true },
  { title: "RATE", right: true },
  { title: "P50", right: true },
  { title: "P90", right: true },
  { title: "P99", right: true },
  { title: "P99.9", right: true },
  { title: "MAX", right: true },
];

function rowOf(name: string, figures: LoadFigures): string[] {
  const { count, requestsPerSecond, bytesPerSecond, latency } = figures;
  const { p50Us, p90Us, p99Us, p999Us, maxUs } = latency;
  return [
    name,
    formatCount(count),
    formatCount(requestsPerSecond),
    formatRate(bytesPerSecond),
    ...[p50Us, p90Us, p99Us, p999Us, maxUs].map(formatUs),
  ];
}

/** Cells of the longest bar of a histogram. */
const BAR_CELLS = 44;

/** A histogram in lines of at most 80 columns: a line for each doubling of the latency. */
export function histogramText(histogram: LoadReport["histogram"]): string {
  const classes = new Map<number, number>();
  let total = 0;
  for (const { upperUs, count } of histogram) {
    const doubling = Math.ceil(Math.log2(Math.max(upperUs, 2 ** -4)));
    classes.set(doubling, (classes.get(doubling) ?? 0) + count);
    total += count;
  }
  if (total === 0) return "";
  const most = Math.max(...classes.values());
  const from = Math.min(...classes.keys()), to = Math.max(...classes.keys());
  let text = "";
  for (let doubling = from; doubling <= to; doubling += 1) {
    const count = classes.get(doubling) ?? 0;
    const bar = "█".repeat(Math.round(count / most * BAR_CELLS));
    const share = (count / total * 100).toFixed(2);
    const upTo = formatUs(2 ** doubling).padStart(8);
    const cells = `${formatCount(count).padStart(7)} ${share.padStart(6)} %`;
    text += `  up to ${upTo} ${cells} ${bar}`.trimEnd() + "\n";
  }
  return text;
}

function verifyText({ checked, blockBytes, faultCount }: VerifyReport): string {
  const found = faultCount === 0 ? "all as written" : `${faultCount} with other data`;
  return `${plural(checked, "block")} of ${formatSize(blockBytes)} compared, ${found}`;
}

function connectionsText(connections: readonly number[]): string {
  const least = Math.min(...connections), most = Math.max(...connections);
  const share = most === 0 ? 1 : least / most;
  return `${connections.length}, the slowest did ${share.toFixed(2)} of the fastest`;
}

/** The words with which the second run of a verified load begins. */
function againText(plan: BenchPlan, report: LoadReport): string {
  return `the same options and --verify-only --ops ${report.total.count}` +
    (plan.end.requests === undefined ? " instead of --time or --bytes" : "");
}

/** The head of the report. */
function rowsOf(plan: BenchPlan, subject: BenchSubject, report: LoadReport): [string, string][] {
  const { total, durationUs, interrupted, cpuUsPerRequest, verify, connections } = report;
  const { shown, how, size } = subject;
  const only = plan.verify === "only";
  const rows: [string, string][] = [
    ["target", `${shown}, ${formatSize(size)} of it, ${how}`],
    ["load", only ? `read all once, seed ${plan.seed}` : planText(plan)],
    ["time", `${formatDuration(durationUs / 1000)}${interrupted ? ", ended early" : ""}`],
  ];
  if (cpuUsPerRequest !== null) {
    rows.push(["CPU", `${cpuUsPerRequest.toFixed(2)} µs a request, of this process`]);
  }
  if (connections.length > 1) rows.push(["connections", connectionsText(connections)]);
  if (verify !== null) rows.push(["verified", verifyText(verify)]);
  const writes = report.write.count > 0;
  if (plan.verify === "run" && writes) rows.push(["verify again", againText(plan, report)]);
  if (total.errors > 0) {
    const kinds = Object.entries(report.errors).map(([name, count]) => `${count} ${name}`);
    rows.push(["errors", kinds.join(", ")]);
  }
  return rows;
}

/** Prints a report. */
export function printBenchReport(
  io: CliIo,
  plan: BenchPlan,
  subject: BenchSubject,
  report: LoadReport,
): void {
  const { total, read, write, failures, verify } = report;
  io.out(`${plural(total.count, "request")}, ${formatSize(total.bytes)}\n`);
  io.out(`${twoColumns(rowsOf(plan, subject, report))}\n`);
  const sides: (readonly [string, LoadFigures])[] = [["read", read], ["write", write]];
  const rows = sides.filter(([, { count }]) => count > 0)
    .map(([name, figures]) => rowOf(name, figures));
  if (rows.length === 2) rows.push(rowOf("both", total));
  if (rows.length > 0) io.out(`${columnTable(COLUMNS, rows)}\n`);
  io.out(histogramText(report.histogram));
  if (failures.length > 0) {
    const lines = failures.map(({ operation, offset, length, what }) =>
      `  ${operation} of ${length} bytes at ${offset}: ${what}\n`
    );
    io.out(`\nThe first requests that failed:\n${lines.join("")}`);
  }
  if (verify !== null && verify.faults.length > 0) {
    const lines = verify.faults.map(({ offset, length, what }) =>
      `  ${length} bytes at ${offset}: ${what}\n`
    );
    io.out(`\nThe first blocks with other data:\n${lines.join("")}`);
  }
}
