/**
 * How a daemon is steered, as a configuration says it: control sockets, the domains of users, hooks.
 *
 * @module
 */
import * as v from "valibot";
import { type Place, UsageError } from "../block/usage_error.ts";
import { isDomid } from "../xenstore/domains.ts";
import { CONTROL_SOCKETS_MAX, HOOK_WORDS_MAX, HOOKS_MAX } from "./control/limits.ts";
import { formatEndpoint, type UnixEndpoint } from "./endpoint.ts";

/** Where and by whom a daemon is steered. */
export interface ControlConfig {
  /** Control sockets. */
  readonly sockets: readonly UnixEndpoint[];
  /** Paths of xenbus files: each is made as a file system in user space. */
  readonly xenbus: readonly string[];
  /** Domains of users besides root and the one of the daemon, by user id; others are refused. */
  readonly users: ReadonlyMap<number, number>;
  /** If a socket belongs to another daemon, go on without control instead of failing. */
  readonly ifFree: boolean;
}

/** Commands that onexit actions can run, by the name of the hook: the program and its arguments. */
export type Hooks = ReadonlyMap<string, readonly string[]>;

/** Highest user id: the one above it stands for none. */
const UID_MAX = 2 ** 32 - 2;

/** Finds where a key of a table is written. */
export type FindPlace = (key: string, part: "name" | "value") => Place;

/** Reads `[control.users]`: domains by user id. Throws UsageError. */
export function parseUsers(
  table: Readonly<Record<string, unknown>>,
  find: FindPlace,
): ReadonlyMap<number, number> {
  const users = new Map<number, number>();
  for (const [key, value] of Object.entries(table)) {
    const refuse = (reason: string, part: "name" | "value"): UsageError =>
      new UsageError(`Cannot read [control.users]: ${reason}`, find(key, part));
    const uid = /^\d{1,10}$/.test(key) ? Number(key) : Number.NaN;
    if (!(uid <= UID_MAX)) throw refuse(`"${key}" is no user id`, "name");
    if (typeof value !== "number" || !isDomid(value)) {
      throw refuse(`user ${key} needs the number of a domain, 0 to 32751`, "value");
    }
    users.set(uid, value);
  }
  return users;
}

const hookSchema = v.strictObject({
  command: v.pipe(
    v.array(v.pipe(v.string(), v.check((word) => !word.includes("\0")))),
    v.minLength(1),
    v.maxLength(HOOK_WORDS_MAX),
    v.check(([program]) => program !== undefined && program.startsWith("/")),
  ),
});

/** Reads the tables `[hook.NAME]`. Throws UsageError. */
export function parseHooks(
  tables: Readonly<Record<string, unknown>>,
  find: FindPlace,
): Hooks {
  const hooks = new Map<string, readonly string[]>();
  for (const [name, table] of Object.entries(tables)) {
    const refuse = (reason: string): UsageError =>
      new UsageError(`Cannot read [hook.${name}]: ${reason}`, find(name, "name"));
    if (!/^[A-Za-z0-9._-]{1,64}$/.test(name)) {
      throw refuse("a name is made of letters, digits, dots, underscores and hyphens");
    }
    if (hooks.size >= HOOKS_MAX) throw refuse(`there are more than ${HOOKS_MAX} hooks`);
    const result = v.safeParse(hookSchema, table);
    if (!result.success) {
      throw refuse('it needs command = ["/PATH/OF/PROGRAM", "ARGUMENT", …] and nothing else');
    }
    hooks.set(name, result.output.command);
  }
  return hooks;
}

/** Checks what no single part shows. Throws UsageError. */
export function checkControl({ sockets, xenbus }: ControlConfig): void {
  if (sockets.length > CONTROL_SOCKETS_MAX || xenbus.length > CONTROL_SOCKETS_MAX) {
    throw new UsageError(
      `Cannot serve: there are more than ${CONTROL_SOCKETS_MAX} control sockets or xenbus files`,
    );
  }
  const paths = new Set<string>();
  for (const socket of sockets) {
    if (paths.has(socket.path)) {
      throw new UsageError(`Cannot be steered on "${formatEndpoint(socket)}": it is given twice`);
    }
    paths.add(socket.path);
  }
}
