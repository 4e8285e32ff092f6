/**
 * Heat maps: bytes by time and offset, one map a kind of request, all in one scale of colours, with the sum
 * over time beside each map as bars.
 *
 * @module
 */
import { formatSize } from "../../block/size.ts";
import { formatUs } from "../units.ts";
import type { BinRange } from "../bins.ts";
import type { GroupName, PlotData } from "./collect.ts";
import {
  type Box,
  FOOTING_HEIGHT,
  frame,
  GROUP_WORDS,
  heading,
  HEADING_HEIGHT,
  PAGE_RIGHT,
  type Panel,
  PLOT_LEFT,
  timeBox,
  timeScale,
} from "./frame.ts";
import { HEAT_STEPS } from "./style.ts";
import { linear, path, px, rect, type Scale, text } from "./svg.ts";
import { offsetTicks, timeTicks } from "./ticks.ts";

const MAP_HEIGHT = 178;
/** Cells that are not empty below which cells are joined, and how many of them along either axis. */
const CELLS_MIN = 500, CELLS_JOINED_MAX = 4;
/** Width of a swatch of the legend, px. */
const SWATCH_WIDTH = 62;
/** Share of the cells that may be below the scale, and have its first colour. */
const BELOW_SHARE = 0.02;

/** Bytes by time and offset in the cells that are drawn. */
interface HeatMap {
  readonly name: GroupName;
  readonly heat: Float64Array;
}

/** Maps that share their cells, joined or not, and the bins that the axes show. */
interface Cells {
  readonly shown: { readonly time: BinRange; readonly offsets: BinRange };
  readonly time: BinRange;
  readonly offsets: BinRange;
  readonly maps: readonly HeatMap[];
}

/** The steps of a scale of colours: powers of two, in bytes a cell. */
export interface HeatScale {
  /** What step n begins above; that of step 0 is 0. As many as there are steps. */
  readonly above: readonly number[];
  /** The largest value, which the last step ends with. */
  readonly most: number;
}

/**
 * A scale for cells: at most HEAT_STEPS steps, each the same number of doublings, so that nearly all
 * cells lie in it. Null if all cells are empty.
 */
export function heatScale(grids: readonly Float64Array[]): HeatScale | null {
  const cells = grids.flatMap((grid) => [...grid.filter((cell) => cell > 0)]);
  cells.sort((one, other) => one - other);
  const most = cells.at(-1);
  if (most === undefined) return null;
  const least = cells[Math.floor(cells.length * BELOW_SHARE)] ?? most;
  const top = Math.ceil(Math.log2(most)), bottom = Math.ceil(Math.log2(least)) - 1;
  const doublings = Math.max(1, Math.ceil((top - bottom) / HEAT_STEPS));
  const steps = Math.max(1, Math.ceil((top - bottom) / doublings));
  const above = Array.from(
    { length: steps },
    (_, index) => index === 0 ? 0 : 2 ** (top - (steps - index) * doublings),
  );
  return { above, most };
}

/** The step of a cell that is not empty. */
export function heatStep({ above }: HeatScale, cell: number): number {
  let step = above.length - 1;
  while (step > 0 && cell <= (above[step] ?? 0)) step -= 1;
  return step;
}

/** Joins two cells along either axis. */
function halved({ shown, time, offsets, maps }: Cells): Cells {
  const columns = Math.ceil(time.count / 2), rows = Math.ceil(offsets.count / 2);
  return {
    shown,
    time: { ...time, count: columns, width: time.width * 2 },
    offsets: { ...offsets, count: rows, width: offsets.width * 2 },
    maps: maps.map(({ name, heat }) => {
      const sums = new Float64Array(columns * rows);
      heat.forEach((cell, index) => {
        const column = Math.floor(index / offsets.count) >> 1, row = index % offsets.count >> 1;
        sums[column * rows + row] = (sums[column * rows + row] ?? 0) + cell;
      });
      return { name, heat: sums };
    }),
  };
}

/** Cells that are large enough to be seen where few of them hold anything. */
function legible(cells: Cells): Cells {
  const filled = cells.maps.reduce(
    (sum, { heat }) => sum + heat.reduce((count, cell) => count + (cell > 0 ? 1 : 0), 0),
    0,
  );
  let joined = cells;
  for (let factor = 1; factor < CELLS_JOINED_MAX && filled * factor < CELLS_MIN; factor *= 2) {
    joined = halved(joined);
  }
  return joined;
}

/** The colour of a step: few steps take the stronger colours. */
function colourOf(step: number, steps: number): number {
  const first = steps >= HEAT_STEPS - 1 ? 0 : 2, last = HEAT_STEPS - 1;
  return steps === 1 ? HEAT_STEPS >> 1 : first + Math.round(step * (last - first) / (steps - 1));
}

