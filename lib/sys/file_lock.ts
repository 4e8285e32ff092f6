/**
 * Keeps two programs from writing one file: open file description locks (fcntl_locking(2)), which go
 * with the descriptor and end with it. They are on the bytes that qemu uses for its image locks and
 * mean the same, so that dmu and qemu keep out of each other's way: a shared lock on byte 100 + p says
 * "I have permission p", one on byte 200 + p "nobody else may have p". Everybody locks first and then
 * looks for contradictions, so of two that start at once at most one goes on.
 *
 * @module
 */
import {
  EACCES,
  EAGAIN,
  EINVAL,
  ENOLCK,
  ENOSYS,
  EOPNOTSUPP,
  fail,
  lastErrno,
  systemError,
} from "./errno.ts";
import { libc } from "./libc.ts";

const F_OFD_GETLK = 36, F_OFD_SETLK = 37;
const F_RDLCK = 0, F_WRLCK = 1, F_UNLCK = 2;
/** struct flock: short l_type, short l_whence, off_t l_start at 8, off_t l_len at 16, pid_t at 24. */
const FLOCK_BYTES = 32, AT_START = 8, AT_LENGTH = 16;

const HELD = 100, REFUSED_TO_OTHERS = 200;
/** Permissions: read consistent data, write, resize. */
const READ = 0, WRITE = 1, RESIZE = 3;
const OF_READER: readonly number[] = [READ];
const OF_WRITER: readonly number[] = [READ, WRITE, RESIZE];
const REFUSED: readonly number[] = [WRITE, RESIZE];

function lockOf(type: number, byte: number): DataView<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(FLOCK_BYTES));
  view.setInt16(0, type, true);
  view.setBigInt64(AT_START, BigInt(byte), true);
  view.setBigInt64(AT_LENGTH, 1n, true);
  return view;
}

function inUse(path: string): never {
  const reason = "it is in use by another process; end that, or open it without a lock for a look";
  throw systemError(EAGAIN, "open", path, reason);
}

function lockByte(descriptor: number, path: string, byte: number): void {
  if (libc().fcntl(descriptor, F_OFD_SETLK, lockOf(F_RDLCK, byte)) === 0) return;
  const errno = lastErrno();
  if (errno === EAGAIN || errno === EACCES) inUse(path);
  if (errno === ENOLCK || errno === ENOSYS || errno === EOPNOTSUPP || errno === EINVAL) {
    throw systemError(errno, "lock", path, "its file system has no locks, open it without");
  }
  fail("lock", path);
}

/** Throws EAGAIN if somebody else has a lock on the byte. */
function requireFree(descriptor: number, path: string, byte: number): void {
  const lock = lockOf(F_WRLCK, byte);
  if (libc().fcntl(descriptor, F_OFD_GETLK, lock) !== 0) fail("lock", path);
  if (lock.getInt16(0, true) !== F_UNLCK) inUse(path);
}

/** Locks an open file, as its only writer or as one of its readers. Throws EAGAIN if it is in use. */
export function lockFile(descriptor: number, path: string, writes: boolean): void {
  const held = writes ? OF_WRITER : OF_READER;
  for (const permission of held) lockByte(descriptor, path, HELD + permission);
  for (const permission of REFUSED) lockByte(descriptor, path, REFUSED_TO_OTHERS + permission);
  for (const permission of held) requireFree(descriptor, path, REFUSED_TO_OTHERS + permission);
  for (const permission of REFUSED) requireFree(descriptor, path, HELD + permission);
}
