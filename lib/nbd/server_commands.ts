/**
 * What the server does for each command of the transmission phase: a request to the Device, and the
 * reply. What the Device does at once costs no promise. Implements the section "Request types".
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import { BlockError, type Errno, toBlockError } from "../block/errors.ts";
import {
  FLAG_FAST_ONLY,
  FLAG_FUA,
  FLAG_MAY_TRIM,
  type Gate,
  makeRequest,
  NO_DATA,
  type Operation,
  type Request,
} from "../block/request.ts";
import type { Extent, Maybe } from "../block/types.ts";
import type { Reply, ReplyQueue } from "../stream/reply_queue.ts";
import type { FrameSplitter } from "../stream/splitter.ts";
import {
  allocationOf,
  decodeFilter,
  describe,
  dirtinessOf,
  encodeStatus,
  statusChunkBytes,
  type StatusContext,
  statusContexts,
} from "./block_status.ts";
import { COMMAND, COMMAND_FLAG, commandName, REPLY_FLAG_DONE, TRANSMISSION } from "./constants.ts";
import type { HandshakeState } from "./export_info.ts";
import {
  LOCATE_BYTES_MIN,
  PAYLOAD_BYTES_MAX,
  SPARSE_READ_BYTES_MIN,
  STATUS_IN_FLIGHT_BYTES,
} from "./limits.ts";
import {
  clientMessage,
  DATA_OFFSET_BYTES,
  HOLE_PAYLOAD_BYTES,
  nbdErrorOf,
  ReplyEncoder,
  type ReplyStyle,
} from "./replies.ts";
import { flagsAllowed, type ReplyTo, type RequestHeader } from "./requests.ts";
import { cutRead, type Piece } from "./sparse_read.ts";

const NO_VIEW = new DataView(new ArrayBuffer(0));

/** What is left of a request when its frame is gone. A RequestHeader is one for as long as it lasts. */
interface Origin extends ReplyTo {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
}

/** What is asked of the Device for one metadata context. */
interface StatusQuery {
  readonly id: number;
  readonly request: Request;
}

function copyOf(origin: Origin): Origin {
  const { type, flags, offset, length, cookieHigh, cookieLow, offsetHigh, offsetLow } = origin;
  return { type, flags, offset, length, cookieHigh, cookieLow, offsetHigh, offsetLow };
}

function refusal(errno: Errno, origin: Origin, reason: string): BlockError {
  return new BlockError(errno, `Cannot do ${commandName(origin.type)}: ${reason}`);
}

function styleOf(state: HandshakeState): ReplyStyle {
  if (state.extended) return "extended";
  return state.structured ? "structured" : "simple";
}

function fuaOf(flags: number): number {
  return (flags & COMMAND_FLAG.FUA) !== 0 ? FLAG_FUA : 0;
}

function zeroFlagsOf(flags: number): number {
  return fuaOf(flags) | ((flags & COMMAND_FLAG.NO_HOLE) !== 0 ? 0 : FLAG_MAY_TRIM) |
    ((flags & COMMAND_FLAG.FAST_ZERO) !== 0 ? FLAG_FAST_ONLY : 0);
}

function changesData(type: number): boolean {
  return type === COMMAND.WRITE || type === COMMAND.WRITE_ZEROES || type === COMMAND.TRIM;
}

/** Waits for all, so that nobody touches their memory any more, then tells the first failure. */
async function settled(outcomes: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(outcomes)) {
    if (result.status === "rejected") throw result.reason;
  }
}

/** What is served, and to whom. */
export interface Served {
  /** The storage. */
  readonly device: Device;
  /** Where access can be taken away. */
  readonly gate: Gate;
  /** What the handshake settled. */
  readonly state: HandshakeState;
  /** Data may be sent from storage that is memory. */
  readonly locates: boolean;
}

