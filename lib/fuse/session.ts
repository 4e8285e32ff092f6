/**
 * One mount: requests of the kernel in, replies out. Pure: it opens nothing and reads no clock; the
 * driver hands in the bytes of each request and sends the replies.
 *
 * @module
 */
import { BlockError, errnoToLinux, hasErrno, toBlockError } from "../block/errors.ts";
import type { Errno } from "../block/errors.ts";
import type { Log } from "../block/context.ts";
import type { BufferPool, PooledBuffer } from "../block/pool.ts";
import type { Maybe } from "../block/types.ts";
import {
  FUSE_MAJOR,
  INIT_FLAGS,
  MODE_FILE,
  MODE_FOLDER,
  O_NONBLOCK,
  OPEN_FLAGS,
  REPLY_HEADER_BYTES,
  ROOT_NODE,
  SETATTR_VALID,
} from "./constants.ts";
import { allocateDisk, flushDisk, readDisk, writeDisk } from "./disk_io.ts";
import { FUSE_DATA_BYTES_MAX } from "./limits.ts";
import {
  type Attributes,
  encodeAttributes,
  encodeEntry,
  encodeFolder,
  encodeInit,
  encodeOpen,
  encodeStatfs,
  encodeStatus,
  encodeWritten,
  type FolderEntry,
  putReplyHeader,
} from "./replies.ts";
import { decodeRequest, type FuseRequest } from "./requests.ts";
import type { DiskFile, DiskHandle, Folder, FuseNode, StreamFile, StreamHandle } from "./tree.ts";

/** What a session needs. */
export interface FuseSessionOptions {
  /** What is on the mount. */
  readonly root: Folder;
  /** Sends a reply; the bytes may be used only until it returns. */
  readonly send: (reply: Uint8Array<ArrayBuffer>) => void;
  readonly pool: BufferPool;
  readonly log: Log;
  /** The times that files show, in seconds since 1970. */
  readonly time: number;
  /** The owner that files show. */
  readonly uid: number;
  readonly gid: number;
}

/** Capabilities that are wanted of the kernel. */
const WANTED = INIT_FLAGS.ASYNC_READ | INIT_FLAGS.BIG_WRITES | INIT_FLAGS.ASYNC_DIO |
  INIT_FLAGS.PARALLEL_DIROPS | INIT_FLAGS.MAX_PAGES;
const STREAM_OPEN = OPEN_FLAGS.DIRECT_IO | OPEN_FLAGS.NONSEEKABLE | OPEN_FLAGS.STREAM;
// A disk has no second cache in here: what a caller reads is what the storage has.
const DISK_OPEN = OPEN_FLAGS.DIRECT_IO | OPEN_FLAGS.PARALLEL_DIRECT_WRITES;

type Kind<K extends FuseRequest["kind"]> = Extract<FuseRequest, { readonly kind: K }>;

type OpenFile =
  | { readonly kind: "stream"; readonly handle: StreamHandle }
  | { readonly kind: "disk"; readonly handle: DiskHandle };

/** A request whose reply is to come. */
interface PendingReply {
  readonly kind: "stream" | "disk";
  /** Its caller got a signal. */
  interrupt(): void;
}

function minusErrno(errno: Errno): number {
  return -errnoToLinux(errno);
}

function refuse(errno: Errno, reason: string): never {
  throw new BlockError(errno, `Cannot serve a request of the mount: ${reason}`);
}

/** A mount. */
export class FuseSession {
  readonly #options: FuseSessionOptions;
  /** Nodes by number; the root's is ROOT_NODE. There are few, so none is forgotten. */
  readonly #nodes: FuseNode[] = [];
  readonly #numbers = new Map<FuseNode, number>();
  readonly #files = new Map<number, OpenFile>();
  readonly #pending = new Map<number, PendingReply>();
  #handles = 0;

  /** A mount that the kernel has not said INIT to. */
  constructor(options: FuseSessionOptions) {
    this.#options = options;
    this.#numberOf(options.root);
  }

  /** Requests whose replies are to come. */
  get pending(): number {
    return this.#pending.size;
  }

  /** Files that are open. */
  get openFiles(): number {
    return this.#files.size;
  }

  /** Takes one request. Throws ProtocolError for bytes that are none. */
  receive(bytes: Uint8Array<ArrayBuffer>): void {
    const request = decodeRequest(bytes);
    try {
      this.#serve(request);
    } catch (error) {
      this.#fail(request.unique, error);
    }
  }

  /** Answers everything that disks have under way with `errno`, whatever becomes of it. */
  failDisks(errno: Errno): void {
    for (const [unique, { kind }] of this.#pending) {
      if (kind !== "disk") continue;
      this.#pending.delete(unique);
      this.#status(unique, minusErrno(errno));
    }
  }

