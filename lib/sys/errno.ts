/**
 * errno of the C library: what a failed system call leaves behind, read right after the call on the
 * same thread. Numbers are those of Linux's asm-generic/errno-base.h and errno.h (x86-64, aarch64).
 * Importing this file needs no permission: what is not allowed then is loaded at first use.
 *
 * @module
 */
import { SystemError } from "./system_error.ts";

/** Names in the order of their numbers, from 1; "-" where Linux has none. EAGAIN is EWOULDBLOCK too. */
const NAMES = ("- EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM " +
  "EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY " +
  "ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS " +
  "ENOTEMPTY ELOOP - ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT " +
  "EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT - EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG " +
  "EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD " +
  "EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK " +
  "EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP " +
  "EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET " +
  "ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT " +
  "ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM " +
  "EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED " +
  "EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON").split(" ");

interface Thread {
  /** This thread's errno. It lives as long as the thread does. */
  readonly errno: Int32Array;
  /** Words for a number. */
  describe(number: number): string;
}

/**
 * True if a C library may be loaded while a module is being imported: on Linux, with the permission
 * to do so. Symbol tables are loaded then rather than at first use, which keeps that cost, and what
 * the test runner's resource sanitizer sees, out of the first call.
 */
export function mayLoadNow(): boolean {
  return Deno.build.os === "linux" &&
    Deno.permissions.querySync({ name: "ffi" }).state === "granted";
}

let thread: Thread | null = mayLoadNow() ? load() : null;

function load(): Thread {
  const { symbols } = Deno.dlopen("libc.so.6", {
    __errno_location: { parameters: [], result: "pointer" },
    strerror: { parameters: ["i32"], result: "pointer" },
  });
  const location = symbols.__errno_location();
  if (location === null) throw new Error("Cannot find errno: __errno_location gave no address");
  return {
    errno: new Int32Array(Deno.UnsafePointerView.getArrayBuffer(location, 4)),
    describe(number: number): string {
      const text = symbols.strerror(number);
      return text === null ? `error ${number}` : Deno.UnsafePointerView.getCString(text);
    },
  };
}

/**
 * Gets this thread's errno ready to be read. Called by whoever opens a symbol table, before any call
 * that may fail: loading a library changes errno.
 */
export function prepareErrno(): void {
  thread ??= load();
}

/** The errno of this thread's last failed call; to be read before anything else is called. */
export function lastErrno(): number {
  if (thread === null) {
    throw new Error("Cannot read errno: prepareErrno was not called before the call");
  }
  return thread.errno[0] ?? 0;
}

/** The symbolic name of an errno, "EIO" for 5; "EUNKNOWN" for a number that Linux does not have. */
export function errnoName(number: number): string {
  const name = NAMES[number] ?? "-";
  return name === "-" ? "EUNKNOWN" : name;
}

/** The C library's words for an errno, "input/output error" for 5. */
export function errnoWords(number: number): string {
  thread ??= load();
  const text = thread.describe(number);
  return text.charAt(0).toLowerCase() + text.slice(1);
}

/** The error of a call that failed with `number`; `text` replaces the C library's words. */
export function systemError(
  number: number,
  call: string,
  subject: string,
  text?: string,
): SystemError {
  return new SystemError(errnoName(number), call, subject, text ?? errnoWords(number));
}

/** Throws the SystemError of a call that has just failed on this thread. */
export function fail(call: string, subject: string): never {
  throw systemError(lastErrno(), call, subject);
}

const ENCODER = new TextEncoder();

/**
 * Text as a C string, NUL at its end. Throws EINVAL if it holds a NUL itself. Keep a reference to
 * the result for as long as C may look at it.
 */
export function cstring(text: string): Uint8Array<ArrayBuffer> {
  if (text.includes("\0")) {
    throw new SystemError("EINVAL", "use", JSON.stringify(text), "it holds a NUL character");
  }
  return ENCODER.encode(text + "\0");
}

/** errno numbers that are looked at by number. */
export const ENOENT = 2,
  EPERM = 1,
  EINTR = 4,
  ENXIO = 6,
  EBADF = 9,
  EAGAIN = 11,
  EACCES = 13,
  EBUSY = 16,
  EEXIST = 17,
  EINVAL = 22,
  ENOTTY = 25,
  EROFS = 30,
  ENOLCK = 37,
  ENOSYS = 38,
  EOPNOTSUPP = 95;
