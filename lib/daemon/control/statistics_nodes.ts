/**
 * The statistics of a Device as nodes below a target's: seven for each operation, what is inside now, and
 * what the storage itself counts.
 *
 * @module
 */
import { OPERATIONS } from "../../block/request.ts";
import type { TargetDevice } from "../target.ts";
import type { Nodes } from "./nodes.ts";

const IN_FLIGHT = "statistics/in-flight";

/** Differs whenever a statistic of the device has changed. Cheap. */
export function countsOf({ statistics, inFlight }: TargetDevice): string {
  return `${OPERATIONS.map((each) => statistics[each].latency.count).join()};${inFlight}`;
}

/**
 * The nodes now; for operations that nobody has used since `before`, those of before. Without a device:
 * those of before, at least the mark that the daemon shows this target.
 */
export function statisticsNodes(
  device: TargetDevice | null,
  before: Nodes,
  storage: Readonly<Record<string, number>> = {},
): Nodes {
  const nodes = new Map(before);
  if (device === null) {
    if (!nodes.has(IN_FLIGHT)) nodes.set(IN_FLIGHT, "0");
    return nodes;
  }
  nodes.set(IN_FLIGHT, String(device.inFlight));
  for (const [name, value] of Object.entries(storage)) {
    nodes.set(`statistics/storage/${name.replaceAll(" ", "-")}`, String(Math.round(value)));
  }
  for (const operation of OPERATIONS) {
    const counters = device.statistics[operation];
    const top = `statistics/${operation}`;
    if ((nodes.get(`${top}/count`) ?? "0") === String(counters.latency.count)) continue;
    const now = counters.snapshot();
    const set = (name: string, value: number): void =>
      void nodes.set(`${top}/${name}`, String(Math.round(value)));
    set("count", now.count);
    set("errors", now.errors);
    set("bytes", now.bytes);
    set("latency-total-us", now.latencyTotalUs);
    set("latency-max-us", now.latencyMaxUs);
    set("latency-p50-us", now.latencyP50Us);
    set("latency-p99-us", now.latencyP99Us);
  }
  return nodes;
}

/** True for a node that changes with the work of a target: no client means anything by it. */
export function isStatistic(name: string): boolean {
  return name === IN_FLIGHT || /^statistics\/[a-z]+(?:\/|$)/.test(name);
}
