/**
 * What is compared, one row each: the median of each server, and ratios of the first server to the others
 * with the goal for them.
 *
 * @module
 */
import { type Spread, spread } from "./report.ts";

/** What is measured. */
export interface Metric {
  /** Its key in what a case gives. */
  readonly id: string;
  /** What a reader sees. */
  readonly title: string;
  /** "" for what has none. */
  readonly unit: string;
  /** What is better. */
  readonly better: "more" | "less";
  /** Ratios of the first server to others that are wanted: at least (or, where less is better, at most) so much. */
  readonly goals?: Readonly<Record<string, number>>;
  /** It says how even or steady a server is with itself: ratios to others would mean nothing. */
  readonly alone?: true;
  /** What the first server's own figure is to be: at least, or at most. */
  readonly limit?: number;
}

/** All runs of a metric, by the name of the server, in the order of the servers. */
export interface Row {
  readonly metric: Metric;
  readonly runs: ReadonlyMap<string, readonly number[]>;
}

/** A figure in few characters. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value >= 10_000) return `${(value / 1000).toFixed(value >= 100_000 ? 0 : 1)}k`;
  return value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2);
}

function medianOf(runs: readonly number[]): number {
  return spread(runs.filter((each) => Number.isFinite(each))).median;
}

/** The figures of a row. */
export interface RowFigures {
  /** By server. */
  readonly spreads: ReadonlyMap<string, Spread>;
  /** Median of the first server over that of the others, by their names. */
  readonly ratios: ReadonlyMap<string, number>;
  /** The goal is met; null if there is none, or nobody to compare with. */
  readonly met: boolean | null;
}

/** Medians, ratios, and whether the goal is met. */
export function figuresOf({ metric, runs }: Row): RowFigures {
  const [first = []] = runs.values();
  const own = medianOf(first);
  const others = metric.alone === true ? [] : [...runs].slice(1);
  const ratios = new Map(others.map(([name, each]) => [name, own / medianOf(each)]));
  const reaches = (value: number, goal: number): boolean =>
    metric.better === "more" ? value >= goal : value <= goal;
  const checks: boolean[] = [];
  for (const [name, goal] of Object.entries(metric.goals ?? {})) {
    const ratio = ratios.get(name);
    if (ratio !== undefined && Number.isFinite(ratio)) checks.push(reaches(ratio, goal));
  }
  if (metric.limit !== undefined) checks.push(reaches(own, metric.limit));
  return {
    spreads: new Map([...runs].map(([name, each]) => [
      name,
      spread(each.filter((value) => Number.isFinite(value))),
    ])),
    ratios,
    met: checks.length === 0 ? null : checks.every((check) => check),
  };
}

/** The goal in words, "" if there is none. */
export function goalText({ goals = {}, limit, better, unit }: Metric): string {
  const sign = better === "more" ? "≥" : "≤";
  const parts = Object.entries(goals).map(([name, goal]) => `${sign} ${goal} × ${name}`);
  if (limit !== undefined) parts.push(`${sign} ${limit}${unit === "" ? "" : ` ${unit}`}`);
  return parts.join(", ");
}

function metText(met: boolean | null): string {
  return met === null ? "" : met ? "yes" : "**no**";
}

/** A row as lines of at most 80 columns. */
export function rowText(row: Row): string {
  const { metric } = row;
  const { spreads, ratios, met } = figuresOf(row);
  const goal = goalText(metric);
  const head = `${metric.title}${metric.unit === "" ? "" : `, ${metric.unit}`}`;
  let text = `${head}\n`;
  for (const [name, { median, min, max }] of spreads) {
    const ratio = ratios.get(name);
    const range = `(${figure(min)}–${figure(max)})`;
    const cells = `  ${name.padEnd(12)}${figure(median).padStart(9)}  ${range.padEnd(18)}`;
    text += `${cells}${ratio === undefined ? "" : `ratio ${ratio.toFixed(2)}`}`.trimEnd() + "\n";
  }
  if (goal !== "") text += `  goal ${goal}${met === null ? "" : met ? ": met" : ": NOT met"}\n`;
  return text;
}

/** The titles of the columns of the page's table. */
export function columnsOf(servers: readonly string[]): string[] {
  const others = servers.slice(1).map((name) => `÷ ${name}`);
  return ["load", "unit", ...servers, ...others, "goal", "met"];
}

/** A table of the page. */
export function markdownTable(titles: readonly string[], rows: readonly string[][]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |\n`;
  return line(titles) + line(titles.map(() => "---")) + rows.map(line).join("");
}

/** All rows as the page shows them. */
export function comparisonTable(rows: readonly Row[], servers: readonly string[]): string {
  const cells = rows.map((row) => {
    const { spreads, ratios, met } = figuresOf(row);
    return [
      row.metric.title,
      row.metric.unit,
      ...servers.map((name) => figure(spreads.get(name)?.median ?? NaN)),
      ...servers.slice(1).map((name) => {
        const ratio = ratios.get(name) ?? NaN;
        return Number.isFinite(ratio) ? ratio.toFixed(2) : "–";
      }),
      goalText(row.metric),
      metText(met),
    ];
  });
  return markdownTable(columnsOf(servers), cells);
}

/** A row as plain data, for `--json`. */
export function rowData(row: Row): Record<string, unknown> {
  const { spreads, ratios, met } = figuresOf(row);
  return {
    ...row.metric,
    servers: Object.fromEntries(spreads),
    ratios: Object.fromEntries(ratios),
    met,
    runs: Object.fromEntries(row.runs),
  };
}
