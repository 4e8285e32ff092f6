/**
 * What all panels share: where things are on the page, frames with their grids and labels, legends, and
 * curves over bins of time.
 *
 * @module
 */
import type { BinRange } from "../bins.ts";
import type { GroupName } from "./collect.ts";
import { linear, path, px, rect, type Scale, text, textWidth } from "./svg.ts";
import type { Tick } from "./ticks.ts";

/** Width of a picture, px. */
export const PAGE_WIDTH = 1000;
/** Left edge of what is plotted, px: labels are left of it. */
export const PLOT_LEFT = 88;
/** Right edge of what is plotted over time, px. */
export const PLOT_RIGHT = 896;
/** Right edge of all, px. */
export const PAGE_RIGHT = 984;

/** A part of a picture: SVG and the height that it takes, px. */
export interface Panel {
  /** The drawing, whose own top is at 0. */
  readonly body: string;
  /** Its height with the room below it. */
  readonly height: number;
}

/** A rectangle on the page, px. */
export interface Box {
  /** Left edge. */
  readonly left: number;
  /** Right edge. */
  readonly right: number;
  /** Upper edge. */
  readonly top: number;
  /** Lower edge. */
  readonly bottom: number;
}

/** Height of the line with the heading above a box, px. */
export const HEADING_HEIGHT = 24;
/** What a label below a box may reach beyond its right edge, px. */
const OVERHANG = 10;
/** Height of the labels below a box, with the gap to what follows, px. */
export const FOOTING_HEIGHT = 38;

/** The words for groups. */
export const GROUP_WORDS: Readonly<Record<GroupName, string>> = {
  read: "reads",
  write: "writes",
  discard: "trims and zeroes",
  other: "flushes and others",
};

/** Lines of groups: solid, dashed, dotted, thin. */
export const GROUP_LINES: Readonly<Record<GroupName, string>> = {
  read: "line",
  write: "line dash",
  discard: "line dots",
  other: "thin dash",
};

/** A box over time below a heading. */
export function timeBox(height: number): Box {
  return {
    left: PLOT_LEFT,
    right: PLOT_RIGHT,
    top: HEADING_HEIGHT,
    bottom: HEADING_HEIGHT + height,
  };
}

/** Times as x coordinates. */
export function timeScale(time: BinRange, box: Box): Scale {
  return linear(time.start, time.start + time.count * time.width, box.left, box.right);
}

/** The ground of a box with lines for ticks of both axes, and the labels of the latter. */
export function frame(
  box: Box,
  across: { readonly ticks: readonly Tick[]; readonly scale: Scale },
  up: { readonly ticks: readonly Tick[]; readonly scale: Scale },
): string {
  const { left, right, top, bottom } = box;
  const labels: string[] = [];
  let lines = "";
  for (const { value, label } of up.ticks) {
    const y = up.scale(value);
    if (y < top - 0.01 || y > bottom + 0.01) continue;
    lines += `M${px(left)} ${px(y)}H${px(right)}`;
    if (label !== "") labels.push(text(left - 8, y + 4, label, "faint end"));
  }
  let free = Number.NEGATIVE_INFINITY;
  for (const { value, label } of across.ticks) {
    const x = across.scale(value);
    lines += `M${px(x)} ${px(top)}V${px(bottom + 4)}`;
    const half = textWidth(label, 11) / 2;
    if (x - half < free || x + half > right + OVERHANG) continue;
    labels.push(text(x, bottom + 17, label, "faint mid"));
    free = x + half + 8;
  }
  return rect(left, top, right - left, bottom - top, "field") + path(lines, "grid") +
    labels.join("");
}

/** The heading above a box, at its left edge. */
export function heading(box: Box, content: string): string {
  return text(box.left, box.top - 8, content, "head");
}

/** A sample of a legend, 22 px wide around (x, y), and its words. */
export interface LegendEntry {
  /** Draws the sample; (x, y) is the middle of its left edge. */
  readonly sample: (x: number, y: number) => string;
  /** What it stands for. */
  readonly words: string;
}

/** A legend above a box, at its right edge. */
export function legend(box: Box, entries: readonly LegendEntry[]): string {
  let x = box.right;
  let body = "";
  for (const { sample, words } of entries.toReversed()) {
    body = text(x, box.top - 8, words, "faint end") + body;
    x -= textWidth(words, 11) + 28;
    body = sample(x, box.top - 12) + body;
    x -= 14;
  }
  return body;
}

/** A sample of a line of a class. */
export function lineSample(kind: string): LegendEntry["sample"] {
  return (x, y) => path(`M${px(x)} ${px(y)}h22`, kind);
}

/** A sample of an area of a class. */
export function areaSample(kind: string): LegendEntry["sample"] {
  return (x, y) => rect(x, y - 5, 22, 10, kind);
}

/** A curve in steps over bins of time; null is a gap. */
export function stepPath(
  values: readonly (number | null)[],
  time: BinRange,
  x: Scale,
  y: Scale,
): string {
  let data = "", isOpen = false;
  values.forEach((value, index) => {
    if (value === null) return void (isOpen = false);
    const from = x(time.start + index * time.width), to = x(time.start + (index + 1) * time.width);
    data += isOpen ? `V${px(y(value))}H${px(to)}` : `M${px(from)} ${px(y(value))}H${px(to)}`;
    isOpen = true;
  });
  return data;
}

/** The area between two curves in steps; where either is null there is none. */
export function bandPath(
  lower: readonly (number | null)[],
  upper: readonly (number | null)[],
  time: BinRange,
  x: Scale,
  y: Scale,
): string {
  let data = "", from = 0;
  const close = (end: number): void => {
    if (end > from) {
      const there = stepPath(upper.slice(from, end), shifted(time, from), x, y);
      let back = "";
      for (let index = end - 1; index >= from; index -= 1) {
        back += `V${px(y(lower[index] ?? 0))}H${px(x(time.start + index * time.width))}`;
      }
      data += `${there}${back}Z`;
    }
    from = end + 1;
  };
  lower.forEach((value, index) => {
    if (value === null || (upper[index] ?? null) === null) close(index);
  });
  close(lower.length);
  return data;
}

function shifted(time: BinRange, by: number): BinRange {
  return { ...time, start: time.start + by * time.width };
}
