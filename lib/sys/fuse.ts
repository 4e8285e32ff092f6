/**
 * /dev/fuse and mounting: mount(2), umount2(2), and the read and write of one request and one reply.
 * Needs root (CAP_SYS_ADMIN). All calls are made on the calling thread.
 *
 * @module
 */
import {
  cstring,
  EACCES,
  EAGAIN,
  EBUSY,
  EINTR,
  EINVAL,
  ENOENT,
  EPERM,
  fail,
  lastErrno,
  mayLoadNow,
  prepareErrno,
  systemError,
} from "./errno.ts";

const SYMBOLS = {
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  mount: { parameters: ["buffer", "buffer", "buffer", "usize", "buffer"], result: "i32" },
  umount2: { parameters: ["buffer", "i32"], result: "i32" },
} as const;

type FuseCalls = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

let table: FuseCalls | null = mayLoadNow() ? load() : null;

function load(): FuseCalls {
  prepareErrno();
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}

function calls(): FuseCalls {
  return table ??= load();
}

const DEVICE = "/dev/fuse";
/** The driver is not there, or the mount is gone. */
const ENODEV = 19;
/** The mount went away while a request was being read, or was aborted. */
const ECONNABORTED = 103;
/** Flags of open(2). */
const O_RDWR = 2, O_NONBLOCK = 0o4000, O_CLOEXEC = 0o2_000_000;
/** Flags of mount(2) and umount2(2). */
const MS_NOSUID = 2n, MS_NODEV = 4n, MNT_DETACH = 2;

/** What `readFuseRequest` gives besides a length: there is no request now; the mount is gone. */
export const FUSE_NOTHING = 0, FUSE_ENDED = -1;

/** Opens /dev/fuse: non-blocking, close-on-exec. Throws SystemError, in words that say what to do. */
export function openFuse(): number {
  for (;;) {
    const fd = calls().open(cstring(DEVICE), O_RDWR | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd >= 0) return fd;
    const errno = lastErrno();
    if (errno === EINTR) continue;
    if (errno === ENOENT || errno === ENODEV) {
      throw systemError(errno, "open", DEVICE, "this kernel has no FUSE loaded: try modprobe fuse");
    }
    if (errno === EACCES || errno === EPERM) {
      throw systemError(errno, "open", DEVICE, "permission denied, run this as root");
    }
    fail("open", DEVICE);
  }
}

/** How to mount. */
export interface MountOptions {
  /** An existing folder, or a regular file. */
  readonly path: string;
  /** What there is then: a folder, or a regular file. It has to be what `path` is. */
  readonly root: "folder" | "file";
  /** What lists of mounts show as the source. */
  readonly source: string;
  /** The kind of file system: lists of mounts show `fuse.KIND`. */
  readonly kind: string;
  /** Bytes of one READ at most. */
  readonly readBytesMax: number;
}

/** Mounts the file system that `fd` serves; requests can be read from now on. Throws SystemError. */
export function mountFuse(fd: number, options: MountOptions): void {
  const { path, root, source, kind, readBytesMax } = options;
  const mode = root === "folder" ? "40000" : "100000";
  const data = `fd=${fd},rootmode=${mode},user_id=0,group_id=0,allow_other,default_permissions,` +
    `max_read=${readBytesMax}`;
  const flags = MS_NOSUID | MS_NODEV;
  const type = cstring(`fuse.${kind}`);
  if (calls().mount(cstring(source), cstring(path), type, flags, cstring(data)) === 0) return;
  const errno = lastErrno();
  if (errno === EPERM) {
    throw systemError(errno, "mount on", path, "permission denied, run this as root");
  }
  throw systemError(errno, "mount on", path);
}

/**
 * Takes the mount on `path` away. `lazy`: its name goes at once, and the rest when nobody uses it
 * any more. False if it is in use (EBUSY) or not mounted any more (EINVAL); throws SystemError else.
 */
export function unmount(path: string, lazy: boolean): boolean {
  if (calls().umount2(cstring(path), lazy ? MNT_DETACH : 0) === 0) return true;
  const errno = lastErrno();
  if (errno === EBUSY || errno === EINVAL || errno === ENOENT) return false;
  throw systemError(errno, "unmount", path);
}

/**
 * Reads one request into `into`: its length, FUSE_NOTHING or FUSE_ENDED. Throws SystemError; EINVAL
 * if `into` is too small.
 */
export function readFuseRequest(fd: number, into: Uint8Array<ArrayBuffer>): number {
  for (;;) {
    const length = calls().read(fd, into, BigInt(into.length));
    if (length > 0) return length;
    if (length === 0) return FUSE_ENDED;
    const errno = lastErrno();
    if (errno === EAGAIN) return FUSE_NOTHING;
    if (errno === ENODEV || errno === ECONNABORTED) return FUSE_ENDED;
    // ENOENT: the request was taken back while it was being read.
    if (errno !== EINTR && errno !== ENOENT) fail("read", DEVICE);
  }
}

/**
 * Writes one reply. False if nobody waits for it any more: its request was aborted, or the mount is
 * gone. Throws SystemError; EINVAL for a reply that is malformed.
 */
export function writeFuseReply(fd: number, reply: Uint8Array<ArrayBuffer>): boolean {
  for (;;) {
    if (calls().write(fd, reply, BigInt(reply.length)) === reply.length) return true;
    const errno = lastErrno();
    if (errno === ENOENT || errno === ENODEV) return false;
    if (errno !== EINTR) fail("write to", DEVICE);
  }
}
