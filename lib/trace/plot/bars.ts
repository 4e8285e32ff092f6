/**
 * Distributions as bars: lengths of requests, and how many were in flight when one entered.
 *
 * @module
 */
import { OPERATIONS } from "../../block/request.ts";
import { formatSize } from "../../block/size.ts";
import { GROUP_OF, type GroupName, type PlotData } from "./collect.ts";
import {
  areaSample,
  type Box,
  FOOTING_HEIGHT,
  frame,
  GROUP_WORDS,
  heading,
  HEADING_HEIGHT,
  legend,
  PAGE_RIGHT,
  type Panel,
  PLOT_LEFT,
} from "./frame.ts";
import { linear, rect, text, textWidth } from "./svg.ts";
import { countTicks } from "./ticks.ts";

const BAR_HEIGHT = 140;
/** Room between the two boxes of a row, px: the labels of the right one. */
const BETWEEN = 84;
/** Room between labels below bars, px. */
const LABEL_GAP = 6;
const TICKS_UP = 4;
const HEADROOM = 1.06;
/** Share of a class's width that its bars take. */
const BARS_SHARE = 0.76;
/** Least height of a bar that is not 0, px. */
const BAR_HEIGHT_MIN = 1.5;

/** Bars of one look. */
interface BarSet {
  readonly kind: string;
  readonly values: readonly number[];
}

/** Classes by name (a line or two each) and the bars of each set. */
function bars(box: Box, names: readonly string[], sets: readonly BarSet[]): string {
  const most = Math.max(...sets.flatMap(({ values }) => values));
  const y = linear(0, most * HEADROOM, box.bottom, box.top);
  const x = linear(0, names.length, box.left, box.right);
  const width = Math.min(60, (x(1) - x(0)) * BARS_SHARE / sets.length);
  let body = frame(box, { ticks: [], scale: x }, {
    ticks: countTicks(most * HEADROOM, TICKS_UP),
    scale: y,
  });
  const widths = names.flatMap((name) => name.split(" ").map((part) => textWidth(part, 11)));
  const every = Math.ceil((Math.max(...widths) + LABEL_GAP) / (x(1) - x(0)));
  names.forEach((name, index) => {
    sets.forEach(({ kind, values }, set) => {
      const value = values[index] ?? 0;
      if (value === 0) return;
      const left = x(index + 0.5) + (set - sets.length / 2) * width;
      const height = Math.max(BAR_HEIGHT_MIN, box.bottom - y(value));
      body += rect(left + 0.5, box.bottom - height, width - 1, height, kind);
    });
    if (index % every !== 0) return;
    name.split(" ").forEach((part, line) =>
      body += text(x(index + 0.5), box.bottom + 15 + line * 12, part, "faint mid")
    );
  });
  return body;
}

function barKind(name: GroupName): string {
  return name === "read" ? "f-read" : `bar fill-${name} s-${name}`;
}

/** Requests of each group by length class. */
function lengthSets(
  { summary }: PlotData,
): { names: string[]; sets: (BarSet & { name: GroupName })[] } {
  const groups = new Map<GroupName, Map<number, number>>();
  for (const operation of OPERATIONS) {
    const name = GROUP_OF[operation];
    if (name === "other") continue;
    const counts = groups.get(name) ?? new Map<number, number>();
    for (const { upToBytes, count } of summary.operations[operation]?.sizes ?? []) {
      if (upToBytes > 0) counts.set(upToBytes, (counts.get(upToBytes) ?? 0) + count);
    }
    if (counts.size > 0) groups.set(name, counts);
  }
  const sizes = [...groups.values()].flatMap((counts) => [...counts.keys()]);
  const classes: number[] = [];
  for (let size = Math.min(...sizes); size <= Math.max(...sizes); size *= 2) classes.push(size);
  const sets = [...groups].map(([name, counts]) => ({
    name,
    kind: barKind(name),
    values: classes.map((size) => counts.get(size) ?? 0),
  }));
  return { names: classes.map(formatSize), sets };
}

function depthNames(count: number): string[] {
  return Array.from({ length: count }, (_, index) => {
    const to = 2 ** index, from = to / 2 + 1;
    return index < 2 ? String(to) : to > 999 ? `${from} –${to}` : `${from}–${to}`;
  });
}

function box(left: number, right: number): Box {
  return { left, right, top: HEADING_HEIGHT, bottom: HEADING_HEIGHT + BAR_HEIGHT };
}

/** Both distributions side by side; the row is missing where neither is known. */
export function distributionPanels(data: PlotData): Panel[] {
  const { names, sets } = lengthSets(data);
  const depths = data.depths;
  const hasBoth = sets.length > 0 && depths.length > 0;
  const middle = (PLOT_LEFT + PAGE_RIGHT) / 2;
  let body = "";
  if (sets.length > 0) {
    const place = box(PLOT_LEFT, hasBoth ? middle - BETWEEN / 2 : PAGE_RIGHT);
    const entries = sets.map(({ name, kind }) => ({
      sample: areaSample(kind),
      words: name === "discard" ? "trims" : GROUP_WORDS[name],
    }));
    body += heading(place, "Requests by length") + legend(place, entries) +
      bars(place, names, sets);
  }
  if (depths.length > 0) {
    const place = box(hasBoth ? middle + BETWEEN / 2 : PLOT_LEFT, PAGE_RIGHT);
    body += heading(place, "Requests by queue depth as they enter") +
      bars(place, depthNames(depths.length), [{ kind: "f-other", values: depths }]);
  }
  return body === "" ? [] : [{ body, height: HEADING_HEIGHT + BAR_HEIGHT + FOOTING_HEIGHT }];
}
