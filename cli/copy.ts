/**
 * `dmu copy`: all of one disk to another, holes staying holes.
 *
 * @module
 */
import { measureAllocation } from "../lib/block/allocation.ts";
import { type ChangeSource, copyDevice, type CopyReport } from "../lib/block/copy.ts";
import type { Device } from "../lib/block/device.ts";
import { BlockError, hasErrno, toBlockError } from "../lib/block/errors.ts";
import { COPY_DEPTH, COPY_DEPTH_MAX } from "../lib/block/limits.ts";
import type { Registry } from "../lib/block/registry.ts";
import { formatDuration, formatRate, formatSize } from "../lib/block/size.ts";
import { parseSpec, type Spec, withDefaultOption } from "../lib/block/spec.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import { systemClock } from "../lib/daemon/context.ts";
import { openDevice } from "../lib/daemon/open_device.ts";
import { type AnyCommand, collect, command, examples, wholeNumber } from "./command.ts";
import { CONTROL_OPTION } from "./control.ts";
import { createOptionsHelp, OPTION_HELP, parseCreateOptions } from "./image/create.ts";
import { sizeArgument, withImageContext } from "./image/find.ts";
import { interruptible } from "./interrupt.ts";
import { type CliIo, cliLog } from "./io.ts";
import { plural, printJson } from "./output.ts";
import { startProgress } from "./progress.ts";
import { withSource } from "./since.ts";
import { BACKEND_HELP, hasOption, registryWith, sizedLike } from "./setup.ts";

/** Longest look for data in a destination before it is taken for one that has some, in ms. */
const ZERO_CHECK_MS_MAX = 500;

interface Settings {
  readonly verify: boolean;
  readonly sparse: boolean;
  readonly depth: number;
  /** What a new image is to be: `name=value`, or nothing. */
  readonly create: readonly string[];
  /** What has changed; undefined to copy all. */
  readonly changes: ChangeSource | undefined;
  /** Keep to whole clusters of the destination: it compresses. */
  readonly wholeUnits: boolean;
}

/** The destination opened so that it compresses. Throws UsageError if its kind cannot. */
function compressing(registry: Registry, spec: Spec): Spec {
  const type = registry.find(spec);
  if (hasOption(type, "compress")) return withDefaultOption(spec, "compress", true);
  const able = registry.backends.filter((each) => hasOption(each, "compress"));
  const reason = `${type.name} does not compress, ${able.map(({ name }) => name).join(", ")} does`;
  throw new UsageError(`Cannot copy with --compress: ${reason}`, spec.kindPlace);
}

/**
 * Makes the image that is to be the destination, of the source's size, if its kind has image tools
 * and it is not there. Options for it are wrong where there is nothing to make: UsageError.
 */
