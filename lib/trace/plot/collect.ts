/**
 * What a picture shows of a trace, collected in one pass and in memory that does not grow with it: bins
 * of time, bins of offsets, and a grid of both.
 *
 * @module
 */
import type { Operation } from "../../block/request.ts";
import type { Histogram } from "../../block/statistics.ts";
import { BinAxis, BinHistograms, type Binned, BinNumbers, type BinRange } from "../bins.ts";
import type { CompleteEvent, SubmitEvent, TraceInfo } from "../event.ts";
import { PLOT_OFFSET_BINS, PLOT_TIME_BINS } from "../limits.ts";
import { followRequests, type RequestObserver, type Started } from "../requests.ts";
import type { TraceNotes, TraceSource } from "../source.ts";
import { SummaryTally, type TraceSummary } from "../summary.ts";

/** Narrowest bin of offsets, bytes: a sector. */
const OFFSET_BYTES_MIN = 512;
/** Narrowest bin of time, µs. */
const TIME_US_MIN = 1;
/** Bins of time that are shown at least: a single one would fill the picture. */
const TIME_BINS_MIN = 16;

/** What is drawn together. */
export type GroupName = "read" | "write" | "discard" | "other";

/** All groups, in the order in which they are drawn. */
export const GROUP_NAMES: readonly GroupName[] = ["read", "write", "discard", "other"];

/** The group of each operation. */
export const GROUP_OF: Readonly<Record<Operation, GroupName>> = {
  read: "read",
  write: "write",
  trim: "discard",
  zero: "discard",
  flush: "other",
  cache: "other",
  extents: "other",
};

/** What was collected of a group. Arrays are over the bins of time in use. */
export interface GroupData {
  /** Which one. */
  readonly name: GroupName;
  /** Requests submitted in each bin. */
  readonly requests: readonly number[];
  /** Bytes of them. */
  readonly bytes: readonly number[];
  /** Latencies of what was completed in each bin; null where nothing was. */
  readonly latency: readonly (Histogram | null)[];
  /** Bytes by time and offset: row after row of one bin of time. All 0 for "other". */
  readonly heat: Float64Array;
}

/** What a picture is made of. */
export interface PlotData {
  /** What the trace says of itself. */
  readonly info: TraceInfo;
  /** Lost events, problems and remarks. */
  readonly notes: TraceNotes;
  /** Figures. */
  readonly summary: TraceSummary;
  /** Bins of time, µs. */
  readonly time: BinRange;
  /** Bins of offsets, bytes. */
  readonly offsets: BinRange;
  /** Groups that occur. */
  readonly groups: readonly GroupData[];
  /** Requests in flight multiplied by µs, by bin of time. */
  readonly depthUs: readonly number[];
  /** Most requests in flight, by bin of time. */
  readonly depthMax: readonly number[];
  /** Requests by the depth that they made, in classes: 1, 2, 3 to 4, 5 to 8 and so on. */
  readonly depths: readonly number[];
}

/** Bytes by time and offset. */
class HeatGrid {
  readonly #cells: BinNumbers;
  readonly #offsets: BinAxis;

  constructor(time: BinAxis, offsets: BinAxis) {
    this.#offsets = offsets;
    this.#cells = time.follow(new BinNumbers(time.slots, "sum", offsets.slots));
    const rows: Binned = { rebin: (from, to, target) => this.#moveRows(from, to, target) };
    offsets.follow(rows);
  }

  /** Adds the bytes of a request to all cells that it touches. `length` is not 0. */
  add(timeSlot: number, offset: number, length: number): void {
    const end = offset + length;
    this.#offsets.slotOf(offset);
    const last = this.#offsets.slotOf(end - 1);
    // Asked again: the end may have made the bins wider.
    const first = this.#offsets.slotOf(offset);
    const base = timeSlot * this.#offsets.slots;
    if (first === last) return this.#cells.put(base + first, length);
    const { width } = this.#offsets;
    let from = offset, edge = (Math.floor(offset / width) + 1) * width;
    for (let slot = first; slot <= last; slot += 1) {
      this.#cells.put(base + slot, Math.min(end, edge) - from);
      from = edge;
      edge += width;
    }
  }

  of(time: BinRange, offsets: BinRange): Float64Array {
    const cells = new Float64Array(time.count * offsets.count);
    for (let column = 0; column < time.count; column += 1) {
      const start = (time.slot + column) * this.#offsets.slots + offsets.slot;
      cells.set(
        this.#cells.values.subarray(start, start + offsets.count),
        column * offsets.count,
      );
    }
    return cells;
  }

  #moveRows(from: number, to: number, target: (slot: number) => number): void {
    const { slots } = this.#offsets;
    const old = this.#cells.values,
      targets = Array.from({ length: slots }, (_, row) => target(row));
    const cells = new Float64Array(old.length);
    for (let base = 0; base < old.length; base += slots) {
      for (let row = from; row <= to; row += 1) {
        const at = base + (targets[row] ?? 0);
        cells[at] = (cells[at] ?? 0) + (old[base + row] ?? 0);
      }
    }
    this.#cells.values = cells;
  }
}