  /** The mount is gone: closes what is open, sends nothing more. */
  end(): void {
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { interrupt } of pending) interrupt();
    const files = [...this.#files.values()];
    this.#files.clear();
    for (const { handle } of files) handle.close();
  }

  #serve(request: FuseRequest): void {
    const { unique, node } = request;
    const { send } = this.#options;
    switch (request.kind) {
      case "init":
        return this.#init(request);
      case "lookup":
        return send(encodeEntry(unique, this.#attributes(this.#lookup(node, request.name))));
      case "unlink":
        return this.#unlink(request);
      case "getattr":
        return send(encodeAttributes(unique, this.#attributes(this.#node(node))));
      case "setattr":
        return this.#setAttributes(request);
      case "open":
        return this.#open(request);
      case "opendir":
        return send(encodeOpen(unique, 0, 0));
      case "readdir":
      case "readdirplus":
        return this.#readFolder(request);
      case "read":
        return this.#read(request);
      case "write":
        return this.#write(request);
      case "fsync":
        return this.#onDisk(unique, request.handle, flushDisk);
      case "fallocate":
        return this.#onDisk(unique, request.handle, (device) => {
          const { mode, offset, length } = request;
          return allocateDisk(device, mode, offset, length);
        });
      case "release":
        return this.#release(request);
      case "interrupt":
        return this.#pending.get(request.interrupted)?.interrupt();
      case "statfs":
        return send(encodeStatfs(unique, this.#nodes.length));
      case "flush":
      case "releasedir":
      case "destroy":
        return this.#status(unique, 0);
      case "forget": // has no reply
        return;
      case "unknown":
        return this.#status(unique, minusErrno("ENOSYS"));
    }
  }

  #init({ unique, major, readAheadMax, flags }: Kind<"init">): void {
    if (major < FUSE_MAJOR) return this.#status(unique, minusErrno("EPROTO"));
    // To a later major version the kernel says INIT again, in ours.
    this.#options.send(encodeInit(unique, { readAheadMax, flags: flags & WANTED }));
  }

  #numberOf(node: FuseNode): number {
    let number = this.#numbers.get(node);
    if (number === undefined) {
      number = ROOT_NODE + this.#nodes.length;
      this.#nodes.push(node);
      this.#numbers.set(node, number);
    }
    return number;
  }

  #node(number: number): FuseNode {
    return this.#nodes[number - ROOT_NODE] ?? refuse("ENOENT", `there is no node ${number}`);
  }

