/**
 * What completion can ask a running daemon: names of targets, numbers of open files with their actions.
 * It takes a moment at most, and says nothing if there is no daemon or it is slow.
 *
 * @module
 */
import { targetNameProblem } from "../lib/block/spec.ts";
import { ControlClient, type ShownFile } from "../lib/daemon/control_client.ts";
import { daemonPlace } from "./control.ts";
import type { CliIo } from "./io.ts";

/** Time that a completion waits for the daemon, in ms. */
const WAIT_MS_MAX = 1_000;

/** What there is to be named. */
export interface LiveNames {
  /** Names of targets. */
  readonly targets: readonly string[];
  /** Names of dirty bitmaps of all targets. */
  readonly bitmaps: readonly string[];
  /** Open files. */
  readonly files: readonly ShownFile[];
}

/** Nothing is known. */
export const NO_NAMES: LiveNames = { targets: [], bitmaps: [], files: [] };

/** What the daemon has that the words on the command line, or the environment, name. */
export async function liveNames(io: CliIo, words: readonly string[]): Promise<LiveNames> {
  const late = Promise.withResolvers<LiveNames>();
  const timer = setTimeout(() => late.resolve(NO_NAMES), WAIT_MS_MAX);
  try {
    return await Promise.race([ask(io, optionIn(words), late.promise), late.promise]);
  } catch {
    // No daemon, no names.
    return NO_NAMES;
  } finally {
    clearTimeout(timer);
  }
}

async function ask(
  io: CliIo,
  option: string | undefined,
  late: Promise<unknown>,
): Promise<LiveNames> {
  const control = await ControlClient.connect(daemonPlace(io, option).endpoint.path);
  // An answer that comes too late is not waited for.
  late.then(() => control.close());
  try {
    const [targets, files] = await Promise.all([control.targets(), control.files()]);
    const names = targets.map(({ name }) => name);
    const bitmaps = targets.flatMap((target) => target.bitmaps.map(({ name }) => name));
    return { bitmaps, targets: names.filter((name) => targetNameProblem(name) === null), files };
  } finally {
    await control.close();
  }
}

function optionIn(words: readonly string[]): string | undefined {
  const at = words.findIndex((word) => word === "--control" || word.startsWith("--control="));
  const word = words[at];
  if (word === undefined) return undefined;
  return word === "--control" ? words[at + 1] : word.slice("--control=".length);
}
