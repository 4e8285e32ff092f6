/**
 * `dmu watch`: what changes in the tree of the running daemon, as it changes.
 *
 * @module
 */
import { type AnyCommand, command, examples, wholeNumber } from "./command.ts";
import { CONTROL_OPTION, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { printJson } from "./output.ts";
import { printable } from "./safe_text.ts";

/** Deepest watch, and the most events that can be asked for. */
const DEPTH_MAX = 1_000, COUNT_MAX = Number.MAX_SAFE_INTEGER;

interface WatchOptions {
  readonly depth?: number | undefined;
  readonly count?: number | undefined;
  readonly control?: string | undefined;
  readonly json?: true | undefined;
}

function print(io: CliIo, path: string, bytes: Uint8Array | null, json: boolean): void {
  const value = bytes === null ? null : new TextDecoder().decode(bytes);
  if (json) return printJson(io, { path, value });
  const state = value === null ? "is gone" : `= ${value}`;
  io.out(`${printable(`${path} ${state}`).trimEnd()}\n`);
}

function watch(io: CliIo, path: string, options: WatchOptions): Promise<void> {
  const { depth, count = COUNT_MAX, json = false } = options;
  return withControl(io, options.control, async (control) => {
    // Ends the iteration below.
    const endSignals = io.onStopSignal(() => void control.close());
    try {
      let left = count;
      for await (const event of control.watch(path, depth === undefined ? {} : { depth })) {
        print(io, event.path, event.value, json);
        left -= 1;
        if (left === 0) return;
      }
    } finally {
      endSignals();
    }
  });
}

/** The command `dmu watch`. */
export function watchCommand(io: CliIo): AnyCommand {
  return command("watch", io)
    .summary("print what changes in the daemon's tree")
    .description(
      "Print each change of a node of the running daemon's tree and of all below it, with the " +
        "value that it has now, until SIGTERM or SIGINT. The first line comes at once and is the " +
        "node itself.",
    )
    .argument("<path>", "a node, for instance /dmu/target/d/state")
    .option("--depth <levels>", "only so far below the node", wholeNumber(0, DEPTH_MAX))
    .option("--count <events>", "end after so many", wholeNumber(1, COUNT_MAX))
    .option(...CONTROL_OPTION)
    .option("--json", "print each as a line of JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["The state of a target", "dmu watch /dmu/target/d/state"],
        ["Who comes and goes", "dmu watch /dmu/file --depth 1"],
      ]),
    )
    .action((path, options) => watch(io, path, options));
}
