/**
 * Listening on a unix socket: no moment at which somebody can connect who may not, a socket file that
 * a dead server left behind is replaced, one of a living server is not. See unix(7).
 *
 * @module
 */
import { cstring, errnoName, fail, lastErrno, systemError } from "./errno.ts";
import { closeDescriptor, LISTEN_BACKLOG, openSocket } from "./socket.ts";
import { encodeUnix } from "./socket_address.ts";
import * as c from "./socket_calls.ts";
import { socketCalls } from "./socket_calls.ts";
import { SystemError } from "./system_error.ts";

/** Mode of a socket file unless told: the owner alone. */
export const UNIX_SOCKET_MODE = 0o600;
/** How often, and how many ms apart, the lock of the directory is tried for. */
const LOCK_TRIES = 50, LOCK_WAIT_MS = 10;

/** Settings of a unix listener. */
export interface UnixListenOptions {
  /** Permission bits of the socket file, UNIX_SOCKET_MODE if not told. */
  readonly mode?: number;
  /** As for listen(2); LISTEN_BACKLOG if not told. */
  readonly backlog?: number;
}

/** A unix socket that listens. */
export interface UnixListener {
  /** The descriptor, non-blocking. */
  readonly fd: number;
  /** Its path. */
  readonly path: string;
  /** Removes the socket file, unless it was replaced, and closes the descriptor. Later calls do nothing. */
  close(): void;
}

/**
 * Listens on a path. Throws EADDRINUSE if a server listens there or the file is no socket,
 * ENAMETOOLONG if the path has more than 107 bytes, EACCES, ENOENT and the like of bind(2).
 */
export function listenUnix(path: string, options: UnixListenOptions = {}): UnixListener {
  const { mode = UNIX_SOCKET_MODE, backlog = LISTEN_BACKLOG } = options;
  const address = encodeUnix(path, "listen on");
  const fd = openSocket(address, c.SOCK_NONBLOCK);
  const lock = lockDirectory(path);
  try {
    bindFresh(fd, address, path);
    const calls = socketCalls();
    // Nobody can connect before listen, so the mode is in force from the first moment.
    if (calls.chmod(cstring(path), mode) !== 0 || calls.listen(fd, backlog) !== 0) {
      const number = lastErrno();
      calls.unlink(cstring(path));
      throw systemError(number, "listen on", path);
    }
    const mine = identity(path);
    let open = true;
    const close = (): void => {
      if (!open) return;
      open = false;
      // The file goes first: as long as the socket listens no other server takes the path.
      if (mine === identity(path)) calls.unlink(cstring(path));
      closeDescriptor(fd);
    };
    return { fd, path, close };
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  } finally {
    if (lock >= 0) closeDescriptor(lock);
  }
}

function identity(path: string): string | null {
  try {
    const { dev, ino } = Deno.lstatSync(path);
    return `${dev}:${ino}`;
  } catch {
    return null;
  }
}

/**
 * A server that has bound and does not listen yet looks like a dead one, so starts in one directory
 * take turns, by a lock of the directory that leaves no file behind. Where it cannot be had (no
 * permission, somebody sits on it) the start goes on without: -1.
 */
function lockDirectory(path: string): number {
  const calls = socketCalls();
  const slash = path.lastIndexOf("/");
  const directory = slash === -1 ? "." : path.slice(0, slash + 1);
  const flags = c.O_RDONLY | c.O_CLOEXEC;
  const fd = calls.open(cstring(directory), flags, 0);
  for (let i = 0; fd >= 0 && i < LOCK_TRIES; i++) {
    if (calls.flock(fd, c.LOCK_EX | c.LOCK_NB) === 0) return fd;
    calls.poll(null, 0n, LOCK_WAIT_MS);
  }
  if (fd >= 0) closeDescriptor(fd);
  return -1;
}

function bindFresh(fd: number, address: Uint8Array<ArrayBuffer>, path: string): void {
  const calls = socketCalls();
  if (calls.bind(fd, address, address.length) === 0) return;
  if (errnoName(lastErrno()) !== "EADDRINUSE") fail("listen on", path);
  if (!isStale(address, path)) {
    throw new SystemError("EADDRINUSE", "listen on", path, "it is in use by another server");
  }
  calls.unlink(cstring(path));
  if (calls.bind(fd, address, address.length) !== 0) fail("listen on", path);
}

/** True for a socket file whose server is gone. Throws EADDRINUSE for a file that is no socket. */
function isStale(address: Uint8Array<ArrayBuffer>, path: string): boolean {
  let isSocket = true;
  try {
    isSocket = Deno.lstatSync(path).isSocket === true;
  } catch {
    // It has gone meanwhile, or cannot be looked at: connecting tells.
  }
  if (!isSocket) {
    throw new SystemError("EADDRINUSE", "listen on", path, "there is a file that is not a socket");
  }
  const probe = openSocket(address, c.SOCK_NONBLOCK);
  try {
    if (socketCalls().connect(probe, address, address.length) === 0) return false;
    const name = errnoName(lastErrno());
    return name === "ECONNREFUSED" || name === "ENOENT";
  } finally {
    closeDescriptor(probe);
  }
}
