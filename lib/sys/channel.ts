/**
 * The control device of dm-user as a descriptor: blocking reads and writes that give a count or an
 * errno. `poll` and non-blocking modes mean nothing to the device, so a thread that reads is gone
 * until a message comes; `wakeThread` brings it back. Any thread may write while another one reads.
 *
 * @module
 */
import { cstring, fail, lastErrno, mayLoadNow } from "./errno.ts";
import { closeDescriptor } from "./socket.ts";
import { O_CLOEXEC, socketCalls } from "./socket_calls.ts";
import { SystemError } from "./system_error.ts";

const SYMBOLS = {
  prctl: { parameters: ["i32", "usize", "usize", "usize", "usize"], result: "i32" },
} as const;

type Calls = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

let table: Calls | null = mayLoadNow() ? load() : null;

function load(): Calls {
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}

function calls(): Calls {
  return table ??= load();
}

const O_RDWR = 2;

/** What `readChannel` and `writeChannel` give where errno is EINTR: a signal came, nothing was done. */
export const INTERRUPTED: number = -4;
/** What `readChannel` gives when the target was removed (ENOTBLK). */
export const TARGET_REMOVED: number = -15;

/**
 * Opens a channel: one open of a control device, close-on-exec, because a child that inherited it
 * would keep it alive. Throws SystemError: ENOENT (no such target), EACCES …
 */
export function openChannel(path: string): number {
  const fd = socketCalls().open(cstring(path), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) fail("open", path);
  return fd;
}

/** Waits for bytes: their count, or minus the errno. Blocks this thread. */
export function readChannel(fd: number, into: Uint8Array<ArrayBuffer>): number {
  const count = socketCalls().read(fd, into, BigInt(into.length));
  return count >= 0 ? count : -lastErrno();
}

/** Writes bytes: how many were taken, or minus the errno. */
export function writeChannel(fd: number, from: Uint8Array<ArrayBuffer>): number {
  const count = socketCalls().write(fd, from, BigInt(from.length));
  return count >= 0 ? count : -lastErrno();
}

/**
 * Closes a channel, once. No thread may be in `readChannel` on it: it would go on reading. What a file
 * of a dead simulator says to a close is no news: the descriptor is gone all the same.
 */
export function closeChannel(fd: number): void {
  try {
    closeDescriptor(fd);
  } catch (error) {
    if (!(error instanceof SystemError) || error.code === "EBADF") throw error;
  }
}

const PR_SET_IO_FLUSHER = 57;

/**
 * Tells the kernel that this thread completes block I/O: when memory is short, its allocations must not
 * wait for writes that only it can complete. Threads that it starts later inherit it. False where that
 * is not allowed (it takes CAP_SYS_RESOURCE) or not known (before Linux 5.6). See prctl(2).
 */
export function becomeIoFlusher(): boolean {
  return calls().prctl(PR_SET_IO_FLUSHER, 1n, 0n, 0n, 0n) === 0;
}
