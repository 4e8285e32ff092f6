/**
 * Opens a target where it is served best: in a thread of its own, with the blocking driver, if its storage
 * never waits; else on the main thread, with the streams driver.
 *
 * @module
 */
import { backends } from "../../backends/mod.ts";
import { BlockError } from "../block/errors.ts";
import { filters } from "../filters/mod.ts";
import type { TargetConfig } from "./config.ts";
import { TARGET_THREADS_MAX } from "./limits.ts";
import type { DriverChoice } from "./driver_choice.ts";
import { openTarget, type Target, type TargetSurroundings } from "./target.ts";
import { type TargetThreadOptions, ThreadTarget } from "./target_thread.ts";

/** What opening a target, in whatever thread, needs. */
export interface DrivenSurroundings extends TargetSurroundings {
  readonly driver: DriverChoice;
  /** Why this target has to be on the main thread, or null. */
  readonly bound: string | null;
  /** Threads that targets have already. */
  readonly threads: number;
  readonly thread: Omit<TargetThreadOptions, "log" | "giveUp">;
}

/**
 * Opens a target. Throws UsageError for a wrong spec, BlockError for what cannot be opened; EOPNOTSUPP if
 * it cannot have the driver that is wanted.
 */
export async function openDrivenTarget(
  config: TargetConfig,
  surroundings: DrivenSurroundings,
): Promise<Target> {
  const { driver, registry, log, giveUp, thread } = surroundings;
  if (driver === "streams") return await openTarget(config, surroundings);
  // A wrong spec is told before anything is begun.
  registry.prepare(config.spec);
  for (const filter of config.filters ?? []) registry.prepareFilter(filter);
  let obstacle = obstacleOf(config, surroundings);
  if (obstacle === null) {
    const target = await ThreadTarget.open(config, { ...thread, log, giveUp });
    if (target !== null) return target;
    obstacle = "its storage waits";
  }
  if (driver === "auto") return await openTarget(config, surroundings);
  const advice = "serve it with --driver auto";
  throw new BlockError(
    "EOPNOTSUPP",
    `Cannot serve target ${config.name} with the blocking driver: ${obstacle}; ${advice}`,
  );
}

/** Why a target cannot be in a thread of its own, as far as that shows before it is open. */
function obstacleOf(config: TargetConfig, surroundings: DrivenSurroundings): string | null {
  const { registry, bound, threads, thread: { plugins } } = surroundings;
  if (bound !== null) return bound;
  if (config.trace !== undefined) return "it is traced";
  const backend = registry.find(config.spec);
  const layers = (config.filters ?? []).map(({ kind }) => registry.findFilter(kind));
  for (const { name, waits = false } of [backend, ...layers]) {
    if (waits) return `${name} waits`;
  }
  const known = backends.includes(backend) || plugins.length > 0;
  if (!known || !layers.every((layer) => filters.includes(layer))) {
    return "another thread cannot load its kind of storage";
  }
  return threads < TARGET_THREADS_MAX ? null : `there are ${TARGET_THREADS_MAX} such targets`;
}
