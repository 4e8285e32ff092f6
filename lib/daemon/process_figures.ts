/**
 * Figures of this process, under the names that Prometheus has for them. Relies on proc(5).
 *
 * @module
 */
import type { MetricType } from "./metrics_text.ts";

/** One figure. */
export type Figure = readonly [name: string, type: MetricType, help: string, value: number];

/** Ticks a second of the times in /proc: USER_HZ, 100 on every Linux with Deno. */
const TICKS_PER_SECOND = 100;

function read(name: string): string | null {
  try {
    return Deno.readTextFileSync(`/proc/self/${name}`);
  } catch {
    return null;
  }
}

function openDescriptors(): number | null {
  try {
    return [...Deno.readDirSync("/proc/self/fd")].length;
  } catch {
    return null;
  }
}

/** Fields of /proc/self/stat from the third on: the second is a name in brackets and may hold anything. */
function statFields(): readonly string[] {
  const stat = read("stat") ?? "";
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

function maxDescriptors(): number | null {
  const soft = /^Max open files\s+(\S+)/m.exec(read("limits") ?? "")?.[1];
  if (soft === undefined) return null;
  return soft === "unlimited" ? Infinity : Number(soft);
}

const STARTED_SECONDS = performance.timeOrigin / 1000;

/** What is known of this process now; what the system does not show is left out. */
export function processFigures(): Figure[] {
  const { rss, heapUsed } = Deno.memoryUsage();
  const fields = statFields();
  const field = (number: number): number => Number(fields[number - 3] ?? NaN);
  const figures: readonly (readonly [string, MetricType, string, number | null])[] = [
    [
      "process_cpu_seconds_total",
      "counter",
      "CPU time of user and system, of all threads.",
      (field(14) + field(15)) / TICKS_PER_SECOND,
    ],
    ["process_resident_memory_bytes", "gauge", "Memory in RAM.", rss],
    ["process_virtual_memory_bytes", "gauge", "Address space.", field(23)],
    ["process_threads", "gauge", "Threads.", field(20)],
    ["process_open_fds", "gauge", "Descriptors in use.", openDescriptors()],
    ["process_max_fds", "gauge", "Descriptors at once.", maxDescriptors()],
    ["process_start_time_seconds", "gauge", "Start, since 1970.", STARTED_SECONDS],
    ["dmu_heap_used_bytes", "gauge", "Heap of the main thread in use.", heapUsed],
  ];
  return figures.flatMap(([name, type, help, value]) =>
    value === null || Number.isNaN(value) ? [] : [[name, type, help, value] as const]
  );
}
