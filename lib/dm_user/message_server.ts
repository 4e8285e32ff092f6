/**
 * What the daemon does for each message: the mapping of dm-user's requests to those of a Device and
 * of its outcome to a response. The status is known before the header of a response goes out.
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import { BlockError } from "../block/errors.ts";
import { REQUEST_BYTES_MAX } from "../block/limits.ts";
import { FLAG_FUA, FLAG_MAY_TRIM, type Gate, NO_DATA, type Operation } from "../block/request.ts";
import type { Maybe } from "../block/types.ts";
import type { Reply, ReplyQueue } from "../stream/reply_queue.ts";
import type { FrameSplitter } from "../stream/splitter.ts";
import {
  HEADER_BYTES,
  HEADER_OFFSETS,
  REQUEST_FLAGS,
  REQUEST_TYPES,
  RESPONSE_TYPES,
  SECTOR_BYTES,
} from "./constants.ts";
import { READ_BYTES_MAX } from "./limits.ts";
import { putU32, putU64, u32At, u64At } from "./message.ts";

const { SUCCESS, ERROR, UNSUPPORTED } = RESPONSE_TYPES;

/** A message that is being served: as much of its header as is needed to answer it. */
interface Message {
  /** The seq is opaque: two halves. */
  readonly seqLow: number;
  readonly seqHigh: number;
  readonly type: number;
  readonly flags: number;
  /** Bytes from the start of the device; not a safe integer if the sector is absurd. */
  readonly offset: number;
  readonly length: number;
}

/** A WRITE that is longer than one request: its data comes and is written in pieces. */
export interface LongWrite {
  /** Bytes of data that have not come yet. */
  remaining: number;
  readonly message: Message;
  /** Pieces that came and are not written. */
  pending: number;
  /** The first failure: what comes after it is read and dropped. */
  error: BlockError | null;
  /** What the next piece has to wait for. */
  before: Maybe<void>;
}

function decode(bytes: Uint8Array, start: number): Message {
  return {
    seqLow: u32At(bytes, start + HEADER_OFFSETS.seq),
    seqHigh: u32At(bytes, start + HEADER_OFFSETS.seq + 4),
    type: u64At(bytes, start + HEADER_OFFSETS.type),
    // All flags that mean something here are in the lower half.
    flags: u32At(bytes, start + HEADER_OFFSETS.flags),
    offset: u64At(bytes, start + HEADER_OFFSETS.sector) * SECTOR_BYTES,
    length: u64At(bytes, start + HEADER_OFFSETS.length),
  };
}

/** `length` is what follows the header; the kernel ignores it, people and recorders do not. */
function putResponse(into: Uint8Array, message: Message, type: number, length: number): void {
  putU32(into, HEADER_OFFSETS.seq, message.seqLow);
  putU32(into, HEADER_OFFSETS.seq + 4, message.seqHigh);
  putU64(into, HEADER_OFFSETS.type, type);
  into.fill(0, HEADER_OFFSETS.flags, HEADER_OFFSETS.length);
  putU64(into, HEADER_OFFSETS.length, length);
}

function has(message: Message, flag: number): boolean {
  return (message.flags & flag) !== 0;
}

function after(first: Maybe<void>, next: () => Maybe<void>): Maybe<void> {
  return first === undefined ? next() : first.then(next);
}

function responseTo(error: BlockError): number {
  return error.errno === "EOPNOTSUPP" ? UNSUPPORTED : ERROR;
}

function asBlockError(error: unknown): BlockError {
  return error instanceof BlockError
    ? error
    : new BlockError("EIO", "Cannot serve a message: its request failed", { cause: error });
}

/** Serves the messages of one channel. */
export class MessageServer {
  readonly #device: Device;
  readonly #gate: Gate;
  readonly #queue: ReplyQueue;
  readonly #changed: () => void;
  readonly #header = new Uint8Array(HEADER_BYTES);
  #inFlight = 0;
  #dataBytes = 0;
  #closed = false;

  /** Puts responses into `queue`; `changed` is called when a message that took time is done. */
  constructor(device: Device, gate: Gate, queue: ReplyQueue, changed: () => void) {
    this.#device = device;
    this.#gate = gate;
    this.#queue = queue;
    this.#changed = changed;
  }

