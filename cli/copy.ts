/**
 * `dmu copy`: all of one disk to another, holes staying holes.
 *
 * @module
 */
import { measureAllocation } from "../lib/block/allocation.ts";
import { copyDevice, type CopyReport } from "../lib/block/copy.ts";
import type { Device } from "../lib/block/device.ts";
import { COPY_DEPTH, COPY_DEPTH_MAX } from "../lib/block/limits.ts";
import type { Registry } from "../lib/block/registry.ts";
import { formatDuration, formatRate, formatSize } from "../lib/block/size.ts";
import { parseSpec, type Spec } from "../lib/block/spec.ts";
import { systemClock } from "../lib/daemon/context.ts";
import { openDevice } from "../lib/daemon/open_device.ts";
import { type AnyCommand, collect, command, examples, wholeNumber } from "./command.ts";
import { interruptible } from "./interrupt.ts";
import { type CliIo, cliLog } from "./io.ts";
import { plural, printJson } from "./output.ts";
import { startProgress } from "./progress.ts";
import { BACKEND_HELP, registryWith, sizedLike } from "./setup.ts";

/** Longest look for data in a destination before it is taken for one that has some, in ms. */
const ZERO_CHECK_MS_MAX = 500;

interface Settings {
  readonly verify: boolean;
  readonly sparse: boolean;
  readonly depth: number;
}

/** True if the destination is known to read as zeroes all over, as a new file does. */
async function isZero(device: Device): Promise<boolean> {
  if (!device.features.extents) return false;
  const { examined, data } = await measureAllocation(device, systemClock, ZERO_CHECK_MS_MAX);
  return data === 0 && examined === device.geometry.size;
}

/** Copies from one open device to the other, with a progress bar, until done or a signal comes. */
async function copyWithProgress(
  io: CliIo,
  source: Device,
  destination: Device,
  settings: Settings,
): Promise<CopyReport> {
  const { verify, sparse, depth } = settings;
  const bars = { copy: startProgress(io, "copy"), verify: startProgress(io, "verify") };
  try {
    return await interruptible(
      io,
      "finish the copy",
      async (signal) =>
        copyDevice(source, destination, {
          clock: systemClock,
          signal,
          verify,
          sparse,
          depth,
          destinationIsZero: sparse && await isZero(destination),
          onProgress: ({ phase, bytesDone, bytesTotal }) =>
            bars[phase].update(bytesDone, bytesTotal),
        }),
    );
  } finally {
    bars.copy.clear();
    bars.verify.clear();
  }
}

function printReport(io: CliIo, report: CopyReport): void {
  const { bytesTotal, bytesWritten, bytesZeroed, bytesSkipped, elapsedUs, verified } = report;
  const rate = formatRate(elapsedUs > 0 ? bytesTotal / (elapsedUs / 1e6) : 0);
  io.out(
    `copied ${formatSize(bytesTotal)} in ${formatDuration(elapsedUs / 1000)} (${rate}): ` +
      `${formatSize(bytesWritten)} written, ${formatSize(bytesZeroed + bytesSkipped)} zeroes` +
      `${verified === null ? "" : ", verified"}\n`,
  );
  if (report.bytesBeyond > 0) {
    const rest = plural(report.bytesBeyond, "byte");
    io.err(`dmu: the destination has ${rest} more, which are as they were\n`);
  }
}

/** The command `dmu copy`. */
export function copyCommand(io: CliIo): AnyCommand {
  return command("copy", io)
    .summary("copy one disk to another, holes staying holes")
    .description(
      "Copy all of one disk to another; either can be a spec or an NBD URI. A file that is not " +
        "there is created with the size of the source. What the destination held is overwritten.",
    )
    .argument("<source>", "KIND:ARGUMENT?option=value, or an NBD URI")
    .argument("<destination>", "the same")
    .option("--verify", "read both afterwards and compare them")
    .option("--no-sparse", "write zeroes instead of leaving holes")
    .option(
      "--depth <n>",
      "pieces in flight",
      wholeNumber(1, COPY_DEPTH_MAX),
      COPY_DEPTH,
    )
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print a report as JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["Download an export", "dmu copy nbd://server/disk file:disk.img --verify"],
        ["Upload an image", "dmu copy file:disk.img nbd+unix:///disk?socket=nbd.sock"],
      ]),
    )
    .action(async (from, to, { backend, json, depth, sparse, verify = false }) => {
      const registry = await registryWith(backend);
      const { kinds } = registry;
      const sourceSpec = parseSpec(from, { kinds });
      const destinationSpec = parseSpec(to, { kinds });
      registry.prepare(sourceSpec);
      registry.find(destinationSpec);
      const log = cliLog(io);
      const report = await copySpecs(io, { registry, log, sourceSpec, destinationSpec }, {
        verify,
        sparse,
        depth,
      });
      if (json) return printJson(io, { source: from, destination: to, ...report });
      printReport(io, report);
    });
}

interface Sides {
  readonly registry: Registry;
  readonly log: ReturnType<typeof cliLog>;
  readonly sourceSpec: Spec;
  readonly destinationSpec: Spec;
}

/** Opens both sides, copies, and closes them: the report is given only when all that has succeeded. */
async function copySpecs(io: CliIo, sides: Sides, settings: Settings): Promise<CopyReport> {
  const { registry, log, sourceSpec, destinationSpec } = sides;
  await using source = await openDevice(sourceSpec, { registry, log, readOnly: true });
  const sized = sizedLike(registry, destinationSpec, source.device.geometry.size);
  await using destination = await openDevice(sized, { registry, log, readOnly: false });
  return await copyWithProgress(io, source.device, destination.device, settings);
}
