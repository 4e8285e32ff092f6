/**
 * Where a xenbus file is mounted: on a file of its own, which says so, is locked as long as its daemon
 * lives, and goes with it. What is left of a dead daemon is cleaned up; what is not ours is not touched.
 *
 * @module
 */
import { basename, dirname, join } from "node:path";
import { BlockError, errnoText, toBlockError } from "../block/errors.ts";
import { FUSE_DATA_BYTES_MAX } from "../fuse/limits.ts";
import { systemFiles } from "../sys/file.ts";
import type { RawFile } from "../sys/file_access.ts";
import { mountFuse, openFuse, unmount } from "../sys/fuse.ts";
import { closeDescriptor } from "../sys/socket.ts";

/** What lists of mounts show as the kind of file system, behind "fuse.". */
const MOUNT_KIND = "dmu-xenbus";
/** The content of the file below the mount. */
const MARK = new TextEncoder().encode("A xenbus file of dmu is here while its daemon runs.\n");

/** A file that is mounted on. */
export interface XenbusPath {
  /** Its real path. */
  readonly path: string;
  /** /dev/fuse, for whoever serves it, who closes it. */
  readonly fuseFd: number;
  /** Unmounts and removes the file. Later calls do nothing. */
  release(): void;
}

function refuse(errno: "EEXIST" | "EBUSY", path: string, reason: string): never {
  throw new BlockError(errno, `Cannot make the xenbus file ${path}: ${reason}`);
}

/** The kind of the topmost mount on a path, as proc(5) has it in mountinfo; null if there is none. */
function mountedOn(path: string): string | null {
  let kind: string | null = null;
  for (const line of Deno.readTextFileSync("/proc/self/mountinfo").split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    const place = (left.split(" ")[4] ?? "").replace(
      /\\([0-7]{3})/g,
      (_, digits: string) => String.fromCharCode(parseInt(digits, 8)),
    );
    if (place === path) kind = right.split(" ")[0] ?? "";
  }
  return kind;
}

/** True if the daemon that served a mount is gone. */
function isDead(path: string): boolean {
  try {
    Deno.openSync(path, { read: true }).close();
    return false;
  } catch (error) {
    const { errno } = toBlockError(error);
    return errno === "ENOTCONN" || errno === "ECONNABORTED";
  }
}

/** Takes away what dead daemons have left mounted. */
function clearDeadMounts(path: string): void {
  for (let kind = mountedOn(path); kind !== null; kind = mountedOn(path)) {
    if (kind !== `fuse.${MOUNT_KIND}`) refuse("EBUSY", path, `a ${kind} is mounted there`);
    if (!isDead(path)) refuse("EBUSY", path, "another daemon serves it");
    unmount(path, true);
  }
}

/** The file to mount on: made, or left by a dead daemon. */
function openMark(path: string): RawFile {
  let there = true;
  try {
    const { isFile, size } = Deno.lstatSync(path);
    if (!isFile || size !== MARK.length) refuse("EEXIST", path, "something else is there");
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    there = false;
  }
  let file: RawFile;
  try {
    file = systemFiles.open(path, { readOnly: false, createSize: 0, direct: false, lock: true });
  } catch (error) {
    const { errno } = toBlockError(error);
    if (errno === "EAGAIN") refuse("EBUSY", path, "another daemon is about to serve it");
    throw new BlockError(errno, `Cannot make the xenbus file ${path}: ${errnoText(errno)}`, {
      cause: error,
    });
  }
  const content = new Uint8Array(MARK.length);
  if (there) file.read(content, 0);
  else file.write(MARK, 0);
  if (!there || content.every((byte, at) => byte === MARK[at])) return file;
  file.close();
  return refuse("EEXIST", path, "something else is there");
}

/** The path that lists of mounts show. */
function realPath(path: string): string {
  try {
    return join(Deno.realPathSync(dirname(path)), basename(path));
  } catch (error) {
    const { errno } = toBlockError(error);
    const reason = `${dirname(path)}: ${errnoText(errno)}`;
    throw new BlockError(errno, `Cannot make the xenbus file ${path}: ${reason}`, { cause: error });
  }
}

/**
 * Mounts a xenbus file; `wanted` is the file itself. Throws BlockError: EEXIST for a file that is not
 * ours, EBUSY for one that another daemon serves, EPERM without root, ENOENT without its folder; and
 * SystemError as mounting does.
 */
export function mountXenbus(wanted: string): XenbusPath {
  const path = realPath(wanted);
  clearDeadMounts(path);
  const mark = openMark(path);
  const drop = (): void => {
    Deno.removeSync(path);
    mark.close();
  };
  let fuseFd = -1;
  try {
    fuseFd = openFuse();
    const options = { path, root: "file", source: "dmu", kind: MOUNT_KIND } as const;
    mountFuse(fuseFd, { ...options, readBytesMax: FUSE_DATA_BYTES_MAX });
  } catch (error) {
    if (fuseFd >= 0) closeDescriptor(fuseFd);
    drop();
    throw error;
  }
  let mounted = true;
  const release = (): void => {
    if (!mounted) return;
    mounted = false;
    unmount(path, true);
    drop();
  };
  return { path, fuseFd, release };
}
