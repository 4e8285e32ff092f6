/**
 * What can be registered at an open file to be done at its end, as text: `remove TARGET`,
 * `snapshot TARGET [NAME]`, `flush TARGET`, `commit TARGET`, `gc TARGET`, `merge TARGET BITMAP`,
 * `hook NAME`. An action is for the target that has the name when it is added: when that is gone it does
 * nothing.
 *
 * @module
 */
import type { Clock, Log } from "../../block/context.ts";
import { BlockError } from "../../block/errors.ts";
import { makeRequest } from "../../block/request.ts";
import { ACTION_MS_MAX } from "../../handle/limits.ts";
import type { ActionCall, OnexitAction } from "../../handle/onexit.ts";
import type { OpenFile } from "../../handle/open_file.ts";
import type { ServedTarget, Targets } from "../targets.ts";
import type { Keeper } from "./keeper.ts";
import { ACTION_TEXT_MAX } from "./limits.ts";
import { splitWords } from "./words.ts";

/** What actions need. */
export interface ActionSurroundings {
  readonly targets: Targets;
  readonly keeper: Keeper;
  readonly clock: Clock;
  readonly log: Log;
  /** Commands by the name of their hook. */
  readonly hooks: ReadonlyMap<string, readonly string[]>;
  /** Where hooks reach this daemon, null if they cannot. */
  readonly control: string | null;
}

type Run = (call: ActionCall, handle: number) => Promise<void>;

/** Makes the work of one kind of action; throws for arguments that cannot be. */
type Kind = (surroundings: ActionSurroundings, args: readonly string[]) => Run;

/** How each is written. */
const FORMS: Readonly<Record<string, string>> = {
  remove: "remove TARGET",
  snapshot: "snapshot TARGET [NAME]",
  flush: "flush TARGET",
  commit: "commit TARGET",
  gc: "gc TARGET",
  merge: "merge TARGET BITMAP",
  hook: "hook NAME",
};

const KINDS: Readonly<Record<string, Kind>> = {
  remove: ({ targets, keeper }, [name = ""]) => {
    const served = servedBy(targets, name);
    return () => keeper.removeWhole(name, served);
  },
  flush: ({ targets }, [name = ""]) => {
    const served = servedBy(targets, name);
    return async () => {
      if (targets.get(name) === served) {
        await targets.opened(name).device.submit(makeRequest("flush"));
      }
    };
  },
  snapshot: ({ targets }, [name = "", snapshot]) => {
    const served = servedBy(targets, name);
    const { management } = targets.opened(name);
    if (management?.createSnapshot === undefined) throw lacking(name, "take snapshots");
    return async ({ minor }, handle) => {
      if (targets.get(name) !== served) return;
      await management.createSnapshot?.(snapshot ?? `onexit-${minor}-${handle}`);
    };
  },
  commit: ({ targets }, [name = ""]) => {
    const served = servedBy(targets, name);
    const { management } = targets.opened(name);
    if (management?.commit === undefined) throw lacking(name, "commit");
    return async () => {
      if (targets.get(name) === served) await management.commit?.();
    };
  },
  merge: ({ targets }, [name = "", bitmap = ""]) => {
    const served = servedBy(targets, name);
    return async () => {
      if (targets.get(name) !== served) return;
      await targets.bitmap(name, { action: "merge", name: bitmap });
    };
  },
  gc: ({ targets }, [name = ""]) => {
    const served = servedBy(targets, name);
    const { management } = targets.opened(name);
    if (management?.collect === undefined) throw lacking(name, "collect garbage");
    return async () => {
      if (targets.get(name) === served) await management.collect?.();
    };
  },
  hook: (surroundings, [name = ""]) => {
    const command = surroundings.hooks.get(name);
    if (command === undefined) {
      throw new BlockError("ENOENT", `Cannot add the action: there is no hook "${name}"`);
    }
    return (call, handle) => runHook(surroundings, { name, command }, call, handle);
  },
};

/**
 * Adds an action to an open file and gives its handle. Errno: EINVAL for a malformed text, ENOENT for
 * a target or hook that there is not, EOPNOTSUPP for what the target's storage lacks, and those of
 * Onexit.add.
 */
export function addAction(
  file: OpenFile,
  text: string,
  surroundings: ActionSurroundings,
): number {
  const run = parseAction(text, surroundings);
  let handle = 0;
  const action: OnexitAction = { name: text, run: (call) => run(call, handle) };
  handle = file.onexit.add(action);
  return handle;
}

function parseAction(text: string, surroundings: ActionSurroundings): Run {
  if (text.length > ACTION_TEXT_MAX) throw malformed(text, `is longer than ${ACTION_TEXT_MAX}`);
  const words = splitWords(text);
  if (words === null) throw malformed(text, "has a quote that does not end");
  const [kind = "", ...args] = words;
  const form = Object.hasOwn(FORMS, kind) ? FORMS[kind] : undefined;
  const make = Object.hasOwn(KINDS, kind) ? KINDS[kind] : undefined;
  if (form === undefined || make === undefined) {
    throw malformed(text, `is none of ${Object.values(FORMS).join(", ")}`);
  }
  const most = kind === "snapshot" || kind === "merge" ? 2 : 1;
  const least = kind === "merge" ? 2 : 1;
  if (args.length < least || args.length > most) throw malformed(text, `is not written as ${form}`);
  return make(surroundings, args);
}

function malformed(text: string, reason: string): BlockError {
  const shown = text.length > 60 ? `${text.slice(0, 60)}…` : text;
  return new BlockError("EINVAL", `Cannot add the action "${shown}": it ${reason}`);
}

function servedBy(targets: Targets, name: string): ServedTarget {
  const served = targets.get(name);
  if (served !== null) return served;
  throw new BlockError("ENOENT", `Cannot add the action: there is no target "${name}"`);
}

function lacking(name: string, what: string): BlockError {
  return new BlockError(
    "EOPNOTSUPP",
    `Cannot add the action: the storage of ${name} cannot ${what}`,
  );
}

async function runHook(
  { clock, log, control }: ActionSurroundings,
  { name, command: [program = "", ...args] }: { name: string; command: readonly string[] },
  { minor, reason }: ActionCall,
  handle: number,
): Promise<void> {
  const child = new Deno.Command(program, {
    args,
    env: {
      DMU_MINOR: String(minor),
      DMU_HANDLE: String(handle),
      DMU_REASON: reason,
      DMU_CONTROL: control ?? "none",
    },
    stdin: "null",
    // Standard output belongs to whoever reads the results of the daemon.
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  const patience = new AbortController();
  const late = clock.sleep(ACTION_MS_MAX, patience.signal).then(() => {
    log.warn(`Hook ${name} has taken more than ${ACTION_MS_MAX} ms and is killed`);
    child.kill("SIGKILL");
  }).catch(() => {});
  const { code, signal } = await child.status;
  patience.abort();
  await late;
  if (code === 0) return;
  const how = signal === null ? `ended with code ${code}` : `was ended by ${signal}`;
  throw new BlockError("EIO", `Hook ${name} ${how}`);
}