/** Serves the commands of one connection. */
export class ServerCommands {
  /** Requests that the Device has not done yet. */
  inFlight = 0;
  /** Bytes in flight that have no room in the output: payload of writes, extents that are looked up. */
  dataBytes = 0;
  /** Bytes of room for replies of reads in flight. */
  replyBytes = 0;
  /** Every request that comes is answered ESHUTDOWN. */
  stopping = false;

  readonly #device: Device;
  readonly #gate: Gate;
  readonly #queue: ReplyQueue;
  readonly #completed: () => void;
  readonly #locates: boolean;
  readonly #readOnly: boolean;
  readonly #flagsAllowed: readonly number[];
  readonly #contexts: readonly StatusContext[];
  readonly #encoder: ReplyEncoder;
  /** View of the memory in which the last reply lies: one for many replies. */
  #view = NO_VIEW;
  #closed = false;

  /** Replies go to `queue`; `completed` is called after each request that was done later. */
  constructor(
    { device, gate, state, locates }: Served,
    queue: ReplyQueue,
    completed: () => void,
  ) {
    this.#locates = locates;
    this.#device = device;
    this.#gate = gate;
    this.#queue = queue;
    this.#completed = completed;
    this.#readOnly = (state.flags & TRANSMISSION.READ_ONLY) !== 0;
    this.#flagsAllowed = flagsAllowed(state.flags, state.extended);
    this.#contexts = statusContexts(state.contexts);
    this.#encoder = new ReplyEncoder(styleOf(state));
  }

  /** No reply is wanted any more: those in flight give their memory back when they are done. */
  close(): void {
    this.#closed = true;
    this.forgetMemory();
  }

  /** Lets go of memory that is kept for speed. */
  forgetMemory(): void {
    this.#view = NO_VIEW;
  }

