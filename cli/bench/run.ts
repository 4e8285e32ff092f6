/**
 * `dmu bench`: from the options to the load, and back to a report and an exit code.
 *
 * @module
 */
import process from "node:process";
import type { Clock } from "../../lib/block/context.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { CHECK_BYTES, FAULTS_TOLD_MAX } from "../../lib/bench/limits.ts";
import { Load, type LoadSettings, replaySequence } from "../../lib/bench/load.ts";
import { Stamps } from "../../lib/bench/stamps.ts";
import type { LoadReport } from "../../lib/bench/tally.ts";
import type { LoadRunOptions } from "../../lib/bench/turn.ts";
import { ThreadClock } from "../../lib/daemon/context.ts";
import { interruptible } from "../interrupt.ts";
import type { CliIo } from "../io.ts";
import { EXIT_FAILED, ExitError, printJson } from "../output.ts";
import { startProgress } from "../progress.ts";
import { findRequestTarget } from "../request_target.ts";
import { registryWith } from "../setup.ts";
import { type BenchOptions, type BenchPlan, planData, planOf } from "./options.ts";
import { printBenchReport } from "./report.ts";
import { type BenchWay, openBenchWay } from "./way.ts";

/** CPU time of this process so far, µs. */
function cpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

/** A load on its way, with a progress line, until it ends or a signal comes. */
async function runLoad(
  io: CliIo,
  way: BenchWay,
  settings: LoadSettings,
  depth: number,
  base: { readonly clock: Clock; readonly signal: AbortSignal; readonly what: string },
): Promise<LoadReport> {
  const { clock, signal, what } = base;
  let cpuBegunUs = cpuUs();
  const load = new Load({ ...settings, onWarm: () => cpuBegunUs = cpuUs() });
  const { timeUs, requests, bytes } = settings.end;
  const [unit, total] = requests !== undefined
    ? ["requests", requests] as const
    : bytes !== undefined
    ? ["bytes", bytes] as const
    : ["ms", (timeUs ?? 0) / 1000] as const;
  const line = startProgress(io, what, undefined, unit);
  const options: LoadRunOptions = {
    ...{ clock, signal },
    progress: (nowUs) => line.update(load.progress(nowUs) * total, total),
  };
  try {
    await way.run(load, depth, options);
  } finally {
    line.clear();
  }
  return load.report(clock.now(), cpuUs() - cpuBegunUs);
}

function settingsOf(plan: BenchPlan, way: BenchWay, stamps: Stamps | undefined): LoadSettings {
  const { blockSizes, pattern, readShare, seed, end, rate, warmUpUs } = plan;
  const { size, connections } = way;
  return { size, blockSizes, pattern, readShare, seed, end, rate, stamps, connections, warmUpUs };
}

/** The stamps of a plan, or undefined. Throws UsageError if there would be too many. */
function stampsOf({ verify, stampBytes, seed, end }: BenchPlan, size: number): Stamps | undefined {
  if (verify === "no") return undefined;
  const knows = verify === "run" || end.requests !== undefined;
  try {
    return new Stamps({ size, blockBytes: stampBytes, seed }, knows, FAULTS_TOLD_MAX);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UsageError(`${error.message} (--size)`, null, { cause: error });
  }
}

/** A load that reads all of the disk once. */
function checkLoad(plan: BenchPlan, way: BenchWay, stamps: Stamps): LoadSettings {
  const size = way.size - way.size % stamps.blockBytes;
  let block = CHECK_BYTES;
  while (size % block !== 0) block /= 2;
  return {
    ...settingsOf(plan, way, stamps),
    ...{ size, readShare: 1, pattern: { kind: "sequential" }, rate: undefined },
    blockSizes: [{ min: block, max: block, weight: 1 }],
    end: { bytes: size },
  };
}

/** Runs what is wanted. */
async function runPlan(
  io: CliIo,
  plan: BenchPlan,
  way: BenchWay,
  base: { readonly clock: Clock; readonly signal: AbortSignal },
): Promise<LoadReport> {
  const { depth, readShare, verify } = plan;
  const stamps = stampsOf(plan, way.size);
  const settings = settingsOf(plan, way, stamps);
  if (verify === "only" && stamps !== undefined) {
    replaySequence(settings, plan.end.requests ?? 0, stamps);
    const load = checkLoad(plan, way, stamps);
    return await runLoad(io, way, load, depth, { ...base, what: "check" });
  }
  const report = await runLoad(io, way, settings, depth, { ...base, what: "bench" });
  if (readShare === 1) return report;
  await way.flush(base);
  if (stamps === undefined || report.interrupted) return report;
  // What was written and not read since has to be looked at as well.
  const check = checkLoad(plan, way, stamps);
  const { failures, verify: verified } = await runLoad(io, way, check, depth, {
    ...{ ...base, what: "check" },
  });
  return { ...report, verify: verified, failures: [...report.failures, ...failures] };
}

/** Runs a load and prints its report. Throws ExitError if requests failed or data were wrong. */
export async function runBench(io: CliIo, text: string, options: BenchOptions): Promise<void> {
  const plan = planOf(options);
  const registry = await registryWith(options.backend);
  const found = await findRequestTarget(io, text, "bench", registry, options.control);
  const clock = new ThreadClock();
  const overwrite = options.overwrite ?? false;
  const { report, shown, how, size } = await interruptible(
    io,
    "bench",
    async (signal) => {
      await using way = await openBenchWay(io, found, plan, {
        ...{ registry, clock, signal, overwrite },
      });
      const report = await runPlan(io, plan, way, { clock, signal });
      return { report, shown: way.shown, how: way.how, size: way.size };
    },
  );
  const subject = { shown, how, size };
  if (options.json) {
    const { verify, end } = plan;
    const mode = verify === "only" ? { verifyOnly: true, ops: end.requests ?? null } : {};
    printJson(io, { target: shown, how, size, load: { ...planData(plan), ...mode }, ...report });
  } else printBenchReport(io, plan, subject, report);
  const { total, verify, failures } = report;
  const faulty = verify !== null && verify.faultCount > 0;
  if (total.errors > 0 || failures.length > 0 || faulty) throw new ExitError(EXIT_FAILED);
}
