/**
 * Where the control socket of a daemon is: one rule for the daemon and for whoever talks to it, so
 * that both find the same place without being told.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { BlockError } from "../block/errors.ts";
import { type Place, UsageError } from "../block/usage_error.ts";
import { formatEndpoint, parseEndpoint, type UnixEndpoint } from "./endpoint.ts";
import { UNIX_PATH_BYTES_MAX } from "./limits.ts";

/** The variable of the environment that names the control socket, as `--control` does. */
export const CONTROL_VARIABLE = "DMU_CONTROL";
/** Stands for: no control socket. */
export const NO_CONTROL = "none";

/** The folder of a default place is for its user alone. */
const FOLDER_MODE = 0o700;
/** Write permission of others than the owner. */
const OTHERS_MAY_WRITE = 0o022;

/** A control socket. */
export interface ControlPlace {
  /** The socket; its path is absolute. */
  readonly endpoint: UnixEndpoint;
  /** Somebody has named it. False for the default place, whose folder has to be this user's own. */
  readonly named: boolean;
}

/** What the default depends on. */
export interface ControlSurroundings {
  /** A variable of the environment. */
  readonly env: (name: string) => string | undefined;
  /** The user's number, the one of this process if not told. */
  readonly uid?: number;
}

/**
 * The control socket: `named` (a value of `--control`) if it is given, else DMU_CONTROL, else the
 * default, which is control.sock in the first of `$XDG_RUNTIME_DIR/dmu` (if that variable names a
 * folder), `/run/dmu` (for root) and `${TMPDIR:-/tmp}/dmu-UID`. Null for `none`. Throws UsageError
 * for what is no unix endpoint.
 *
 * @example
 * ```ts
 * import { controlPlace } from "./control_place.ts";
 *
 * const place = controlPlace("unix:/run/d.sock", { env: () => undefined });
 * if (place?.endpoint.path !== "/run/d.sock" || !place.named) throw new Error("not what was named");
 * ```
 */
export function controlPlace(
  named: string | undefined,
  surroundings: ControlSurroundings,
): ControlPlace | null {
  if (named !== undefined) return namedPlace(named);
  const fromEnvironment = surroundings.env(CONTROL_VARIABLE) ?? "";
  if (fromEnvironment !== "") return namedPlace(fromEnvironment, CONTROL_VARIABLE);
  const path = defaultPath(surroundings);
  return { endpoint: { kind: "unix", path, mode: 0o600 }, named: false };
}

/** The place as `--control` and DMU_CONTROL take it, whatever the working directory is. */
export function formatControlPlace(place: ControlPlace): string {
  return formatEndpoint(place.endpoint);
}

/**
 * Makes the folder of a default place with mode 0700 if it is missing; for a daemon, before it
 * listens. A named place is left alone. Throws BlockError EACCES as `checkControlFolder` does, and
 * what Deno.mkdir throws.
 */
export function makeControlFolder(place: ControlPlace, uid: number | null = Deno.uid()): void {
  if (place.named) return;
  const folder = folderOf(place);
  // Its parent is there: a runtime folder, /run, or the folder of temporary files.
  try {
    Deno.mkdirSync(folder, { mode: FOLDER_MODE });
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
  }
  checkControlFolder(place, uid);
}

/**
 * Looks whether the folder of a default place is the user's own, so that nobody else can pretend to
 * be the daemon. A folder that is missing, and a named place, are fine. Throws BlockError EACCES.
 */
export function checkControlFolder(place: ControlPlace, uid: number | null = Deno.uid()): void {
  if (place.named) return;
  const folder = folderOf(place);
  let info: Deno.FileInfo;
  try {
    info = Deno.lstatSync(folder);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  const problem = folderProblem(info, uid);
  if (problem === null) return;
  throw new BlockError(
    "EACCES",
    `Cannot trust ${folder}: ${problem}; name another place with --control or ${CONTROL_VARIABLE}`,
  );
}

function folderProblem(info: Deno.FileInfo, uid: number | null): string | null {
  if (!info.isDirectory) return "it is not a folder";
  if (info.uid !== uid) return "it belongs to another user";
  if (((info.mode ?? 0) & OTHERS_MAY_WRITE) !== 0) return "other users may write to it";
  return null;
}

function folderOf({ endpoint: { path } }: ControlPlace): string {
  return path.slice(0, path.lastIndexOf("/"));
}

function namedPlace(text: string, origin?: string): ControlPlace | null {
  if (text === NO_CONTROL) return null;
  const from = origin === undefined ? {} : { origin };
  if (!text.startsWith("unix:")) {
    const place: Place = { ...from, text, start: 0, end: text.length };
    const hint = text.startsWith("/") ? `write unix:${text}` : `write unix:PATH or ${NO_CONTROL}`;
    throw new UsageError(`Cannot use "${text}" as control socket: ${hint}`, place);
  }
  const endpoint = parseEndpoint(text, origin);
  if (endpoint.kind !== "unix") throw new UsageError(`Cannot use "${text}" as control socket`);
  return { endpoint: { ...endpoint, path: resolve(endpoint.path) }, named: true };
}

function defaultPath({ env, uid = Deno.uid() ?? 0 }: ControlSurroundings): string {
  const name = "control.sock";
  const runtime = env("XDG_RUNTIME_DIR") ?? "";
  const path = join(runtime, "dmu", name);
  if (runtime.startsWith("/") && fits(path) && isFolder(runtime)) return path;
  if (uid === 0) return `/run/dmu/${name}`;
  return resolve(env("TMPDIR") || "/tmp", `dmu-${uid}`, name);
}

function fits(path: string): boolean {
  return new TextEncoder().encode(path).length <= UNIX_PATH_BYTES_MAX;
}

function isFolder(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}
