/**
 * The one errno table: symbolic errno, Linux number, NBD error value, words, and which of Deno's
 * error classes mean it. Linux numbers are those of asm-generic (x86-64 and aarch64); NBD values are
 * those of the NBD protocol document, section "Error values", whose set is closed: whatever has no
 * value of its own there travels as EIO or EINVAL.
 *
 * @module
 */

interface ErrnoRow {
  readonly linux: number;
  readonly nbd: number;
  readonly text: string;
}

const NBD_EPERM = 1, NBD_EIO = 5, NBD_ENOMEM = 12, NBD_EINVAL = 22, NBD_ENOSPC = 28;
const NBD_EOVERFLOW = 75, NBD_ENOTSUP = 95, NBD_ESHUTDOWN = 108;

/** A symbolic errno of the table. */
export type Errno =
  | "EPERM"
  | "ENOENT"
  | "EINTR"
  | "EIO"
  | "ENXIO"
  | "E2BIG"
  | "EBADF"
  | "EAGAIN"
  | "ENOMEM"
  | "EACCES"
  | "EFAULT"
  | "ENOTBLK"
  | "EBUSY"
  | "EEXIST"
  | "ENODEV"
  | "ENOTDIR"
  | "EISDIR"
  | "EINVAL"
  | "ENFILE"
  | "EMFILE"
  | "ENOTTY"
  | "ETXTBSY"
  | "EFBIG"
  | "ENOSPC"
  | "ESPIPE"
  | "EROFS"
  | "EPIPE"
  | "ERANGE"
  | "ENAMETOOLONG"
  | "ENOSYS"
  | "ELOOP"
  | "EPROTO"
  | "EOVERFLOW"
  | "ENOTSOCK"
  | "EMSGSIZE"
  | "EOPNOTSUPP"
  | "EADDRINUSE"
  | "EADDRNOTAVAIL"
  | "ENETUNREACH"
  | "ECONNABORTED"
  | "ECONNRESET"
  | "ENOBUFS"
  | "ENOTCONN"
  | "ESHUTDOWN"
  | "ETIMEDOUT"
  | "ECONNREFUSED"
  | "EHOSTUNREACH"
  | "EALREADY"
  | "EREMOTEIO"
  | "EDQUOT"
  | "ECANCELED";

