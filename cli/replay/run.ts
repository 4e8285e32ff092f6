/**
 * `dmu replay TRACE TARGET`: from the command line to the replayer, and back to a report and an exit
 * code.
 *
 * @module
 */
import { UsageError } from "../../lib/block/usage_error.ts";
import { systemClock } from "../../lib/daemon/context.ts";
import { replay } from "../../lib/trace/replay.ts";
import type { ReplayReport } from "../../lib/trace/replay_report.ts";
import type { TraceSource } from "../../lib/trace/source.ts";
import { interruptible } from "../interrupt.ts";
import type { CliIo } from "../io.ts";
import { EXIT_FAILED, ExitError, printJson } from "../output.ts";
import { startProgress } from "../progress.ts";
import { findRequestTarget, openRequestTarget } from "../request_target.ts";
import { registryWith } from "../setup.ts";
import { type InputOptions, readProgress, tellNotes, TraceInput } from "../trace/files.ts";
import { printReplayReport } from "./report.ts";

/** How a trace is to be replayed. */
export interface ReplayWish extends InputOptions {
  readonly speed?: number | "max" | undefined;
  readonly depth?: number | undefined;
  readonly loop?: number | undefined;
  readonly scale?: number | undefined;
  readonly verify?: true | undefined;
  readonly control?: string | undefined;
  readonly backend?: readonly string[] | undefined;
  readonly json?: true | undefined;
}

/** How far a replay is: by the time of the trace where that tells, else by what is read of it. */
function replayProgress(
  io: CliIo,
  input: TraceInput,
  speed: number | "max",
  rounds: number,
): { readonly update: (timeUs: number) => void; readonly clear: () => void } {
  const endUs = speed === "max" || !io.errIsTerminal ? null : input.endUs();
  if (endUs === null) {
    const { draw, clear } = readProgress(io, "replay", [input], rounds);
    return { update: draw, clear };
  }
  const progress = startProgress(io, "replay", undefined, "ms");
  const total = endUs / 1000;
  let done = 0, last = 0;
  const update = (timeUs: number): void => {
    // A time that goes back is that of the next round.
    if (timeUs < last && last > endUs / 2) done = Math.min(done + total, total * (rounds - 1));
    last = timeUs;
    progress.update(done + Math.max(0, timeUs / 1000), total * rounds);
  };
  return { update, clear: progress.clear };
}

/** Replays and prints the report. Throws ExitError if it did not go as it was recorded. */
export async function runReplay(
  io: CliIo,
  path: string,
  text: string,
  wish: ReplayWish,
): Promise<void> {
  const { speed = 1, depth, loop: rounds = 1, scale = 1, verify = false, control } = wish;
  const input = new TraceInput(io, path, wish);
  if (rounds > 1 && !input.repeatable) {
    throw new UsageError(`Cannot replay "${path}" several times: give a file`);
  }
  const registry = await registryWith(wish.backend);
  let source = await input.open();
  const { size: recorded } = source.info;
  const size = recorded === null ? null : Math.max(recorded, Math.ceil(recorded * scale));
  const found = await findRequestTarget(io, text, "replay on", registry, control);
  await using target = await openRequestTarget(io, found, { registry, size });
  let opened = false;
  const open = async (): Promise<TraceSource> => {
    // The first round reads what was opened to look at its size.
    if (opened) source = await input.open();
    opened = true;
    return source;
  };
  const progress = replayProgress(io, input, speed, rounds);
  let report: ReplayReport;
  try {
    report = await interruptible(io, "finish the replay", (signal) =>
      replay({
        ...{
          open,
          target: target.device,
          clock: systemClock,
          speed,
          rounds,
          scale,
          verify,
          signal,
        },
        ...(depth === undefined ? {} : { depth }),
        progress: progress.update,
      }));
  } finally {
    progress.clear();
  }
  tellNotes(io, path, source.notes);
  if (wish.json) printJson(io, { trace: path, target: target.shown, ...report });
  else printReplayReport(io, report, target.shown, verify);
  const differs = verify && report.mismatchCount > 0;
  if (differs || report.failureCount > 0) throw new ExitError(EXIT_FAILED);
}
