/**
 * `dmu replay`: the requests of a trace once more, on another target, or up to each moment at which the
 * machine could have stopped.
 *
 * @module
 */
import { UsageError } from "../../lib/block/usage_error.ts";
import { REPLAY_DEPTH, REPLAY_DEPTH_MAX } from "../../lib/trace/limits.ts";
import { type AnyCommand, collect, command, examples, parsedBy, wholeNumber } from "../command.ts";
import { CONTROL_OPTION } from "../control.ts";
import type { CliIo } from "../io.ts";
import { REQUEST_TARGET_HELP } from "../request_target.ts";
import { BACKEND_HELP } from "../setup.ts";
import { DEVICE_OPTION, FROM_OPTION } from "../trace/options.ts";
import { crashReplay } from "./crash.ts";
import { type ReplayWish, runReplay } from "./run.ts";

/** Most rounds of a replay. */
const ROUNDS_MAX = 1_000_000;

const parseSpeed = parsedBy((text): number | "max" | null => {
  if (text === "max") return "max";
  const speed = /^\d+(\.\d+)?x?$/.test(text) ? Number.parseFloat(text) : 0;
  return speed > 0 && Number.isFinite(speed) ? speed : null;
}, "like 1x, 10x or 0.5x, or max");

const parseFactor = parsedBy((text) => {
  const factor = /^\d+(\.\d+)?$/.test(text) ? Number(text) : 0;
  return factor > 0 && Number.isFinite(factor) ? factor : null;
}, "a number above 0");

/** The command `dmu replay`. */
export function replayCommand(io: CliIo): AnyCommand {
  return command("replay", io)
    .summary("replay a trace on a target, or check its crash points")
    .description(
      "Replay the requests of a trace on a target, in their order and with their concurrency, and " +
        "compare latencies and results with the recording. With --crash-points: build what a " +
        "disk could hold if the machine had stopped, moment by moment, and check each image.",
    )
    .argument("<trace>", "a trace in any format that is known, - for standard input")
    .argument("[target]", REQUEST_TARGET_HELP)
    .option("--speed <speed>", "1x, 10x, 0.5x, or max: without waiting (default 1x)", parseSpeed)
    .option(
      "--depth <n>",
      `requests in flight at most (default ${REPLAY_DEPTH})`,
      wholeNumber(1, REPLAY_DEPTH_MAX),
    )
    .option("--loop <n>", "replay it so often (default 1)", wholeNumber(1, ROUNDS_MAX))
    .option("--scale <f>", "multiply offsets, for a smaller or larger target", parseFactor)
    .option("--verify", "compare what is read, and how requests end, with the recording")
    .option("--crash-points <moments>", "flush, every, or sample:N")
    .option("--check <command>", "sound images make it end with 0; {} is the path of the image")
    .option(
      "--seed <n>",
      "chooses the moments of sample:N (default 1)",
      wholeNumber(0, 2 ** 32 - 1),
    )
    .option("--base <image>", "what the disk held when the trace began; zeroes if not told")
    .option("--keep <dir>", "where the first image that is not sound is kept")
    .option(...FROM_OPTION)
    .option(...DEVICE_OPTION)
    .option(...CONTROL_OPTION)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print the report as JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["As fast as it was, on a new image", "dmu replay d.dmutrace file:new.img --verify"],
        ["How fast can it be?", "dmu replay d.dmutrace memory: --speed max"],
        ["Ten times as fast, on a target of the running daemon", "dmu replay t d --speed 10x"],
        [
          "Would ext4 survive a crash?",
          "dmu replay t --crash-points sample:200 --base fs.img --check './check.sh {}'",
        ],
      ]),
    )
    .action((trace, target, options) => replayAction(io, trace, target, options));
}

/** The options of the command. */
interface ReplayOptions extends ReplayWish {
  readonly crashPoints?: string | undefined;
  readonly check?: string | undefined;
  readonly seed?: number | undefined;
  readonly base?: string | undefined;
  readonly keep?: string | undefined;
}

async function replayAction(
  io: CliIo,
  trace: string,
  target: string | undefined,
  options: ReplayOptions,
): Promise<void> {
  const { crashPoints, check, seed, base, keep } = options;
  if (crashPoints === undefined) {
    const idle = Object.entries({ check, seed, base, keep }).find(([, value]) =>
      value !== undefined
    );
    if (idle !== undefined) {
      throw new UsageError(`Cannot use --${idle[0]}: it belongs to --crash-points`);
    }
    if (target === undefined) {
      throw new UsageError("Cannot replay: say on what; see dmu replay --help");
    }
    return await runReplay(io, trace, target, options);
  }
  const { speed, depth, loop, scale, verify } = options;
  const idle = Object.entries({ speed, depth, loop, scale, verify })
    .find(([, value]) => value !== undefined);
  if (target !== undefined || idle !== undefined) {
    const what = idle === undefined ? "a target" : `--${idle[0]}`;
    throw new UsageError(
      `Cannot use ${what} with --crash-points: images are built, nothing is replayed`,
    );
  }
  if (check === undefined) {
    throw new UsageError("Cannot look at crash points without --check, such as 'e2fsck -fn {}'");
  }
  await crashReplay(io, trace, { ...options, moments: crashPoints, check });
}
