/**
 * `dmu onexit exec`: opens a file of the daemon and becomes a command that holds it.
 *
 * @module
 */
import { holdOpenFile } from "../lib/daemon/control_holder.ts";
import { CONTROL_VARIABLE, formatControlPlace } from "../lib/daemon/control_place.ts";
import { becomeCommand, keepOverExec } from "../lib/sys/exec.ts";
import { SystemError } from "../lib/sys/system_error.ts";
import { daemonPlace, withHint } from "./control.ts";
import { MINOR_VARIABLE } from "./create.ts";
import type { CliIo } from "./io.ts";
import { ExitError } from "./output.ts";

/** Exit codes of a shell that cannot run a command: there is none, or it cannot be run. */
const EXIT_NOT_FOUND = 127, EXIT_NOT_EXECUTABLE = 126;

/** What the self-extracting program sets for its runtime; it keeps what was there before under PREFIX. */
const RUNTIME_VARIABLES = ["DENO_DIR", "DENO_NO_UPDATE_CHECK"];
const PREFIX = "DMU_OUTER_";

/** What brings back the environment that the self-extracting program was started with. */
function outerEnvironment(io: CliIo): [string, string | null][] {
  return RUNTIME_VARIABLES.flatMap((name): [string, string | null][] => {
    const before = io.env(PREFIX + name);
    if (before === undefined) return [];
    return [[PREFIX + name, null], [name, before === "" ? null : before]];
  });
}

/** Becomes the command. Comes back only to throw. */
export function onexitExec(io: CliIo, words: readonly string[], option: string | undefined): never {
  const [name = "", ...rest] = words;
  const place = daemonPlace(io, option);
  let minor: number;
  try {
    const held = holdOpenFile(place.endpoint.path);
    keepOverExec(held.fd);
    minor = held.minor;
  } catch (error) {
    throw withHint(error, place);
  }
  const changes = new Map([
    ...outerEnvironment(io),
    [MINOR_VARIABLE, String(minor)],
    [CONTROL_VARIABLE, formatControlPlace(place)],
  ]);
  try {
    return becomeCommand([name, ...rest], changes);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    const code = error.code === "ENOENT" ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
    throw new ExitError(code, error.message, { cause: error });
  }
}
