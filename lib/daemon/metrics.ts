/**
 * The figures of a daemon as Prometheus reads them, and whether the daemon is well. Everything is read
 * when somebody asks, from counters that are there anyway: the data path does nothing for it.
 *
 * @module
 */
import type { PoolFigures } from "../block/pool.ts";
import { type Operation, OPERATIONS } from "../block/request.ts";
import type { Histogram } from "../block/statistics.ts";
import { countsOf } from "./control/statistics_nodes.ts";
import { HEALTH_LOOK_MS, HEALTH_STALL_MS, METRICS_TARGETS_AT_ONCE } from "./limits.ts";
import {
  familyHead,
  formatLabels,
  type HistogramSample,
  histogramSamples,
} from "./metrics_text.ts";
import { type MetricType, sample } from "./metrics_text.ts";
import { processFigures } from "./process_figures.ts";
import type { TargetDevice } from "./target.ts";

/** What a daemon does. */
export type DaemonPhase = "starting" | "serving" | "stopping" | "failed";

/** A target, as far as its figures go. */
export interface MeasuredTarget {
  readonly name: string;
  /** The kind of its backend. */
  readonly kind: string;
  /** "init-wait", "connected", "closing" or "closed". */
  readonly state: string;
  /** What failed last, null if nothing did. */
  readonly error: string | null;
  /** Null while it is not open. */
  readonly device: TargetDevice | null;
  /** What its storage counts, by name; null or absent if it counts nothing. */
  readonly storage?: Readonly<Record<string, number>> | null;
}

/** What can be measured of a daemon. */
export interface MeasuredDaemon {
  readonly version: string;
  readonly phase: DaemonPhase;
  /** All targets, those that are being opened or closed too. */
  readonly targets: Iterable<MeasuredTarget>;
  /** All open files. */
  readonly files: Iterable<{ readonly kind: string; readonly state: string }>;
  /** NBD connections now, and as many as there may be. */
  readonly connections: { readonly count: number; readonly max: number };
  /** Where the memory of requests comes from. */
  readonly pool: PoolFigures;
}

/** Bounds of latency histograms: powers of two from 16 µs to 16.8 s, at which counters have bounds too. */
const BOUNDS_US: readonly number[] = Array.from({ length: 21 }, (_, at) => 2 ** (at + 4));

const OPERATION_FAMILIES: readonly (readonly [
  name: string,
  type: MetricType,
  help: string,
  write: (name: string, labels: string, device: TargetDevice, operation: Operation) => string,
])[] = [
  [
    "dmu_operation_duration_seconds",
    "histogram",
    "Time from entering a target to completion, of operations that were used.",
    (name, labels, { statistics }, operation) =>
      histogramSamples(name, labels, secondsOf(statistics[operation].latency)),
  ],
  [
    "dmu_operation_bytes_total",
    "counter",
    "Bytes of operations that succeeded.",
    (name, labels, { statistics }, operation) => sample(name, labels, statistics[operation].bytes),
  ],
  [
    "dmu_operation_errors_total",
    "counter",
    "Operations that failed.",
    (name, labels, { statistics }, operation) => sample(name, labels, statistics[operation].errors),
  ],
];

/** A histogram of latencies in seconds, in the buckets of BOUNDS_US. */
export function secondsOf(latency: Histogram): HistogramSample {
  const buckets: [number, number][] = BOUNDS_US.map((bound) => [bound / 1e6, 0]);
  let at = 0, cumulative = 0;
  for (const { upperUs, count } of latency.buckets()) {
    for (; at < BOUNDS_US.length && upperUs >= (BOUNDS_US[at] ?? 0); at++) {
      const bucket = buckets[at];
      if (bucket !== undefined) bucket[1] = cumulative;
    }
    cumulative += count;
  }
  for (const bucket of buckets.slice(at)) bucket[1] = cumulative;
  // In whole nanoseconds, so that sums of binary fractions look like numbers.
  return { buckets, count: latency.count, sum: Math.round(latency.totalUs * 1000) / 1e9 };
}

/** Lets other work run. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** All figures in the text format, in pieces between which other work runs. */
export async function metricsText(daemon: MeasuredDaemon): Promise<string> {
  const targets = [...daemon.targets];
  const parts = [daemonSamples(daemon), targetSamples(targets)];
  for (const [name, type, help, write] of OPERATION_FAMILIES) {
    parts.push(familyHead(name, type, help));
    for (const [index, { name: target, device }] of targets.entries()) {
      if ((index + 1) % METRICS_TARGETS_AT_ONCE === 0) await turn();
      for (const operation of device === null ? [] : OPERATIONS) {
        if (device === null || device.statistics[operation].latency.count === 0) continue;
        const labels = formatLabels([["target", target], ["operation", operation]]);
        parts.push(write(name, labels, device, operation));
      }
    }
  }
  return parts.join("");
}

function single(name: string, type: MetricType, help: string, value: number): string {
  return familyHead(name, type, help) + sample(name, "", value);
}

