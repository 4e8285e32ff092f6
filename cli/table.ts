/**
 * `dmu table`: the line that makes a dm-user device on a real kernel.
 *
 * @module
 */
import { CONTROL_FOLDER, SECTOR_BYTES } from "../lib/dm_user/constants.ts";
import { formatTableLine } from "../lib/dm_user/table.ts";
import { type AnyCommand, command, examples } from "./command.ts";
import type { CliIo } from "./io.ts";
import { printJson } from "./output.ts";
import { shellQuote } from "./safe_text.ts";
import { checkControlName, wholeSectors } from "./target_size.ts";

interface TableOptions {
  readonly size: string;
  readonly json?: true | undefined;
}

function table(io: CliIo, name: string, options: TableOptions): void {
  checkControlName(name, { text: name, start: 0, end: name.length });
  const size = wholeSectors(options.size, {
    text: options.size,
    start: 0,
    end: options.size.length,
  });
  const sectors = size / SECTOR_BYTES;
  const line = formatTableLine({ start: 0, sectors, name });
  // A control device may be in a folder, a dm device may not.
  const deviceName = name.replaceAll("/", "_");
  const create = `echo ${shellQuote(line)} | dmsetup create ${shellQuote(deviceName)}`;
  const remove = `dmsetup remove ${shellQuote(deviceName)}`;
  const control = `${CONTROL_FOLDER}/${name}`, device = `/dev/mapper/${deviceName}`;
  if (options.json) {
    printJson(io, { name, size, sectors, table: line, create, remove, control, device });
  } else {
    io.out(`${create}\n`);
  }
}

/** The command `dmu table`. */
export function tableCommand(io: CliIo): AnyCommand {
  return command("table", io)
    .summary("print the dmsetup line of a dm-user device")
    .description(
      "Print the command that makes a device-mapper device with one target of type user, on a " +
        "kernel that has dm-user. Its daemon then opens /dev/dm-user/NAME.",
    )
    .argument(
      "<name>",
      "name of the device and of its control device; a slash becomes _ in the former",
    )
    .requiredOption("--size <size>", "size of the device, for instance 1G or 2048s")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      examples([
        ["What would be run", "dmu table disk --size 1G"],
        ["Run it", "dmu table disk --size 1G | sudo sh"],
      ]),
    )
    .action((name, options) => table(io, name, options));
}
