/**
 * What the commands that talk to a running daemon have in common: finding its control socket, saying so
 * if nobody is there, telling that something takes its time, names and minors on the command line.
 *
 * @module
 */
import { BlockError } from "../lib/block/errors.ts";
import { targetNameProblem } from "../lib/block/spec.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import { ControlClient } from "../lib/daemon/control_client.ts";
import {
  checkControlFolder,
  CONTROL_VARIABLE,
  type ControlPlace,
  controlPlace,
  formatControlPlace,
} from "../lib/daemon/control_place.ts";
import type { CliIo } from "./io.ts";
import { shellQuote } from "./safe_text.ts";

/** The option that names the control socket, and its help. */
export const CONTROL_OPTION = [
  "--control <endpoint>",
  `control socket of the daemon, unix:PATH; else ${CONTROL_VARIABLE}, else the default place`,
] as const;

/** Time in ms after which a command says what it waits for. */
const PATIENCE_MS = 1_000;
/** Largest minor. */
const MINOR_MAX = 2 ** 32 - 1;

/** The control socket of the daemon. Throws UsageError for `none`, BlockError for a folder not to be trusted. */
export function daemonPlace(io: CliIo, option: string | undefined): ControlPlace {
  const place = controlPlace(option, { env: (name) => io.env(name) });
  if (place === null) {
    throw new UsageError('Cannot talk to a daemon: its control socket is "none"; name one');
  }
  checkControlFolder(place);
  return place;
}

/** The same error with what to do about a daemon that is not there. */
export function withHint(error: unknown, place: ControlPlace): unknown {
  const absent = error instanceof BlockError &&
    (error.errno === "ENOENT" || error.errno === "ECONNREFUSED");
  if (!absent) return error;
  const option = place.named ? ` --control ${shellQuote(formatControlPlace(place))}` : "";
  return new BlockError(error.errno, `${error.message}; start one: dmu serve${option}`, {
    cause: error,
  });
}

/** Runs `use` with a connection to the daemon, which ends afterwards. */
export async function withControl<T>(
  io: CliIo,
  option: string | undefined,
  use: (control: ControlClient) => Promise<T>,
): Promise<T> {
  const place = daemonPlace(io, option);
  let control: ControlClient;
  try {
    control = await ControlClient.connect(place.endpoint.path);
  } catch (error) {
    throw withHint(error, place);
  }
  try {
    return await use(control);
  } finally {
    await control.close();
  }
}

/** What `work` gives; if it takes more than a second, says on standard error what is waited for. */
export async function patiently<T>(io: CliIo, what: string, work: Promise<T>): Promise<T> {
  const timer = setTimeout(() => io.err(`dmu: waiting for ${what}\n`), PATIENCE_MS);
  try {
    return await work;
  } finally {
    clearTimeout(timer);
  }
}

/** Throws UsageError if `name` cannot be that of a target. */
export function checkName(name: string): string {
  const problem = targetNameProblem(name);
  if (problem === null) return name;
  throw new UsageError(`Cannot use "${name}" as target: ${problem}`, {
    text: name,
    start: 0,
    end: name.length,
  });
}

/** The number of an open file. Throws UsageError. */
export function parseMinor(text: string): number {
  return parseNumber(text, "the number of an open file");
}

/** The handle of an onexit action. Throws UsageError. */
export function parseHandle(text: string): number {
  return parseNumber(text, "the handle of an action");
}

function parseNumber(text: string, what: string): number {
  const number = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (number <= MINOR_MAX) return number;
  throw new UsageError(`Cannot use "${text}" as ${what}: it is a whole number`, {
    text,
    start: 0,
    end: text.length,
  });
}

/** A file or a target: all digits are a minor, `target:NAME` is a target whatever its name is. */
export function parseMinorOrTarget(
  text: string,
): { readonly minor: number } | { readonly target: string } {
  if (/^\d+$/.test(text)) return { minor: parseMinor(text) };
  return { target: checkName(text.replace(/^target:/, "")) };
}
