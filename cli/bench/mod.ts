/**
 * `dmu bench`: puts load on a target and tells how fast, how even and how right it is.
 *
 * @module
 */
import {
  LOAD_CONNECTIONS_MAX,
  LOAD_DEPTH,
  LOAD_DEPTH_MAX,
  LOAD_DISK_BYTES,
  LOAD_RATE_MAX,
  LOAD_TIME_S,
  LOAD_TIME_S_MAX,
} from "../../lib/bench/limits.ts";
import { spellSize } from "../../lib/block/size.ts";
import { type AnyCommand, collect, command, examples, seconds, wholeNumber } from "../command.ts";
import { CONTROL_OPTION } from "../control.ts";
import type { CliIo } from "../io.ts";
import { REQUEST_TARGET_HELP } from "../request_target.ts";
import { BACKEND_HELP } from "../setup.ts";
import { runBench } from "./run.ts";

/** What is measured if no target is told. */
const TARGET_DEFAULT = `memory:${spellSize(LOAD_DISK_BYTES)}`;

/** The command `dmu bench`. */
export function benchCommand(io: CliIo): AnyCommand {
  return command("bench", io)
    .summary("put load on a target and measure it")
    .description(
      "Put load on a target: how many requests a second, how long each takes, and, with --verify, " +
        "whether what is read is what was written. A target that holds data is not written to " +
        "unless --overwrite says so. Ctrl-c ends early, with the report of what was done.",
    )
    .argument("[target]", `${REQUEST_TARGET_HELP} (default ${TARGET_DEFAULT})`)
    .option("--rw <mix>", "read, write, or READS/WRITES in percent, such as 70/30 (default read)")
    .option("--pattern <pattern>", "random, sequential, zipf[:1.1] or hot[:90/10] (default random)")
    .option("--block-size <sizes>", "4k, 4k:70,64k:30 (with weights) or 4k-64k (default 4k)")
    .option(
      "--depth <n>",
      `requests in flight on each connection (default ${LOAD_DEPTH})`,
      wholeNumber(1, LOAD_DEPTH_MAX),
    )
    .option(
      "--connections <n>",
      "NBD connections, or channels of dm-user (default 1)",
      wholeNumber(1, LOAD_CONNECTIONS_MAX),
    )
    .option(
      "--time <s>",
      `how long, in seconds (default ${LOAD_TIME_S})`,
      seconds(LOAD_TIME_S_MAX, 0.001),
    )
    .option("--warm-up <s>", "seconds before that, which do not count", seconds(LOAD_TIME_S_MAX))
    .option("--ops <n>", "end after so many requests", wholeNumber(1, 2 ** 52))
    .option("--bytes <size>", "end after so many bytes")
    .option("--size <size>", "use only so much of the target, or create it so large")
    .option(
      "--rate <n>",
      "requests a second; latencies then count from when they were due",
      wholeNumber(1, LOAD_RATE_MAX),
    )
    .option("--verify", "stamp what is written, check what is read, and read all at the end")
    .option(
      "--verify-only",
      "write nothing: check what an earlier run has written; with the same options and --ops, " +
        "the number of its requests, also that nothing is lost",
    )
    .option(
      "--seed <n>",
      "the same seed gives the same requests (default 1)",
      wholeNumber(0, 2 ** 32 - 1),
    )
    .option("--overwrite", "write although the target holds data")
    .option(...CONTROL_OPTION)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print the report as JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["What does the data path cost without storage?", "dmu bench null:1T"],
        [
          "A server, four connections, mostly reads",
          "dmu bench nbd://server/disk --connections 4 --rw 70/30 --overwrite",
        ],
        [
          "Does a new image keep what is written?",
          "dmu bench file:new.img --size 1G --rw write --verify --ops 100000",
        ],
        [
          "And does it still, after a crash or a reboot?",
          "dmu bench file:new.img --size 1G --rw write --verify-only --ops 100000",
        ],
      ]),
    )
    .action((target, options) => runBench(io, target ?? TARGET_DEFAULT, options));
}
