/**
 * `dmu image map`: where everything of a disk is.
 *
 * @module
 */
import type { MapEntry } from "../../lib/block/image.ts";
import { type AnyCommand, collect, command, examples } from "../command.ts";
import type { CliIo } from "../io.ts";
import { printable } from "../safe_text.ts";
import { BACKEND_HELP, registryWith } from "../setup.ts";
import { cannot, FILE_HELP, findImage, KIND_HELP, withImageContext } from "./find.ts";
import { mapJson } from "./json.ts";

/** Columns of the table; offsets are hexadecimal, at most 14 digits with 0x. */
const WIDTHS: readonly number[] = [14, 14, 10, 5, 14];
const HEAD: readonly string[] = ["offset", "length", "state", "depth", "at"];

function row(cells: readonly string[], last: string): string {
  const padded = cells.map((cell, index) => cell.padEnd(WIDTHS[index] ?? 0));
  return [...padded, last].join("  ").trimEnd() + "\n";
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function stateOf({ data, zero, present, compressed }: MapEntry): string {
  if (compressed) return "compressed";
  if (data) return "data";
  return zero && present ? "zeroes" : "hole";
}

function printEntry(io: CliIo, entry: MapEntry): void {
  const { start, length, depth, offset, filename } = entry;
  const place = offset === undefined ? "" : hex(offset);
  io.out(
    row([hex(start), hex(length), stateOf(entry), String(depth), place], printable(filename ?? "")),
  );
}

/** The command `dmu image map`. */
export function imageMapCommand(io: CliIo): AnyCommand {
  return command("map", io)
    .summary("show where the data of an image is")
    .description(
      "Show where everything of a disk is: data, zeroes and holes, in which file of the chain " +
        "(depth 0 is the image itself) and at which offset of that file.",
    )
    .argument("<file>", FILE_HELP)
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print JSON as qemu-img does")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText("after", examples([["An image", "dmu image map vm.qcow2"]]))
    .action(async (file, { kind, backend, json = false }) => {
      const registry = await registryWith(backend);
      await withImageContext(io, "map", true, async (context) => {
        const image = findImage(registry, file, kind, context);
        if (image.tools.map === undefined) throw cannot("map", image);
        let count = 0;
        io.out(json ? "[" : row(HEAD, "file"));
        for await (const entry of image.tools.map(image.disk, context)) {
          if (json) io.out(`${count === 0 ? "" : ",\n"}${JSON.stringify(mapJson(entry))}`);
          else printEntry(io, entry);
          count += 1;
        }
        if (json) io.out("]\n");
      });
    });
}
