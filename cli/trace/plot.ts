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
import { readProgress, tellNotes, TraceInput, writeNew } from "./files.ts";
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

/** The same trace, until a signal stops it. */
function stoppable(source: TraceSource, signal: AbortSignal): TraceSource {
  const batches = async function* (): AsyncGenerator<readonly TraceEvent[], void> {
    for await (const batch of source.batches()) {
      signal.throwIfAborted();
      yield batch;
    }
  };
  return { info: source.info, notes: source.notes, batches };
}

async function plot(io: CliIo, path: string, options: PlotCommandOptions): Promise<void> {
  const { out, force = false, from, device } = options;
  const format = options.format ?? formatOf(out);
  const input = new TraceInput(io, path, { from, device });
  const source = await input.open();
  const name = source.info.target === null && path !== "-" ? `Trace of ${basename(path)}` : null;
  const title = options.title ?? name;
  const progress = readProgress(io, "read", [input]);
  const picture = async function* (signal: AbortSignal): AsyncGenerator<Uint8Array, void> {
    const trace = stoppable(progress.over(source), signal);
    const text = await plotTrace(trace, { format, ...(title === null ? {} : { title }) });
    yield new TextEncoder().encode(text);
  };
  try {
    await writeNew(io, "picture", out, force, picture);
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
