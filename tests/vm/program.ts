/**
 * What runs in the virtual machine: `dmu` with the one command that the checks use. The whole program
 * takes five times as long to start there, where every instruction is interpreted.
 *
 * @module
 */
import { command } from "../../cli/command.ts";
import { processIo } from "../../cli/io.ts";
import { logCommand } from "../../cli/log.ts";
import { workerScope } from "../../lib/sys/worker_scope.ts";

// A thread of a bundled program starts here as well: loading the modules is all that it needs.
if (workerScope() === null) {
  const io = processIo();
  await command("dmu", io).addCommand(logCommand(io)).parseAsync(Deno.args, { from: "user" });
  Deno.exit(0);
}
