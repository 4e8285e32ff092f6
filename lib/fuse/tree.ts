/**
 * What is on a mount: folders, files that behave like character devices, and disks. A tree is made
 * before it is mounted; names may go away later.
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import type { Maybe } from "../block/types.ts";

/** Who opens a file. */
export interface FusePeer {
  /** The process, as this process would see it; 0 if it cannot. */
  readonly pid: number;
  /** Its user. */
  readonly uid: number;
  /** Its group. */
  readonly gid: number;
}

/** How one read or write came. */
export interface StreamCall {
  /** Aborts when the caller gets a signal: give up waiting. */
  readonly signal: AbortSignal;
  /** O_NONBLOCK is set. */
  readonly nonBlocking: boolean;
  /**
   * It goes on where the one before it on this file ended: one long read(2) or write(2) that the
   * kernel has cut into pieces. What a single call would not have given must not be given.
   */
  readonly continuation: boolean;
}

/** One open of a stream file. Results are those of the system calls: a count, or minus an errno. */
export interface StreamHandle {
  /** read(2) of at least 1 byte. `into` may be filled until the result is there. */
  read(into: Uint8Array, call: StreamCall): Maybe<number>;
  /** write(2) of at least 1 byte. `from` may be used only until this returns. */
  write(from: Uint8Array, call: StreamCall): Maybe<number>;
  /**
   * poll(2): gives POLLIN and the like as they are now. `wake` is to be called once that has changed, and
   * only once; it is null for somebody who does not wait. Without this method the file always counts
   * as ready.
   */
  poll?(wake: (() => void) | null): number;
  /** The last descriptor of this open is closed; no call is under way. */
  close(): void;
}

/** A file with the ways of a character device: what is read and written is a stream of each open. */
export interface StreamFile {
  /** Tells it from other nodes. */
  readonly kind: "stream";
  /** Permission bits, 0o600 for instance. */
  readonly permissions: number;
  /** Throws BlockError if it cannot be opened. */
  open(peer: FusePeer): StreamHandle;
}

/** One open of a disk. */
export interface DiskHandle {
  /** Where its I/O goes. */
  readonly device: Device;
  /** The last descriptor of this open is closed. */
  close(): void;
}

/** A disk: a file of a fixed size whose content is that of a Device. */
export interface DiskFile {
  /** Tells it from other nodes. */
  readonly kind: "disk";
  /** Permission bits. */
  readonly permissions: number;
  /** Bytes; does not change. */
  readonly size: number;
  /** Throws BlockError if it cannot be opened. */
  open(peer: FusePeer): DiskHandle;
}

/** A folder. */
export interface Folder {
  /** Tells it from other nodes. */
  readonly kind: "folder";
  /** Permission bits. */
  readonly permissions: number;
  /** What is in it now. */
  readonly entries: ReadonlyMap<string, FuseNode>;
  /** unlink(2): takes `name` out of `entries`, or throws BlockError. Names stay if this is absent. */
  unlink?(name: string): void;
}

/** Whatever has a name. */
export type FuseNode = Folder | StreamFile | DiskFile;

/** A folder that stays as it is. */
export function makeFolder(entries: Readonly<Record<string, FuseNode>>): Folder {
  return { kind: "folder", permissions: 0o755, entries: new Map(Object.entries(entries)) };
}
