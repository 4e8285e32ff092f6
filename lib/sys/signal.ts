/**
 * Waking a thread that blocks in a system call, where nothing else can: a signal whose handler does
 * nothing, installed without SA_RESTART, ends the call with EINTR. See tgkill(2), sigaction(2),
 * signal(7). A signal that comes just before the thread blocks is lost: repeat it until the thread has
 * said that it heard.
 *
 * @module
 */
import { fail, lastErrno, mayLoadNow, prepareErrno } from "./errno.ts";
import { SystemError } from "./system_error.ts";

const SYMBOLS = {
  gettid: { parameters: [], result: "i32" },
  tgkill: { parameters: ["i32", "i32", "i32"], result: "i32" },
  sigaction: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  dlsym: { parameters: ["pointer", "buffer"], result: "pointer" },
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

/** struct sigaction of glibc (x86-64, aarch64): handler, 1024 bits of mask, flags, restorer. */
const ACTION_BYTES = 152;
/** Real-time signals that are looked at, from the last: the first ones have other users. */
const SIGNAL_MAX = 60, SIGNAL_MIN = 40;
const ESRCH = 3;

/**
 * Address of a C function that a handler may be: it takes an int, calls nothing and keeps nothing. A
 * handler written in JavaScript could not run in a signal.
 */
function harmlessHandler(): bigint {
  const address = calls().dlsym(null, new TextEncoder().encode("abs\0"));
  if (address === null) throw new Error("Cannot make a signal handler: the C library has no abs");
  return Deno.UnsafePointer.value(address);
}

let wakeSignal: number | null = null;

/** Installs the handler for the first real-time signal that nobody uses, once a process. */
function installed(): number {
  if (wakeSignal !== null) return wakeSignal;
  const handler = harmlessHandler();
  const before = new DataView(new ArrayBuffer(ACTION_BYTES));
  const action = new DataView(new ArrayBuffer(ACTION_BYTES));
  action.setBigUint64(0, handler, true); // no flags: no SA_RESTART
  for (let signal = SIGNAL_MAX; signal >= SIGNAL_MIN; signal--) {
    if (calls().sigaction(signal, null, before) !== 0) fail("look at", `signal ${signal}`);
    const current = before.getBigUint64(0, true);
    // Another thread of this program may have installed it before.
    if (current !== 0n && current !== handler) continue;
    if (calls().sigaction(signal, action, null) !== 0) fail("handle", `signal ${signal}`);
    return wakeSignal = signal;
  }
  throw new SystemError("EBUSY", "find", "a signal to wake threads with", "all are in use");
}

/** The kernel's number of this thread, for `wakeThread`. */
export function currentThread(): number {
  return calls().gettid();
}

/**
 * Ends the system call in which a thread of this process blocks, with EINTR. False if there is no such
 * thread. The number of a thread that has ended may be given to another one, so call this only while
 * the thread is known to live.
 */
export function wakeThread(thread: number): boolean {
  if (calls().tgkill(Deno.pid, thread, installed()) === 0) return true;
  if (lastErrno() !== ESRCH) fail("wake", `thread ${thread}`);
  return false;
}
