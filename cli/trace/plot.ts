/**
 * `dmu trace plot`: a picture of a trace, as one file.
 *
 * @module
 */
import { basename } from "node:path";
import { UsageError } from "../../lib/block/usage_error.ts";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { type PlotFormat, plotTrace } from "../../lib/trace/plot/mod.ts";
import type { TraceSource } from "../../lib/trace/source.ts";
import { type AnyCommand, command, examples, oneOfOption } from "../command.ts";
import type { CliIo } from "../io.ts";
import { interruptible } from "../interrupt.ts";
import { intoNewFile, readProgress, STANDARD, tellNotes, TraceInput } from "./files.ts";
import { DEVICE_OPTION, FORCE_OPTION, FROM_OPTION } from "./options.ts";

const FORMATS: readonly PlotFormat[] = ["svg", "html"];

interface PlotCommandOptions {
  readonly out: string;
  readonly format?: PlotFormat | undefined;
  readonly title?: string | undefined;
  readonly from?: string | undefined;
  readonly device?: string | undefined;
  readonly force?: true | undefined;
}

/** The format that a file's name ends like. Throws UsageError. */
function formatOf(out: string): PlotFormat {
  const found = FORMATS.find((each) => out.toLowerCase().endsWith(`.${each}`));
  if (found !== undefined) return found;
  throw new UsageError(
    `Cannot tell the format of "${out}": it ends neither in .svg nor in .html, --format names one`,
  );
}

/** The same trace, which calls `see` after each batch. */
function watched(source: TraceSource, see: () => void): TraceSource {
  const batches = async function* (): AsyncGenerator<readonly TraceEvent[], void> {
    for await (const batch of source.batches()) {
      see();
      yield batch;
    }
  };
  return { info: source.info, notes: source.notes, batches };
}

/** Makes a file before the work is done that fills it: one that cannot be made costs no work. */
async function writeText(path: string, text: () => Promise<string>): Promise<void> {
  const file = await Deno.open(path, { write: true, createNew: true });
  try {
    const bytes = new TextEncoder().encode(await text());
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
  } catch (error) {
    await Deno.remove(path);
    throw error;
  } finally {
    file.close();
  }
}

async function plot(io: CliIo, path: string, options: PlotCommandOptions): Promise<void> {
  const { out, force = false, from, device } = options;
  const format = options.format ?? formatOf(out);
  const input = new TraceInput(io, path, { from, device });
  const source = await input.open();
  const name = source.info.target === null && path !== STANDARD
    ? `Trace of ${basename(path)}`
    : null;
  const title = options.title ?? name;
  const progress = readProgress(io, "read", [input]);
  try {
    await interruptible(io, "finish the picture", async (signal) => {
      const trace = watched(source, () => {
        progress.draw();
        signal.throwIfAborted();
      });
      const text = (): Promise<string> =>
        plotTrace(trace, { format, ...(title === null ? {} : { title }) });
      if (out === STANDARD) io.out(await text());
      else await intoNewFile(out, force, (target) => writeText(target, text));
    });
  } finally {
    progress.clear();
  }
  tellNotes(io, path, source.notes);
}

/** The command `dmu trace plot`. */
export function plotCommand(io: CliIo): AnyCommand {
  return command("plot", io)
    .summary("draw a picture of a trace")
    .description(
      "Draw what happened in a trace: where it was read, written and trimmed over time, how long " +
        "that took, how much a second, how many requests were in flight, and how long they were. " +
        "One file without scripts that any browser shows, in light and dark; HTML has the figures " +
        "as tables too.",
    )
    .argument("<file>", "a trace in any format that is known, - for standard input")
    .requiredOption("-o, --out <file>", "a new file, .svg or .html; - for standard output")
    .addOption(oneOfOption("--format <format>", "what is written, if its name does not tell", [
      "svg",
      "html",
    ]))
    .option("--title <text>", "the title; one with the name of the target if not told")
    .option(...FROM_OPTION)
    .option(...DEVICE_OPTION)
    .option(...FORCE_OPTION)
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["A page with figures", "dmu trace plot disk.dmutrace -o disk.html"],
        ["A picture for a report", "dmu trace plot disk.dmutrace -o disk.svg --title 'Night run'"],
      ]),
    )
    .action((path, options) => plot(io, path, options));
}