  #folder(number: number): Folder {
    const node = this.#node(number);
    return node.kind === "folder" ? node : refuse("ENOTDIR", `node ${number} is no folder`);
  }

  #lookup(folder: number, name: string): FuseNode {
    return this.#folder(folder).entries.get(name) ?? refuse("ENOENT", `there is no ${name}`);
  }

  #attributes(node: FuseNode): Attributes {
    const { uid, gid, time } = this.#options;
    const type = node.kind === "folder" ? MODE_FOLDER : MODE_FILE;
    return {
      node: this.#numberOf(node),
      size: node.kind === "disk" ? node.size : 0,
      mode: type | node.permissions,
      uid,
      gid,
      time,
    };
  }

  #unlink({ unique, node, name }: Kind<"lookup" | "unlink">): void {
    const folder = this.#folder(node);
    this.#lookup(node, name);
    if (folder.unlink === undefined) refuse("EPERM", `${name} stays`);
    folder.unlink(name);
    this.#status(unique, 0);
  }

  /** Nothing changes. As with a block device, O_TRUNC is ignored and ftruncate is refused. */
  #setAttributes({ unique, node, valid, size }: Kind<"setattr">): void {
    const file = this.#node(node);
    const both = SETATTR_VALID.SIZE | SETATTR_VALID.HANDLE;
    if ((valid & both) === both && file.kind === "disk" && size !== file.size) {
      refuse("EINVAL", "a disk keeps its size");
    }
    this.#options.send(encodeAttributes(unique, this.#attributes(file)));
  }

  #open({ unique, node, uid, gid, pid }: Kind<"open" | "opendir">): void {
    const file = this.#node(node);
    if (file.kind === "folder") refuse("EISDIR", `node ${node} is a folder`);
    const peer = { uid, gid, pid };
    this.#handles += 1;
    this.#files.set(this.#handles, openFile(file, peer));
    const flags = file.kind === "stream" ? STREAM_OPEN : DISK_OPEN;
    this.#options.send(encodeOpen(unique, this.#handles, flags));
  }

  #release({ unique, handle }: Kind<"release" | "releasedir" | "flush">): void {
    const file = this.#file(handle);
    this.#files.delete(handle);
    file.handle.close();
    this.#status(unique, 0);
  }

  #file(handle: number): OpenFile {
    return this.#files.get(handle) ?? refuse("EBADF", `there is no open file ${handle}`);
  }

  #readFolder(request: Kind<"read" | "readdir" | "readdirplus">): void {
    const folder = this.#folder(request.node);
    const named: (readonly [string, FuseNode])[] = [
      [".", folder],
      ["..", this.#options.root],
      ...folder.entries,
    ];
    const entries = named.map(([name, node]): FolderEntry => {
      return { name, attributes: this.#attributes(node) };
    });
    const size = Math.min(request.size, FUSE_DATA_BYTES_MAX);
    const plus = request.kind === "readdirplus";
    this.#options.send(encodeFolder(request.unique, entries, request.offset, size, plus));
  }

  #read({ unique, handle, offset, size, flags }: Kind<"read" | "readdir" | "readdirplus">): void {
    const file = this.#file(handle);
    const { pool } = this.#options;
    const length = Math.min(size, FUSE_DATA_BYTES_MAX);
    // Header and data share one buffer: one write sends both.
    const buffer = pool.take(REPLY_HEADER_BYTES + length);
    const into = buffer.bytes.subarray(REPLY_HEADER_BYTES);
    const done = (count: number): void => this.#sendData(unique, buffer, count);
    try {
      if (file.kind === "disk") {
        this.#settle(unique, "disk", readDisk(file.handle.device, pool, into, offset), done, buffer);
      } else {
        const stop = new AbortController();
        const outcome = file.handle.read(into, {
          signal: stop.signal,
          nonBlocking: (flags & O_NONBLOCK) !== 0,
          continuation: offset > 0,
        });
        this.#settle(unique, "stream", outcome, done, buffer, () => stop.abort());
      }
    } catch (error) {
      buffer.release();
      throw error;
    }
  }

  #write({ unique, handle, offset, data, flags }: Kind<"write">): void {
    const file = this.#file(handle);
    const done = (count: number): void => {
      if (count < 0) this.#status(unique, count);
      else this.#options.send(encodeWritten(unique, count));
    };
    if (file.kind === "disk") {
      const outcome = writeDisk(file.handle.device, this.#options.pool, data, offset);
      return this.#settle(unique, "disk", outcome, done);
    }
    const stop = new AbortController();
    const outcome = file.handle.write(data, {
      signal: stop.signal,
      nonBlocking: (flags & O_NONBLOCK) !== 0,
      continuation: offset > 0,
    });
    this.#settle(unique, "stream", outcome, done, null, () => stop.abort());
  }

  #onDisk(
    unique: number,
    handle: number,
    act: (device: DiskHandle["device"]) => Maybe<void>,
  ): void {
    const file = this.#file(handle);
    if (file.kind !== "disk") refuse("EINVAL", "a stream has nothing to flush or to deallocate");
    const done = (): void => this.#status(unique, 0);
    const outcome = act(file.handle.device);
    if (outcome === undefined) return done();
    this.#settle(unique, "disk", outcome.then(() => 0), done);
  }

  /**
   * Sends the reply when the outcome is there, and gives `buffer` back. Whoever waits for a disk and
   * gets a signal is let go with EINTR; the disk goes on.
   */
  #settle(
    unique: number,
    kind: PendingReply["kind"],
    outcome: Maybe<number>,
    done: (count: number) => void,
    buffer: PooledBuffer | null = null,
    interrupt?: () => void,
  ): void {
    if (typeof outcome === "number") {
      done(outcome);
      buffer?.release();
      return;
    }
    const letGo = (): void => {
      if (this.#pending.delete(unique)) this.#status(unique, minusErrno("EINTR"));
    };
    this.#pending.set(unique, { kind, interrupt: interrupt ?? letGo });
    outcome.then(
      (count) => this.#pending.delete(unique) && done(count),
      (error: unknown) => this.#pending.delete(unique) && this.#fail(unique, error),
    ).then(() => buffer?.release());
  }

  #sendData(unique: number, buffer: PooledBuffer, count: number): void {
    if (count < 0) return this.#status(unique, count);
    const reply = buffer.bytes.subarray(0, REPLY_HEADER_BYTES + count);
    putReplyHeader(reply, unique, 0);
    this.#options.send(reply);
  }

  #status(unique: number, error: number): void {
    this.#options.send(encodeStatus(unique, error));
  }

  #fail(unique: number, error: unknown): void {
    if (!hasErrno(error)) this.#options.log.error("a bug ended a request of the mount", error);
    this.#status(unique, minusErrno(toBlockError(error).errno));
  }
}

function openFile(file: StreamFile | DiskFile, peer: Parameters<StreamFile["open"]>[0]): OpenFile {
  if (file.kind === "stream") return { kind: "stream", handle: file.open(peer) };
  return { kind: "disk", handle: file.open(peer) };
}
