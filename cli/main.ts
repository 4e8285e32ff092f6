/**
 * The command line `dmu`. Permissions are looked at before anything else is loaded: where some are
 * missing, the command that has them is printed instead of a prompt or a stack.
 *
 * @module
 */
import { workerScope } from "../lib/sys/worker_scope.ts";
import { processIo } from "./io.ts";
import { shellQuote } from "./safe_text.ts";

/** What the commands need: disks, sockets, system calls, and who the user is. */
const NEEDED: readonly Deno.PermissionDescriptor["name"][] = ["read", "write", "net", "env", "ffi"];
const EXIT_USAGE = 2;

function missingPermissions(): string[] {
  return NEEDED.filter((name) => Deno.permissions.querySync({ name }).state !== "granted");
}

async function main(): Promise<number> {
  const io = processIo();
  const missing = missingPermissions();
  if (missing.length > 0) {
    const line = ["deno run -P dmu", ...Deno.args.map(shellQuote)].join(" ");
    io.err(`dmu: permissions are missing (${missing.join(", ")}), run: ${line}\n`);
    return EXIT_USAGE;
  }
  const { runCli } = await import("./run.ts");
  return await runCli(Deno.args, io);
}

if (import.meta.main) {
  // A thread of a bundled program starts here as well: loading the modules is all that it needs.
  if (workerScope() === null) Deno.exit(await main());
  await import("./run.ts");
}