  /** Serves the request that `header` has decoded from the frame of `splitter`; not DISC. */
  run(header: RequestHeader, splitter: FrameSplitter): void {
    const problem = this.#problem(header);
    if (problem !== null) {
      this.#fail(header, problem);
      return;
    }
    switch (header.type) {
      case COMMAND.READ:
        return this.#read(header);
      case COMMAND.WRITE:
        return this.#submit(header, "write", fuaOf(header.flags), splitter);
      case COMMAND.FLUSH:
        return this.#submit(header, "flush", 0, null);
      case COMMAND.TRIM:
        return this.#submit(header, "trim", fuaOf(header.flags), null);
      case COMMAND.CACHE:
        return this.#submit(header, "cache", 0, null);
      case COMMAND.WRITE_ZEROES:
        return this.#submit(header, "zero", zeroFlagsOf(header.flags), null);
      case COMMAND.BLOCK_STATUS:
        return this.#blockStatus(
          header,
          splitter.bytes.subarray(header.payloadStart, splitter.end),
        );
    }
  }

  /** What is wrong with a request that can be told before the Device sees it. */
  #problem(header: RequestHeader): BlockError | null {
    const { type, flags } = header;
    if (this.stopping) return refusal("ESHUTDOWN", header, "the server is shutting down");
    const allowed = this.#flagsAllowed[type];
    if (allowed === undefined) return refusal("EINVAL", header, "the command is unknown");
    if ((flags & ~allowed) !== 0) {
      return refusal("EINVAL", header, `flags 0x${flags.toString(16)} do not apply`);
    }
    if (this.#readOnly && changesData(type)) {
      return refusal("EROFS", header, "the export is read-only");
    }
    return header.representable ? null : this.#pastEnd(header);
  }

  /** A range that no device has; "ENOSPC if it receives a write request beyond the size of the device". */
  #pastEnd(origin: Origin): BlockError {
    const writes = origin.type === COMMAND.WRITE || origin.type === COMMAND.WRITE_ZEROES;
    const reason = `the device ends at ${this.#device.geometry.size}`;
    return refusal(writes ? "ENOSPC" : "EINVAL", origin, reason);
  }

  /** All requests have the same properties, in the same order: what is compiled for some serves all. */
  #request(
    operation: Operation,
    offset: number,
    length: number,
    flags: number,
    data: Uint8Array,
    located = false,
  ): Request {
    const gate = this.#gate;
    return { operation, offset, length, flags, data, gate, located, extents: undefined };
  }

  /** A command whose reply has no data; its payload, if it has one, is in the frame of `payload`. */
  #submit(
    header: RequestHeader,
    operation: Operation,
    flags: number,
    payload: FrameSplitter | null,
  ): void {
    const data = payload === null
      ? NO_DATA
      : payload.bytes.subarray(header.payloadStart, payload.end);
    let outcome: Maybe<void>;
    try {
      outcome = this.#device.submit(
        this.#request(operation, header.offset, header.length, flags, data),
      );
    } catch (error) {
      this.#fail(header, error);
      return;
    }
    if (outcome === undefined) {
      this.#succeed(header);
      return;
    }
    const origin = copyOf(header);
    // If the frame lies in a pooled buffer that is ours until the data are written.
    const buffer = payload?.takeBuffer() ?? null;
    this.#later(outcome, data.length, null, (error) => {
      buffer?.release();
      if (this.#closed) return;
      if (error === null) this.#succeed(origin);
      else this.#fail(origin, error);
    });
  }

  #read(header: RequestHeader): void {
    const { length } = header;
    if (length > PAYLOAD_BYTES_MAX) {
      this.#fail(header, this.#tooLong(header));
      return;
    }
    const mayCut = length >= SPARSE_READ_BYTES_MIN && this.#encoder.style !== "simple" &&
      (header.flags & COMMAND_FLAG.DF) === 0;
    // A trace shall show the read as the client sent it.
    if (mayCut && this.#device.tap === null && this.#device.features.extents) {
      this.#readSparsely(header);
    } else this.#readWhole(header);
  }

  /** "The server is also permitted to reject large read requests up front with NBD_EOVERFLOW." */
  #tooLong(origin: Origin): BlockError {
    if (origin.offset + origin.length > this.#device.geometry.size) return this.#pastEnd(origin);
    return refusal("EOVERFLOW", origin, `at most ${PAYLOAD_BYTES_MAX} bytes go in one request`);
  }

  #readWhole(origin: Origin): void {
    const { offset, length } = origin;
    const address = this.#locates && length >= LOCATE_BYTES_MIN
      ? this.#device.locate(offset, length)
      : null;
    if (address !== null) return this.#readLocated(origin, address);
    const { readBytes } = this.#encoder;
    const queue = this.#queue;
    const room = queue.open(readBytes + length);
    const start = queue.openStart;
    const data = queue.openPart(readBytes);
    let outcome: Maybe<void>;
    try {
      outcome = this.#device.submit(this.#request("read", offset, length, 0, data));
    } catch (error) {
      queue.drop();
      this.#fail(origin, error);
      return;
    }
    if (outcome === undefined) {
      this.#encoder.readWhole(this.#viewOf(room), room.byteOffset + start, origin, length);
      queue.commit();
      return;
    }
    const reply = queue.keep();
    const kept = copyOf(origin);
    this.#later(outcome, 0, reply, (error) => {
      if (error === null && !this.#closed) this.#sendRead(kept, reply);
      else this.#cancel(reply, kept, error);
    });
  }

  /** The data are sent from where they lie. */
  #readLocated(origin: Origin, address: number): void {
    const { offset, length } = origin;
    const device = this.#device, queue = this.#queue;
    try {
      device.submit(this.#request("read", offset, length, 0, NO_DATA, true));
    } catch (error) {
      this.#fail(origin, error);
      return;
    }
    const room = queue.open(this.#encoder.readBytes);
    const at = room.byteOffset + queue.openStart;
    this.#encoder.readWhole(this.#viewOf(room), at, origin, length);
    queue.commitLocated(device.map, address, length, this.#replaceLocated);
  }

  /** The reply to a read of which only the reply's head is left, when its data could not be read. */
  readonly #replaceLocated = (
    head: Uint8Array<ArrayBuffer>,
    cause: unknown,
  ): Uint8Array<ArrayBuffer> => {
    const error = toBlockError(cause);
    const request = { type: COMMAND.READ, flags: 0, length: 0 };
    const value = nbdErrorOf(error.errno, request, this.#encoder.style);
    const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
    return this.#encoder.error(this.#encoder.replyToOf(view), value, clientMessage(error));
  };

  #sendRead(origin: Origin, reply: Reply): void {
    const { bytes } = reply;
    this.#encoder.readWhole(this.#viewOf(bytes), bytes.byteOffset, origin, origin.length);
    reply.done();
  }

  /** Looks for holes first. If that fails the read itself tells what is wrong. */
  #readSparsely(header: RequestHeader): void {
    const { offset, length } = header;
    const query = this.#request("extents", offset, length, 0, NO_DATA);
    let outcome: Maybe<void>;
    try {
      outcome = this.#device.submit(query);
    } catch {
      this.#readWhole(header);
      return;
    }
    if (outcome === undefined) {
      this.#readAlong(header, query.extents ?? []);
      return;
    }
    const origin = copyOf(header);
    this.#later(outcome, length, null, (error) => {
      if (this.#closed) return;
      this.#readAlong(origin, error === null ? query.extents ?? [] : []);
    });
  }

  #readAlong(origin: Origin, extents: readonly Extent[]): void {
    const pieces = cutRead(extents, origin.offset, origin.length);
    if (pieces === null) this.#readWhole(origin);
    else this.#readPieces(origin, pieces);
  }

  /** Reads the pieces that are data into their places in one reply. */
  #readPieces(origin: Origin, pieces: readonly Piece[]): void {
    const { chunkBytes } = this.#encoder;
    const sizeOf = (piece: Piece): number =>
      chunkBytes + (piece.hole ? HOLE_PAYLOAD_BYTES : DATA_OFFSET_BYTES + piece.length);
    const reply = this.#queue.reserve(pieces.reduce((sum, piece) => sum + sizeOf(piece), 0));
    const waits: Promise<void>[] = [];
    let at = 0;
    try {
      for (const piece of pieces) {
        const start = at + chunkBytes + DATA_OFFSET_BYTES;
        at += sizeOf(piece);
        if (piece.hole) continue;
        const data = reply.bytes.subarray(start, at);
        const wait = this.#device.submit(
          this.#request("read", piece.offset, piece.length, 0, data),
        );
        if (wait !== undefined) waits.push(wait);
      }
    } catch (error) {
      if (waits.length === 0) {
        reply.cancel();
        this.#fail(origin, error);
        return;
      }
      waits.push(Promise.reject(error));
    }
    if (waits.length === 0) {
      this.#sendPieces(origin, reply, pieces);
      return;
    }
    const kept = copyOf(origin);
    this.#later(settled(waits), 0, reply, (error) => {
      if (error === null && !this.#closed) this.#sendPieces(kept, reply, pieces);
      else this.#cancel(reply, kept, error);
    });
  }

  #sendPieces(origin: Origin, reply: Reply, pieces: readonly Piece[]): void {
    const encoder = this.#encoder;
    const view = this.#viewOf(reply.bytes);
    let at = reply.bytes.byteOffset;
    pieces.forEach(({ offset, length, hole }, index) => {
      const flags = index === pieces.length - 1 ? REPLY_FLAG_DONE : 0;
      if (hole) {
        encoder.holePiece(view, at, origin, flags, offset, length);
        at += encoder.chunkBytes + HOLE_PAYLOAD_BYTES;
      } else {
        encoder.dataPiece(view, at, origin, flags, offset, length);
        at += encoder.chunkBytes + DATA_OFFSET_BYTES + length;
      }
    });
    reply.done();
  }

  #blockStatus(header: RequestHeader, payload: Uint8Array): void {
    let contexts = this.#contexts;
    let { length } = header;
    if ((header.flags & COMMAND_FLAG.PAYLOAD_LEN) !== 0) {
      const filter = decodeFilter(payload, contexts);
      if (filter === null || filter.length === null) {
        const reason = filter === null
          ? "its payload is not a length and contexts that were selected, each once"
          : "its payload asks for more than the device has";
        this.#fail(header, refusal("EINVAL", header, reason));
        return;
      }
      ({ contexts, length } = filter);
    }
    if (contexts.length === 0) {
      this.#fail(header, refusal("EINVAL", header, "no metadata context was selected"));
      return;
    }
    const queries = contexts.map(({ id, bitmap }): StatusQuery => ({
      id,
      request: makeRequest("extents", header.offset, length, { gate: this.#gate, bitmap }),
    }));
    const waits: Promise<void>[] = [];
    try {
      for (const { request } of queries) {
        const wait = this.#device.submit(request);
        if (wait !== undefined) waits.push(wait);
      }
    } catch (error) {
      if (waits.length === 0) {
        this.#fail(header, error);
        return;
      }
      waits.push(Promise.reject(error));
    }
    if (waits.length === 0) {
      this.#sendStatus(header, queries);
      return;
    }
    const origin = copyOf(header);
    this.#later(settled(waits), STATUS_IN_FLIGHT_BYTES, null, (error) => {
      if (this.#closed) return;
      if (error === null) this.#sendStatus(origin, queries);
      else this.#fail(origin, error);
    });
  }

  #sendStatus(origin: Origin, queries: readonly StatusQuery[]): void {
    const encoder = this.#encoder;
    const one = (origin.flags & COMMAND_FLAG.REQ_ONE) !== 0;
    queries.forEach(({ id, request }, index) => {
      const { length, bitmap, extents = [], runs = [] } = request;
      const limits = { length, one, wide: encoder.style === "extended" };
      const descriptors = bitmap === undefined
        ? describe(extents, allocationOf, limits)
        : describe(runs, dirtinessOf, limits);
      const reply = this.#queue.reserve(statusChunkBytes(encoder, descriptors.length));
      const { bytes } = reply;
      const last = index === queries.length - 1;
      encodeStatus(
        encoder,
        this.#viewOf(bytes),
        bytes.byteOffset,
        origin,
        { id, descriptors, last },
      );
      reply.done();
    });
  }

  /** A DataView from the beginning of the memory in which `bytes` lies. */
  #viewOf(bytes: Uint8Array<ArrayBuffer>): DataView {
    if (this.#view.buffer !== bytes.buffer) this.#view = new DataView(bytes.buffer);
    return this.#view;
  }

  /** Success without data. */
  #succeed(to: ReplyTo): void {
    const queue = this.#queue;
    const room = queue.open(this.#encoder.doneBytes);
    this.#encoder.done(this.#viewOf(room), room.byteOffset + queue.openStart, to);
    queue.commit();
  }

  #fail(origin: Origin, cause: unknown): void {
    const error = toBlockError(cause);
    const value = nbdErrorOf(error.errno, origin, this.#encoder.style);
    this.#queue.append(this.#encoder.error(origin, value, clientMessage(error)));
  }

  /** A reply that has room but nothing to say. */
  #cancel(reply: Reply, origin: Origin, error: BlockError | null): void {
    reply.cancel();
    if (!this.#closed && error !== null) this.#fail(origin, error);
  }

  /**
   * Calls `finish` when the Device is done. Until then the request counts as in flight, with
   * `dataBytes` bytes and the room of `reply`.
   */
  #later(
    outcome: Promise<void>,
    dataBytes: number,
    reply: Reply | null,
    finish: (error: BlockError | null) => void,
  ): void {
    const replyBytes = reply === null ? 0 : reply.bytes.length;
    this.inFlight += 1;
    this.dataBytes += dataBytes;
    this.replyBytes += replyBytes;
    const complete = (error: BlockError | null): void => {
      finish(error);
      this.inFlight -= 1;
      this.dataBytes -= dataBytes;
      this.replyBytes -= replyBytes;
      this.#completed();
    };
    outcome.then(() => complete(null), (error: unknown) => complete(toBlockError(error)));
  }
}
