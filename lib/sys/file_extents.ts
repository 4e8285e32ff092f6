/**
 * Which parts of a file hold data and for which storage is reserved. Data is told from holes by
 * SEEK_DATA and SEEK_HOLE of lseek(2), which alone are right about data that is not on disk yet; within
 * holes FIEMAP (linux/fiemap.h) tells what was preallocated, where the file system knows it.
 *
 * @module
 */
import { EINVAL, ENXIO, fail, lastErrno } from "./errno.ts";
import type { FileExtent } from "./file_access.ts";
import { libc } from "./libc.ts";

const SEEK_DATA = 3, SEEK_HOLE = 4;
const FS_IOC_FIEMAP = 0xc020_660bn;
/** struct fiemap: u64 fm_start, u64 fm_length, u32 fm_flags, fm_mapped_extents, fm_extent_count. */
const FIEMAP_BYTES = 32, AT_LENGTH = 8, AT_MAPPED = 20, AT_COUNT = 24;
/** struct fiemap_extent: u64 fe_logical, fe_physical, fe_length, 2 reserved, u32 fe_flags. */
const EXTENT_BYTES = 56, AT_EXTENT_LENGTH = 16;
/** Extents asked for at once. */
const BATCH = 64;

/** A range of a file, in bytes. */
interface Run {
  readonly start: number;
  readonly end: number;
}

/** Reserved storage from some place of a file on; to be asked for rising places. */
class ReservedRuns {
  readonly #descriptor: number;
  readonly #end: number;
  #batch: Run[] = [];
  /** Everything before this is in the batch or behind. */
  #knownTo: number;

  constructor(descriptor: number, start: number, end: number) {
    this.#descriptor = descriptor;
    this.#end = end;
    this.#knownTo = start;
  }

  /** The first reserved run that ends past `at`; null if there is none before the end. */
  after(at: number): Run | null {
    for (;;) {
      const found = this.#batch.find(({ end }) => end > at);
      if (found !== undefined) return found;
      if (Math.max(at, this.#knownTo) >= this.#end) return null;
      this.#load(Math.max(at, this.#knownTo));
    }
  }

  #load(start: number): void {
    const view = new DataView(new ArrayBuffer(FIEMAP_BYTES + BATCH * EXTENT_BYTES));
    view.setBigUint64(0, BigInt(start), true);
    view.setBigUint64(AT_LENGTH, BigInt(this.#end - start), true);
    view.setUint32(AT_COUNT, BATCH, true);
    const done = libc().ioctl(this.#descriptor, FS_IOC_FIEMAP, view) === 0;
    // A file system that cannot tell: nothing is promised to be reserved.
    const count = done ? view.getUint32(AT_MAPPED, true) : 0;
    this.#batch = Array.from({ length: count }, (_, index) => {
      const at = FIEMAP_BYTES + index * EXTENT_BYTES;
      const first = Number(view.getBigUint64(at, true));
      return { start: first, end: first + Number(view.getBigUint64(at + AT_EXTENT_LENGTH, true)) };
    });
    this.#knownTo = count < BATCH ? this.#end : Math.max(start + 1, this.#batch.at(-1)?.end ?? 0);
  }
}

/** Where data or a hole begins at or after `at`; `none` if there is none before the end of the file. */
function seek(descriptor: number, path: string, at: number, what: number, none: number): number {
  const found = Number(libc().lseek(descriptor, BigInt(at), what));
  if (found >= 0) return found;
  const errno = lastErrno();
  if (errno === ENXIO) return none;
  // A file system without holes: all of it is data.
  if (errno === EINVAL) return what === SEEK_DATA ? at : none;
  return fail("find holes in", path);
}

/** At most `countMax` runs of a file from `offset`, ending at or before `offset + length` (bytes). */
export function fileExtents(
  descriptor: number,
  path: string,
  offset: number,
  length: number,
  countMax: number,
): FileExtent[] {
  const end = offset + length;
  const reserved = new ReservedRuns(descriptor, offset, end);
  const found: FileExtent[] = [];
  let dataFrom = offset;
  for (let at = offset; at < end && found.length < countMax;) {
    if (dataFrom <= at) dataFrom = Math.min(seek(descriptor, path, at, SEEK_DATA, end), end);
    let next: number;
    if (dataFrom > at) {
      const run = reserved.after(at);
      const allocated = run !== null && run.start <= at;
      next = Math.min(dataFrom, run === null ? end : allocated ? run.end : run.start);
      found.push({ length: next - at, data: false, allocated });
    } else {
      // Never at `at` itself, unless the data went away between the two calls.
      next = Math.min(Math.max(seek(descriptor, path, at, SEEK_HOLE, end), at + 1), end);
      found.push({ length: next - at, data: true, allocated: true });
    }
    at = next;
  }
  return found;
}
