/**
 * `dmu bitmap`: the dirty bitmaps of a running daemon's targets, which say what a backup has to copy.
 *
 * @module
 */
import { formatSize } from "../lib/block/size.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import { parseGranularity } from "../lib/daemon/bitmap_config.ts";
import {
  type BitmapCommand,
  type BitmapFacts,
  type ControlClient,
} from "../lib/daemon/control_client.ts";
import { bitmapNameProblem } from "../lib/dirty_log/target_bitmaps.ts";
import { DIRTY_BITMAP_PREFIX } from "../lib/nbd/constants.ts";
import { columnTable } from "./columns.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import { checkName, CONTROL_OPTION, patiently, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { exactSize, EXIT_FAILED, ExitError, printJson, twoColumns } from "./output.ts";
import { printable } from "./safe_text.ts";

/** Throws UsageError if `name` cannot be that of a bitmap. */
export function checkBitmapName(name: string): string {
  const problem = bitmapNameProblem(name);
  if (problem === null) return name;
  const place = { text: name, start: 0, end: name.length };
  throw new UsageError(`Cannot use "${name}" as bitmap: ${problem}`, place);
}

function found(name: string, target: string, bitmaps: readonly BitmapFacts[]): BitmapFacts {
  const bitmap = bitmaps.find((each) => each.name === name);
  if (bitmap !== undefined) return bitmap;
  throw new ExitError(EXIT_FAILED, `Cannot find bitmap ${name} of ${target}: there is none`);
}

function stateOf({ frozen }: BitmapFacts): string {
  return frozen ? "frozen" : "active";
}

function lastsAs({ persistent }: BitmapFacts): string {
  return persistent ? "persistent" : "transient";
}

function rowsOf(target: string, bitmap: BitmapFacts): (readonly [string, string])[] {
  const { granularity, frozen, dirtyBytes, newBytes } = bitmap;
  return [
    ["target", printable(target)],
    ["lasts", lastsAs(bitmap)],
    ["state", stateOf(bitmap)],
    ["granularity", exactSize(granularity)],
    ["dirty", exactSize(dirtyBytes)],
    ...(frozen ? [["dirty since", exactSize(newBytes)] as const] : []),
    ["context", DIRTY_BITMAP_PREFIX + bitmap.name],
  ];
}

const COLUMNS = [
  { title: "TARGET", least: 12 },
  { title: "BITMAP", least: 12 },
  { title: "LASTS" },
  { title: "STATE" },
  { title: "GRANULARITY", right: true },
  { title: "DIRTY", right: true },
  { title: "SINCE", right: true },
] as const;

async function listed(
  control: ControlClient,
  target: string | undefined,
): Promise<{ readonly target: string; readonly bitmap: BitmapFacts }[]> {
  const names = target === undefined
    ? (await control.targets()).filter(({ bitmaps }) => bitmaps.length > 0).map(({ name }) => name)
    : [target];
  const all = [];
  for (const name of names) {
    for (const bitmap of await control.bitmap(name, { action: "list" })) {
      all.push({ target: name, bitmap });
    }
  }
  return all;
}

function lsCommand(io: CliIo): AnyCommand {
  return command("ls", io)
    .summary("list bitmaps")
    .description(
      "List the bitmaps of a target, or of all. SINCE is what has changed since a point was frozen.",
    )
    .argument("[target]", "name of the target")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .action((target, { control: place, json }) =>
      withControl(io, place, async (control) => {
        const all = await listed(control, target === undefined ? undefined : checkName(target));
        if (json) {
          return printJson(io, {
            bitmaps: all.map(({ target, bitmap }) => ({ target, ...bitmap })),
          });
        }
        if (all.length === 0) return io.out("no bitmaps\n");
        io.out(columnTable(
          COLUMNS,
          all.map(({ target, bitmap }) => [
            target,
            bitmap.name,
            lastsAs(bitmap),
            stateOf(bitmap),
            formatSize(bitmap.granularity),
            formatSize(bitmap.dirtyBytes),
            bitmap.frozen ? formatSize(bitmap.newBytes) : "-",
          ]),
        ));
      })
    );
}