const ERRNO_TABLE: Readonly<Record<Errno, ErrnoRow>> = {
  EPERM: { linux: 1, nbd: NBD_EPERM, text: "operation not permitted" },
  ENOENT: { linux: 2, nbd: NBD_EINVAL, text: "no such file or directory" },
  EINTR: { linux: 4, nbd: NBD_EIO, text: "interrupted" },
  EIO: { linux: 5, nbd: NBD_EIO, text: "input/output error" },
  ENXIO: { linux: 6, nbd: NBD_EIO, text: "no such device or address" },
  E2BIG: { linux: 7, nbd: NBD_EINVAL, text: "too big" },
  EBADF: { linux: 9, nbd: NBD_EIO, text: "bad file descriptor" },
  EAGAIN: { linux: 11, nbd: NBD_EIO, text: "resource temporarily unavailable" },
  ENOMEM: { linux: 12, nbd: NBD_ENOMEM, text: "out of memory" },
  EACCES: { linux: 13, nbd: NBD_EPERM, text: "permission denied" },
  EFAULT: { linux: 14, nbd: NBD_EIO, text: "bad address" },
  ENOTBLK: { linux: 15, nbd: NBD_EIO, text: "block device required" },
  EBUSY: { linux: 16, nbd: NBD_EIO, text: "device or resource busy" },
  EEXIST: { linux: 17, nbd: NBD_EINVAL, text: "already exists" },
  ENODEV: { linux: 19, nbd: NBD_EIO, text: "no such device" },
  ENOTDIR: { linux: 20, nbd: NBD_EINVAL, text: "not a directory" },
  EISDIR: { linux: 21, nbd: NBD_EINVAL, text: "is a directory" },
  EINVAL: { linux: 22, nbd: NBD_EINVAL, text: "invalid argument" },
  ENFILE: { linux: 23, nbd: NBD_EIO, text: "too many open files in the system" },
  EMFILE: { linux: 24, nbd: NBD_EIO, text: "too many open files" },
  ENOTTY: { linux: 25, nbd: NBD_EIO, text: "inappropriate control operation" },
  ETXTBSY: { linux: 26, nbd: NBD_EIO, text: "file is being executed" },
  EFBIG: { linux: 27, nbd: NBD_ENOSPC, text: "file too large" },
  ENOSPC: { linux: 28, nbd: NBD_ENOSPC, text: "no space left on device" },
  ESPIPE: { linux: 29, nbd: NBD_EIO, text: "illegal seek" },
  EROFS: { linux: 30, nbd: NBD_EPERM, text: "read-only" },
  EPIPE: { linux: 32, nbd: NBD_EIO, text: "broken pipe" },
  ERANGE: { linux: 34, nbd: NBD_EINVAL, text: "out of range" },
  ENAMETOOLONG: { linux: 36, nbd: NBD_EINVAL, text: "name too long" },
  ENOSYS: { linux: 38, nbd: NBD_EINVAL, text: "not implemented" },
  ELOOP: { linux: 40, nbd: NBD_EINVAL, text: "too many levels of symbolic links" },
  EPROTO: { linux: 71, nbd: NBD_EIO, text: "protocol error" },
  EOVERFLOW: { linux: 75, nbd: NBD_EOVERFLOW, text: "value too large" },
  ENOTSOCK: { linux: 88, nbd: NBD_EIO, text: "not a socket" },
  EMSGSIZE: { linux: 90, nbd: NBD_EIO, text: "message too long" },
  EOPNOTSUPP: { linux: 95, nbd: NBD_ENOTSUP, text: "operation not supported" },
  EADDRINUSE: { linux: 98, nbd: NBD_EIO, text: "address in use" },
  EADDRNOTAVAIL: { linux: 99, nbd: NBD_EIO, text: "address not available" },
  ENETUNREACH: { linux: 101, nbd: NBD_EIO, text: "network unreachable" },
  ECONNABORTED: { linux: 103, nbd: NBD_EIO, text: "connection aborted" },
  ECONNRESET: { linux: 104, nbd: NBD_EIO, text: "connection reset" },
  ENOBUFS: { linux: 105, nbd: NBD_ENOMEM, text: "no buffer space" },
  ENOTCONN: { linux: 107, nbd: NBD_EIO, text: "not connected" },
  ESHUTDOWN: { linux: 108, nbd: NBD_ESHUTDOWN, text: "shutting down" },
  ETIMEDOUT: { linux: 110, nbd: NBD_EIO, text: "timed out" },
  ECONNREFUSED: { linux: 111, nbd: NBD_EIO, text: "connection refused" },
  EHOSTUNREACH: { linux: 113, nbd: NBD_EIO, text: "host unreachable" },
  EALREADY: { linux: 114, nbd: NBD_EIO, text: "already in progress" },
  EREMOTEIO: { linux: 121, nbd: NBD_EIO, text: "remote input/output error" },
  EDQUOT: { linux: 122, nbd: NBD_ENOSPC, text: "disk quota exceeded" },
  ECANCELED: { linux: 125, nbd: NBD_EIO, text: "cancelled" },
};

const BY_LINUX = new Map<number, Errno>();
const BY_NBD = new Map<number, Errno>([
  [NBD_EPERM, "EPERM"],
  [NBD_EIO, "EIO"],
  [NBD_ENOMEM, "ENOMEM"],
  [NBD_EINVAL, "EINVAL"],
  [NBD_ENOSPC, "ENOSPC"],
  [NBD_EOVERFLOW, "EOVERFLOW"],
  [NBD_ENOTSUP, "EOPNOTSUPP"],
  [NBD_ESHUTDOWN, "ESHUTDOWN"],
]);

/** True if `name` is a symbolic errno of the table. */
export function isErrno(name: string): name is Errno {
  return Object.hasOwn(ERRNO_TABLE, name);
}

for (const name of Object.keys(ERRNO_TABLE)) {
  if (isErrno(name)) BY_LINUX.set(ERRNO_TABLE[name].linux, name);
}

/** Linux's number of an errno, 1 to 125. */
export function errnoToLinux(errno: Errno): number {
  return ERRNO_TABLE[errno].linux;
}

