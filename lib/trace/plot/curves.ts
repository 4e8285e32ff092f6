/**
 * What changes over time, as curves: latencies of each kind of request, bytes and requests a second,
 * requests in flight.
 *
 * @module
 */
import { Histogram } from "../../block/statistics.ts";
import type { BinRange } from "../bins.ts";
import { perSecond } from "../summary.ts";
import type { GroupData, GroupName, PlotData } from "./collect.ts";
import {
  areaSample,
  bandPath,
  type Box,
  FOOTING_HEIGHT,
  frame,
  GROUP_LINES,
  GROUP_WORDS,
  heading,
  HEADING_HEIGHT,
  legend,
  type LegendEntry,
  lineSample,
  type Panel,
  stepPath,
  timeBox,
  timeScale,
} from "./frame.ts";
import { linear, logarithmic, path, px, type Scale } from "./svg.ts";
import { byteTicks, countTicks, decades, latencyTicks, type Tick, timeTicks } from "./ticks.ts";

const CURVE_HEIGHT = 118;
/** Least latency that is told apart on a logarithmic axis, µs: histograms know whole µs. */
const LATENCY_US_MIN = 1;
/** Ticks of a vertical axis, about. */
const TICKS_UP = 4;
/** Room above the highest value. */
const HEADROOM = 1.06;
/** Requests in a point of a curve of rates, on average, and the fewest points: less would be noise. */
const POINT_REQUESTS = 8, POINTS_MIN = 40;

function panel(body: string, box: Box): Panel {
  return { body, height: HEADING_HEIGHT + (box.bottom - box.top) + FOOTING_HEIGHT };
}

function across(time: BinRange, x: Scale): { ticks: Tick[]; scale: Scale } {
  return { ticks: timeTicks(time.start, time.start + time.count * time.width, 8), scale: x };
}

/** The highest latency of each bin as a short line, so that one spike among many bins is seen. */
function maximaPath(
  values: readonly (number | null)[],
  time: BinRange,
  x: Scale,
  y: Scale,
): string {
  return values.map((value, index) =>
    value === null
      ? ""
      : `M${px(x(time.start + index * time.width) - 0.6)} ${px(y(value))}H${
        px(x(time.start + (index + 1) * time.width) + 0.6)
      }`
  ).join("");
}

function latencyPanel({ time }: PlotData, group: GroupData): Panel {
  const box = timeBox(CURVE_HEIGHT), x = timeScale(time, box);
  const count = group.latency.reduce((sum, each) => sum + (each?.count ?? 0), 0);
  const factor = pointBins(count, time), points = coarser(time, factor);
  const merged = mergedLatency(group.latency, factor);
  const of = (fraction: number): (number | null)[] =>
    merged.map((each) => each?.percentileUs(fraction) ?? null);
  const p50 = of(0.5), p99 = of(0.99);
  const most = merged.map((each) => each?.maxUs ?? null);
  const told = (values: readonly (number | null)[]): number[] =>
    values.filter((value) => value !== null).map((value) => Math.max(LATENCY_US_MIN, value));
  const [low, high] = decades(Math.min(...told(p50)), Math.max(...told(most)));
  const y = logarithmic(low, high, box.bottom, box.top);
  const inside = insideOf(box, x);
  const { name } = group, line = `s-${name}`, area = `f-${name}`;
  const entries: LegendEntry[] = [
    { sample: lineSample(`top ticks ${line}`), words: "highest" },
    { sample: areaSample(`band ${area}`), words: "median to 99 %" },
    { sample: lineSample(`line ${line}`), words: "median" },
  ];
  const body = heading(box, `Latency of ${GROUP_WORDS[name]}`) + legend(box, entries) +
    frame(box, across(time, x), { ticks: latencyTicks(low, high), scale: y }) +
    path(bandPath(p50, p99, points, inside, y), `band ${area}`) +
    path(maximaPath(most, points, inside, y), `top ${line}`) +
    path(stepPath(p50, points, inside, y), `line ${line}`);
  return panel(body, box);
}

/** Latencies of all groups that have some. */
export function latencyPanels(data: PlotData): Panel[] {
  return data.groups.filter(({ latency }) => latency.some((each) => each !== null))
    .map((group) => latencyPanel(data, group));
}

interface Curve {
  readonly name: GroupName;
  readonly values: readonly number[];
}