function daemonSamples({ version, connections, files, pool }: MeasuredDaemon): string {
  const build = formatLabels([["version", version], ["deno", Deno.version.deno]]);
  const open = new Map<string, number>();
  for (const { kind, state } of files) {
    const labels = formatLabels([["kind", kind], ["state", state]]);
    open.set(labels, (open.get(labels) ?? 0) + 1);
  }
  return familyHead("dmu_build_info", "gauge", "The version, as labels.") +
    sample("dmu_build_info", build, 1) +
    single("dmu_connections", "gauge", "NBD connections.", connections.count) +
    single("dmu_connections_max", "gauge", "NBD connections at once.", connections.max) +
    familyHead("dmu_open_files", "gauge", "Ways into targets that are open.") +
    [...open].map(([labels, count]) => sample("dmu_open_files", labels, count)).join("") +
    single("dmu_buffers_taken", "gauge", "I/O buffers in use.", pool.takenCount) +
    single("dmu_buffer_taken_bytes", "gauge", "Bytes of I/O buffers in use.", pool.takenBytes) +
    single("dmu_buffer_kept_bytes", "gauge", "Bytes kept for reuse.", pool.keptBytes) +
    single(
      "dmu_buffers_scarce",
      "gauge",
      "1 while more memory is in use than should be.",
      pool.scarce ? 1 : 0,
    ) +
    processFigures().map(([name, type, help, value]) => single(name, type, help, value)).join("");
}

function targetSamples(targets: readonly MeasuredTarget[]): string {
  const family = (
    name: string,
    help: string,
    of: (target: MeasuredTarget) => readonly [string, number] | null,
  ): string =>
    familyHead(name, "gauge", help) + targets.map((target) => {
      const found = of(target);
      const labels = found === null ? "" : formatLabels([["target", target.name]]) + found[0];
      return found === null ? "" : sample(name, labels, found[1]);
    }).join("");
  const storage = targets.map(({ name, storage }) =>
    Object.entries(storage ?? {}).map(([figure, value]) => {
      const labels = formatLabels([["target", name], ["figure", figure]]);
      return sample("dmu_storage_figure", labels, value);
    }).join("")
  ).join("");
  return family("dmu_target_info", "Targets: the kind of backend and the state.", (target) => [
    `,${formatLabels([["kind", target.kind], ["state", target.state]])}`,
    1,
  ]) +
    family(
      "dmu_target_up",
      "1 if clients can use the target.",
      ({ state }) => ["", state === "connected" ? 1 : 0],
    ) +
    family(
      "dmu_target_size_bytes",
      "Size of the device.",
      ({ device }) => device === null ? null : ["", device.geometry.size],
    ) +
    family(
      "dmu_target_in_flight",
      "Operations under way.",
      ({ device }) => device === null ? null : ["", device.inFlight],
    ) +
    familyHead("dmu_storage_figure", "gauge", "What the storage of a target counts, by name.") +
    storage;
}

/** What is wrong with a daemon: nothing if it is well. */
export type Reasons = readonly string[];

interface Look {
  readonly device: TargetDevice;
  readonly counts: string;
  /** Since when `counts` is what it is, in ms of the clock of `performance.now`. */
  readonly since: number;
}

/**
 * Watches whether a daemon is well: it serves, every target answers, and none has had operations under
 * way for HEALTH_STALL_MS of which none ended.
 */
export class Health implements Disposable {
  readonly #daemon: MeasuredDaemon;
  readonly #looks = new Map<string, Look>();
  readonly #now: () => number;
  readonly #timer: ReturnType<typeof setInterval>;

  /** Begins to watch; `now` is a clock in ms. */
  constructor(daemon: MeasuredDaemon, now: () => number = () => performance.now()) {
    this.#daemon = daemon;
    this.#now = now;
    this.#timer = setInterval(() => this.look(), HEALTH_LOOK_MS);
    Deno.unrefTimer(this.#timer);
  }

  /** Remembers what has ended so far. Called now and then by itself. */
  look(): void {
    const names = new Set<string>();
    for (const { name, device } of this.#daemon.targets) {
      if (device === null || device.inFlight === 0) continue;
      names.add(name);
      const counts = countsOf(device).replace(/;.*/, "");
      const before = this.#looks.get(name);
      if (before?.device === device && before.counts === counts) continue;
      this.#looks.set(name, { device, counts, since: this.#now() });
    }
    for (const name of this.#looks.keys()) if (!names.has(name)) this.#looks.delete(name);
  }

  /** What is wrong now. */
  reasons(): Reasons {
    const { phase, targets } = this.#daemon;
    if (phase !== "serving") return [phase === "failed" ? "nobody can connect" : `it is ${phase}`];
    this.look();
    const reasons: string[] = [];
    for (const { name, state, error } of targets) {
      const since = this.#looks.get(name)?.since;
      const stalled = since === undefined ? 0 : this.#now() - since;
      if (state === "init-wait") {
        reasons.push(`target ${name} does not answer${error === null ? "" : `: ${error}`}`);
      } else if (stalled >= HEALTH_STALL_MS) {
        reasons.push(`target ${name} has ended nothing for ${Math.floor(stalled / 1000)} s`);
      }
    }
    return reasons;
  }

  /** Stops watching. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
