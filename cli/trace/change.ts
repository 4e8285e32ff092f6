/**
 * `dmu trace convert`, `cut` and `merge`: traces made of traces, event by event.
 *
 * @module
 */
import { parseDuration } from "../../lib/block/duration.ts";
import { type Operation, OPERATIONS } from "../../lib/block/request.ts";
import { suggest, UsageError } from "../../lib/block/usage_error.ts";
import { type Cut, cutTrace } from "../../lib/trace/cut.ts";
import { mergeTraces } from "../../lib/trace/merge.ts";
import type { TraceSource } from "../../lib/trace/source.ts";
import { type AnyCommand, command, examples, wholeNumber } from "../command.ts";
import type { CliIo } from "../io.ts";
import { plural, printJson } from "../output.ts";
import { printable } from "../safe_text.ts";
import { type InputOptions, STANDARD, tellNotes, TraceInput, writeTrace } from "./files.ts";
import { DEVICE_OPTION, FORCE_OPTION, FROM_OPTION, TO_OPTION } from "./options.ts";

/** Most traces that are merged at once. */
const MERGED_MAX = 256;
/** Largest number of a connection. */
const CONNECTION_MAX = 2 ** 32 - 1;

/** How a trace is made. */
interface ChangeOptions {
  /** The name of the format that is written. */
  readonly format?: string | undefined;
  readonly force?: true | undefined;
  readonly json?: true | undefined;
}

/** Writes what `change` makes of the traces in `inputs`, and tells what is to be known of them. */
async function write(
  io: CliIo,
  inputs: readonly TraceInput[],
  out: string,
  options: ChangeOptions,
  change: (sources: readonly TraceSource[]) => TraceSource,
): Promise<void> {
  const { format, force = false, json = false } = options;
  const sources: TraceSource[] = [];
  for (const input of inputs) sources.push(await input.open());
  const changed = change(sources);
  const written = await writeTrace(io, inputs, changed, out, { format, force });
  inputs.forEach(({ path }, index) => {
    const source = sources[index];
    if (source !== undefined) tellNotes(io, path, source.notes);
  });
  if (sources[0] !== changed) tellNotes(io, out, { ...changed.notes, lost: 0, problemCount: 0 });
  tellNotes(io, out, written.notes);
  const { events, format: kind } = written.facts;
  if (json) printJson(io, { out, ...written.facts });
  else if (out !== STANDARD) io.out(`${printable(out)}: ${plural(events, "event")}, ${kind}\n`);
}

/** The command `dmu trace convert`. */
export function convertCommand(io: CliIo): AnyCommand {
  return command("convert", io)
    .summary("write a trace in another format")
    .description(
      "Write a trace in another format: the one that --to names, or that the name of OUT ends " +
        "like, or else the native one.",
    )
    .argument("<in>", "a trace in any format that is known, - for standard input")
    .argument("<out>", "a new file, - for standard output")
    .option(...TO_OPTION)
    .option(...FROM_OPTION)
    .option(...DEVICE_OPTION)
    .option(...FORCE_OPTION)
    .option("--json", "print what was written as JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([["For fio", "dmu trace convert d.dmutrace d.fio --to fio"]]),
    )
    .action((path, out, { to: format, force, json, ...rest }) => {
      checkJson(out, json);
      const input = new TraceInput(io, path, rest);
      return write(io, [input], out, { format, force, json }, ([source]) => only(source));
    });
}

/** The command `dmu trace cut`. */
export function cutCommand(io: CliIo): AnyCommand {
  return command("cut", io)
    .summary("write a part of a trace")
    .description(
      "Write a part of a trace: requests that were submitted in a span of time, of some " +
        "operations, of one connection. Completions stay with their requests. Times count from " +
        "--from in what is written.",
    )
    .argument("<in>", "a trace in any format that is known, - for standard input")
    .argument("<out>", "a new file, - for standard output")
    .option("--from <time>", "from this time of the trace, such as 10s or 500ms")
    .option("--to <time>", "up to this time, which is not included")
    .option("--operations <list>", `only these: ${OPERATIONS.join(",")}`)
    .option("--connection <n>", "only this connection", wholeNumber(0, CONNECTION_MAX))
    .option(...FORCE_OPTION)
    .option("--json", "print what was written as JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([[
        "Writes of the second minute",
        [
          "dmu trace cut d.dmutrace part.dmutrace --from 1min --to 2min",
          "--operations write,flush",
        ].join(" "),
      ]]),
    )
    .action((path, out, { from, to, operations, connection, force, json }) => {
      checkJson(out, json);
      const cut: Cut = {
        ...(from === undefined ? {} : { fromUs: parseTime(from) }),
        ...(to === undefined ? {} : { toUs: parseTime(to) }),
        ...(operations === undefined ? {} : { operations: parseOperations(operations) }),
        ...(connection === undefined ? {} : { connection }),
      };
      if ((cut.fromUs ?? 0) >= (cut.toUs ?? Number.POSITIVE_INFINITY)) {
        throw new UsageError(`Cannot cut from ${from ?? "0"} to ${to}: nothing lies between them`);
      }
      const input = new TraceInput(io, path);
      return write(io, [input], out, { force, json }, ([source]) => cutTrace(only(source), cut));
    });
}

/** The command `dmu trace merge`. */
export function mergeCommand(io: CliIo): AnyCommand {
  return command("merge", io)
    .summary("write several traces as one")
    .description(
      "Write several traces as one, in the order of the wall clock; where one of them does not " +
        "tell when it began, all begin at the same moment. Requests and connections are numbered " +
        "anew.",
    )
    .argument("<files...>", "two traces or more, then the new file")
    .option(...TO_OPTION)
    .option(...FROM_OPTION)
    .option(...FORCE_OPTION)
    .option("--json", "print what was written as JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([[
        "Two disks of one machine",
        "dmu trace merge a.dmutrace b.dmutrace both.dmutrace",
      ]]),
    )
    .action((files, { to: format, from, force, json }) => {
      const paths = files.slice(0, -1), out = files.at(-1) ?? "";
      checkJson(out, json);
      if (paths.length < 2 || paths.length > MERGED_MAX) {
        throw new UsageError(
          `Cannot merge ${paths.length} traces: name 2 to ${MERGED_MAX}, and then the new file`,
        );
      }
      const options: InputOptions = { from };
      const inputs = paths.map((path) => new TraceInput(io, path, options));
      return write(io, inputs, out, { format, force, json }, mergeTraces);
    });
}

/** Standard output cannot have both. */
function checkJson(out: string, json: true | undefined): void {
  if (json && out === STANDARD) {
    throw new UsageError("Cannot print JSON and the trace to standard output");
  }
}

function only(source: TraceSource | undefined): TraceSource {
  if (source !== undefined) return source;
  throw new UsageError("Cannot read a trace: none was named");
}

/** A time of a trace in µs. Throws UsageError. */
function parseTime(text: string): number {
  const ms = parseDuration(text);
  if (typeof ms === "number") return ms * 1000;
  throw new UsageError(`A time ${ms.problem}`, { text, start: 0, end: text.length });
}

function parseOperations(text: string): ReadonlySet<Operation> {
  const wanted = new Set<Operation>();
  let start = 0;
  for (const name of text.split(",")) {
    const found = OPERATIONS.find((each) => each === name);
    if (found === undefined) {
      const place = { text, start, end: start + name.length };
      throw new UsageError(`There is no operation "${name}"; ${suggest(name, OPERATIONS)}`, place);
    }
    wanted.add(found);
    start += name.length + 1;
  }
  return wanted;
}
