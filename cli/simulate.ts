/**
 * `dmu simulate`: dm-user targets of a simulated kernel, as files that any daemon can open.
 *
 * @module
 */
import { formatSize } from "../lib/block/size.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import { Simulation } from "../lib/daemon/simulate.ts";
import { describeEvent } from "../lib/dm_user/simulator/event.ts";
import type { TargetOptions } from "../lib/dm_user/simulator/target.ts";
import { type AnyCommand, command, examples, oneOfOption, wholeNumber } from "./command.ts";
import { type CliIo, cliLog } from "./io.ts";
import { EXIT_FAILED, plural, printJson, twoColumns } from "./output.ts";
import { shellQuote } from "./safe_text.ts";
import { parseNamedSize } from "./target_size.ts";
import { VERSION } from "./version.ts";

interface SimulateOptions {
  readonly mount: string;
  readonly policy?: "wait" | "fail" | undefined;
  readonly discard?: true | undefined;
  readonly writeZeroes?: true | undefined;
  readonly v1?: true | undefined;
  readonly outstanding?: number | undefined;
  readonly events?: true | undefined;
  readonly json?: true | undefined;
}

function behaviourOf(options: SimulateOptions): TargetOptions {
  const { policy, discard = false, writeZeroes = false, v1, outstanding } = options;
  return {
    version: v1 ? "v1" : "later",
    policy: policy ?? "wait",
    discard,
    writeZeroes,
    ...(outstanding === undefined ? {} : { outstandingMax: outstanding }),
  };
}

/** Commands to paste that use a target. */
function commandsToTry({ control, disk }: Simulation["targets"][number]): string[] {
  return [
    `your-daemon ${shellQuote(control)}`,
    `dd if=/dev/urandom of=${shellQuote(disk)} bs=1M count=8`,
    `losetup --find --show --direct-io=on ${shellQuote(disk)}`,
    "mkfs.ext4 /dev/loopN && mount /dev/loopN /mnt",
    `rm ${shellQuote(disk)}  # what dmsetup remove does`,
  ];
}

function printReady(io: CliIo, simulation: Simulation): void {
  const { targets } = simulation;
  for (const { name, size, control, disk } of targets) {
    io.out(`${name}, ${formatSize(size)}\n${twoColumns([["control", control], ["disk", disk]])}`);
  }
  const [first] = targets;
  if (first !== undefined) {
    io.out(`\nTry\n${commandsToTry(first).map((line) => `  ${line}\n`).join("")}\n`);
  }
  io.out(`ready: ${simulation.folder}\n`);
}

function readyFacts(simulation: Simulation, behaviour: TargetOptions): Record<string, unknown> {
  return {
    ready: true,
    pid: Deno.pid,
    version: VERSION,
    mount: simulation.folder,
    behaviour,
    targets: simulation.targets.map((target) => ({ ...target, try: commandsToTry(target) })),
  };
}

async function simulate(
  io: CliIo,
  specs: readonly string[],
  options: SimulateOptions,
): Promise<void> {
  const targets = specs.map(parseNamedSize);
  const twice = targets.find(({ name }, at) =>
    targets.findIndex((each) => each.name === name) < at
  );
  if (twice !== undefined) throw new UsageError(`There are two targets named ${twice.name}`);
  const behaviour = behaviourOf(options);
  const log = cliLog(io);
  const asked = Promise.withResolvers<void>();
  let signals = 0;
  const endSignals = io.onStopSignal(() => {
    signals += 1;
    if (signals > 1) io.exitNow(EXIT_FAILED);
    asked.resolve();
  });
  try {
    const simulation = await Simulation.start({
      folder: options.mount,
      targets,
      behaviour,
      log,
      ...(options.events ? { onEvent: (each) => io.err(`${describeEvent(each)}\n`) } : {}),
    });
    try {
      if (options.json) printJson(io, readyFacts(simulation, behaviour));
      else printReady(io, simulation);
      await Promise.race([asked.promise, simulation.ended]);
      if (signals === 0) log.info(`${simulation.folder} was unmounted, ending`);
    } finally {
      await simulation.stop();
    }
    log.debug(`${plural(targets.length, "target")} removed`);
  } finally {
    endSignals();
  }
}

/** The command `dmu simulate`. */
export function simulateCommand(io: CliIo): AnyCommand {
  return command("simulate", io)
    .summary("simulate dm-user targets, to test a daemon without the kernel")
    .description(
      "Mount a folder with two files for each target until SIGTERM or SIGINT: DIR/dm-user/NAME, " +
        "which a dm-user daemon opens instead of /dev/dm-user/NAME, and DIR/disk/NAME, the block " +
        "device, whose reads and writes go to whatever daemon answers. Needs root and /dev/fuse.",
    )
    .argument("<target...>", "NAME=SIZE, for instance disk=256M")
    .requiredOption("--mount <dir>", "an empty folder; it is made if it is missing")
    .addOption(
      oneOfOption("--policy <policy>", "without a daemon, I/O waits, or fails after 4 seconds", [
        "wait",
        "fail",
      ]),
    )
    .option("--discard", "the targets take DISCARD")
    .option("--write-zeroes", "the targets take WRITE_ZEROES")
    .option("--v1", "behave as the first version: no flushes reach the daemon")
    .option(
      "--outstanding <count>",
      "most messages that are not answered",
      wholeNumber(1, 1_000_000),
    )
    .option("--events", "print every message and answer on standard error")
    .option("--json", "print the ready line as JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["One disk of 256 MiB", "dmu simulate disk=256M --mount dmu-sim"],
        ["See what happens", "dmu simulate disk=64M --mount dmu-sim --events"],
      ]),
    )
    .action((specs, options) => simulate(io, specs, options));
}
