/** Tables: how wide columns become, what is cut and where. @module */
import assert from "node:assert/strict";
import { columnTable, cutMiddle } from "../../cli/columns.ts";
import { formatLatency } from "../../cli/show.ts";

Deno.test("cutMiddle() keeps both ends of what is too long", () => {
  assert.equal(cutMiddle("abcdef", 6), "abcdef");
  assert.equal(cutMiddle("abcdefg", 6), "abc…fg");
  assert.equal(cutMiddle("abcdefg", 2), "a…");
  assert.equal(cutMiddle("abcdefg", 1), "…");
  assert.equal(cutMiddle("abc", 0), "");
  assert.equal(cutMiddle("😀😀😀😀", 3), "😀…😀");
});

Deno.test("columnTable() cuts the widest columns that may be cut until 80 columns are enough", () => {
  const columns = [
    { title: "A", least: 10 },
    { title: "N", right: true },
    { title: "B", least: 10 },
  ] as const;
  const lines = (...rows: string[][]): string[] => columnTable(columns, rows).split("\n");
  assert.deepEqual(lines(["a", "5", "b"], ["aa", "15", ""]), [
    "A    N  B",
    "a    5  b",
    "aa  15",
    "",
  ]);
  const [, wide = ""] = lines(["a".repeat(90), "1", "b".repeat(60)]);
  assert.equal(wide.length, 80);
  assert.match(wide, /^a{18}…a{18} {2}1 {2}b{19}…b{18}$/);
  const [, fixed = ""] = lines(["a".repeat(90), "1".repeat(70), "b"]);
  assert.match(fixed, /^a{5}…a{4} {2}1{70} {2}b$/, "what may not be cut is not");
  assert.deepEqual(lines(["\x1b[2J", "1", "x\ny"])[1], "\ufffd[2J  1  x\ufffdy");
});

Deno.test("formatLatency() has three digits at most", () => {
  const shown = [0, 0.4, 85, 999.4, 999.6, 1_234, 9_960, 12_345, 999_499, 999_500, 12_000_000];
  assert.deepEqual(shown.map(formatLatency), [
    ...["0 µs", "0 µs", "85 µs", "999 µs", "1.0 ms", "1.2 ms", "10 ms", "12 ms", "999 ms"],
    ...["1.0 s", "12 s"],
  ]);
});
