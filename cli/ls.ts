/**
 * `dmu ls`: the targets of the running daemon.
 *
 * @module
 */
import { formatSize } from "../lib/block/size.ts";
import { type ShownTarget, targetStateName } from "../lib/daemon/control_client.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import { type Column, columnTable } from "./columns.ts";
import { CONTROL_OPTION, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { printJson } from "./output.ts";
import { printable } from "./safe_text.ts";

const COLUMNS: readonly Column[] = [
  { title: "NAME", least: 16 },
  { title: "STATE" },
  { title: "SIZE", right: true },
  { title: "FILES", right: true },
  { title: "BACKEND", least: 12 },
];

/** The state of a target in a word. */
export function stateText({ state, readOnly }: ShownTarget): string {
  const name = targetStateName(state) ?? (state === null ? "-" : String(state));
  return readOnly && name === "connected" ? "read-only" : name;
}

function print(io: CliIo, targets: readonly (ShownTarget & { readonly files: number })[]): void {
  if (targets.length === 0) return io.out("no targets\n");
  const rows = targets.map((target) => [
    target.name,
    stateText(target),
    target.size === null ? "-" : formatSize(target.size),
    String(target.files),
    [target.backend, ...target.filters].join(" | "),
  ]);
  io.out(columnTable(COLUMNS, rows));
  for (const { name, error } of targets) {
    if (error !== null) io.out(`${printable(`${name}: ${error}`)}\n`);
  }
}

/** The command `dmu ls`. */
export function lsCommand(io: CliIo): AnyCommand {
  return command("ls", io)
    .summary("list the targets of the running daemon")
    .description("List the targets of the running daemon: state, size, open files, storage.")
    .option(...CONTROL_OPTION)
    .option("--json", "print JSON")
    .option("--verbose", "show stacks of errors")
    .addHelpText("after", examples([["Names alone", "dmu ls --json | jq -r '.targets[].name'"]]))
    .action(({ control: place, json }) =>
      withControl(io, place, async (control) => {
        const [targets, files] = await Promise.all([control.targets(), control.files()]);
        const counted = targets.map((target) => ({
          ...target,
          files: files.filter((file) => file.target === target.name).length,
        }));
        if (json) printJson(io, { targets: counted });
        else print(io, counted);
      })
    );
}
