/** docs/performance.md: its tables have the shape that the benchmarks write. @module */
import assert from "node:assert/strict";
import { CASES } from "../../bench/cases.ts";
import { PAGE, sectionOf, withSection } from "../../bench/page.ts";
import { columnsOf, comparisonTable, figuresOf, goalText, type Row } from "../../bench/rows.ts";
import { SERVERS } from "../../bench/servers.ts";

const NAMES = SERVERS.map(({ name }) => name);

/** The cells of the lines of a table, its rule left out. */
function cellsOf(section: string): string[][] {
  return section.split("\n").filter((line) => line.startsWith("|"))
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()))
    .filter(([first = ""]) => !/^-+$/.test(first));
}

Deno.test("the page compares what the benchmark measures, with all servers", async () => {
  const table = cellsOf(sectionOf(await Deno.readTextFile(PAGE), "comparison"));
  const [titles, ...rows] = table;
  assert.deepEqual(titles, columnsOf(NAMES));
  const metrics = CASES.flatMap((each) => each.metrics);
  assert.deepEqual(rows.map(([title]) => title), metrics.map(({ title }) => title));
  for (const [index, row] of rows.entries()) {
    const metric = metrics[index];
    assert.ok(metric !== undefined);
    assert.equal(row.length, titles?.length);
    assert.equal(row[1], metric.unit);
    assert.equal(row.at(-2), goalText(metric));
    const figures = row.slice(2, 2 + 2 * NAMES.length - 1);
    for (const each of figures) assert.match(each, /^(-?\d+(\.\d+)?k?|–)$/, row.join(" | "));
    assert.match(figures[0] ?? "", /\d/, "our own figure is always there");
  }
});

Deno.test("the page shows what a request costs and what the generators cost", async () => {
  const text = await Deno.readTextFile(PAGE);
  for (
    const [section, titles, count] of [
      ["floor", ["step", "µs a request", ""], 16],
      ["generator", ["load", "generator", "requests/s", "its CPU, µs/request"], 8],
    ] as const
  ) {
    const [head, ...rows] = cellsOf(sectionOf(text, section));
    assert.deepEqual(head, titles);
    assert.equal(rows.length, count);
    assert.ok(rows.every((row) => row.length === titles.length && row[0] !== ""));
  }
});

Deno.test("comparisonTable() shows medians, ratios and whether goals are met", () => {
  const row = (better: "more" | "less", ours: readonly number[]): Row => ({
    metric: {
      ...{ id: "x", title: "reads", unit: "µs", better, goals: { other: 2, absent: 9 } },
    },
    runs: new Map([["dmu", ours], ["other", [10, 30, 20]], ["broken", [NaN]]]),
  });
  const rows = [row("more", [50, 40, 30]), row("less", [50, 40, 41]), row("more", [39, 39, 39])];
  assert.deepEqual(cellsOf(comparisonTable(rows, ["dmu", "other", "broken"])), [
    ["load", "unit", "dmu", "other", "broken", "÷ other", "÷ broken", "goal", "met"],
    ["reads", "µs", "40.0", "20.0", "–", "2.00", "–", "≥ 2 × other, ≥ 9 × absent", "yes"],
    ["reads", "µs", "41.0", "20.0", "–", "2.05", "–", "≤ 2 × other, ≤ 9 × absent", "**no**"],
    ["reads", "µs", "39.0", "20.0", "–", "1.95", "–", "≥ 2 × other, ≥ 9 × absent", "**no**"],
  ]);
  const metric = { ...{ id: "x", title: "m", unit: "KiB", better: "less" as const }, limit: 100 };
  const met = (value: number): boolean | null =>
    figuresOf({ metric, runs: new Map([["dmu", [value]]]) }).met;
  assert.deepEqual([met(100), met(101)], [true, false]);
  assert.equal(figuresOf({ metric: { ...metric, limit: 1 }, runs: new Map() }).met, false);
});

Deno.test("withSection() changes its section alone, whether it was empty or not", () => {
  const page = (table: string): string =>
    `before\n<!-- floor: begin -->${table}<!-- floor: end -->\nbehind\n`;
  const wanted = page("\n\n| a |\n\n");
  assert.equal(withSection(page(""), "floor", "| a |\n"), wanted);
  assert.equal(withSection(page("\n\n| $1 |\n\n"), "floor", "| a |"), wanted);
  assert.equal(withSection(wanted, "floor", sectionOf(wanted, "floor")), wanted);
  assert.throws(() => withSection("no markers", "floor", ""), /Cannot find/);
});