/** The errno of a Linux number; a number that is not in the table is EIO. */
export function errnoFromLinux(number: number): Errno {
  return BY_LINUX.get(number) ?? "EIO";
}

/** NBD's error value of an errno. */
export function errnoToNbd(errno: Errno): number {
  return ERRNO_TABLE[errno].nbd;
}

/** The errno of an NBD error value; an unknown value is EINVAL, as the protocol document asks. */
export function errnoFromNbd(value: number): Errno {
  return BY_NBD.get(value) ?? "EINVAL";
}

/** What an errno means, in words. */
export function errnoText(errno: Errno): string {
  return ERRNO_TABLE[errno].text;
}

/**
 * A block operation failed for a reason that has an errno. The only error that backends throw.
 *
 * @example
 * ```ts
 * import { BlockError } from "./errors.ts";
 * const error = new BlockError("ENOSPC", "Cannot allocate a cluster: the image is full");
 * if (error.errno !== "ENOSPC") throw error;
 * ```
 */
export class BlockError extends Error {
  /** The symbolic errno. */
  readonly errno: Errno;

  /** `message` says what could not be done and why: "Cannot do X: reason", no full stop. */
  constructor(errno: Errno, message?: string, options?: { cause?: unknown }) {
    super(message ?? `Cannot do the operation: ${errnoText(errno)}`, options);
    this.name = "BlockError";
    this.errno = errno;
  }
}

type ErrorClass = new (...args: never[]) => Error;

/** Deno's error classes that stand for an errno; most carry `code` as well, which goes first. */
const BY_CLASS: readonly (readonly [ErrorClass, Errno])[] = [
  [Deno.errors.NotFound, "ENOENT"],
  [Deno.errors.PermissionDenied, "EACCES"],
  [Deno.errors.NotCapable, "EACCES"],
  [Deno.errors.ConnectionRefused, "ECONNREFUSED"],
  [Deno.errors.ConnectionReset, "ECONNRESET"],
  [Deno.errors.ConnectionAborted, "ECONNABORTED"],
  [Deno.errors.NotConnected, "ENOTCONN"],
  [Deno.errors.AddrInUse, "EADDRINUSE"],
  [Deno.errors.AddrNotAvailable, "EADDRNOTAVAIL"],
  [Deno.errors.BrokenPipe, "EPIPE"],
  [Deno.errors.AlreadyExists, "EEXIST"],
  [Deno.errors.TimedOut, "ETIMEDOUT"],
  [Deno.errors.Interrupted, "EINTR"],
  [Deno.errors.WouldBlock, "EAGAIN"],
  [Deno.errors.UnexpectedEof, "EIO"],
  [Deno.errors.BadResource, "EBADF"],
  [Deno.errors.Busy, "EBUSY"],
  [Deno.errors.NotSupported, "EOPNOTSUPP"],
  [Deno.errors.FilesystemLoop, "ELOOP"],
  [Deno.errors.IsADirectory, "EISDIR"],
  [Deno.errors.NotADirectory, "ENOTDIR"],
  [Deno.errors.NetworkUnreachable, "ENETUNREACH"],
];

function errnoOf(error: Error): Errno | null {
  if ("code" in error && typeof error.code === "string" && isErrno(error.code)) return error.code;
  // The BlockError of another copy of this module: a backend from a file, loaded into a bundle.
  if ("errno" in error && typeof error.errno === "string" && isErrno(error.errno)) {
    return error.errno;
  }
  for (const [type, errno] of BY_CLASS) {
    if (error instanceof type) return errno;
  }
  return null;
}

/** True if `error` has an errno of its own; anything else that is thrown is a bug. */
export function hasErrno(error: unknown): boolean {
  return error instanceof BlockError || (error instanceof Error && errnoOf(error) !== null);
}

/**
 * The edge where an exception becomes an errno: a BlockError stays, system, node and Deno errors get
 * their errno, everything else is a bug and becomes EIO with the bug as its cause.
 */
export function toBlockError(error: unknown): BlockError {
  if (error instanceof BlockError) return error;
  if (error instanceof Error) {
    return new BlockError(errnoOf(error) ?? "EIO", error.message, { cause: error });
  }
  return new BlockError("EIO", `Cannot do the operation: ${String(error)}`, { cause: error });
}
