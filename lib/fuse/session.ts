/**
 * One mount: requests of the kernel in, replies out. Pure: it opens nothing and reads no clock; the
 * driver hands in the bytes of each request and sends the replies.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import type { Device } from "../block/device.ts";
import { BlockError, type Errno, errnoToLinux, hasErrno, toBlockError } from "../block/errors.ts";
import type { BufferPool, PooledBuffer } from "../block/pool.ts";
import type { Maybe } from "../block/types.ts";
import {
  FUSE_MAJOR,
  INIT_FLAGS,
  NAME_OPCODES,
  O_DSYNC,
  O_NONBLOCK,
  OPEN_FLAGS,
  REPLY_HEADER_BYTES,
  SETATTR_VALID,
} from "./constants.ts";
import { allocateDisk, flushDisk, readDisk, writeDisk } from "./disk_io.ts";
import { FUSE_DATA_BYTES_MAX } from "./limits.ts";
import { NodeTable, type Ownership } from "./node_table.ts";
import { PendingReplies } from "./pending_replies.ts";
import {
  encodeAttributes,
  encodeEntry,
  encodeFolder,
  encodeInit,
  encodeOpen,
  encodePoll,
  encodePollWakeup,
  encodeStatfs,
  encodeStatus,
  encodeWritten,
  putReplyHeader,
} from "./replies.ts";
import { decodeRequest, type FuseRequest } from "./requests.ts";
import type { DiskHandle, FuseNode, FusePeer, StreamCall, StreamHandle } from "./tree.ts";

/** What a session needs. */
export interface FuseSessionOptions {
  /** What is on the mount: a folder, or the only file. */
  readonly root: FuseNode;
  /** Sends a reply; the bytes may be used only until it returns. */
  readonly send: (reply: Uint8Array<ArrayBuffer>) => void;
  /** Where buffers come from. */
  readonly pool: BufferPool;
  /** Gets the stack of whatever is thrown that has no errno. */
  readonly log: Log;
  /** What all files show. */
  readonly ownership: Ownership;
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

function minusErrno(errno: Errno): number {
  return -errnoToLinux(errno);
}

function refuse(errno: Errno, reason: string): never {
  throw new BlockError(errno, `Cannot serve a request of the mount: ${reason}`);
}

/** A call whose signal is made when somebody wants it: most are over at once. */
class Call implements StreamCall {
  readonly nonBlocking: boolean;
  readonly continuation: boolean;
  #stop: AbortController | null = null;

  constructor(nonBlocking: boolean, continuation: boolean) {
    this.nonBlocking = nonBlocking;
    this.continuation = continuation;
  }

  get signal(): AbortSignal {
    this.#stop ??= new AbortController();
    return this.#stop.signal;
  }

  interrupt(): void {
    this.#stop ??= new AbortController();
    this.#stop.abort();
  }
}

/** A mount. */
export class FuseSession {
  readonly #options: FuseSessionOptions;
  readonly #nodes: NodeTable;
  readonly #pending = new PendingReplies();
  /** Open files by handle. */
  readonly #files = new Map<number, OpenFile>();
  #handles = 0;

  /** A mount that the kernel has not said INIT to. */
  constructor(options: FuseSessionOptions) {
    this.#options = options;
    this.#nodes = new NodeTable(options.root, options.ownership);
  }

  /** Requests whose replies are to come. */
  get pending(): number {
    return this.#pending.count;
  }

  /** Files that are open. */
  get openFiles(): number {
    return this.#files.size;
  }

  /** Takes one request; `bytes` are not kept. Throws ProtocolError for bytes that are none. */
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
    for (const { unique } of this.#pending.takeAll("disk")) {
      this.#status(unique, minusErrno(errno));
    }
  }

  /** The mount is gone: closes what is open, sends nothing more. */
  end(): void {
    for (const { interrupt } of this.#pending.takeAll()) interrupt();
    const files = [...this.#files.values()];
    this.#files.clear();
    for (const { handle } of files) handle.close();
  }

  #serve(request: FuseRequest): void {
    const { unique, node } = request;
    const { send } = this.#options;
    const nodes = this.#nodes;
    switch (request.kind) {
      case "init":
        return this.#init(request);
      case "lookup":
        return send(encodeEntry(unique, nodes.attributes(nodes.lookup(node, request.name))));
      case "unlink":
        return this.#unlink(request);
      case "getattr":
        return send(encodeAttributes(unique, nodes.attributes(nodes.node(node))));
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
      case "ioctl": {
        // A device that has none, or a file or folder.
        const isStream = this.#files.get(request.handle)?.kind === "stream";
        return refuse(isStream ? "EOPNOTSUPP" : "ENOTTY", "there is no ioctl");
      }
      case "poll":
        return this.#poll(request);
      case "interrupt":
        return this.#pending.interrupt(request.interrupted);
      case "statfs":
        return send(encodeStatfs(unique, nodes.count));
      case "flush":
      case "releasedir":
      case "destroy":
        return this.#status(unique, 0);
      case "forget": // has no reply
        return;
      case "unknown":
        // Who mistypes the name of a disk is not to hear "Function not implemented".
        return this.#status(
          unique,
          minusErrno(NAME_OPCODES.has(request.opcode) ? "EPERM" : "ENOSYS"),
        );
    }
  }