  /** Messages that are not answered yet. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Bytes of data of WRITEs that are under way. */
  get dataBytes(): number {
    return this.#dataBytes;
  }

  /** Nothing is answered any more. */
  close(): void {
    this.#closed = true;
  }

  /**
   * Serves the message that is the current frame. A WRITE whose data is not part of the frame is given
   * back: its data goes to `writePiece`.
   */
  serve(frame: FrameSplitter): LongWrite | null {
    const message = decode(frame.bytes, frame.start);
    this.#inFlight += 1;
    switch (message.type) {
      case REQUEST_TYPES.READ:
        this.#read(message);
        return null;
      case REQUEST_TYPES.WRITE:
        if (message.length > REQUEST_BYTES_MAX) return this.#beginLong(message);
        this.#write(message, frame);
        return null;
      case REQUEST_TYPES.FLUSH:
        this.#run(message, () => this.#submit("flush", 0, 0, 0));
        return null;
      case REQUEST_TYPES.DISCARD:
        this.#change(message, "trim", 0);
        return null;
      case REQUEST_TYPES.WRITE_ZEROES:
        this.#change(message, "zero", has(message, REQUEST_FLAGS.NOUNMAP) ? 0 : FLAG_MAY_TRIM);
        return null;
      default:
        this.#answer(message, UNSUPPORTED);
        return null;
    }
  }

  /** Takes the current frame as the next piece of the data of `long`. */
  writePiece(long: LongWrite, frame: FrameSplitter): void {
    const data = frame.bytes.subarray(frame.start, frame.end);
    const buffer = frame.takeBuffer();
    const offset = long.message.offset + long.message.length - long.remaining;
    long.remaining -= data.length;
    long.pending += 1;
    this.#dataBytes += data.length;
    const finish = (): void => {
      buffer?.release();
      this.#dataBytes -= data.length;
      long.pending -= 1;
      if (long.remaining === 0 && long.pending === 0) this.#endLong(long);
    };
    long.before = after(
      long.before,
      () => this.#guard(long, () => this.#submit("write", offset, data.length, 0, data)),
    );
    if (long.before === undefined) return finish();
    long.before = long.before.then(() => {
      finish();
      this.#changed();
    });
  }

  /** The rest of the data of `long` will never come. */
  dropLong(long: LongWrite): void {
    const drop = (): void => {
      this.#inFlight -= 1;
      this.#changed();
    };
    if (long.before === undefined) drop();
    else long.before.then(drop);
  }

