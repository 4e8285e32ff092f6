/**
 * Becoming another program: execve(2) by way of execvp(3), which looks for the command along PATH. The
 * kernel ends all threads of this process, resets signal handlers and closes what is close-on-exec.
 * What remains of the runtime is undone here: it ignores SIGPIPE and raises the soft limit of open
 * files to the hard one. Signals that were ignored or blocked when this process began stay so, as with
 * nohup(1) and env(1).
 *
 * @module
 */
import { cstring, lastErrno, mayLoadNow, prepareErrno, systemError } from "./errno.ts";

const SYMBOLS = {
  execvp: { parameters: ["buffer", "buffer"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  getppid: { parameters: [], result: "i32" },
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
 * Replaces this process by a command, `words[0]`, with the environment as it is now (Deno.env), the
 * working directory and all descriptors that are not close-on-exec. Comes back only to throw: ENOENT
 * if there is no such command, EACCES if it may not be run, E2BIG, ENOEXEC and the like of execve(2).
 */
export function becomeCommand(words: readonly [string, ...string[]]): never {
  const texts = exactBytes(words.map(cstring));
  // An address does not keep memory alive: `texts` does, until the call is over.
  const addresses = new BigUint64Array(texts.length + 1);
  for (const [at, text] of texts.entries()) {
    addresses[at] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(text));
  }
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
  let line: Uint8Array<ArrayBuffer>;
  try {
    line = Deno.readFileSync("/proc/self/cmdline");
  } catch {
    // No /proc here.
    return words;
  }
  const exact: Uint8Array<ArrayBuffer>[] = [];
  for (let start = 0, end = 0; start < line.length; start = end) {
    end = line.indexOf(0, start) + 1;
    if (end === 0) end = line.length;
    exact.push(line.slice(start, end));
  }
  const last = exact.slice(-words.length);
  const text = new TextDecoder();
  const same = last.length === words.length &&
    last.every((each, at) => text.decode(each) === text.decode(words[at]));
  return same ? last : words;
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