  /** To a kernel of a later major version INIT comes again, in ours. */
  #init({ unique, major, readAheadMax, flags }: Kind<"init">): void {
    if (major < FUSE_MAJOR) return this.#status(unique, minusErrno("EPROTO"));
    this.#options.send(encodeInit(unique, { readAheadMax, flags: flags & WANTED }));
  }

  #unlink({ unique, node, name }: Kind<"unlink">): void {
    const folder = this.#nodes.folder(node);
    this.#nodes.lookup(node, name);
    if (folder.unlink === undefined) refuse("EPERM", `${name} stays`);
    folder.unlink(name);
    this.#status(unique, 0);
  }

  /** Nothing changes. As with a block device, O_TRUNC is ignored and ftruncate is refused. */
  #setAttributes({ unique, node, valid, size }: Kind<"setattr">): void {
    const file = this.#nodes.node(node);
    const both = SETATTR_VALID.SIZE | SETATTR_VALID.HANDLE;
    if ((valid & both) === both && file.kind === "disk" && size !== file.size) {
      refuse("EINVAL", "a disk keeps its size");
    }
    this.#options.send(encodeAttributes(unique, this.#nodes.attributes(file)));
  }

  #open({ unique, node, uid, gid, pid }: Kind<"open">): void {
    const file = this.#openFile(node, { uid, gid, pid });
    this.#handles += 1;
    this.#files.set(this.#handles, file);
    const flags = file.kind === "stream" ? STREAM_OPEN : DISK_OPEN;
    this.#options.send(encodeOpen(unique, this.#handles, flags));
  }

  #openFile(number: number, peer: FusePeer): OpenFile {
    const node = this.#nodes.node(number);
    if (node.kind === "folder") refuse("EISDIR", `node ${number} is a folder`);
    if (node.kind === "stream") return { kind: "stream", handle: node.open(peer) };
    return { kind: "disk", handle: node.open(peer) };
  }

  #release({ unique, handle }: Kind<"release">): void {
    const file = this.#file(handle);
    this.#files.delete(handle);
    file.handle.close();
    this.#status(unique, 0);
  }

  #file(handle: number): OpenFile {
    return this.#files.get(handle) ?? refuse("EBADF", `there is no open file ${handle}`);
  }

  #readFolder(request: Kind<"readdir"> | Kind<"readdirplus">): void {
    const { unique, node, kind, offset, size } = request;
    const room = Math.min(size, FUSE_DATA_BYTES_MAX);
    const entries = this.#nodes.list(node);
    this.#options.send(encodeFolder(unique, entries, offset, room, kind === "readdirplus"));
  }

  #read({ unique, handle, offset, size, flags }: Kind<"read">): void {
    const file = this.#file(handle);
    const { pool } = this.#options;
    // Header and data share one buffer: one write sends both.
    const buffer = pool.take(REPLY_HEADER_BYTES + Math.min(size, FUSE_DATA_BYTES_MAX));
    const into = buffer.bytes.subarray(REPLY_HEADER_BYTES);
    const done = (count: number): void => this.#sendData(unique, buffer, count);
    try {
      if (file.kind === "disk") {
        const outcome = readDisk(file.handle.device, pool, into, offset);
        return this.#settleDisk(unique, outcome, done, buffer);
      }
      this.#stream(unique, { flags, offset }, done, buffer, (call) => file.handle.read(into, call));
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
      const { pool } = this.#options, durable = (flags & O_DSYNC) !== 0;
      const outcome = writeDisk(file.handle.device, pool, data, offset, durable);
      return this.#settleDisk(unique, outcome, done, null);
    }
    this.#stream(unique, { flags, offset }, done, null, (call) => file.handle.write(data, call));
  }

  #poll({ unique, handle, wakeup, waits }: Kind<"poll">): void {
    const { handle: file } = this.#file(handle);
    // To a file that does not say so the kernel need not come again.
    if (!("poll" in file) || file.poll === undefined) {
      return this.#status(unique, minusErrno("ENOSYS"));
    }
    const { send } = this.#options;
    send(encodePoll(unique, file.poll(waits ? () => send(encodePollWakeup(wakeup)) : null)));
  }

  #onDisk(unique: number, handle: number, act: (device: Device) => Maybe<void>): void {
    const file = this.#file(handle);
    if (file.kind !== "disk") refuse("EINVAL", "a stream has nothing to flush or to deallocate");
    const done = (): void => this.#status(unique, 0);
    const outcome = act(file.handle.device);
    if (outcome === undefined) return done();
    this.#settleDisk(unique, outcome.then(() => 0), done, null);
  }

  /** A fresh read or write of a stream has offset 0; the pieces of a long one count up. */
  #stream(
    unique: number,
    { flags, offset }: { readonly flags: number; readonly offset: number },
    done: (count: number) => void,
    buffer: PooledBuffer | null,
    act: (call: StreamCall) => Maybe<number>,
  ): void {
    const call = new Call((flags & O_NONBLOCK) !== 0, offset > 0);
    const outcome = act(call);
    const failed = (error: unknown): void => this.#fail(unique, error);
    const interrupt = (): void => call.interrupt();
    this.#pending.settle(outcome, { unique, kind: "stream", done, failed, interrupt, buffer });
  }

  /** Whoever waits for a disk and gets a signal is let go with EINTR; the disk goes on. */
  #settleDisk(
    unique: number,
    outcome: Maybe<number>,
    done: (count: number) => void,
    buffer: PooledBuffer | null,
  ): void {
    const interrupt = (): void => {
      if (this.#pending.drop(unique)) this.#status(unique, minusErrno("EINTR"));
    };
    const failed = (error: unknown): void => this.#fail(unique, error);
    this.#pending.settle(outcome, { unique, kind: "disk", done, failed, interrupt, buffer });
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
