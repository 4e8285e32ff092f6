/**
 * The text format that Prometheus reads (version 0.0.4): families of samples with help, type and labels.
 * Pure.
 *
 * @module
 */

/** The content type of the format. */
export const METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** What kind of numbers a family has: a counter only grows, a gauge may do anything. */
export type MetricType = "counter" | "gauge" | "histogram";

/** Names and values of labels, in the order in which they are written. */
export type Labels = readonly (readonly [name: string, value: string])[];

function escapeHelp(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function escapeValue(text: string): string {
  return escapeHelp(text).replaceAll('"', '\\"');
}

/** A number as the format has it. */
export function formatValue(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (Number.isFinite(value)) return String(value);
  return value > 0 ? "+Inf" : "-Inf";
}

/** The two lines that begin a family. */
export function familyHead(name: string, type: MetricType, help: string): string {
  return `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${type}\n`;
}

/** Labels as they are written, without braces. */
export function formatLabels(labels: Labels): string {
  return labels.map(([name, value]) => `${name}="${escapeValue(value)}"`).join(",");
}

/** One sample; `labels` as `formatLabels` gives them. */
export function sample(name: string, labels: string, value: number): string {
  return `${name}${labels === "" ? "" : `{${labels}}`} ${formatValue(value)}\n`;
}

/** A histogram as it is counted: values and their sum, and how many are at most as large as each bound. */
export interface HistogramSample {
  /** Upper bounds with the number of values up to each, in ascending order, without the infinite one. */
  readonly buckets: readonly (readonly [bound: number, cumulative: number])[];
  readonly count: number;
  readonly sum: number;
}

/** The samples of one histogram. */
export function histogramSamples(name: string, labels: string, values: HistogramSample): string {
  const { buckets, count, sum } = values;
  const comma = labels === "" ? "" : ",";
  const bucket = (bound: number, cumulative: number): string =>
    `${name}_bucket{${labels}${comma}le="${formatValue(bound)}"} ${cumulative}\n`;
  return buckets.map(([bound, cumulative]) => bucket(bound, cumulative)).join("") +
    bucket(Infinity, count) + sample(`${name}_sum`, labels, sum) +
    sample(`${name}_count`, labels, count);
}
