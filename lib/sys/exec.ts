/**
 * Becoming another program: execve(2) by way of execvp(3), which looks for the command along PATH. The
 * kernel ends all threads of this process, resets signal handlers and closes what is close-on-exec.
 * What remains of the runtime is undone here: it ignores SIGPIPE, raises the soft limit of open files to
 * the hard one, and adds to the environment, to PATH among others. Signals that were ignored or blocked when this process began stay so, as with
 * nohup(1) and env(1).
 *
 * @module
 */
import { cstring, lastErrno, mayLoadNow, prepareErrno, systemError } from "./errno.ts";

const SYMBOLS = {
  clearenv: { parameters: [], result: "i32" },
  execvp: { parameters: ["buffer", "buffer"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  getppid: { parameters: [], result: "i32" },
  setenv: { parameters: ["buffer", "buffer", "i32"], result: "i32" },
  unsetenv: { parameters: ["buffer"], result: "i32" },
  prlimit: { parameters: ["i32", "i32", "buffer", "buffer"], result: "i32" },
  signal: { parameters: ["i32", "pointer"], result: "pointer" },
} as const;

type Calls = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

let table: Calls | null = mayLoadNow() ? load() : null;

function load(): Calls {
  prepareErrno();
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}

function calls(): Calls {
  return table ??= load();
}

const SIGPIPE = 13;
const RLIMIT_NOFILE = 7;
/** Commands of fcntl, and the flag of F_GETFD and F_SETFD. */
const F_GETFD = 1, F_SETFD = 2, FD_CLOEXEC = 1;

/** Lets a descriptor stay open over `becomeCommand`. Throws EBADF if it is not open. */
export function keepOverExec(fd: number): void {
  const flags = calls().fcntl(fd, F_GETFD, 0);
  if (flags >= 0 && calls().fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC) >= 0) return;
  throw systemError(lastErrno(), "keep open", `descriptor ${fd}`);
}

/**
 * Replaces this process by a command, `words[0]`, with the working directory, all descriptors that are
 * not close-on-exec, and the environment that this process was started with, changed by `changes` (null
 * removes a variable). Comes back only to throw, with the environment changed: ENOENT if there is no
 * such command, EACCES if it may not be run, E2BIG, ENOEXEC and the like of execve(2).
 */
export function becomeCommand(
  words: readonly [string, ...string[]],
  changes: ReadonlyMap<string, string | null> = new Map(),
): never {
  const texts = exactBytes(words.map(cstring));
  // An address does not keep memory alive: `texts` does, until the call is over.
  const addresses = new BigUint64Array(texts.length + 1);
  for (const [at, text] of texts.entries()) {
    addresses[at] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(text));
  }
  restoreEnvironment(changes);
  const undo = restoreOrigin();
  calls().execvp(texts[0] ?? cstring(""), new Uint8Array(addresses.buffer));
  const number = lastErrno();
  undo();
  throw systemError(number, "run", JSON.stringify(words[0]));
}

/**
 * The same words as they were written on the command line, if they are its end: the runtime replaces
 * what is not UTF-8, and a file name may be anything.
 */
function exactBytes(words: Uint8Array<ArrayBuffer>[]): Uint8Array<ArrayBuffer>[] {
  const last = stringsIn("/proc/self/cmdline")?.slice(-words.length) ?? [];
  const text = new TextDecoder();
  const same = last.length === words.length &&
    last.every((each, at) => text.decode(each) === text.decode(words[at]));
  return same ? last : words;
}

/** The C strings that a file is made of, each with its NUL; null if it cannot be read. */
function stringsIn(path: string): Uint8Array<ArrayBuffer>[] | null {
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = Deno.readFileSync(path);
  } catch {
    // No /proc here.
    return null;
  }
  const strings: Uint8Array<ArrayBuffer>[] = [];
  for (let start = 0, end = 0; start < bytes.length; start = end) {
    end = bytes.indexOf(0, start) + 1;
    if (end === 0) break;
    strings.push(bytes.slice(start, end));
  }
  return strings;
}

/** The environment as it was at the start, byte by byte, and with the changes. See proc(5), environ. */
function restoreEnvironment(changes: ReadonlyMap<string, string | null>): void {
  const initial = stringsIn("/proc/self/environ");
  if (initial !== null) calls().clearenv();
  const EQUALS = 61;
  for (const each of initial ?? []) {
    const equals = each.indexOf(EQUALS);
    if (equals <= 0) continue;
    const name = each.slice(0, equals + 1);
    name[equals] = 0;
    // Of two with one name the first one counts.
    calls().setenv(name, each.slice(equals + 1), 0);
  }
  for (const [name, value] of changes) {
    if (value === null) calls().unsetenv(cstring(name));
    else calls().setenv(cstring(name), cstring(value), 1);
  }
}

/** Undoes what the runtime has changed of this process. Gives what brings it back. */
function restoreOrigin(): () => void {
  const ignored = calls().signal(SIGPIPE, null);
  const before = new BigUint64Array(2);
  const bytes = new Uint8Array(before.buffer);
  calls().prlimit(0, RLIMIT_NOFILE, null, bytes);
  const soft = originalFileLimit();
  if (soft !== null && soft < (before[0] ?? 0n)) {
    const lowered = new BigUint64Array([soft, before[1] ?? 0n]);
    calls().prlimit(0, RLIMIT_NOFILE, new Uint8Array(lowered.buffer), null);
  }
  return () => {
    calls().signal(SIGPIPE, ignored);
    calls().prlimit(0, RLIMIT_NOFILE, bytes, null);
  };
}

/** What this process began with is not recorded anywhere; nearly always it is what its parent has. */
function originalFileLimit(): bigint | null {
  try {
    const limits = Deno.readTextFileSync(`/proc/${calls().getppid()}/limits`);
    const soft = /^Max open files\s+(\d+)\s/m.exec(limits)?.[1];
    return soft === undefined ? null : BigInt(soft);
  } catch {
    // The parent has gone, or belongs to somebody else.
    return null;
  }
}