/** What is collected of one group. */
class GroupTally {
  count = 0;
  readonly requests: BinNumbers;
  readonly bytes: BinNumbers;
  readonly latency: BinHistograms;
  readonly heat: HeatGrid;

  constructor(time: BinAxis, offsets: BinAxis) {
    this.requests = time.follow(new BinNumbers(time.slots, "sum"));
    this.bytes = time.follow(new BinNumbers(time.slots, "sum"));
    this.latency = time.follow(new BinHistograms());
    this.heat = new HeatGrid(time, offsets);
  }
}

class PlotTally implements RequestObserver {
  readonly #time = new BinAxis(PLOT_TIME_BINS, TIME_US_MIN);
  readonly #offsets = new BinAxis(PLOT_OFFSET_BINS, OFFSET_BYTES_MIN);
  readonly #groups: Readonly<Record<GroupName, GroupTally>> = {
    read: new GroupTally(this.#time, this.#offsets),
    write: new GroupTally(this.#time, this.#offsets),
    discard: new GroupTally(this.#time, this.#offsets),
    other: new GroupTally(this.#time, this.#offsets),
  };
  readonly #depthUs = this.#time.follow(new BinNumbers(PLOT_TIME_BINS, "sum"));
  readonly #depthMax = this.#time.follow(new BinNumbers(PLOT_TIME_BINS, "largest"));
  readonly #depths: number[] = [];
  #depth = 0;
  #atUs = Number.NEGATIVE_INFINITY;

  submitted({ timeUs, operation, offset, length }: SubmitEvent, depth: number): void {
    const name = GROUP_OF[operation], group = this.#groups[name];
    const slot = this.#time.slotOf(timeUs);
    this.#moveTo(timeUs, depth);
    group.count += 1;
    group.requests.put(slot, 1);
    group.bytes.put(slot, length);
    if (length > 0 && name !== "other") group.heat.add(slot, offset, length);
    this.#depthMax.put(slot, depth);
    if (depth === 0) return;
    const size = depth === 1 ? 0 : 32 - Math.clz32(depth - 1);
    this.#depths[size] = (this.#depths[size] ?? 0) + 1;
  }

  completed({ timeUs }: CompleteEvent, started: Started, depth: number): void {
    const slot = this.#time.slotOf(timeUs);
    this.#moveTo(timeUs, depth);
    this.#groups[GROUP_OF[started.operation]].latency.put(
      slot,
      Math.max(0, timeUs - started.timeUs),
    );
  }

  data(): Omit<PlotData, "info" | "notes" | "summary"> {
    const offsets = this.#offsets.used, time = atLeast(this.#time.used);
    const groups = GROUP_NAMES.filter((name) => this.#groups[name].count > 0).map((name) => {
      const { requests, bytes, latency, heat } = this.#groups[name];
      return {
        ...{ name, requests: requests.of(time), bytes: bytes.of(time) },
        ...{ latency: latency.of(time), heat: heat.of(time, offsets) },
      };
    });
    return {
      ...{ time, offsets, groups },
      depthUs: this.#depthUs.of(time),
      depthMax: this.#depthMax.of(time),
      depths: Array.from(this.#depths, (count) => count ?? 0),
    };
  }

  /** Gives the time since the last event to the depth that there was. Times that go back count nothing. */
  #moveTo(timeUs: number, depth: number): void {
    const fromUs = this.#atUs, held = this.#depth;
    this.#depth = depth;
    if (timeUs <= fromUs) return;
    this.#atUs = timeUs;
    if (held === 0 || fromUs === Number.NEGATIVE_INFINITY) return;
    const last = this.#time.slotOf(timeUs), { width } = this.#time;
    let at = fromUs, edge = (Math.floor(fromUs / width) + 1) * width;
    for (let slot = this.#time.slotOf(fromUs); slot <= last; slot += 1) {
      const end = Math.min(timeUs, edge);
      if (end > at) this.#depthUs.put(slot, (end - at) * held);
      at = edge;
      edge += width;
    }
  }
}

/** The bins in use and, of a short trace, some empty ones behind them. */
function atLeast(used: BinRange): BinRange {
  const count = Math.min(PLOT_TIME_BINS - used.slot, Math.max(TIME_BINS_MIN, used.count));
  return used.count === 0 ? used : { ...used, count };
}

/** Reads a trace to its end and gives what a picture of it shows. Throws TraceError. */
export async function collectPlot(source: TraceSource): Promise<PlotData> {
  const summary = new SummaryTally(), plot = new PlotTally();
  const counts = await followRequests(source, [summary, plot]);
  const { info, notes } = source;
  return { info, notes, summary: summary.summary(counts), ...plot.data() };
}
