/**
 * `dmu version`.
 *
 * @module
 */
import { type AnyCommand, command } from "./command.ts";
import type { CliIo } from "./io.ts";
import { printJson } from "./output.ts";

/** The version of this program; the manifest has the same. */
export const VERSION = "0.1.0";

/** The command `dmu version`. */
export function versionCommand(io: CliIo): AnyCommand {
  return command("version", io)
    .summary("show versions")
    .description("Show the versions of dmu and of what it runs on.")
    .option("--json", "print JSON")
    .action(({ json }) => {
      const { deno, v8 } = Deno.version;
      const { os, arch } = Deno.build;
      if (json) return printJson(io, { version: VERSION, deno, v8, os, arch });
      io.out(`dmu ${VERSION} (deno ${deno}, ${os} ${arch})\n`);
    });
}
