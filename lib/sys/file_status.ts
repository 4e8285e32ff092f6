/**
 * What Linux says of a file or block device: statx(2), whose layout is the same on all
 * architectures, and the BLK* ioctls of linux/fs.h.
 *
 * @module
 */
import { cstring, ENOENT, fail, lastErrno } from "./errno.ts";
import { libc } from "./libc.ts";

/** A path, or an open descriptor with the path it was opened by. */
export interface FileReference {
  readonly path: string;
  /** Absent to look the path up. */
  readonly descriptor?: number;
}

/** What statx says. */
export interface FileStatus {
  readonly kind: "regular" | "block" | "directory" | "other";
  /** Bytes; 0 for a block device. */
  readonly size: number;
  /** Bytes of storage in use. */
  readonly allocated: number;
  /** st_blksize in bytes. */
  readonly blockSize: number;
  /** For a device, its numbers as "MAJOR:MINOR". */
  readonly device: string;
  /** Alignment in bytes that direct I/O needs, 0 if it is not possible; null if the kernel does not tell. */
  readonly directAlignment: number | null;
}

const AT_FDCWD = -100, AT_EMPTY_PATH = 0x1000;
const STATX_BASIC_STATS = 0x7ff, STATX_DIOALIGN = 0x2000;
const STATX_BYTES = 256;
/** Offsets of fields of struct statx. */
const AT_MASK = 0, AT_BLKSIZE = 4, AT_MODE = 28, AT_SIZE = 40, AT_BLOCKS = 48;
const AT_RDEV_MAJOR = 128, AT_RDEV_MINOR = 132, AT_DIO_OFFSET = 156;
/** stx_blocks counts these, whatever the file system's blocks are. */
const STATX_BLOCK_BYTES = 512;
const KIND_BITS = 0o170_000;
const KINDS: Readonly<Record<number, FileStatus["kind"]>> = {
  0o100_000: "regular",
  0o060_000: "block",
  0o040_000: "directory",
};

/** Looks at a file. Throws SystemError; null if `orNull` and there is no such file. */
export function fileStatus(file: FileReference): FileStatus;
export function fileStatus(file: FileReference, orNull: true): FileStatus | null;
export function fileStatus(file: FileReference, orNull = false): FileStatus | null {
  const bytes = new Uint8Array(STATX_BYTES);
  const { path, descriptor } = file;
  const result = libc().statx(
    descriptor ?? AT_FDCWD,
    cstring(descriptor === undefined ? path : ""),
    descriptor === undefined ? 0 : AT_EMPTY_PATH,
    STATX_BASIC_STATS | STATX_DIOALIGN,
    bytes,
  );
  if (result !== 0) {
    if (orNull && lastErrno() === ENOENT) return null;
    fail(descriptor === undefined ? "open" : "inspect", path);
  }
  const view = new DataView(bytes.buffer);
  const tellsDirect = (view.getUint32(AT_MASK, true) & STATX_DIOALIGN) !== 0;
  return {
    kind: KINDS[view.getUint16(AT_MODE, true) & KIND_BITS] ?? "other",
    size: Number(view.getBigUint64(AT_SIZE, true)),
    allocated: Number(view.getBigUint64(AT_BLOCKS, true)) * STATX_BLOCK_BYTES,
    blockSize: view.getUint32(AT_BLKSIZE, true),
    device: `${view.getUint32(AT_RDEV_MAJOR, true)}:${view.getUint32(AT_RDEV_MINOR, true)}`,
    directAlignment: tellsDirect ? view.getUint32(AT_DIO_OFFSET, true) : null,
  };
}

const BLKROGET = 0x125en, BLKSSZGET = 0x1268n, BLKDISCARD = 0x1277n, BLKPBSZGET = 0x127bn;
const BLKGETSIZE64 = 0x8008_1272n;

/** What the kernel says of a block device. */
export interface BlockDeviceStatus {
  /** Smallest unit that it reads and writes, in bytes. */
  readonly logicalBlockSize: number;
  /** Smallest unit that it writes without reading first, in bytes. */
  readonly physicalBlockSize: number;
  readonly readOnly: boolean;
  /** It zeroes ranges itself; otherwise the kernel would write zeroes. */
  readonly zeroesItself: boolean;
}

function control(descriptor: number, request: bigint, argument: Uint8Array, path: string): void {
  if (libc().ioctl(descriptor, request, argument) !== 0) fail("inspect", path);
}

function controlNumber(descriptor: number, request: bigint, path: string): number {
  const bytes = new Uint8Array(4);
  control(descriptor, request, bytes, path);
  return new DataView(bytes.buffer).getUint32(0, true);
}

/** The size of a block device in bytes. */
export function blockDeviceSize(descriptor: number, path: string): number {
  const bytes = new Uint8Array(8);
  control(descriptor, BLKGETSIZE64, bytes, path);
  return Number(new DataView(bytes.buffer).getBigUint64(0, true));
}

/** Block sizes and abilities of a block device, whose numbers are `device`. */
export function blockDeviceStatus(
  descriptor: number,
  path: string,
  device: string,
): BlockDeviceStatus {
  return {
    logicalBlockSize: controlNumber(descriptor, BLKSSZGET, path),
    physicalBlockSize: controlNumber(descriptor, BLKPBSZGET, path),
    readOnly: controlNumber(descriptor, BLKROGET, path) !== 0,
    zeroesItself: queueLimit(device, "write_zeroes_max_bytes") > 0,
  };
}

/** A figure of a device's queue; a partition has that of its disk, one folder up. 0 if there is none. */
function queueLimit(device: string, name: string): number {
  for (const folder of ["queue", "../queue"]) {
    try {
      return Number(Deno.readTextFileSync(`/sys/dev/block/${device}/${folder}/${name}`));
    } catch {
      // Not there, or no permission to look: the next folder, or none.
    }
  }
  return 0;
}

/** Tells a block device that a range of whole blocks is not needed; false if that failed (see errno). */
export function discardBlocks(descriptor: number, offset: number, length: number): boolean {
  const range = new BigUint64Array([BigInt(offset), BigInt(length)]);
  return libc().ioctl(descriptor, BLKDISCARD, range) === 0;
}