async function createDestination(
  io: CliIo,
  registry: Registry,
  spec: Spec,
  source: Device,
  options: readonly string[],
): Promise<void> {
  const tooMany = (reason: string): UsageError =>
    new UsageError(`Cannot use -o ${options[0]}: ${reason}`, spec.argumentPlace);
  const { image } = registry.find(spec);
  if (image === undefined) {
    if (options.length > 0) throw tooMany("it is for images that are made");
    return;
  }
  const prepared = registry.prepareImage(spec);
  const told = spec.options.get("size");
  const size = told === undefined ? source.geometry.size : sizeArgument(String(told.value));
  const create = parseCreateOptions(prepared, options);
  try {
    await withImageContext(
      io,
      "create",
      false,
      (context) => image.create(prepared.disk, { size, replace: false }, create, context),
    );
  } catch (error) {
    const isThere = hasErrno(error) && toBlockError(error).errno === "EEXIST";
    if (!isThere) throw error;
    if (options.length > 0) throw tooMany("it is for a new image, and the destination is there");
  }
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
  settings: Settings & { readonly unitBytes: number },
): Promise<CopyReport> {
  const { verify, sparse, depth, unitBytes, changes } = settings;
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
          unitBytes,
          destinationIsZero: sparse && changes === undefined && await isZero(destination),
          ...(changes === undefined ? {} : { changes }),
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
  const { bytesWritten, bytesZeroed, bytesSkipped, bytesUnchanged, elapsedUs, verified } = report;
  const bytes = report.bytesTotal - bytesUnchanged;
  const rate = formatRate(elapsedUs > 0 ? bytes / (elapsedUs / 1e6) : 0);
  const of = bytesUnchanged > 0 ? ` of ${formatSize(report.bytesTotal)}` : "";
  io.out(
    `copied ${formatSize(bytes)}${of} in ${formatDuration(elapsedUs / 1000)} (${rate}): ` +
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
        "there, or an image, is created with the size of the source. What the destination held is " +
        "overwritten. With --since only what has changed is copied: to a destination that has the " +
        "rest already, or to a new image over one, made with -o backing-file=FILE.",
    )
    .argument(
      "<source>",
      "KIND:ARGUMENT?option=value, an NBD URI, or target:NAME of the running daemon",
    )
    .argument("<destination>", "KIND:ARGUMENT?option=value, or an NBD URI")
    .option("--since <bitmap>", "copy what this dirty bitmap of the source has, and nothing else")
    .option(
      "--advance",
      "begin a new point: what changes from now on is for the next copy; if this one fails, all is",
    )
    .option(...CONTROL_OPTION)
    .option("--verify", "read both afterwards and compare them")
    .option("--no-sparse", "write zeroes instead of leaving holes")
    .option(
      "--depth <n>",
      "pieces in flight",
      wholeNumber(1, COPY_DEPTH_MAX),
      COPY_DEPTH,
    )
    .option("--compress", "store data compressed, if the destination can")
    .option("-o <option=value>", OPTION_HELP, collect)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print a report as JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["Download an export", "dmu copy nbd://server/disk file:disk.img --verify"],
        ["Upload an image", "dmu copy file:disk.img nbd+unix:///disk?socket=nbd.sock"],
        ["Convert, compressed", "dmu copy file:disk.img qcow2:disk.qcow2 --compress"],
        ["What has changed", "dmu copy --since nightly --advance target:d file:backup.img"],
      ]) + "\n" + createOptionsHelp(),
    )
    .action(async (from, to, options) => {
      const { backend, json, depth, sparse, verify = false, compress = false, o = [] } = options;
      const { since, advance = false, control } = options;
      const registry = await registryWith(backend);
      const { kinds } = registry;
      const destinationSpec = parseSpec(to, { kinds });
      registry.find(destinationSpec);
      const log = cliLog(io);
      const report = await withSource(io, from, { since, advance, control }, (source) => {
        const sourceSpec = parseSpec(source.spec, { kinds });
        registry.prepare(sourceSpec);
        const sides = {
          registry,
          log,
          sourceSpec,
          sourceSize: source.size,
          destinationSpec: compress ? compressing(registry, destinationSpec) : destinationSpec,
        };
        const { changes } = source;
        const settings = { verify, sparse, depth, create: o, changes, wholeUnits: compress };
        return copySpecs(io, sides, settings);
      });
      if (json) return printJson(io, { source: from, destination: to, ...report });
      printReport(io, report);
    });
}

interface Sides {
  readonly registry: Registry;
  readonly log: ReturnType<typeof cliLog>;
  readonly sourceSpec: Spec;
  /** Bytes that the source is known to have; undefined if that is not known. */
  readonly sourceSize: number | undefined;
  readonly destinationSpec: Spec;
}

/** Opens both sides, copies, and closes them: the report is given only when all that has succeeded. */
async function copySpecs(io: CliIo, sides: Sides, settings: Settings): Promise<CopyReport> {
  const { registry, log, sourceSpec, sourceSize, destinationSpec } = sides;
  const { create, changes, wholeUnits } = settings;
  await using source = await openDevice(sourceSpec, { registry, log, readOnly: true });
  const { size, minimum: block } = source.device.geometry;
  if (sourceSize !== undefined && sourceSize - sourceSize % block !== size) {
    throw new BlockError("EAGAIN", `Cannot copy ${sourceSpec.text}: its size has just changed`);
  }
  // Changes alone are no disk: what they are changes of has to be there, or below.
  const mayCreate = changes === undefined || create.some((each) => each.startsWith("backing-file"));
  if (mayCreate) await createDestination(io, registry, destinationSpec, source.device, create);
  else if (create.length > 0) {
    const reason = "with --since a new image needs backing-file=FILE too";
    throw new UsageError(`Cannot use -o ${create[0]}: ${reason}`, destinationSpec.argumentPlace);
  }
  const sized = changes === undefined
    ? sizedLike(registry, destinationSpec, size)
    : destinationSpec;
  await using destination = await openDevice(sized, { registry, log, readOnly: false });
  // Images keep whole clusters, and a cluster that is written piece by piece is not compressed.
  const whole = registry.find(destinationSpec).image !== undefined &&
    (changes === undefined || wholeUnits);
  const { preferred, minimum } = destination.device.geometry;
  const unitBytes = whole ? preferred : minimum;
  return await copyWithProgress(io, source.device, destination.device, { ...settings, unitBytes });
}
