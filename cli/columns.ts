/**
 * Tables of at most 80 columns: each column as wide as its widest cell, and where that is too much the
 * widest ones are cut in the middle, so that the ends of long names, which tell them apart, stay.
 *
 * @module
 */
import { COLUMNS_MAX } from "./output.ts";
import { printable } from "./safe_text.ts";

/** A column of a table. */
export interface Column {
  /** What stands above it. */
  readonly title: string;
  /** Cells stand at the right: numbers. */
  readonly right?: true;
  /** Its cells may be cut, to this many characters at least. Without it they are never cut. */
  readonly least?: number;
}

/** Blanks between columns. */
const GAP = "  ";

/** The text in `room` characters at most: of a longer one the middle is left out. */
export function cutMiddle(text: string, room: number): string {
  const characters = [...text];
  if (characters.length <= room) return text;
  if (room < 2) return "…".slice(0, room);
  const head = Math.ceil((room - 1) / 2);
  const tail = room - 1 - head;
  return `${characters.slice(0, head).join("")}…${
    tail === 0 ? "" : characters.slice(-tail).join("")
  }`;
}

/** A cell of exactly `width` characters. */
export function cell(text: string, width: number, right = false): string {
  const shown = cutMiddle(text, width);
  const pad = " ".repeat(Math.max(0, width - [...shown].length));
  return right ? pad + shown : shown + pad;
}

/** Lines of a table with its titles, each with a line break. */
export function columnTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
): string {
  const safe = rows.map((row) => row.map(printable));
  const widths = widthsOf(columns, safe);
  const line = (cells: readonly string[]): string =>
    columns.map(({ right = false }, at) => cell(cells[at] ?? "", widths[at] ?? 0, right))
      .join(GAP).trimEnd() + "\n";
  return [columns.map(({ title }) => title), ...safe].map(line).join("");
}

function widthsOf(columns: readonly Column[], rows: readonly (readonly string[])[]): number[] {
  const widths = columns.map(({ title }, at) =>
    Math.max(title.length, ...rows.map((row) => [...row[at] ?? ""].length))
  );
  const gaps = GAP.length * (columns.length - 1);
  let excess = widths.reduce((sum, width) => sum + width, gaps) - COLUMNS_MAX;
  while (excess > 0) {
    const widest = widestThatMayShrink(columns, widths);
    if (widest === -1) break;
    widths[widest] = (widths[widest] ?? 0) - 1;
    excess -= 1;
  }
  return widths;
}

function widestThatMayShrink(columns: readonly Column[], widths: readonly number[]): number {
  let widest = -1;
  for (const [at, { least = Infinity }] of columns.entries()) {
    const width = widths[at] ?? 0;
    if (width > least && (widest === -1 || width > (widths[widest] ?? 0))) widest = at;
  }
  return widest;
}