function addCommand(io: CliIo): AnyCommand {
  return command("add", io)
    .summary("begin a bitmap")
    .description(
      "Begin a bitmap: from now on it has what is written, zeroed and trimmed. Readers find it as " +
        `the NBD metadata context ${DIRTY_BITMAP_PREFIX}BITMAP.`,
    )
    .argument("<bitmap>", "name of the new bitmap")
    .argument("<target>", "name of the target")
    .option("--granularity <size>", "bytes of a region, a power of two; 64k if not told")
    .option("--persistent", "keep it over restarts and crashes; the daemon needs --bitmaps")
    .option("--marked", "begin with all of the disk marked")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([["To be relied on", "dmu bitmap add nightly d --persistent"]]),
    )
    .action((name, target, options) => {
      const { granularity: size, persistent = false, marked = false } = options;
      const refuse = (reason: string): UsageError =>
        new UsageError(`Cannot add the bitmap: ${reason}`);
      const granularity = size === undefined ? {} : { granularity: parseGranularity(size, refuse) };
      const add: BitmapCommand = { action: "add", name, persistent, marked, ...granularity };
      return change(io, name, target, add, options);
    });
}

interface ChangeOptions {
  readonly control?: string | undefined;
  readonly json?: true | undefined;
}

/** Does it, and prints the bitmap as it is then. */
async function change(
  io: CliIo,
  name: string,
  target: string,
  change: BitmapCommand,
  { control: place, json }: ChangeOptions,
): Promise<void> {
  checkBitmapName(name);
  checkName(target);
  await withControl(io, place, async (control) => {
    const changing = control.bitmap(target, change);
    const bitmaps = await patiently(io, `operations on ${target} to finish`, changing);
    if (change.action === "remove") {
      if (json) printJson(io, { target, name });
      return;
    }
    const bitmap = found(name, target, bitmaps);
    if (json) printJson(io, { target, ...bitmap });
    else io.out(`${name}\n${twoColumns(rowsOf(target, bitmap))}`);
  });
}

/** What is done to one bitmap: the command, the action, and its help. */
const ACTIONS = [
  [
    "clear",
    "clear",
    "forget all marks",
    "Forget all marks. Whoever wants to copy first, and to lose nothing, freezes instead.",
  ],
  [
    "freeze",
    "freeze",
    "begin a point, for a backup",
    "Begin a point, at a moment at which nothing is in flight: the marks of before stand still for a " +
    "backup to read, and what changes from now on is marked anew. Then copy, and drop the point; or " +
    "merge it, if the copy failed.",
  ],
  [
    "drop",
    "drop",
    "end a point whose backup is done",
    "Forget the marks of the frozen point, since a backup has what they stand for.",
  ],
  [
    "merge",
    "merge",
    "end a point whose backup failed",
    "Put the marks of the frozen point back among those of now: the next backup copies both.",
  ],
  [
    "rm",
    "remove",
    "end a bitmap",
    "End a bitmap and forget what it has. One with a frozen point is not removed.",
  ],
] as const;

function showCommand(io: CliIo): AnyCommand {
  return command("show", io)
    .summary("show one bitmap")
    .description("Show one bitmap, and how much is marked in it.")
    .argument("<bitmap>", "name of the bitmap")
    .argument("<target>", "name of the target")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .action((name, target, options) => change(io, name, target, { action: "list" }, options));
}

/** The command `dmu bitmap`. */
export function bitmapCommand(io: CliIo): AnyCommand {
  const all = command("bitmap", io)
    .summary("keep track of what has changed, for incremental backups")
    .description(
      "Dirty bitmaps of targets of the running daemon: each has what has changed since it began. " +
        "dmu copy --since copies that.",
    )
    .addCommand(addCommand(io))
    .addCommand(lsCommand(io))
    .addCommand(showCommand(io));
  for (const [word, action, summary, description] of ACTIONS) {
    all.addCommand(
      command(word, io)
        .summary(summary)
        .description(description)
        .argument("<bitmap>", "name of the bitmap")
        .argument("<target>", "name of the target")
        .option(...CONTROL_OPTION)
        .option("--json", "print JSON")
        .option("--verbose", "show stacks of errors")
        .action((name, target, options) => change(io, name, target, { action, name }, options)),
    );
  }
  return all;
}