/** Joins bins of time until there are enough requests in each, `factor` of them. */
function joined(amounts: readonly number[], factor: number): number[] {
  const sums: number[] = [];
  amounts.forEach((amount, index) => {
    const at = Math.floor(index / factor);
    sums[at] = (sums[at] ?? 0) + amount;
  });
  return sums;
}

/** Bins of time that are one point of a curve, so that there are enough of `count` requests in each. */
function pointBins(count: number, time: BinRange): number {
  let factor = 1;
  while (count * factor < POINT_REQUESTS * time.count && time.count / factor / 2 >= POINTS_MIN) {
    factor *= 2;
  }
  return factor;
}

function coarser(time: BinRange, factor: number): BinRange {
  return { ...time, count: Math.ceil(time.count / factor), width: time.width * factor };
}

/** The last point of a curve may reach beyond the bins that there are. */
function insideOf(box: Box, x: Scale): Scale {
  return (value) => Math.min(box.right, x(value));
}

function mergedLatency(
  latency: readonly (Histogram | null)[],
  factor: number,
): (Histogram | null)[] {
  if (factor === 1) return [...latency];
  return Array.from({ length: Math.ceil(latency.length / factor) }, (_, point) => {
    const merged = new Histogram();
    for (const each of latency.slice(point * factor, (point + 1) * factor)) {
      if (each !== null) merged.merge(each);
    }
    return merged.count === 0 ? null : merged;
  });
}

function ratePanel(
  data: PlotData,
  title: string,
  curves: readonly Curve[],
  ticksTo: (most: number) => Tick[],
): Panel[] {
  const { requests, firstUs, lastUs } = data.summary;
  const factor = pointBins(requests, data.time), time = coarser(data.time, factor);
  const rates = curves.map(({ name, values }) => ({
    name,
    values: perSecond(joined(values, factor), time, firstUs, lastUs),
  }));
  const most = Math.max(0, ...rates.flatMap(({ values }) => values));
  if (most === 0) return [];
  const box = timeBox(CURVE_HEIGHT), x = timeScale(data.time, box);
  const inside = insideOf(box, x);
  const y = linear(0, most * HEADROOM, box.bottom, box.top);
  const entries = curves.map(({ name }) => ({
    sample: lineSample(`${GROUP_LINES[name]} s-${name}`),
    words: GROUP_WORDS[name],
  }));
  const lines = rates.map(({ name, values }) => {
    const area = name === "read"
      ? path(bandPath(values.map(() => 0), values, time, inside, y), `soft f-${name}`)
      : "";
    return area + path(stepPath(values, time, inside, y), `${GROUP_LINES[name]} s-${name}`);
  });
  const body = heading(box, title) + legend(box, entries) +
    frame(box, across(data.time, x), { ticks: ticksTo(most * HEADROOM), scale: y }) +
    lines.join("");
  return [panel(body, box)];
}

/** Bytes and requests a second. */
export function ratePanels(data: PlotData): Panel[] {
  const transfers = data.groups.filter(({ name }) => name === "read" || name === "write");
  const bytes = transfers.map(({ name, bytes: values }) => ({ name, values }));
  const requests = data.groups.map(({ name, requests: values }) => ({ name, values }));
  return [
    ...ratePanel(data, "Bytes a second", bytes, (most) => byteTicks(most, TICKS_UP, "/s")),
    ...ratePanel(data, "Requests a second", requests, (most) => countTicks(most, TICKS_UP, "/s")),
  ];
}

/** Requests in flight; nothing if the trace does not tell. */
export function depthPanels({ time, depthUs, depthMax, summary }: PlotData): Panel[] {
  const most = Math.max(0, ...depthMax);
  if (most === 0) return [];
  const box = timeBox(CURVE_HEIGHT), x = timeScale(time, box);
  const y = linear(0, most * HEADROOM, box.bottom, box.top);
  const mean = perSecond(depthUs, time, summary.firstUs, summary.lastUs).map((each) => each / 1e6);
  const highest = depthMax.map((each, index) => Math.max(each, mean[index] ?? 0));
  const entries = [
    { sample: areaSample("band f-other"), words: "mean to highest" },
    { sample: lineSample("line s-other"), words: "mean" },
  ];
  const body = heading(box, "Queue depth: requests in flight") + legend(box, entries) +
    frame(box, across(time, x), { ticks: countTicks(most * HEADROOM, TICKS_UP), scale: y }) +
    path(bandPath(mean, highest, time, x, y), "band f-other") +
    path(stepPath(mean, time, x, y), "line s-other");
  return [panel(body, box)];
}