  #submit(
    operation: Operation,
    offset: number,
    length: number,
    flags: number,
    data: Uint8Array = NO_DATA,
  ): Maybe<void> {
    return this.#device.submit({ operation, offset, length, flags, data, gate: this.#gate });
  }

  /** Does `work`, then answers: SUCCESS, or what its error stands for. */
  #run(message: Message, work: () => Maybe<void>): void {
    this.#settle(
      work,
      () => this.#answer(message, SUCCESS),
      (error) => this.#answer(message, responseTo(error)),
    );
  }

  /** Calls one of the two when `work` is done; tells the session if that took time. */
  #settle(work: () => Maybe<void>, done: () => void, failed: (error: BlockError) => void): void {
    let pending: Maybe<void>;
    try {
      pending = work();
    } catch (error) {
      return failed(asBlockError(error));
    }
    if (pending === undefined) return done();
    pending.then(done, (error: unknown) => failed(asBlockError(error))).then(this.#changed);
  }

  /** PREFLUSH: what was completed before is durable before the rest of the message begins. */
  #flushFirst(message: Message, next: () => Maybe<void>): Maybe<void> {
    if (!has(message, REQUEST_FLAGS.PREFLUSH)) return next();
    return after(this.#submit("flush", 0, 0, 0), next);
  }

  #write(message: Message, frame: FrameSplitter): void {
    const { offset, length } = message;
    const data = frame.bytes.subarray(frame.start + HEADER_BYTES, frame.end);
    const input = frame.takeBuffer();
    const flags = has(message, REQUEST_FLAGS.FUA) ? FLAG_FUA : 0;
    this.#dataBytes += length;
    const write = (): Maybe<void> =>
      length === 0 ? undefined : this.#submit("write", offset, length, flags, data);
    const finish = (type: number): void => {
      input?.release();
      this.#dataBytes -= length;
      this.#answer(message, type);
    };
    this.#settle(
      () => this.#flushFirst(message, write),
      () => finish(SUCCESS),
      (error) => finish(responseTo(error)),
    );
  }

  #change(message: Message, operation: "trim" | "zero", flags: number): void {
    const { offset, length } = message;
    const durable = has(message, REQUEST_FLAGS.FUA) ? FLAG_FUA : 0;
    this.#run(message, () =>
      this.#flushFirst(
        message,
        () => length === 0 ? undefined : this.#submit(operation, offset, length, flags | durable),
      ));
  }

  #read(message: Message): void {
    const { offset, length } = message;
    if (length === 0) return this.#answer(message, SUCCESS);
    if (!(length <= READ_BYTES_MAX)) return this.#answer(message, ERROR);
    if (length > REQUEST_BYTES_MAX) return this.#readLong(message);
    const reply = this.#queue.reserve(HEADER_BYTES + length);
    const data = reply.bytes.subarray(HEADER_BYTES);
    this.#settle(
      () => this.#submit("read", offset, length, 0, data),
      () => this.#succeed(message, [reply]),
      (error) => this.#fail(message, [reply], error),
    );
  }

  /** Pieces of at most REQUEST_BYTES_MAX, one after another; nothing is sent before the last is there. */
  #readLong(message: Message): void {
    const replies: Reply[] = [];
    const step = (at: number): Maybe<void> => {
      const length = Math.min(REQUEST_BYTES_MAX, message.length - at);
      if (length === 0) return undefined;
      const header = at === 0 ? HEADER_BYTES : 0;
      // After the end of the session there is no room for more, and nobody who wants it.
      if (this.#closed) throw new BlockError("ECANCELED", "Cannot read on: the channel is gone");
      const reply = this.#queue.reserve(header + length);
      replies.push(reply);
      const data = reply.bytes.subarray(header);
      return after(
        this.#submit("read", message.offset + at, length, 0, data),
        () => step(at + length),
      );
    };
    this.#settle(
      () => step(0),
      () => this.#succeed(message, replies),
      (error) => this.#fail(message, replies, error),
    );
  }

  #succeed(message: Message, replies: readonly Reply[]): void {
    this.#inFlight -= 1;
    for (const [index, reply] of replies.entries()) {
      if (index === 0) putResponse(reply.bytes, message, SUCCESS, message.length);
      reply.done();
    }
  }

  /** A bare header: data behind it would be taken for the next header. */
  #fail(message: Message, replies: readonly Reply[], error: BlockError): void {
    for (const reply of replies) reply.cancel();
    this.#answer(message, responseTo(error));
  }

  #answer(message: Message, type: number): void {
    this.#inFlight -= 1;
    if (this.#closed) return;
    putResponse(this.#header, message, type, 0);
    this.#queue.append(this.#header);
  }

  #beginLong(message: Message): LongWrite {
    const long: LongWrite = {
      remaining: message.length,
      message,
      pending: 0,
      error: null,
      before: undefined,
    };
    if (has(message, REQUEST_FLAGS.PREFLUSH)) {
      long.before = this.#guard(long, () => this.#submit("flush", 0, 0, 0));
    }
    return long;
  }

  /** Does `work` unless something failed before, and keeps its failure. Never rejects. */
  #guard(long: LongWrite, work: () => Maybe<void>): Maybe<void> {
    if (long.error !== null) return undefined;
    const keep = (error: unknown): void => {
      long.error ??= asBlockError(error);
    };
    try {
      return work()?.catch(keep);
    } catch (error) {
      keep(error);
      return undefined;
    }
  }

  /** All data of a long WRITE is written. FUA is one flush, not one for each piece. */
  #endLong({ message, error }: LongWrite): void {
    if (error !== null) return this.#answer(message, responseTo(error));
    const durable = has(message, REQUEST_FLAGS.FUA);
    this.#run(message, () => durable ? this.#submit("flush", 0, 0, 0) : undefined);
  }
}
