/**
 * An axis with a fixed number of bins, whatever is to be found on it: the bins double their width as
 * the values spread. Bin n holds the values from n × width to (n + 1) × width, so the bins that a
 * trace ends with depend on its least and largest value alone, not on the order in which they came.
 *
 * @module
 */
import { Histogram } from "../block/statistics.ts";

/** Keeps something for each slot of an axis and follows when bins move or become one. */
export interface Binned {
  /**
   * What was kept in slot `from` to `to` (both included; all others are empty) belongs to `target` of
   * that slot from now on. Slots that share a target become one.
   */
  rebin(from: number, to: number, target: (slot: number) => number): void;
}

/** The bins of an axis that are in use, ascending and without gap. */
export interface BinRange {
  /** Slot of the first one. */
  readonly slot: number;
  /** How many there are; 0 if there was no value. */
  readonly count: number;
  /** Where the first one begins. */
  readonly start: number;
  /** Width of each. */
  readonly width: number;
}

/** An axis of `slots` bins. */
export class BinAxis {
  /** Bins at most. */
  readonly slots: number;
  #width: number;
  /** The number of the bin in slot 0. */
  #first = 0;
  #low = Number.POSITIVE_INFINITY;
  #high = Number.NEGATIVE_INFINITY;
  readonly #followers: Binned[] = [];

  /** `width` is that of the narrowest bins: a power of two, so that division by it is exact. */
  constructor(slots: number, width: number) {
    this.slots = slots;
    this.#width = width;
  }

  /** Width of each bin. */
  get width(): number {
    return this.#width;
  }

  /** What is in use. */
  get used(): BinRange {
    const width = this.#width;
    if (this.#low > this.#high) return { slot: 0, count: 0, start: 0, width };
    const count = this.#high - this.#low + 1;
    return { slot: this.#low - this.#first, count, start: this.#low * width, width };
  }

  /** Tells `binned` when bins move, from now on. Gives it back. */
  follow<T extends Binned>(binned: T): T {
    this.#followers.push(binned);
    return binned;
  }

  /** The slot of a value, made wider for it if need be: earlier answers no longer count then. */
  slotOf(value: number): number {
    const bin = Math.floor(value / this.#width);
    if (bin >= this.#low && bin <= this.#high) return bin - this.#first;
    this.#include(bin);
    return Math.floor(value / this.#width) - this.#first;
  }

  #include(bin: number): void {
    const isEmpty = this.#low > this.#high;
    let low = Math.min(this.#low, bin), high = Math.max(this.#high, bin), scale = 1;
    while (high - low >= this.slots) {
      low = Math.floor(low / 2);
      high = Math.floor(high / 2);
      scale *= 2;
    }
    const isInside = low >= this.#first && high < this.#first + this.slots;
    if (scale > 1 || !isInside) {
      // Room is left where it grows: a trace that goes on moves its bins rarely.
      const first = bin < this.#low && !isEmpty ? high - this.slots + 1 : low;
      if (!isEmpty) this.#move(first, scale);
      this.#first = first;
      this.#width *= scale;
    }
    this.#low = low;
    this.#high = high;
  }

  #move(first: number, scale: number): void {
    const before = this.#first;
    const target = (slot: number): number => Math.floor((before + slot) / scale) - first;
    for (const each of this.#followers) {
      each.rebin(this.#low - before, this.#high - before, target);
    }
  }
}

/** A number for each slot, or a row of `stride` numbers: sums, or the largest ones. */
export class BinNumbers implements Binned {
  /** `stride` numbers a slot, slot after slot. Replaced when bins move. */
  values: Float64Array;
  readonly #stride: number;
  readonly #larger: boolean;

  /** All numbers are 0 at first. `kind` tells what becomes of two bins that become one. */
  constructor(slots: number, kind: "sum" | "largest", stride = 1) {
    this.values = new Float64Array(slots * stride);
    this.#stride = stride;
    this.#larger = kind === "largest";
  }

  /** Adds to a number, or makes it as large as `amount`. */
  put(index: number, amount: number): void {
    const before = this.values[index] ?? 0;
    this.values[index] = this.#larger ? Math.max(before, amount) : before + amount;
  }

  /** The numbers of a range of slots. */
  of(range: BinRange): number[] {
    const stride = this.#stride;
    return [...this.values.subarray(range.slot * stride, (range.slot + range.count) * stride)];
  }

  /** See Binned. */
  rebin(from: number, to: number, target: (slot: number) => number): void {
    const old = this.values, stride = this.#stride;
    this.values = new Float64Array(old.length);
    for (let slot = from; slot <= to; slot += 1) {
      const base = target(slot) * stride;
      for (let at = 0; at < stride; at += 1) this.put(base + at, old[slot * stride + at] ?? 0);
    }
  }
}

/** A histogram of latencies for each slot. */
export class BinHistograms implements Binned {
  #histograms = new Map<number, Histogram>();

  /** Counts a latency. */
  put(slot: number, latencyUs: number): void {
    let histogram = this.#histograms.get(slot);
    if (histogram === undefined) this.#histograms.set(slot, histogram = new Histogram());
    histogram.record(latencyUs);
  }

  /** The histograms of a range of slots; null where nothing was counted. */
  of(range: BinRange): (Histogram | null)[] {
    return Array.from(
      { length: range.count },
      (_, index) => this.#histograms.get(range.slot + index) ?? null,
    );
  }

  /** See Binned. */
  rebin(_from: number, _to: number, target: (slot: number) => number): void {
    const old = this.#histograms;
    this.#histograms = new Map();
    for (const [slot, histogram] of old) {
      const other = this.#histograms.get(target(slot));
      if (other === undefined) this.#histograms.set(target(slot), histogram);
      else other.merge(histogram);
    }
  }
}