/** The scale with its bounds in words, above the maps. */
function legendPanel(scale: HeatScale, { time, offsets }: Cells): Panel {
  const { above, most } = scale;
  const cell = `${formatUs(time.width)} × ${formatSize(offsets.width)}`;
  const y = 14, height = 12;
  let body = text(PLOT_LEFT - 8, y + 10, "bytes a cell", "faint end");
  above.forEach((from, step) => {
    const x = PLOT_LEFT + step * SWATCH_WIDTH;
    body += rect(x, y, SWATCH_WIDTH - 3, height, `k${colourOf(step, above.length)}`);
    const end = above[step + 1] ?? most;
    const label = step === above.length - 1 && above.length > 1
      ? `> ${formatSize(from)}`
      : `≤ ${formatSize(end)}`;
    body += text(x + SWATCH_WIDTH / 2, y + height + 14, label, "faint mid");
  });
  const end = PLOT_LEFT + above.length * SWATCH_WIDTH + 8;
  body += text(end, y + 10, `up to ${formatSize(most)}; a cell is ${cell}`, "faint");
  return { body, height: y + height + 34 };
}

/** Runs of cells of one step along time, in units of cells: one path a step. */
function cellPaths(heat: Float64Array, columns: number, rows: number, scale: HeatScale): string[] {
  const paths = scale.above.map(() => "");
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns;) {
      const cell = heat[column * rows + row] ?? 0;
      const start = column;
      column += 1;
      if (cell === 0) continue;
      const step = heatStep(scale, cell);
      while (column < columns) {
        const next = heat[column * rows + row] ?? 0;
        if (next === 0 || heatStep(scale, next) !== step) break;
        column += 1;
      }
      paths[step] += `M${start} ${row}h${column - start}`;
    }
  }
  return paths;
}

/** Sums over time as bars at the right of a map. */
function profile(heat: Float64Array, { offsets, shown }: Cells, box: Box): string {
  const rows = offsets.count, sums = new Array<number>(rows).fill(0);
  heat.forEach((cell, index) => sums[index % rows] = (sums[index % rows] ?? 0) + cell);
  const most = Math.max(...sums);
  const left = box.right + 12, x = linear(0, most, left, PAGE_RIGHT);
  const y = offsetScale(shown.offsets, box);
  const edge = (row: number): string =>
    px(Math.max(box.top, y(offsets.start + row * offsets.width)));
  let data = `M${px(left)} ${px(box.bottom)}`;
  sums.forEach((sum, row) => data += `V${edge(row)}H${px(x(sum))}V${edge(row + 1)}`);
  return path(`${data}H${px(left)}Z`, "profile faint") +
    path(`M${px(left)} ${px(box.top)}V${px(box.bottom)}`, "edge grid") +
    text(left, box.bottom + 17, "sum, up to", "faint") +
    text(left, box.bottom + 30, formatSize(most), "faint");
}

function endOf({ start, count, width }: BinRange): number {
  return start + count * width;
}

function offsetScale(offsets: BinRange, box: Box): Scale {
  return linear(offsets.start, endOf(offsets), box.bottom, box.top);
}

/** The cells in a picture of their own, which cuts off what joined cells have beyond the axes. */
function cellPicture(cells: Cells, { heat }: HeatMap, scale: HeatScale, box: Box): string {
  const { time, offsets, shown } = cells;
  const columns = (endOf(shown.time) - shown.time.start) / time.width;
  const rows = (endOf(shown.offsets) - shown.offsets.start) / offsets.width;
  const paths = cellPaths(heat, time.count, offsets.count, scale)
    .map((runs, step) => path(runs, `h h${colourOf(step, scale.above.length)}`)).join("");
  return `<svg x="${px(box.left)}" y="${px(box.top)}" width="${px(box.right - box.left)}" ` +
    `height="${px(box.bottom - box.top)}" viewBox="0 ${0.5 - rows} ${columns} ${rows}" ` +
    `preserveAspectRatio="none"><g transform="scale(1 -1)">\n${paths}</g></svg>\n`;
}

function mapPanel(cells: Cells, map: HeatMap, scale: HeatScale): Panel {
  const { time, offsets } = cells.shown;
  const box = timeBox(MAP_HEIGHT);
  const across = { ticks: timeTicks(time.start, endOf(time), 8), scale: timeScale(time, box) };
  const up = {
    ticks: offsetTicks(offsets.start, endOf(offsets), 6),
    scale: offsetScale(offsets, box),
  };
  const body = heading(box, `Offset of ${GROUP_WORDS[map.name]}`) + frame(box, across, up) +
    cellPicture(cells, map, scale, box) + profile(map.heat, cells, box);
  return { body, height: HEADING_HEIGHT + MAP_HEIGHT + FOOTING_HEIGHT };
}

/**
 * The heat maps of a trace, each with its scale above it: one for reads and writes, which compare, and one
 * for trims and zeroes, which are much longer. Nothing if no request has a length.
 */
export function heatPanels({ groups, time, offsets }: PlotData): Panel[] {
  const maps = groups.filter(({ name, heat }) => name !== "other" && heat.some((cell) => cell > 0));
  const transfers = maps.filter(({ name }) => name !== "discard");
  return [transfers, maps.filter(({ name }) => name === "discard")].flatMap((maps) => {
    const cells = legible({ shown: { time, offsets }, time, offsets, maps });
    const scale = heatScale(cells.maps.map(({ heat }) => heat));
    if (scale === null) return [];
    return [legendPanel(scale, cells), ...cells.maps.map((map) => mapPanel(cells, map, scale))];
  });
}
